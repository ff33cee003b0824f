"""What reading and writing of pictures share: why a file cannot be read, which way up it is, deep grey values, files that appear whole."""

import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

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
    """EXIF orientation, 1..8. Damaged EXIF data counts as upright (1): the pixels are still good."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODE_ERRORS:
        return 1


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


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when it is complete, or leaves nothing: a temporary one in the same folder is renamed.

    Missing folders are created. Raises OSError when the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
