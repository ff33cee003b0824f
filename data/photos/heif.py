"""What HEIC and AVIF hold that Pillow does not say: more than 8 bit, and colours without a profile."""

import re
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from data.photos.deep_pixels import Samples, split, stretched
from data.photos.png_colors import says_srgb

_HEAD = 1 << 18
"""Bytes at the start of a file among which its properties are looked for; they stand before the pixels."""
_COLOURS = re.compile(rb"colrnclx(.{7})", re.DOTALL)
_DEPTH = re.compile(rb"pixi.{4}(.)(.)", re.DOTALL)


def cicp_of(path: str | Path) -> bytes | None:
    """PNG's cICP chunk for the colours that a HEIC or AVIF names by numbers (ISO 23008-12); None without, or if they are sRGB's."""
    found = _COLOURS.search(_head(path))
    if not found:
        return None
    primaries, transfer = struct.unpack(">2H", found[1][:4])
    chunk = bytes([primaries & 255, transfer & 255, 0, 1])  # matrix and range are those of RGB, which it has become
    return None if says_srgb(chunk) else chunk


def depth_note(path: str | Path) -> tuple[str, ...]:
    """That an AVIF has more than the 8 bit that Pillow decodes."""
    found = _DEPTH.search(_head(path))
    return (f"{found[2][0]} bit read as 8 bit",) if found and found[2][0] > 8 else ()


def read_deep_heic(path: str | Path, image: Image.Image) -> Samples:
    """The samples of a HEIC of 10 or 12 bit, stretched to 16 bit, as they are shown. `image` is what pillow_heif opened from it."""
    from pillow_heif import open_heif  # late: optional, see requirements-extra.txt

    heif = open_heif(path, convert_hdr_to_8bit=False)
    picture = heif[heif.primary_index]
    array = np.asarray(picture)[:, : image.width]
    if array.dtype != np.uint16:
        return split(np.array(array if array.ndim == 3 else array[:, :, None]))
    depth = image.info["bit_depth"]
    array = stretched(array, ((1 << depth) - 1) << (16 - depth))
    return split(array if array.ndim == 3 else array[:, :, None])


def _head(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)
