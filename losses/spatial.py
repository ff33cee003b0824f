"""The spatial loss of the generator (Eq. 8)."""

import torch.nn.functional as F
from torch import Tensor, nn

from losses.features import check_pair


def spatial_loss(
    sr: Tensor, hr: Tensor, perceptual: nn.Module | None, *, mse_weight: float = 1.0, perceptual_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_spatial = L_MSE + lambda_2 L_EA-DISTS (Eq. 8), lambda_2 = perceptual_weight; the paper's mse_weight is 1.

    sr, hr: (N, 3, H, W) in [0, 1]. perceptual: (sr, hr) -> scalar, from `build_perceptual`; None leaves that term at 0.
    Returns the float32 loss and its two terms before weighting, detached: {"mse": ..., "perceptual": ...}. ValueError if the shapes differ.
    """
    check_pair(sr, hr)
    mse = F.mse_loss(sr.float(), hr.float())
    distance = mse.new_zeros(()) if perceptual is None else perceptual(sr, hr)
    loss = mse_weight * mse + perceptual_weight * distance
    return loss, {"mse": mse.detach(), "perceptual": distance.detach()}
