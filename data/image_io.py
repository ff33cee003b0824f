"""Reading and writing image files. In memory an image is uint8 RGB (H, W, 3) or a float32 tensor (3, H, W) in [0, 1]."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.image_files import DECODE_ERRORS, UnsuitableError, orientation, reason, scale_grey
from data.photos.opening import load, open_image, upright_size
from data.whole_files import whole_file

Size = tuple[int, int]
"""(height, width) in pixels."""
Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels: a part of an image."""


def read_image(path: str | Path, file: BinaryIO | None = None, *, size: Size | None = None, box: Box | None = None) -> np.ndarray:
    """Decode a file to uint8 RGB (H, W, 3), upright (EXIF orientation applied).

    16-bit files are scaled to 8 bit, grey is repeated in three channels, palettes and CMYK are converted, alpha is dropped and the
    colours below it kept as stored. Of an animation the first frame is read.

    Args:
        file: the image's bytes where they are no file of their own; then `path` is only what messages call it.
        size: what the upright image measured when it was looked at before.
        box: the part to return; None is all. The file is decoded whole, so damage anywhere is found, but only the part becomes an
            array: to copy all of a large photo takes longer than to decode it.

    Raises: ValueError naming the file and the reason when it is missing, empty, truncated, no image or not of that size.
    """
    try:
        with open_image(path, file) as image:
            _check_size(image)
            load(image)
            upright = ImageOps.exif_transpose(image) if orientation(image) != 1 else image
            height, width = upright.height, upright.width
            if size not in (None, (height, width)):
                known = f"{size[1]}x{size[0]} when the run started or its manifest or index was made"
                raise UnsuitableError(f"{width}x{height} pixels now, but {known}")
            return _to_rgb(upright, box or (0, 0, height, width))
    except DECODE_ERRORS as error:
        raise ValueError(f"{path}: {reason(path, error)}") from error


def image_size(path: str | Path, file: BinaryIO | None = None) -> Size:
    """(height, width) in pixels of the upright image, from the header alone. `file` and errors are those of `read_image`."""
    try:
        with open_image(path, file) as image:
            _check_size(image)
            return upright_size(image)
    except DECODE_ERRORS as error:
        raise ValueError(f"{path}: {reason(path, error)}") from error


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 RGB (H, W, 3) as PNG, whole or not at all: a temporary file in the same folder is renamed when complete.

    Missing folders are created. Raises ValueError for another dtype, shape or file extension, OSError when the disk refuses.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: images are written as PNG; choose a name that ends in .png")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{path}: expected uint8 (H, W, 3), got {image.dtype} {image.shape}; see to_uint8")
    with whole_file(path) as file:
        Image.fromarray(np.ascontiguousarray(image)).save(file, format="PNG")


def to_tensor(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) in [0, 255], or float (H, W, 3) in [0, 1], to float32 (3, H, W) in [0, 1] with memory of its own."""
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return to_unit_range(planes) if planes.dtype == torch.uint8 else planes.to(torch.float32, copy=True)


def to_levels(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3), or float (H, W, 3) in [0, 1] to the nearest 255th, to uint8 (3, H, W) with memory of its own."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def to_unit_range(levels: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [0, 1], the same bits on every device: k / 255 to the nearest float32."""
    return levels.float() / torch.full((), 255.0, device=levels.device)  # by a plain 255 CUDA multiplies with 1 / 255: rounded twice


def to_uint8(image: Tensor) -> np.ndarray:
    """Float (3, H, W) in [0, 1] to uint8 (H, W, 3): clamped, rounded half up (0.5 of a level goes to the next)."""
    levels = (image.detach().float().clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def _check_size(image: Image.Image) -> None:
    """Raises DecompressionBombError for a picture of more pixels than Pillow's Image.open takes."""
    pixels, most = image.width * image.height, 2 * (Image.MAX_IMAGE_PIXELS or float("inf"))
    if pixels > most:
        raise Image.DecompressionBombError(f"{pixels} pixels, the limit is {most:g}")


def _to_rgb(image: Image.Image, box: Box) -> np.ndarray:
    """A part of a decoded image in any of Pillow's modes, as uint8 RGB (height, width, 3)."""
    top, left, height, width = box
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # scaled whole: whether the values fit is asked of all of them
        grey = scale_grey(image, white=255).astype(np.uint8)[top : top + height, left : left + width]
        return np.repeat(grey[:, :, None], 3, axis=2)
    if (height, width) != (image.height, image.width):
        image = image.crop((left, top, left + width, top + height))
    if image.mode in ("P", "PA", "La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
