"""From a file to samples as they are stored: 8 or 16 bit, grey or RGB, alpha apart. Pillow decodes, and says if a file is whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Tag

from data.image_files import scale_grey
from data.photos.color_profiles import to_srgb
from data.photos.deep_pixels import Samples, arranged, deep_channels, ppm_white, read_deep, split
from data.photos.opening import load

# Pillow's modes that are not samples yet -> what they are turned into.
_PLAIN_MODES = {"1": "L", "La": "LA", "P": "RGB", "PA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}


def read_samples(image: Image.Image, path: str | Path, cmyk_profile: bytes | None) -> Samples:
    """Decode an image that `open_image` opened from `path`. TIFFs come upright, others as they are stored.

    cmyk_profile: by which CMYK becomes sRGB; None: by Pillow's plain rule.
    Raises: any of DECODE_ERRORS.
    """
    channels, key = deep_channels(image), _transparent_colour(image)
    white = ppm_white(image) if image.format == "PPM" else 65535
    if image.format == "TIFF":
        # Pillow checks a TIFF's size once more when it makes room for the pixels, so the room is made here.
        image.im = Image.new(image.mode, (image.tag_v2[Tag.ImageWidth], image.tag_v2[Tag.ImageLength]), None).im
    note = load(image)
    own = getattr(image, "own", None)  # of a TIFF
    if own is not None:
        return arranged(own, channels) if channels else split(own[:, :, :4])
    samples = _from_pillow(image, cmyk_profile)
    if note:
        samples = replace(samples, notes=(*samples.notes, note))
    if channels:
        samples = read_deep(path, channels, white, samples)
    return samples if key is None else Samples(samples.pixels, _alpha_of_key(samples.pixels, key), samples.notes)


def _from_pillow(image: Image.Image, cmyk_profile: bytes | None) -> Samples:
    """Samples of a loaded image: grey of more than 8 bit as uint16, everything else as uint8."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Samples(_deep_grey(image)[:, :, None])
    if image.mode in ("CMYK", "LAB"):
        rgb = to_srgb(image, cmyk_profile if image.mode == "CMYK" else None)
        return Samples(np.array(rgb), notes=(f"{image.mode} turned into sRGB",))
    if image.mode in _PLAIN_MODES:
        image = image.convert("RGBA" if image.mode == "P" and "transparency" in image.info else _PLAIN_MODES[image.mode])
    array = np.array(image)
    return split(array if array.ndim == 3 else array[:, :, None])


def _deep_grey(image: Image.Image) -> np.ndarray:
    """(H, W) uint16 of 12- and 16-bit, 32-bit integer or float grey. Raises UnsuitableError as `scale_grey` does."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    grey = np.asarray(image) if image.mode.startswith("I;16") else scale_grey(image, white=65535)
    if tags.get(Tag.BitsPerSample) == (12,):
        grey = (grey.astype(np.uint32) * 65535 + 2047) // 4095
    white_is_zero = tags.get(Tag.PhotometricInterpretation) == 0  # which Pillow forgets here
    return (65535 - grey if white_is_zero else grey).astype(np.uint16)


def _transparent_colour(image: Image.Image) -> tuple[int, ...] | None:
    """The colour that a grey or RGB file which is not loaded yet declares transparent (PNG's tRNS, GIF), on the scale of its samples."""
    key = image.info.get("transparency")
    if key is None or image.mode not in ("1", "L", "I;16", "RGB"):
        return None
    if image.mode == "RGB":
        return key
    return (key * {"L;2": 85, "L;4": 17}.get(image.tile[0][3], 1),)


def _alpha_of_key(pixels: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Alpha (H, W): 0 where the pixel has the colour `key`, else opaque."""
    opaque = np.iinfo(pixels.dtype).max
    wanted = np.array([value & opaque for value in key], dtype=pixels.dtype)
    return np.where((pixels == wanted).all(axis=2), 0, opaque).astype(pixels.dtype)
