"""One picture restored: enlarge, pad, (tiled) network, crop, colour fix."""

import math
from typing import Protocol

import torch
from torch.nn import functional

from engine.color_fix import fix_color
from engine.tiling import restore_tiled


class Restorer(Protocol):
    """What is asked of a network here; `models.generator.Generator` is one. Pictures are (N, 3, H, W) in [-1, 1]."""

    scale: float
    size_multiple: int

    def upsample(self, lr: torch.Tensor, size: tuple[int, int]) -> torch.Tensor: ...

    def restore(self, lr_up: torch.Tensor) -> torch.Tensor: ...


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """(height, width) of the restored picture: Python's round(scale * side), at least one pixel."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """image (N, C, H, W) extended at the bottom and the right until both sides are multiples of `multiple`.

    Each axis is reflected where the picture is large enough for that, and its last line is replicated otherwise.
    """
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    image = functional.pad(image, (0, 0, 0, bottom), mode="reflect" if bottom < height else "replicate")
    return functional.pad(image, (0, right, 0, 0), mode="reflect" if right < width else "replicate")


def _grid_tiles(tile: int, overlap: int, multiple: int) -> tuple[int, int]:
    """Tile and overlap rounded up to the network's grid, so that every tile is cut where the whole picture would be."""
    return math.ceil(tile / multiple) * multiple, math.ceil(overlap / multiple) * multiple


@torch.inference_mode()
def restore_picture(
    generator: Restorer,
    lr: torch.Tensor,
    *,
    scale: float | None = None,
    tile: int = 0,
    tile_overlap: int = 64,
    color_fix: str = "none",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The restored picture and, for comparison, exactly the enlarged picture that the network was given.

    lr: (N, 3, h, w) in [0, 1] on the generator's device. scale: None for the generator's own, else any positive number.
    tile, tile_overlap: output pixels, rounded up to generator.size_multiple; tile 0 is the whole picture at once.
    The network computes in its own precision; what is summed over tiles and all colour arithmetic is float32.
    Returns (sr, lr_up), both (N, 3, round(scale h), round(scale w)) float32 in [0, 1].
    Raises ValueError for options that make no sense and for a result that is not finite (which half precision can give).
    """
    size = output_size(*lr.shape[-2:], generator.scale if scale is None else scale)
    tile, tile_overlap = _grid_tiles(tile, tile_overlap, generator.size_multiple)
    lr_up = generator.upsample(lr.float() * 2 - 1, size)
    padded = pad_to_multiple(lr_up, generator.size_multiple)
    sr = restore_tiled(generator.restore, padded, tile, tile_overlap)[..., : size[0], : size[1]]
    if not torch.isfinite(sr).all():
        raise ValueError("the network's output is not finite; half precision can do that, precision: fp32 does not")
    sr = fix_color(sr, lr_up, color_fix)
    return ((sr + 1) / 2).clamp(0, 1), ((lr_up + 1) / 2).clamp(0, 1)
