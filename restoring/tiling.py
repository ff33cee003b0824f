"""A network applied tile by tile: its memory is bounded by the tile, and no seam is left."""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor


class Picture(Protocol):
    """A picture or a map of latents that is looked at window by window, so that it need not exist as a whole."""

    height: int
    width: int

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """(1, C, bottom - top, right - left), on the network's device."""
        ...


# At a tile's own border: far below half a grey level of an 8-bit picture, far above what fp32 loses beside a weight of one.
WEIGHT_FLOOR = 1e-6


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the tiles along one axis: every `tile - overlap` pixels, the last one shifted to end with the picture.

    Raises ValueError for a tile below one pixel or an overlap outside [0, tile).
    """
    if tile < 1:
        raise ValueError(f"tile: expected at least 1 pixel, got {tile}")
    if not 0 <= overlap < tile:
        raise ValueError(f"tile_overlap: expected 0 <= overlap < tile, got overlap {overlap} with tile {tile}")
    if tile >= size:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def edge_ramp(overlap: int) -> Tensor:
    """(overlap,) float64 weights of one tile across an overlap, from its border inwards; this and its mirror image sum to one.

    The quarter next to the border counts for (almost) nothing, because there the network saw the border instead of the picture; then
    follow a raised cosine, sin^2, over the middle half, and ones. The smallest value is WEIGHT_FLOOR.
    """
    position = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
    ramp = torch.sin((2 * position - 0.5).clamp(0, 1) * (math.pi / 2)) ** 2
    return WEIGHT_FLOOR + (1 - 2 * WEIGHT_FLOOR) * ramp


def axis_weights(size: int, tile: int, overlap: int) -> list[tuple[int, Tensor]]:
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


def blend_rows(network: Callable[[Tensor], Tensor], picture: Picture, tile: int, overlap: int) -> Iterator[tuple[int, Tensor]]:
    """`network` applied to overlapping tiles of a picture, blended with smooth separable weights that are normalised before use.

    network: maps (1, C, h, w) to (1, K, h, w), any dtype and device. tile, overlap: positions of the picture along each side.
    Yields (top, rows): rows (1, K, r, W) float32 that no later tile touches, from top to bottom without a gap. Sums are kept in float32
    whatever the network's precision, and only for one row of tiles: the memory grows with the picture's width, not with its height.
    A network that looks no further than a quarter of the overlap gives the same as without tiles, up to float rounding.
    """
    columns = axis_weights(picture.width, tile, overlap)
    strips = axis_weights(picture.height, tile, overlap)
    tops = [top for top, _ in strips]
    pending: Tensor | None = None  # rows from `top` on, to which the tiles below may still add
    for (top, row_weights), following in zip(strips, [*tops[1:], picture.height], strict=True):
        bottom = top + len(row_weights)
        strip: Tensor | None = None
        for left, column_weights in columns:
            right = left + len(column_weights)
            restored = network(picture.window(top, bottom, left, right)).float()
            if strip is None:
                strip = restored.new_zeros(1, restored.shape[1], bottom - top, picture.width)
            strip[..., left:right] += restored * (row_weights[:, None] * column_weights).to(restored.device)
        if pending is not None:
            strip[..., : pending.shape[-2], :] += pending
        yield top, strip[..., : following - top, :]
        pending = strip[..., following - top :, :].clone()
