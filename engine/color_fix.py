"""Colour fix: a restored picture gets the colours of the network's own input back.

Both fixes work in float on unpadded pictures, and the reference is exactly what the network saw (LR enlarged to the output size).
"""

import torch
from torch.nn import functional


def low_frequencies(image: torch.Tensor, levels: int = 5) -> torch.Tensor:
    """The low band of an a-trous wavelet transform (StableSR's colour fix; Holschneider et al. 1989).

    image: (N, C, H, W) float, any range and any size from one pixel on. Returns the same shape.
    Level i blurs with [1 2 1; 2 4 2; 1 2 1] / 16 dilated by 2^i, borders replicated; 5 levels reach 31 pixels to each side.
    """
    for level in range(levels):
        step = 2**level
        padded = functional.pad(image, (step, step, step, step), mode="replicate")
        rows = (padded[..., : -2 * step, :] + 2 * padded[..., step:-step, :] + padded[..., 2 * step :, :]) / 4
        image = (rows[..., : -2 * step] + 2 * rows[..., step:-step] + rows[..., 2 * step :]) / 4
    return image


def wavelet(sr: torch.Tensor, reference: torch.Tensor, levels: int = 5) -> torch.Tensor:
    """high(sr) + low(reference), with high(x) = x - low(x) and low the a-trous band of `low_frequencies`.

    sr, reference: (N, C, H, W) float of one size and range. The band is linear, so one transform of the difference is enough.
    """
    return sr + low_frequencies(reference - sr, levels)


def adain(sr: torch.Tensor, reference: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Adaptive instance normalisation (Huang and Belongie 2017): each channel of sr gets the mean and deviation of the reference's.

    sr, reference: (N, C, H, W) float of one range; eps is added to the variances, so a flat picture stays finite.
    """
    variance, mean = torch.var_mean(sr, dim=(-2, -1), keepdim=True, correction=0)
    reference_variance, reference_mean = torch.var_mean(reference, dim=(-2, -1), keepdim=True, correction=0)
    return (sr - mean) * ((reference_variance + eps) / (variance + eps)).sqrt() + reference_mean


COLOR_FIXES = {"wavelet": wavelet, "adain": adain}


def fix_color(sr: torch.Tensor, reference: torch.Tensor, kind: str = "none") -> torch.Tensor:
    """sr with the colours of reference; `kind` is none, wavelet or adain.

    sr, reference: (N, C, H, W) float, unpadded, one size and range; the result may leave the range a little and is not clamped here.
    Raises ValueError for an unknown kind or pictures of different shapes.
    """
    if kind == "none":
        return sr
    if kind not in COLOR_FIXES:
        raise ValueError(f"color_fix: expected one of none, {', '.join(COLOR_FIXES)}, got {kind!r}")
    if sr.shape != reference.shape:
        raise ValueError(f"color_fix: the picture is {tuple(sr.shape)}, its reference {tuple(reference.shape)}; both must be unpadded")
    return COLOR_FIXES[kind](sr, reference)
