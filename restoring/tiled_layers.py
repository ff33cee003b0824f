"""Convolutional layers evaluated window by window, so that a map never is on the device as a whole.

What a layer sees is what it sees in the whole network: a window reaches as far around its result as the kernel does, zeros are put
only where the picture ends, and a norm uses the mean and variance of the whole map, gathered while the map was written.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoring.tiled_maps import Box, Patch, Statistics, Store
from restoring.tiling import Picture


def cuts(size: int, side: int) -> list[tuple[int, int]]:
    """An axis of `size` positions cut into as few ranges of at most `side` positions as possible, of nearly equal length."""
    count = math.ceil(size / side)
    return list(pairwise(size * index // count for index in range(count + 1)))


def boxes(height: int, width: int, side: int) -> Iterator[Box]:
    """Windows of at most side x side positions that cover a map once, row by row."""
    columns = cuts(width, side)
    for top, bottom in cuts(height, side):
        yield from ((top, bottom, left, right) for left, right in columns)


class Norm:
    """A GroupNorm whose statistics are known, as it treats a window (1, C, h, w) of the whole map."""

    def __init__(self, norm: nn.GroupNorm, statistics: Statistics):
        assert isinstance(norm, nn.GroupNorm) and norm.affine, f"tiling knows a GroupNorm with weights only, not {norm}"
        mean, variance = (value.repeat_interleave(norm.num_channels // norm.num_groups) for value in statistics.of_groups(norm.num_groups))
        scale = norm.weight.cpu().double() * (variance + norm.eps).rsqrt()
        shift = norm.bias.cpu().double() - mean * scale
        dtype = torch.promote_types(norm.weight.dtype, torch.float32)
        self.scale, self.shift = (value.to(dtype).to(norm.weight.device).view(1, -1, 1, 1) for value in (scale, shift))

    def __call__(self, window: Tensor) -> Tensor:
        return torch.addcmul(self.shift, window.to(self.scale.dtype), self.scale).to(window.dtype)


@dataclass(frozen=True)
class _Reach:
    """Along one axis: the positions first..last of the input, of which, enlarged, `length` from `skip` on are used, between zeros."""

    first: int
    last: int
    skip: int
    length: int
    zeros: tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """[norm -> activation] -> [nearest enlargement] -> convolution.

    Args:
        conv: of a square kernel, stride and padding.
        norm, activation: applied before, or None.
        enlargement: 1 or 2, of the convolution's input.
        zeros: how many before and after each axis; None for the convolution's own padding, which otherwise must be 0.
    """

    conv: nn.Conv2d
    norm: Norm | None = None
    activation: Callable[[Tensor], Tensor] | None = None
    enlargement: int = 1
    zeros: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        conv = self.conv
        assert isinstance(conv, nn.Conv2d), f"tiling expects a convolution, not {conv}"
        square = all(first == second for first, second in (conv.kernel_size, conv.stride, conv.padding))
        plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        assert square and plain, f"tiling knows plain square convolutions only, not {conv}"
        assert self.zeros is None or conv.padding == (0, 0), "padding both outside and inside the convolution"

    @property
    def _zeros(self) -> tuple[int, int]:
        return self.zeros or (self.conv.padding[0], self.conv.padding[0])

    def size(self, source: Picture) -> tuple[int, int]:
        """(height, width) of the result."""
        more = sum(self._zeros) - self.conv.kernel_size[0]
        height, width = ((side * self.enlargement + more) // self.conv.stride[0] + 1 for side in (source.height, source.width))
        return height, width

    def _reach(self, start: int, stop: int, size: int) -> _Reach:
        stride, zeros, enlarged = self.conv.stride[0], self._zeros[0], size * self.enlargement
        begin, end = start * stride - zeros, (stop - 1) * stride + self.conv.kernel_size[0] - zeros
        outside = max(0, -begin), max(0, end - enlarged)
        begin, end = max(0, begin), min(end, enlarged)
        first, last = begin // self.enlargement, -(-end // self.enlargement)
        return _Reach(first, last, begin - first * self.enlargement, end - begin, outside)

    def needs(self, source: Picture, box: Box) -> Box:
        """The window of the input that a window of the result depends on."""
        rows, columns = self._reach(*box[:2], source.height), self._reach(*box[2:], source.width)
        return rows.first, rows.last, columns.first, columns.last

    def __call__(self, source: Picture, box: Box) -> Tensor:
        """The window `box` of the result: (1, C, bottom - top, right - left)."""
        rows, columns = self._reach(*box[:2], source.height), self._reach(*box[2:], source.width)
        x = source.window(rows.first, rows.last, columns.first, columns.last).to(self.conv.weight.dtype)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        if self.enlargement > 1:
            x = F.interpolate(x, scale_factor=float(self.enlargement), mode="nearest")
            x = x[..., rows.skip : rows.skip + rows.length, columns.skip : columns.skip + columns.length]
        if any(rows.zeros + columns.zeros):
            x = F.pad(x, columns.zeros + rows.zeros)
        return F.conv2d(x, self.conv.weight, self.conv.bias, self.conv.stride)


class Lazy:
    """The result of a layer that is not kept, but computed wherever it is looked at: time for memory."""

    def __init__(self, layer: Layer, source: Store):
        self.layer, self.source = layer, source
        self.height, self.width = layer.size(source)
        self.statistics = Statistics(layer.conv.out_channels)

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """(1, C, bottom - top, right - left) on the device."""
        return self.layer(self.source, (top, bottom, left, right))

    def free(self) -> None:
        """Gives back the memory of what it is computed from."""
        self.source.free()


@dataclass(frozen=True)
class Streamer:
    """How the layers of one network are carried over whole maps.

    Args:
        part: what an error message calls the network.
        tile: side of a window, in positions of a map of `width` channels; maps of more channels are seen through smaller windows.
        width: see `tile`.
        dtype, device: of the network.
    """

    part: str
    tile: int
    width: int
    dtype: torch.dtype
    device: torch.device

    def side(self, channels: int) -> int:
        """Of the windows of a map of so many channels."""
        return max(1, math.isqrt(self.tile**2 * self.width // max(channels, self.width)))

    def boxes(self, layer: Layer, source: Picture) -> Iterator[Box]:
        """Windows of the result of a layer, of a side that suits both its input and its result."""
        channels = max(layer.conv.in_channels * layer.conv.stride[0] ** 2, layer.conv.out_channels)
        return boxes(*layer.size(source), self.side(channels))

    def store(self, channels: int, height: int, width: int) -> Store:
        """An empty map of the network's kind."""
        return Store(channels, height, width, self.dtype, self.device)

    def put(self, store: Store, box: Box, tile: Tensor) -> None:
        """Writes a tile and takes note of its statistics. Raises FloatingPointError if it is not finite."""
        self._note(store.statistics, tile)
        store.write(box, tile)

    def _note(self, statistics: Statistics, tile: Tensor) -> None:
        statistics.add(tile)
        if not statistics.finite:
            raise self.overflow()

    def overflow(self) -> FloatingPointError:
        """What is raised where a value is not finite."""
        return FloatingPointError(f"the VAE's {self.part} overflowed in {str(self.dtype).removeprefix('torch.')}")

    def convolve(self, source: Picture, *layers: Layer) -> list[Store]:
        """The whole results of layers of one input, of one size, each window of which is fetched once for all."""
        results = [self.store(layer.conv.out_channels, *layer.size(source)) for layer in layers]
        for box in self.boxes(layers[0], source):
            tops, bottoms, lefts, rights = zip(*(layer.needs(source, box) for layer in layers), strict=True)
            patch = Patch(source, (min(tops), max(bottoms), min(lefts), max(rights)))
            for layer, result in zip(layers, results, strict=True):
                self.put(result, box, layer(patch, box))
        return results

    def postpone(self, source: Store, layer: Layer) -> Lazy:
        """The result of a layer as a map that is computed where it is looked at; its statistics are gathered in a pass of their own."""
        result = Lazy(layer, source)
        for box in self.boxes(layer, source):
            self._note(result.statistics, layer(source, box))
        return result

    def rows(self, source: Picture, layer: Layer) -> Iterator[tuple[int, Tensor]]:
        """The result of a layer from top to bottom: (top row, rows (1, C, r, W)), float32 or finer."""
        height, width = layer.size(source)
        side = self.side(layer.conv.in_channels)
        for top, bottom in cuts(height, side):
            yield top, self.joined([layer(source, (top, bottom, left, right)) for left, right in cuts(width, side)])

    def joined(self, tiles: list[Tensor]) -> Tensor:
        """Tiles (1, C, r, w) side by side, float32 or finer. Raises FloatingPointError if they are not finite."""
        rows = torch.cat(tiles, dim=-1).to(torch.promote_types(tiles[0].dtype, torch.float32))
        if not torch.isfinite(rows).all():
            raise self.overflow()
        return rows
