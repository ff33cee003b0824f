"""TIFF files as Pillow reads them, but with float samples, and with their directories looked at before Pillow trusts them."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base as Tag

from data.image_files import UnsuitableError, bounded_bytes, scaled

_TAG_BYTES = 512 << 20  # Pillow reads the values of all tags; Photoshop keeps its layers in one
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SUB_IFDS, _DNG_VERSION, _REDUCED, _MASK = 0x014A, 0xC612, 1, 4
_MOST_PAGES = 10_000
_TILE_PIXELS = 1 << 24  # libtiff makes room for a whole tile, even where the picture is a small part of it


@dataclass(frozen=True)
class Directory:
    """A page."""

    offset: int
    """Where the directory begins in the file."""
    width: int
    height: int
    """Both as stored, 0 if the directory does not say."""
    kind: int
    """NewSubfileType: bit 0 for a smaller version of another page, bit 2 for a transparency mask."""
    is_raw: bool
    """Whether it is the first of a camera's raw file, as far as one can tell: of a DNG, or a small picture with others below it."""


def directories(file: BinaryIO) -> list[Directory]:
    """The pages of a TIFF or BigTIFF, as far as their chain is whole. `file` stands anywhere before and after.

    Raises: UnsuitableError for directories whose values would be more than the file.
    """
    file_bytes = file.seek(0, 2)
    file.seek(0)
    head = file.read(16)
    order = "<" if head.startswith(b"II") else ">"
    big = 43 in (head[2], head[3])
    count_form, entry_form, offset_form = (f"{order}{form}" for form in (("Q", "HHQ8s", "Q") if big else ("H", "HHL4s", "L")))
    number_forms = {3: f"{order}H", 4: f"{order}L"} | ({16: f"{order}Q"} if big else {})
    where = struct.unpack_from(offset_form, head, 8 if big else 4)[0]
    found: dict[int, Directory] = {}
    while where and where not in found and len(found) < _MOST_PAGES:
        file.seek(where)
        count = _number(file, count_form)
        table = file.read(min(count, 65536) * struct.calcsize(entry_form))
        entries = list(struct.iter_unpack(entry_form, table[: len(table) - len(table) % struct.calcsize(entry_form)]))
        claimed = sum(count * _TYPE_BYTES.get(kind, 0) for _, kind, count, _ in entries)
        if claimed > min(2 * file_bytes + 65536, _TAG_BYTES):
            if found:
                break
            raise UnsuitableError(f"broken TIFF: its tags claim to be {claimed / 1e6:.1f} MB, the file has {file_bytes / 1e6:.1f} MB")
        single = [entry for entry in entries if entry[2] == 1 and entry[1] in number_forms]
        numbers = {tag: struct.unpack_from(number_forms[kind], value)[0] for tag, kind, _, value in single}
        tags, kind = {entry[0] for entry in entries}, numbers.get(Tag.NewSubfileType, 0)
        is_raw = _DNG_VERSION in tags or bool(kind & _REDUCED and _SUB_IFDS in tags)
        found[where] = Directory(where, numbers.get(Tag.ImageWidth, 0), numbers.get(Tag.ImageLength, 0), kind, is_raw)
        where = _number(file, offset_form) if found[where].height else 0
    return list(found.values())


def _number(file: BinaryIO, form: str) -> int:
    """The next number of a file; 0 where it ends."""
    data = file.read(struct.calcsize(form))
    return struct.unpack(form, data)[0] if len(data) == struct.calcsize(form) else 0


def largest(pages: list[Directory]) -> int:
    """The number of the page with the most pixels, the first of those; 0 where none says its size. Transparency masks do not count."""
    return max(range(len(pages)), key=lambda n: 0 if pages[n].kind & _MASK else pages[n].width * pages[n].height, default=0)


class TiffFile(TiffImagePlugin.TiffImageFile):
    """Pillow's TIFF, and samples that Pillow has no mode for (float of 16 bit or of colours) or takes for 8 bit (16-bit planes).

    Those are decoded here by `load`, for Pillow to modes I;16, RGB and RGBA.
    """

    own: np.ndarray | None = None
    """(H, W, channels) uint16, upright: such samples when they are loaded."""
    _reader: Callable[["TiffFile"], np.ndarray] | None = None

    def _setup(self) -> None:
        tags, self._reader = self.tag_v2, None
        tile = tags.get(Tag.TileWidth, 0) * tags.get(Tag.TileLength, 0)
        if tile > max(_TILE_PIXELS, 4 * tags.get(Tag.ImageWidth, 0) * tags.get(Tag.ImageLength, 0)):
            raise UnsuitableError(f"broken TIFF: its tiles have {tile / 1e6:.0f} megapixels, far more than the picture")
        try:
            super()._setup()
        except SyntaxError:
            if set(tags.get(Tag.SampleFormat, ())) != {3}:
                raise
            self._reader = _float_samples
            self._mode = {3: "RGB", 4: "RGBA"}.get(tags.get(Tag.SamplesPerPixel), "I;16")
            self.info["compression"] = self._compression
            self.tile = []
        if tags.get(Tag.PlanarConfiguration) == 2 and self._compression == "raw" and set(tags.get(Tag.BitsPerSample, ())) == {16}:
            self._reader = self._reader or _plane_samples

    def load(self) -> object:
        """Pillow's access to the pixels."""
        if self._reader and self.own is None:
            self.own = self._reader(self)
            shown = Image.fromarray(self.own[:, :, 0].copy() if self.own.shape[2] < 3 else eight_bit(self.own[:, :, :4]))
            self.im, self._mode, self._size, self.tile = shown.im, shown.mode, shown.size, []
            self.getexif().pop(Tag.Orientation, None)  # as Pillow does when it has turned a TIFF
        return super().load()


def read_strips(image: TiffImagePlugin.TiffImageFile, file: BinaryIO, kind: str) -> np.ndarray:
    """The samples of an uncompressed TIFF in strips, (H, W, channels) upright. kind: numpy's of a sample, without byte order (u2, f4).

    Raises: UnsuitableError when the strips are not as long as the picture, ValueError when the file ends before they do.
    """
    tags = image.tag_v2
    height, width, channels = tags[Tag.ImageLength], tags[Tag.ImageWidth], tags.get(Tag.SamplesPerPixel, 1)
    strips = list(zip(tags[Tag.StripOffsets], tags[Tag.StripByteCounts], strict=True))
    wanted = height * width * channels * np.dtype(kind).itemsize
    claimed = sum(size for _, size in strips)
    if claimed > wanted:
        raise UnsuitableError(f"broken TIFF: its strips are {claimed} bytes, its pixels {wanted}")
    data = bytearray()
    for offset, size in strips:
        file.seek(offset)
        data += file.read(size)
    samples = np.frombuffer(data, dtype=("<" if tags.prefix == b"II" else ">") + kind).astype(kind)
    planar = tags.get(Tag.PlanarConfiguration) == 2
    samples = samples.reshape(channels, height, width).transpose(1, 2, 0) if planar else samples.reshape(height, width, channels)
    return upright(samples, tags.get(Tag.Orientation, 1))


def eight_bit(samples: np.ndarray) -> np.ndarray:
    """uint16 samples as uint8: to the nearest of 0, 257, 514 ..."""
    return (samples // 257 + (samples % 257 > 128)).astype(np.uint8)


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as it was stored, shown as EXIF's orientation 1..8 says (any other number: as it is)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _plane_samples(image: TiffFile) -> np.ndarray:
    """(H, W, channels) uint16, upright. Raises as `read_strips`, and UnsuitableError for CMYK and tiles."""
    if image.tag_v2[Tag.PhotometricInterpretation] > 2 or Tag.StripOffsets not in image.tag_v2:
        raise UnsuitableError("a 16-bit TIFF whose channels are stored one after the other; save it with interleaved channels")
    stored = read_strips(image, image.fp, "u2")
    return 65535 - stored if image.tag_v2[Tag.PhotometricInterpretation] == 0 else stored


def _float_samples(image: TiffFile) -> np.ndarray:
    """(H, W, 1, 3 or 4) uint16, upright. Raises UnsuitableError for values outside of 0..1, and for what neither we nor cv2 can decode."""
    tags = image.tag_v2
    bits, photometric, channels = set(tags[Tag.BitsPerSample]), tags.get(Tag.PhotometricInterpretation), tags.get(Tag.SamplesPerPixel, 1)
    kind = f"{'/'.join(map(str, sorted(bits)))}-bit float {'RGB' if photometric == 2 else 'grey'}"
    if photometric not in (1, 2) or channels not in ((1,) if photometric == 1 else (3, 4)) or len(bits) > 1 or not bits <= {16, 32, 64}:
        raise UnsuitableError(f"a float TIFF of {channels} channels of {kind}, which is not read; save it as 8- or 16-bit RGB")
    if image.info["compression"] == "raw" and Tag.StripOffsets in tags:
        values = read_strips(image, image.fp, f"f{bits.pop() // 8}")
    elif tags.get(Tag.PlanarConfiguration) == 2 or bits == {16}:
        raise UnsuitableError(f"a compressed or tiled TIFF of {kind}, which is not read; save it uncompressed, or as 16-bit")
    else:
        image.fp.seek(0)
        data = bounded_bytes(image.fp, image.width * image.height * channels * 8)
        # cv2 turns what it reads, as the TIFF says.
        values = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
        if values is None:
            raise ValueError("its compressed values cannot be unpacked")
        values = values[:, :, [2, 1, 0, 3][: values.shape[2]]] if values.ndim == 3 else values[:, :, None]
    return scaled(values, 1.0, 65535, kind).astype(np.uint16)
