"""16-bit pictures of more than one channel, which Pillow cuts to 8 bit: cv2 decodes them, and what Pillow read is the proof."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Tag

from data.image_files import UnsuitableError, bounded_bytes


@dataclass(frozen=True, eq=False)
class Samples:
    """A decoded picture."""

    pixels: np.ndarray
    """(H, W, 1) or (H, W, 3), uint8 or uint16."""
    alpha: np.ndarray | None = None
    """(H, W), same dtype."""
    notes: tuple[str, ...] = ()
    """What was lost on the way, for the owner of the file."""


def split(array: np.ndarray) -> Samples:
    """(H, W, 1..4) as pixels and alpha, which stands behind one or three colours."""
    colours = 3 if array.shape[2] >= 3 else 1
    alpha = np.ascontiguousarray(array[:, :, colours]) if array.shape[2] > colours else None
    return Samples(np.ascontiguousarray(array[:, :, :colours]), alpha)


def deep_channels(image: Image.Image) -> str:
    """Of an image that is not loaded yet: RGB, RGBA, LA, RGBX (spare channel) or RGBa (premultiplied) at 16 bit, else empty."""
    raw = image.tile[0][3] if image.tile else ""
    if image.format == "PNG" and image.mode in ("RGB", "RGBA") and raw.endswith(";16B"):
        return raw.removesuffix(";16B")
    if image.format == "PPM" and image.mode == "RGB" and ppm_white(image) > 255:
        return "RGB"
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA") and set(image.tag_v2.get(Tag.BitsPerSample, ())) == {16}:
        return {0: "RGBX", 1: "RGBa"}.get(image.tag_v2.get(Tag.ExtraSamples, (2,))[0], image.mode)
    return ""


def ppm_white(image: Image.Image) -> int:
    """The value of white in a PPM file that is not loaded yet."""
    args = image.tile[0][3]
    return args[1] if isinstance(args, tuple) and isinstance(args[1], int) else 255


def read_deep(path: str | Path, channels: str, white: int, shallow: Samples) -> Samples:
    """The 16-bit samples of a file that Pillow found whole, if they agree with what it read in 8 bit; else those, with a note.

    cv2 gives half a picture or none at all where it stumbles, and takes some TIFFs for others.

    channels: see `deep_channels`. white: the value that becomes 65535.
    """
    try:
        with open(path, "rb") as file:
            array = cv2.imdecode(np.frombuffer(bounded_bytes(file, shallow.pixels.size * 2 * 4), np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, UnsuitableError):
        array = None
    if array is not None and array.dtype == np.uint16 and array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
        deep = arranged(array if white == 65535 else stretched(array, white), channels)
        if _agree(deep.alpha, shallow.alpha) and (channels == "RGBa" or _agree(deep.pixels, shallow.pixels)):
            return deep
    pixels = shallow.pixels[:, :, :1] if channels == "LA" else shallow.pixels
    return Samples(np.ascontiguousarray(pixels), shallow.alpha, ("16 bit read as 8 bit: its way of storing them is not understood",))


def stretched(array: np.ndarray, white: int) -> np.ndarray:
    """uint16 in 0..white to uint16 in 0..65535, rounded."""
    return ((array.astype(np.uint32) * 65535 + white // 2) // white).astype(np.uint16)


def arranged(array: np.ndarray, channels: str) -> Samples:
    """Pixels and alpha of uint16 (H, W, 1..4) in the order R, G, B, A; `channels` as in `deep_channels`, empty for one channel."""
    if channels == "LA":
        return split(array[:, :, 2:])
    if channels == "RGBa":
        alpha = array[:, :, 3:].astype(np.uint32)
        colours = (array[:, :, :3] * np.uint32(65535) + alpha // 2) // np.maximum(alpha, 1)
        return Samples(np.minimum(colours, 65535).astype(np.uint16), np.ascontiguousarray(array[:, :, 3]))
    return split(array[:, :, : len(channels.removesuffix("X") or "L")])


def _agree(deep: np.ndarray | None, shallow: np.ndarray | None) -> bool:
    """True if uint16 samples are the uint8 ones to within one level, or if both are missing."""
    if deep is None or shallow is None:
        return deep is shallow
    if deep.shape[:2] != shallow.shape[:2]:
        return False
    bands = [slice(top, top + 64) for top in range(0, len(deep), 64)]
    return all(np.abs((deep[band] >> 8).astype(np.int16) - shallow[band]).max() <= 1 for band in bands)
