"""Losses against edges that fray and edges that glow, which neither the distances nor a small generator's discriminator take away."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.features import check_pair
from losses.pattern import binomial_blur
from losses.sobel import luma, sobel_gradients

SIGMA = 2
"""Pixels: of the window within which an edge has one direction."""
FAINT = 0.5 / 255
"""Gradient per pixel below which there is no direction: grain is no edge."""
STRONG = 12 / 255
"""Gradient per pixel, root mean square over the window, that counts half; an outline counts almost fully."""

REACH = 4
"""Pixels: an outline may lie so far from hr's."""


def lost_coherence(sr: Tensor, hr: Tensor) -> Tensor:
    """How much less of one direction sr's gradients have than hr's along hr's edges; float32 scalar in [0, 1], a mean over pixels.

    sr, hr: (N, 3, H, W) in [0, 1], sides of at least 3 pixels. Coherence is (l_1 - l_2) / (l_1 + l_2), from the eigenvalues of luma's
    structure tensor over Gaussian windows (Bigun and Granlund 1987; Weickert 1999): 1 on a straight edge, however sharp or blurred, less
    where it frays, has stairs or is crossed by a mesh. Each place counts by how strong and how straight hr's edge is there; where sr is
    straighter it costs nothing. ValueError if the shapes differ.
    """
    check_pair(sr, hr)
    coherence_sr, _ = _coherence(sr)
    coherence_hr, energy = _coherence(hr)
    weight = coherence_hr * energy / (energy + STRONG**2)
    return (weight * (coherence_hr - coherence_sr).relu()).mean()


def overshoot(sr: Tensor, hr: Tensor) -> Tensor:
    """How far sr lies outside the range that hr spans within REACH pixels; float32 scalar, a mean over pixels.

    sr, hr: (N, 3, H, W) in [0, 1]. The sum of Y, R - Y and B - Y. A halo costs, along light and dark outlines alike, and so does a fringe
    of a colour that hr has not; sharpness and an edge up to REACH pixels away do not. ValueError if the shapes differ.
    """
    check_pair(sr, hr)
    sr, hr = _luma_and_colours(sr), _luma_and_colours(hr)
    high, low = _highest(hr), -_highest(-hr)
    return ((sr - high).relu() + (low - sr).relu()).sum(dim=1).mean()


def _highest(images: Tensor) -> Tensor:
    """The largest value of each channel within REACH pixels: what a max-pool gives, on a CPU in a twentieth of its time."""
    images = F.pad(images, (REACH,) * 4, value=-math.inf)
    for dim in (-1, -2):
        for step in (1, 2, 4, 1):  # 2 REACH together: pairs, fours, eights, nine
            size = images.shape[dim] - step
            images = torch.maximum(images.narrow(dim, 0, size), images.narrow(dim, step, size))
    return images


def _luma_and_colours(images: Tensor) -> Tensor:
    y = luma(images)
    return torch.cat([y, images[:, :1] - y, images[:, 2:] - y], dim=1)


def _coherence(images: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 1, H, W): the coherence, and the mean squared gradient per pixel."""
    x, y = (gradient / 8 for gradient in sobel_gradients(luma(images)))
    products = torch.cat([x * x, x * y, y * y], dim=1)
    for _ in range(SIGMA**2):  # each pass adds a variance of 1
        products = binomial_blur(products)
    xx, xy, yy = products.split(1, dim=1)
    # The constant keeps the root's gradient finite where a picture is exactly flat.
    difference = ((xx - yy).square() + 4 * xy.square() + 1e-4 * FAINT**4).sqrt()
    return difference / (xx + yy + FAINT**2), xx + yy
