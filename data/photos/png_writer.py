"""A PNG encoder, because Pillow writes no 16-bit RGB, RGBA or grey with alpha, and cv2 neither profiles nor EXIF.

It works in blocks of rows, so it needs no second picture in memory.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

_COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # channels -> PNG's number
_BLOCK_BYTES = 1 << 20
_PAETH = 4


PROFILE_LIMIT = (1 << 20) - 1
"""Bytes that a profile may have: Pillow refuses to read pictures with longer ones."""


def write_png(
    file: BinaryIO,
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    *,
    icc_profile: bytes | None,
    colours: dict[bytes, bytes],
    density: tuple[float, float] | None,
    exif: bytes | None,
    level: int,
) -> None:
    """Write a PNG of 8 or 16 bit. The same arguments give the same bytes.

    pixels: uint8 or uint16 (H, W, 1) or (H, W, 3); alpha: (H, W) of the same type, or None.
    icc_profile: of up to PROFILE_LIMIT bytes. colours: chunks by their names, see `png_reader.COLOUR_CHUNKS`.
    density: pixels per inch, across and down.
    exif: a TIFF block without the `Exif\\0\\0` prefix. level: zlib's, 1 (fast) .. 9 (small).
    """
    height, width, channels = pixels.shape
    colour_type = _COLOUR_TYPES[channels + (alpha is not None)]
    file.write(b"\x89PNG\r\n\x1a\n")
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, 0))
    for name, data in colours.items():
        _write_chunk(file, name, data)
    if icc_profile:
        _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))
    if density:
        _write_chunk(file, b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in density), 1))  # pixels per metre
    if exif:
        _write_chunk(file, b"eXIf", exif)
    deflate = zlib.compressobj(level)
    for block in _filtered_rows(pixels, alpha):
        _write_chunk(file, b"IDAT", deflate.compress(block))
    _write_chunk(file, b"IDAT", deflate.flush())
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))


def _filtered_rows(pixels: np.ndarray, alpha: np.ndarray | None) -> Iterator[np.ndarray]:
    """Blocks of rows as they go to the compressor: uint8 (rows, 1 + bytes in a row), the number of the filter first."""
    height, width, channels = pixels.shape
    step = pixels.itemsize * (channels + (alpha is not None))
    rows = max(1, _BLOCK_BYTES // (width * step))
    above = np.zeros((1, width * step), dtype=np.uint8)
    for top in range(0, height, rows):
        samples = pixels[top : top + rows]
        if alpha is not None:
            samples = np.concatenate([samples, alpha[top : top + rows, :, None]], axis=2)
        raw = np.ascontiguousarray(samples, dtype=pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(len(samples), -1)
        yield np.insert(_paeth(raw, np.concatenate([above, raw[:-1]]), step), 0, _PAETH, axis=1)
        above = raw[-1:]


def _paeth(raw: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """PNG's filter 4 (section 9.4 of the specification): each byte less the nearest of left, above and upper left to their plane."""
    left, upper_left = (np.pad(rows[:, :-step], ((0, 0), (step, 0))) for rows in (raw, above))
    a, b, c = (rows.astype(np.int16) for rows in (left, above, upper_left))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - c - c)
    nearest = np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, above, upper_left))
    return raw - nearest
