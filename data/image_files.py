"""What all readers of pictures share: why a file cannot be read, which way up it is, grey of more than 8 bit."""

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError
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
    Image.DecompressionBombError,
)


class UnsuitableError(ValueError):
    """A file that may well be whole, but is not taken. The message is the reason, in words for its owner."""


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


def read_png_tail(image: PngImagePlugin.PngImageFile) -> None:
    """Let Pillow read EXIF and texts (which hold XMP, or EXIF of old) behind the pixels of an opened PNG, without decoding those.

    Pillow reads them when it has decoded the pixels, and in the same way: of an APNG those behind the first frame do not count.
    Damage is not reported: whoever decodes the pixels will find it.
    """
    file, at = image.fp, image.tile[0][2] - 8  # where the first IDAT begins
    try:
        at += _whole_idats(file, at)
        name = b""
        while name != b"IEND" and not (name == b"fcTL" and image.is_animated):
            file.seek(at)
            name, begin, length = image.png.read()
            if name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                image.png.call(name, begin, length)
            at = begin + length + 4
    except DECODE_ERRORS:
        pass


def _whole_idats(file: BinaryIO, at: int) -> int:
    """Bytes from the first IDAT, at `at`, to one of the last of its length; 0 where that is not found at once.

    Writers cut the pixels into pieces of one length (8 KiB, 64 KiB), so that a file of megabytes need not be read from piece to piece.
    """
    file.seek(at)
    head = file.read(8)
    step = struct.unpack(">L", head[:4])[0] + 12
    pieces = (file.seek(0, os.SEEK_END) - at) // step
    for number in range(pieces - 1, max(pieces - 4, 0), -1):
        file.seek(at + number * step)
        if file.read(8) == head:
            return number * step
    return 0


def scale_grey(image: Image.Image, white: int) -> np.ndarray:
    """(H, W) float64 in 0..white, whole numbers, of 16-bit grey (Pillow's I;16 and I, 0..65535) or of float grey (F, 0..1).

    Raises: UnsuitableError for values outside of that range. Pillow's own convert clips them.
    """
    values = np.asarray(image).astype(np.float64)
    highest = 1.0 if image.mode == "F" else 65535.0
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= highest):
        raise UnsuitableError(f"its values lie in {low:g}..{high:g}, outside of 0..{highest:g}; save it as 8- or 16-bit")
    return np.floor(values / highest * white + 0.5)
