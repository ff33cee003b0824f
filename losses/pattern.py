"""A loss against patterns that repeat from block to block: blockwise decoders invite them, and no distance of the literature sees them."""

import torch.nn.functional as F
from torch import Tensor

from losses.features import check_pair


def repeated_pattern(sr: Tensor, hr: Tensor, period: int, blocks: int = 4) -> Tensor:
    """Mean square of what the error sr - hr has in common from block to block; float32 scalar.

    sr, hr: (N, 3, H, W) in [0, 1], sides multiples of `period` and at least period * blocks. In every neighbourhood of blocks x blocks
    blocks of period x period pixels the errors of the blocks are averaged, and the mean of that average is taken away. Texture, noise
    and a change of brightness leave next to nothing; a grid of this period, or of one that divides it, stays whole. ValueError if the
    shapes differ or do not fit.
    """
    check_pair(sr, hr)
    height, width = sr.shape[-2:]
    if height % period or width % period or min(height, width) < period * blocks:
        raise ValueError(f"pictures of {width}x{height} pixels have no {blocks} x {blocks} whole blocks of {period} pixels")
    phases = F.pixel_unshuffle(sr.float() - hr.float(), period)  # (N, 3 period^2, H / period, W / period)
    common = F.avg_pool2d(phases, blocks, stride=max(1, blocks // 2)).unflatten(1, (3, period * period))
    return (common - common.mean(2, keepdim=True)).square().mean()
