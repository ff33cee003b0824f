"""Colour fix: a restored picture gets the colours of the network's own input back.

All fixes work in float on unpadded pictures, and the reference is exactly what the network saw (LR enlarged to the output size).
"""

from collections.abc import Iterator

import torch
from torch.nn import functional

from restoring.arrays import LUMA
from restoring.tiling import Picture


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


def ycbcr(sr: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The luma of sr with the chroma of the reference: JPEG's (BT.601 full range) Y from one, Cb and Cr from the other.

    sr, reference: (N, 3, H, W) float of one range. With equal Cb and Cr two colours differ by their luma in every channel, so no
    conversion there and back is needed.
    """
    weights = sr.new_tensor(LUMA).view(1, 3, 1, 1)
    return reference + ((sr - reference) * weights).sum(1, keepdim=True)


COLOR_FIXES = {"wavelet": wavelet, "adain": adain, "ycbcr": ycbcr}
WAVELET_REACH = 31
"""Pixels to each side that `low_frequencies` looks at with its five levels: 1 + 2 + 4 + 8 + 16."""


def fix_color(sr: torch.Tensor, reference: torch.Tensor, kind: str = "none") -> torch.Tensor:
    """sr with the colours of reference; `kind` is none, wavelet, adain or ycbcr.

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


def fix_rows(rows: Iterator[tuple[int, torch.Tensor]], reference: Picture, kind: str = "none") -> Iterator[tuple[int, torch.Tensor]]:
    """`fix_color` for a picture that comes in rows (top, (1, 3, r, W)) from top to bottom, with the same result.

    wavelet keeps back the last rows only, ycbcr none; adain needs the whole picture's mean and deviation, so it collects all rows first.
    """
    if kind == "none":
        yield from rows
    elif kind == "wavelet":
        yield from _wavelet_rows(rows, reference)
    elif kind == "ycbcr":
        for top, sr in rows:
            yield top, ycbcr(sr, reference.window(top, top + sr.shape[-2], 0, sr.shape[-1]))
    else:
        sr = torch.cat([part for _, part in rows], dim=-2)
        yield 0, fix_color(sr, reference.window(0, sr.shape[-2], 0, sr.shape[-1]), kind)


def _wavelet_rows(rows: Iterator[tuple[int, torch.Tensor]], reference: Picture) -> Iterator[tuple[int, torch.Tensor]]:
    kept: torch.Tensor | None = None  # rows from `start` on
    start = done = 0
    for top, sr in rows:
        kept = sr if kept is None else torch.cat([kept, sr], dim=-2)
        bottom = top + sr.shape[-2]
        ready = bottom if bottom == reference.height else max(done, bottom - WAVELET_REACH)
        if ready == done:
            continue
        fixed = wavelet(kept, reference.window(start, bottom, 0, kept.shape[-1]))
        yield done, fixed[..., done - start : ready - start, :]
        keep_from = max(0, ready - WAVELET_REACH)
        kept, start, done = kept[..., keep_from - start :, :].clone(), keep_from, ready
