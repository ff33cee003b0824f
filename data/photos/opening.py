"""A picture file opened, whatever it is called, for restoring and for training alike: by its content, at its largest page."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PpmImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.ExifTags import Base as Tag

from data.image_files import DECODE_ERRORS, START_BYTES, UnsuitableError, bounded_bytes, kind_of, open_regular, orientation
from data.photos.jpeg_reader import pictures_of_mpo, without_end
from data.photos.png_reader import PngFile, read_png_tail
from data.photos.tiff_reader import TiffFile, directories, largest

_WHOLE_BYTES = 512 << 20
"""Of a file whose reader takes all of it into memory before anything is known of its size."""


def _avif(file: BinaryIO, name: str) -> Image.Image:
    from PIL import AvifImagePlugin  # late: Pillow before 11.3 has none, and then all other formats are read

    return AvifImagePlugin.AvifImageFile(file, name)


def _heif(file: BinaryIO, name: str) -> Image.Image:
    from pillow_heif import HeifImageFile  # late: optional, see requirements-extra.txt

    return HeifImageFile(file, name)


_OPENERS = {
    "PNG": PngFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffFile,
    "GIF": GifImagePlugin.GifImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "AVIF": _avif,
    "HEIC": _heif,
    "HEIF": _heif,
}
_TAKEN_WHOLE = ("WebP", "AVIF", "HEIC", "HEIF")
_MISSING = {
    "AVIF": "AVIF, which this Pillow cannot decode: pip install --upgrade pillow reads it",
    "HEIC": "HEIC: pip install pillow-heif reads it",
    "HEIF": "HEIF: pip install pillow-heif reads it",
}


@contextmanager
def open_image(path: str | Path, file: BinaryIO | None = None) -> Iterator[Image.Image]:
    """A file as Pillow's image, its header read, as from Image.open; but in a format of photos, and without Pillow's limit of pixels.

    That limit is a global of Image.open, so it cannot be lifted for one file while other threads read. The caller keeps its own.
    WebP and GIF have another check inside: those of more than 178 megapixels are refused with DecompressionBombError.

    Of several pages of a TIFF or pictures of an MPO the largest is opened, of all else the first.

    file: the bytes where they are no file of their own, at its start; then `path` is not looked at.
    Raises: any of DECODE_ERRORS.
    """
    if file is not None:
        with _opened(file) as image:
            yield image
        return
    with open_regular(path) as own, _opened(own) as image:
        yield image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an image of `open_image` as EXIF turns it, without decoding it. Raises any of DECODE_ERRORS."""
    # Pillow has begun to give the size of TIFFs, and of no other format, upright.
    width, height = (image.tag_v2[Tag.ImageWidth], image.tag_v2[Tag.ImageLength]) if image.format == "TIFF" else image.size
    if image.format == "PNG":
        read_png_tail(image)
    return (width, height) if orientation(image) >= 5 else (height, width)


def load(image: Image.Image) -> str:
    """Decode an image of `open_image`. Returns a note for the owner, empty if there is nothing to say. Raises any of DECODE_ERRORS."""
    try:
        image.load()
    except OSError:
        whole = without_end(image)
        if whole is None:
            raise
        image.im, image.tile = whole.im, []
        return "its end marker is missing, its pixels are all there"
    return ""


def pages_note(path: str | Path) -> str:
    """That there is more than one picture in the file, and which is taken; a camera's second one (MPO) is not worth a word."""
    with open_regular(path) as file, _first(file) as image:  # once more, since to count is to read further, and may fail there
        number, pages, things = 0, 1, "frames"
        if image.format == "TIFF":
            found = directories(file)
            number, pages, things = largest(found), len(found), "pages"
        elif image.format == "JPEG":
            found = pictures_of_mpo(image)
            number, pages, things = found.index(max(found, key=_pixels)), len(found), "pictures"
        else:
            try:
                pages = getattr(image, "n_frames", 1)
            except DECODE_ERRORS:
                pages = "several"
    if number:
        return f"{pages} {things}: only the largest, number {number + 1}, is restored"
    return "" if pages == 1 or things == "pictures" else f"{pages} {things}: only the first is restored"


@contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    """The image at its largest page."""
    with _first(file) as image:
        if image.format == "TIFF":
            number = largest(directories(file))
            if number:
                image.seek(number)
        pixels, begin = max(pictures_of_mpo(image), key=_pixels) if image.format == "JPEG" else (0, 0)
        if begin == 0:
            yield image
            return
        file.seek(begin)
        with JpegImagePlugin.JpegImageFile(BytesIO(bounded_bytes(file, 4 * pixels)), "") as other:
            yield other


def _pixels(picture: tuple[int, int]) -> int:
    return picture[0]


@contextmanager
def _first(file: BinaryIO) -> Iterator[Image.Image]:
    """The image at its first page."""
    start = file.read(START_BYTES)
    kind = kind_of(start)
    if kind not in _OPENERS:
        if kind is None:
            raise UnidentifiedImageError
        raise UnsuitableError(f"{kind}, which is not read; save it as PNG, TIFF or JPEG")
    file_bytes = file.seek(0, 2)
    if kind in _TAKEN_WHOLE and file_bytes > _WHOLE_BYTES:
        raise UnsuitableError(f"{kind} of {file_bytes / 1e6:.0f} MB, above {_WHOLE_BYTES / 1e6:.0f} MB; save it as PNG or TIFF")
    if kind == "TIFF":
        pages = directories(file)
        if pages and pages[0].is_raw and largest(pages) == 0:
            raise UnsuitableError("a camera's raw file (DNG, NEF, ARW ...), which is not read; develop it and save it as TIFF or JPEG")
    file.seek(0)
    try:
        image = _OPENERS[kind](file, "")
    except ImportError as error:
        raise UnsuitableError(_MISSING[kind]) from error
    except SyntaxError as error:
        raise UnsuitableError(f"broken image, or of a kind that Pillow cannot read ({error})") from error
    with image:
        yield image
