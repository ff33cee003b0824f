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


def tile_ranges(size: int, tile: int, overlap: int, multiple: int = 1) -> list[tuple[int, int]]:
    """(first, last + 1) of the tiles along one axis: as few as can be, all of one length, which share the axis evenly.

    They are no longer than `tile`, and neighbours have `overlap` positions in common, or a few more. size, tile and overlap are multiples
    of `multiple`, and so is where each tile begins and ends: a network with strides sees the same grid in all of them.

    Raises ValueError for a tile below one position or an overlap outside [0, tile).
    """
    if tile < 1:
        raise ValueError(f"tile: expected at least 1 pixel, got {tile}")
    if not 0 <= overlap < tile:
        raise ValueError(f"tile_overlap: expected 0 <= overlap < tile, got overlap {overlap} with tile {tile}")
    if tile >= size:
        return [(0, size)]
    assert size % multiple == tile % multiple == overlap % multiple == 0, (size, tile, overlap, multiple)
    size, tile, overlap = size // multiple, tile // multiple, overlap // multiple
    count = math.ceil((size - overlap) / (tile - overlap))
    length = math.ceil((size + (count - 1) * overlap) / count)
    starts = (index * (size - length) // (count - 1) for index in range(count))
    return [(start * multiple, (start + length) * multiple) for start in starts]


def edge_ramp(overlap: int) -> Tensor:
    """(overlap,) float64 weights of one tile across an overlap, from its border inwards; this and its mirror image sum to one.

    The quarter next to the border counts for (almost) nothing, because there the network saw the border instead of the picture; then
    follow a raised cosine, sin^2, over the middle half, and ones. The smallest value is WEIGHT_FLOOR.
    """
    position = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
    ramp = torch.sin((2 * position - 0.5).clamp(0, 1) * (math.pi / 2)) ** 2
    return WEIGHT_FLOOR + (1 - 2 * WEIGHT_FLOOR) * ramp


def axis_weights(size: int, tile: int, overlap: int, multiple: int = 1) -> list[tuple[int, Tensor]]:
    """(start, weights) of every tile of `tile_ranges` along one axis; `weights` is float32, positive, one for each of the tile's
    positions, and at every position of the axis the weights of the tiles that cover it sum to one.
    """
    ranges = tile_ranges(size, tile, overlap, multiple)
    ramp = edge_ramp(overlap)
    raw = []
    for start, stop in ranges:
        weights = torch.ones(stop - start, dtype=torch.float64)
        if start > 0:
            weights[:overlap] *= ramp
        if stop < size:
            weights[len(weights) - overlap :] *= ramp.flip(0)
        raw.append(weights)
    total = torch.zeros(size, dtype=torch.float64)
    for (start, stop), weights in zip(ranges, raw, strict=True):
        total[start:stop] += weights
    return [(start, (weights / total[start:stop]).float()) for (start, stop), weights in zip(ranges, raw, strict=True)]


def blend_rows(
    network: Callable[[Tensor], Tensor], picture: Picture, tile: int, overlap: int, multiple: int = 1
) -> Iterator[tuple[int, Tensor]]:
    """`network` applied to overlapping tiles of a picture, blended with smooth separable weights that are normalised before use.

    network: maps (1, C, h, w) to (1, K, h, w), any dtype and device. tile, overlap, multiple: positions of the picture along each side,
    see `tile_ranges`.
    Yields (top, rows): rows (1, K, r, W) float32 that no later tile touches, from top to bottom without a gap. Sums are kept in float32
    whatever the network's precision, and only for one row of tiles: the memory grows with the picture's width, not with its height.
    A network that looks no further than a quarter of the overlap gives the same as without tiles, up to float rounding.
    """
    columns = axis_weights(picture.width, tile, overlap, multiple)
    strips = axis_weights(picture.height, tile, overlap, multiple)
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
