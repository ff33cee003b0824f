"""The spatial loss of the generator (Eq. 8), and the losses that a small generator may need beside it."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from losses.edges import lost_coherence, overshoot
from losses.features import check_pair
from losses.pattern import flat_detail, repetition

EXTRA_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pattern": flat_detail,
    "repetition": repetition,
    "coherence": lost_coherence,
    "overshoot": overshoot,
}
"""Name -> (sr, hr) -> scalar. The option `train.NAME_weight` is its weight; the name stands in the log."""


def spatial_loss(
    sr: Tensor,
    hr: Tensor,
    perceptual: nn.Module | None,
    *,
    mse_weight: float = 1.0,
    perceptual_weight: float,
    extra_weights: Mapping[str, float] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_spatial = L_MSE + lambda_2 L_EA-DISTS (Eq. 8), lambda_2 = perceptual_weight; the paper's mse_weight is 1.

    sr, hr: (N, 3, H, W) in [0, 1]. perceptual: (sr, hr) -> scalar, from `build_perceptual`; None leaves that term at 0.
    extra_weights: of the EXTRA_LOSSES to add; one of weight 0 is not computed.
    Returns the float32 loss and its terms before weighting, detached: {"mse": ..., "perceptual": ...}. ValueError if the shapes differ.
    """
    check_pair(sr, hr)
    mse = F.mse_loss(sr.float(), hr.float())
    distance = mse.new_zeros(()) if perceptual is None else perceptual(sr, hr)
    loss, parts = mse_weight * mse + perceptual_weight * distance, {"mse": mse.detach(), "perceptual": distance.detach()}
    for name, weight in (extra_weights or {}).items():
        if weight:
            extra = EXTRA_LOSSES[name](sr, hr)
            loss, parts[name] = loss + weight * extra, extra.detach()
    return loss, parts
