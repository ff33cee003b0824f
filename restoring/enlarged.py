"""The network's input, looked at window by window: LR enlarged to the output's size, which never exists as a whole."""

import torch
from torch import Tensor

CUBIC = -0.75  # the a of torch's and OpenCV's bicubic
BEFORE, AFTER = 16, 24
"""Pixels that a network sees beyond the picture: above and left, below and right. Its convolutions pad with zeros, which is not what a
picture goes on with; d3sr-tiny made the last rows of a flat sky 4 levels brighter. Its strides of two make the lower edge the worse one."""


class Enlarged:
    """A bicubic enlargement, as `Generator.upsample` computes it, which goes on beyond its edges as in a mirror.

    Args:
        lr: (1, C, h, w) in [-1, 1].
        size: (H, W) of the enlarged picture.
        multiple: `height` and `width`, the extended size, are the next multiples of it.
        before: pixels above and to the left of the picture; windows are counted from there.
        after: as many at least below and to the right.
    """

    def __init__(self, lr: Tensor, size: tuple[int, int], multiple: int = 1, before: int = 0, after: int = 0):
        self.lr = lr
        self.rows, self.columns = (framed(side, multiple, before, after) for side in size)
        self.size = size
        self.height, self.width = len(self.rows), len(self.columns)

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """(1, C, bottom - top, right - left) in [-1, 1], on lr's device, in lr's dtype."""
        rows, above, below = _weights(self.rows[top:bottom], self.size[0], self.lr.shape[-2])
        columns, first, last = _weights(self.columns[left:right], self.size[1], self.lr.shape[-1])
        source = self.lr[..., above:below, first:last]
        return (rows.to(source) @ (source @ columns.to(source).T)).clamp(-1.0, 1.0)


def framed(size: int, multiple: int, before: int = BEFORE, after: int = AFTER) -> Tensor:
    """`mirrored` with as many pixels after the axis as make it a multiple, `after` at least."""
    return mirrored(size, before, after + -(before + size + after) % multiple)


def mirrored(size: int, before: int, after: int) -> Tensor:
    """(before + size + after,) pixel of an axis of `size` pixels that each position shows; mirrors stand in its first and last pixel."""
    there_and_back = torch.arange(-before, size + after) % max(2 * size - 2, 1)
    return torch.minimum(there_and_back, 2 * size - 2 - there_and_back)


def _weights(positions: Tensor, size: int, lr_size: int) -> tuple[Tensor, int, int]:
    """Keys' cubic weights (len(positions), n) of n neighbouring LR pixels, and the range first..last of these pixels."""
    # In float32 with a rounded ratio, as torch computes where an output pixel lies in LR: in a large picture the difference shows.
    ratio = torch.tensor(lr_size / size, dtype=torch.float32)
    source = (positions.float() + 0.5) * ratio - 0.5
    nearest = source.floor()
    t = (source - nearest).double()
    taps = torch.stack([_cubic(t + 1), _cubic(t), _cubic(1 - t), _cubic(2 - t)], dim=1)
    pixels = (nearest.long()[:, None] + torch.arange(-1, 3)).clamp(0, lr_size - 1)
    first, last = int(pixels.min()), int(pixels.max()) + 1
    weights = torch.zeros(len(positions), last - first, dtype=torch.float64)
    weights.scatter_add_(1, pixels - first, taps)
    return weights, first, last


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel for distances 0 <= x <= 2."""
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    return torch.where(x <= 1, near, far)
