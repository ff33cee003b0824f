"""ICC profiles of photos: whether one belongs to its pixels, and pixels turned into sRGB by theirs."""

from io import BytesIO

from PIL import Image, ImageCms

_BLACK_POINT_COMPENSATION = 0x2000  # littleCMS's flag; Pillow before 10.3 has no name for it
_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
"""Pillow's mode -> the colour space that bytes 16:20 of a profile name (ICC.1:2022, table 19)."""


def profile_problem(profile: bytes | None, mode: str) -> str:
    """Why a profile cannot go with pixels of a mode (L, RGB or CMYK), in words for their owner; empty if it can.

    profile: None stands for one that was there, but in pieces. A profile is whole if littleCMS can make the way to sRGB from it.
    """
    space = profile[16:20] if profile else b""
    if profile and profile[36:40] == b"acsp" and space != _SPACES[mode]:
        return f"its colour profile is for {space.decode('ascii', 'replace').strip()}, its pixels are {mode}"
    try:
        ImageCms.buildTransform(BytesIO(profile or b""), ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return "its colour profile is damaged"
    return ""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image as sRGB in mode RGB: by its profile (relative colorimetric, black point compensated), without one by Pillow's plain rule.

    image: L, LAB or CMYK. profile: None, or one that `profile_problem` finds nothing wrong with.
    """
    if profile is None:
        return image.convert("RGB")
    return ImageCms.profileToProfile(
        image,
        BytesIO(profile),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=_BLACK_POINT_COMPENSATION,
    )
