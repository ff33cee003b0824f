"""Reading, writing and listing image files. In memory an image is uint8 RGB (H, W, 3) or a float32 tensor (3, H, W) in [0, 1]."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.ExifTags import Base as Tag
from torch import Tensor

from data.image_files import DECODE_ERRORS, UnsuitableError, orientation, reason, scale_grey
from data.photos.opening import load, open_image
from data.photos.png_reader import read_png_tail
from data.whole_files import whole_file

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")

Size = tuple[int, int]
"""(height, width) in pixels."""
Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels: a part of an image."""

_LIST_SIZE = re.compile(r"\s+\(\d+\s*,\s*\d+(\s*,\s*\d+)?\)$")


@dataclass(frozen=True)
class ImageFile:
    """An image to read, and where its result belongs: `relative` is the path below the folder (or list) that was given."""

    path: Path
    relative: Path


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
            # Pillow has begun to give the size of TIFFs, and of no other format, upright.
            width, height = (image.tag_v2[Tag.ImageWidth], image.tag_v2[Tag.ImageLength]) if image.format == "TIFF" else image.size
            if image.format == "PNG":
                read_png_tail(image)
            return (width, height) if orientation(image) >= 5 else (height, width)
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


def list_images(paths: str | Path | Sequence[str | Path]) -> list[ImageFile]:
    """All images named by files, folders (recursive, natural order, no hidden files) and `.txt` lists (see `read_list`), in that order.

    Raises: ValueError when a path does not exist, is no image by its extension, or a folder or list holds no image.
    """
    found: list[ImageFile] = []
    for path in [Path(paths)] if isinstance(paths, (str, Path)) else map(Path, paths):
        if path.is_dir():
            files = [ImageFile(path / relative, relative) for relative in sorted(_walk(path), key=natural_key)]
        elif not path.is_file():
            raise ValueError(f"{path}: no such file or folder; give an image, a folder of images or a .txt list")
        elif path.suffix.lower() == ".txt":
            files = read_list(path)
        elif path.suffix.lower() in IMAGE_EXTENSIONS:
            files = [ImageFile(path, Path(path.name))]
        else:
            raise ValueError(f"{path}: expected an image ({' '.join(IMAGE_EXTENSIONS)}), a folder or a .txt list")
        if not files:
            raise ValueError(f"{path}: no images in it; looked for {' '.join(IMAGE_EXTENSIONS)}")
        found += files
    return found


def read_list(path: str | Path) -> list[ImageFile]:
    """The files that a list names, one a line: `name` or BasicSR's meta-info `name (h,w,c)`; blank lines are skipped.

    Relative names are below the list's folder, or below the folder above it when the first is found there only (Real-ESRGAN's layout:
    DF2K/meta_info/list.txt names DF2K/HR/0001.png as HR/0001.png). Files are not checked here; reading them says what is wrong.

    Raises: ValueError when the list itself cannot be read.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable list of image names in UTF-8 ({error})") from error
    names = [Path(_LIST_SIZE.sub("", line.strip())) for line in lines if line.strip()]
    first = next((name for name in names if not name.is_absolute()), None)
    above = first is not None and not (path.parent / first).exists() and (path.parent.parent / first).exists()
    folder = path.parent.parent if above else path.parent
    return [ImageFile(folder / name, Path(name.name) if name.is_absolute() or ".." in name.parts else name) for name in names]


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts img2 before img10, folder by folder, the same on every machine."""
    text = path.as_posix()
    parts = re.findall(r"\d+|\D+", text.replace("/", "\0").lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], text


def _walk(root: Path) -> Iterator[Path]:
    """Paths below root of the images in it; linked folders are entered, each real folder once."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = Path(folder).relative_to(root)
        yield from (below / name for name in names if not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS))
