"""What all readers of pictures share: what a file is, why it cannot be read, which way up it is, grey of more than 8 bit."""

import os
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

# Everything that Pillow's decoders are known to raise on damaged bytes (broken PNG chunks, for one, are a SyntaxError).
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    RuntimeError,  # of libavif and libheif
    Image.DecompressionBombError,
)

_BRANDS = (  # of the box that begins HEIF, MP4 and their kin (ISO 14496-12), the first that is found
    (rb"avif|avis", "AVIF"),
    (rb"hei[cxms]|hev[cxms]", "HEIC"),
    (rb"crx ", "CR3"),
    (rb"jp2 |jpx |jpm ", "JPEG 2000"),
    (rb"mif1|msf1", "HEIF"),
    (rb"qt  ", "MOV"),
    (rb"3g..", "3GP"),
    (rb"mp4.|isom|iso\d|avc1|M4V |dash", "MP4"),
)
_STARTS = (
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"BM", "BMP"),
    (rb"II[*+]\0.{4}CR", "CR2"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"GIF8[79]a", "GIF"),
    (rb"P[1-6]\s", "PPM"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000"),
    (rb"II\xbc\x01", "JPEG XR"),
    (rb"8BPS", "PSD"),
    (rb"IIU\0", "RW2"),
    (rb"IIR[OS]|MMOR", "ORF"),
    (rb"FUJIFILMCCD-RAW", "RAF"),
    (rb"FOVb", "X3F"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?(RADIANCE|RGBE)", "HDR"),
    (rb"gimp xcf", "XCF"),
    (rb"qoif", "QOI"),
    (rb"DDS ", "DDS"),
    (rb"\x00\x00\x01\x00", "ICO"),
    (rb"%PDF-", "PDF"),
    (rb"%!PS", "PostScript"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]", "SVG"),
    (rb"\x1aE\xdf\xa3", "MKV or WebM"),
    (rb"RIFF....AVI ", "AVI"),
    (rb"PK\x03\x04", "ZIP"),
)
START_BYTES = 512
"""How much of a file `kind_of` wants to see."""


def kind_of(start: bytes) -> str | None:
    """What a file is by its first START_BYTES bytes (fewer may do): PNG, JPEG, HEIC, AVIF, JPEG XL, PSD, MP4 ...; None for anything else.

    A camera's raw file that looks like TIFF (NEF, DNG, ARW ...) is called TIFF.
    """
    if start[4:8] == b"ftyp":
        brands = start[8 : max(12, min(int.from_bytes(start[:4], "big"), len(start)))]
        each = [brands[:4], *(brands[at : at + 4] for at in range(8, len(brands), 4))]
        # HEIF's own brands say nothing of the codec, so those behind them are asked first.
        each = [brand for brand in each if brand not in (b"mif1", b"msf1")] + each
        return next((kind for brand in each for pattern, kind in _BRANDS if re.fullmatch(pattern, brand, re.DOTALL)), None)
    return next((kind for pattern, kind in _STARTS if re.match(pattern, start, re.DOTALL)), None)


def open_regular(path: str | Path) -> BinaryIO:
    """A file opened to be read. Raises OSError; UnsuitableError for pipes and devices, of which some never end and some never begin."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UnsuitableError("not a regular file")
    return open(path, "rb")


class UnsuitableError(ValueError):
    """A file that may well be whole, but is not taken. The message is the reason, in words for its owner."""


def bounded_bytes(file: BinaryIO, pixel_bytes: int) -> bytes:
    """What an open file holds from where it stands. Raises UnsuitableError where that is far more than so many bytes of pixels can be."""
    most = 2 * pixel_bytes + (64 << 20)
    data = file.read(most + 1)
    if len(data) > most:
        raise UnsuitableError(f"its file is longer than {most / 1e6:.0f} MB, far more than its pixels need")
    return data


def reason(path: str | Path, error: Exception) -> str:
    """Why a file could not be read, in words for its owner."""
    if isinstance(error, UnsuitableError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return f"could not be opened ({error.strerror})"
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large for Pillow ({error})"
    return f"broken or truncated image ({error or type(error).__name__})"


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8, by what has been read of the image; nothing more is read but a TIFF's tags (see `read_png_tail`).

    Damaged EXIF data counts as upright (1), and so does a number that EXIF does not know: the pixels are still good.
    """
    try:
        number = Image.Image.getexif(image).get(Tag.Orientation, 1)  # a PNG's own getexif decodes the picture
    except DECODE_ERRORS:
        return 1
    return int(number) if number in range(1, 9) else 1


def scale_grey(image: Image.Image, white: int) -> np.ndarray:
    """(H, W) float64 in 0..white, whole numbers, of 16-bit grey (Pillow's I;16 and I, 0..65535) or of float grey (F, 0..1).

    Raises: UnsuitableError for values outside of that range. Pillow's own convert clips them.
    """
    values = np.asarray(image)
    kind = "float grey" if image.mode == "F" else "grey of whole numbers"
    return scaled(values, 1.0 if image.mode == "F" else 65535.0, white, kind)


def scaled(values: np.ndarray, highest: float, white: int, kind: str) -> np.ndarray:
    """Values in 0..highest as float64 in 0..white, rounded half up. Raises UnsuitableError, which names the kind, for values outside."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= highest):
        advice = f"scale them to 0..{highest:g} or save it as 8- or 16-bit"
        raise UnsuitableError(f"its values lie in {low:g}..{high:g}, outside of 0..{highest:g} ({kind}); {advice}")
    return np.floor(values.astype(np.float64) / highest * white + 0.5)
