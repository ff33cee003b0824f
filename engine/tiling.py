"""A picture restored tile by tile: the network's memory is bounded by the tile, and no seam is left."""

import math
from collections.abc import Callable

import torch

# At a tile's own border: far below half a grey level of an 8-bit picture, far above what fp32 loses beside a weight of one.
WEIGHT_FLOOR = 1e-6


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along one axis: every `tile - overlap` pixels, the last one shifted to end with the picture.

    Raises ValueError for a tile below one pixel or an overlap outside [0, tile).
    """
    if tile < 1:
        raise ValueError(f"tile: expected at least 1 pixel, got {tile}")
    if not 0 <= overlap < tile:
        raise ValueError(f"tile_overlap: expected 0 <= overlap < tile, got overlap {overlap} with tile {tile} (pixels of the output)")
    if tile >= size:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def edge_ramp(overlap: int) -> torch.Tensor:
    """(overlap,) float64 weights of one tile across an overlap, from its border inwards; this and its mirror image sum to one.

    The quarter next to the border counts for (almost) nothing, because there the network saw the border instead of the picture; then
    follow a raised cosine, sin^2, over the middle half, and ones. The smallest value is WEIGHT_FLOOR.
    """
    position = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
    ramp = torch.sin((2 * position - 0.5).clamp(0, 1) * (math.pi / 2)) ** 2
    return WEIGHT_FLOOR + (1 - 2 * WEIGHT_FLOOR) * ramp


def axis_weights(size: int, tile: int, overlap: int) -> list[tuple[int, torch.Tensor]]:
    """(start, weights) of every tile along one axis; `weights` is (min(tile, size),) float32, positive, and at every pixel of the axis
    the weights of the tiles that cover it sum to one.
    """
    starts = tile_starts(size, tile, overlap)
    length = min(tile, size)
    ramp = edge_ramp(overlap)
    raw = []
    for start in starts:
        weights = torch.ones(length, dtype=torch.float64)
        if start > 0:
            weights[:overlap] *= ramp
        if start + length < size:
            weights[length - overlap :] *= ramp.flip(0)
        raw.append(weights)
    total = torch.zeros(size, dtype=torch.float64)
    for start, weights in zip(starts, raw, strict=True):
        total[start : start + length] += weights
    return [(start, (weights / total[start : start + length]).float()) for start, weights in zip(starts, raw, strict=True)]


def restore_tiled(restore: Callable[[torch.Tensor], torch.Tensor], lr_up: torch.Tensor, tile: int = 0, overlap: int = 64) -> torch.Tensor:
    """`restore` applied to overlapping tiles of `lr_up`, blended with smooth separable weights that are normalised before use.

    restore: maps (N, 3, h, w) to the same shape, any dtype and device; called once, on the whole picture, when `tile` is 0 or covers it.
    lr_up: (N, 3, H, W), the picture at output size, already padded to the network's size multiple.
    tile, overlap: pixels of the output. For a network with a stride, both must be multiples of it if tiles are to see the grid that the
    whole picture has; `engine.restore` takes care of that.
    Returns (N, 3, H, W) float32 on lr_up's device, in the range of `restore`; sums are kept in float32 whatever the network's precision.
    A network that looks no further than a quarter of the overlap gives the same picture as without tiles, up to float rounding.
    """
    height, width = lr_up.shape[-2:]
    if tile == 0 or (tile >= height and tile >= width):
        return restore(lr_up).to(device=lr_up.device, dtype=torch.float32)
    blended = torch.zeros_like(lr_up, dtype=torch.float32)
    columns = [(left, weights.to(lr_up.device)) for left, weights in axis_weights(width, tile, overlap)]
    for top, row_weights in axis_weights(height, tile, overlap):
        bottom = top + len(row_weights)
        for left, column_weights in columns:
            right = left + len(column_weights)
            restored = restore(lr_up[..., top:bottom, left:right]).to(device=lr_up.device, dtype=torch.float32)
            weights = row_weights.to(lr_up.device)[:, None] * column_weights
            blended[..., top:bottom, left:right] += restored * weights
    return blended
