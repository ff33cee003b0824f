"""A loss against fine patterns in flat places: blockwise decoders and backbones with strides invite them, and no distance of the
literature sees them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.features import check_pair

WINDOW = 8
FLOOR = 2 / 255
"""Detail below this much is flat: about what the compression of a good photograph leaves in a clear sky."""
FAINTEST = 0.25 / 255
"""Detail well below this much does not count as a repetition: rounding to 8 bits hides it."""


def flat_detail(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean of the fine detail that sr has beyond hr, counted where hr is flat; float32 scalar, in the images' own unit.

    sr, hr: (N, 3, H, W) in [0, 1], sides of at least 8 pixels. Detail is the root mean square, in windows of 8 x 8 pixels, of what a 5 x 5
    binomial blur takes away; a window counts FLOOR^2 / (FLOOR^2 + its detail in hr^2), so texture is left to the other losses. Energies
    are compared, not values: a pattern that changes its sign or its place from window to window counts like any other.
    ValueError if the shapes differ or are too small.
    """
    check_pair(sr, hr)
    if min(sr.shape[-2:]) < WINDOW:
        raise ValueError(f"pictures of {sr.shape[-1]}x{sr.shape[-2]} pixels are smaller than a window of {WINDOW} x {WINDOW}")
    detail_sr, detail_hr = _detail(sr.float()), _detail(hr.float())
    flatness = FLOOR**2 / (FLOOR**2 + detail_hr.square())
    return (flatness * (detail_sr - detail_hr).relu()).mean()


def repetition(sr: Tensor, hr: Tensor, period: int = 4) -> Tensor:
    """How much more than hr the fine detail of sr repeats itself after one and after two periods; float32 scalar in [0, 1].

    sr, hr: (N, 3, H, W) in [0, 1], sides of at least 2 period + 16 pixels. Detail is what a 5 x 5 binomial blur takes away. Its
    autocorrelation over windows of 16 x 16 pixels, at lags of `period` and 2 `period` pixels down and to the right, is near 1 or -1 for a
    mesh and near 0 for grain, however faint. A window counts by how much it exceeds hr's in size, so that a real fence may stay one.
    ValueError if the shapes differ or are too small.
    """
    check_pair(sr, hr)
    smallest = 2 * period + 2 * WINDOW
    if min(sr.shape[-2:]) < smallest:
        raise ValueError(f"pictures of {sr.shape[-1]}x{sr.shape[-2]} pixels are smaller than {smallest} x {smallest}")
    fine_sr, fine_hr = _fine(sr.float()), _fine(hr.float())
    lags = [(period, 0), (0, period), (2 * period, 0), (0, 2 * period)]
    excess = [(_autocorrelation(fine_sr, *lag).abs() - _autocorrelation(fine_hr, *lag).abs()).relu().mean() for lag in lags]
    return torch.stack(excess).mean()


def _autocorrelation(fine: Tensor, down: int, right: int) -> Tensor:
    here = fine[..., : fine.shape[-2] - down, : fine.shape[-1] - right]
    there = fine[..., down:, right:]

    def windows(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2 * WINDOW, stride=WINDOW)

    energy = (windows(here.square()) + windows(there.square())) / 2
    return windows(here * there) / (energy + FAINTEST**2)


def binomial_blur(images: Tensor) -> Tensor:
    """Images (N, C, H, W) convolved with the 5 x 5 binomial, a Gaussian of a variance of 1; the sides are mirrored."""
    blurred = F.pad(images, (2, 2, 2, 2), mode="reflect")
    for dim in (-1, -2):  # as sums of shifted pictures: a kernel would have to be sent to the device in every step
        size = blurred.shape[dim] - 4
        shifted = [blurred.narrow(dim, start, size) for start in range(5)]
        blurred = (shifted[0] + shifted[4] + 4 * (shifted[1] + shifted[3]) + 6 * shifted[2]) / 16
    return blurred


def _fine(images: Tensor) -> Tensor:
    return images - binomial_blur(images)


def _detail(images: Tensor) -> Tensor:
    # The constant keeps the root's gradient finite where a picture is exactly flat.
    return (F.avg_pool2d(_fine(images).square(), WINDOW, stride=WINDOW // 2) + 1e-10).sqrt()
