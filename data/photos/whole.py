"""What a file's header and structure tell of a picture, without decoding it: its size, and whether the file is there to its last byte."""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from data.image_files import DECODE_ERRORS, reason
from data.photos.opening import open_image, upright_size


def photo_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels of what `read_photo` returns, upright. Errors as `read_photo`, but for damage behind the header."""
    try:
        with open_image(path) as image:
            return upright_size(image)
    except DECODE_ERRORS as error:
        raise ValueError(f"{path}: {reason(path, error)}") from error


def whole_size(path: str | Path) -> tuple[int, int] | None:
    """(height, width) in pixels of a PNG, JPEG or WebP file that is whole by its structure; None for any other, a broken or empty one."""
    try:
        with open_image(path) as image, open(path, "rb") as file:
            whole = {"PNG": _png_ends, "JPEG": _jpeg_ends, "WEBP": _webp_ends}.get(image.format)
            return image.size[::-1] if whole and whole(file) else None
    except DECODE_ERRORS:
        return None


def _png_ends(file: BinaryIO) -> bool:
    """Whether chunk follows chunk up to IEND, within the file."""
    size, at = file.seek(0, os.SEEK_END), 8
    while at + 12 <= size:
        file.seek(at)
        length, name = struct.unpack(">I4s", file.read(8))
        at += length + 12
        if name == b"IEND":
            return at <= size
        if not name.isalpha():
            return False
    return False


def _jpeg_ends(file: BinaryIO) -> bool:
    file.seek(-2, os.SEEK_END)
    return file.read() == b"\xff\xd9"


def _webp_ends(file: BinaryIO) -> bool:
    return int.from_bytes(file.read(8)[4:], "little") + 8 <= file.seek(0, os.SEEK_END)
