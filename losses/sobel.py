"""The Sobel operator of EA-DISTS (Eq. 6 and 7 of D3SR / DFOSD, arXiv 2410.04224, Sec. 3.3)."""

import torch
from torch import Tensor

from losses.settings import PerceptualSettings

LUMA = (0.299, 0.587, 0.114)
SOBEL_MODES = ("channel", "grey")


def luma(images: Tensor) -> Tensor:
    """BT.601 luma of RGB images: (N, 3, H, W) -> float32 (N, 1, H, W), same range."""
    images = images.float()
    return sum(weight * images[:, index : index + 1] for index, weight in enumerate(LUMA))


def sobel_gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """(G_x * x, G_y * x) of every channel on its own (Eq. 6).

        G_x = [-1 0 1; -2 0 2; -1 0 1] = [1 2 1]^T [-1 0 1],   G_y = G_x^T

    images: (N, C, H, W), any range. Returns two tensors of the same shape, in float32.

    The sides are extended by repeating the border pixel, so a picture's frame is no edge (with zero padding it would be the
    strongest one). Kernels are applied as written, without the flip of a mathematical convolution: only the sign would differ,
    and Eq. 7 squares it away. Differences come before sums, so a flat region gives exactly 0: a convolution leaves rounding of
    1e-7 there, and the root of Eq. 7 turns that into gradients of order 0.1 that mean nothing.
    """
    padded = _repeat_border(images.float())
    across = padded[..., 2:] - padded[..., :-2]  # (N, C, H + 2, W)
    down = padded[..., 2:, :] - padded[..., :-2, :]  # (N, C, H, W + 2)
    gradient_x = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    gradient_y = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return gradient_x, gradient_y


def sobel(images: Tensor, *, mode: str = PerceptualSettings.sobel_mode, eps: float = PerceptualSettings.sobel_eps) -> Tensor:
    """Edge magnitude S(x) = sqrt((G_x * x)^2 + (G_y * x)^2) (Eq. 7).

    images: (N, 3, H, W) RGB in [0, 1]. Returns float32 (N, 3, H, W); values reach about 4.5 and are not rescaled, as in the paper.
    mode: "grey" takes the magnitude of the BT.601 luma, repeated to 3 channels, as the same lab's public code does; "channel" that of each
    colour (the paper says neither). Grey is the calmer one: rounding a picture to bfloat16 turns its gradient less.
    eps: added under the root, in squared intensity. Without it the gradient is NaN wherever the picture is flat; 1e-6, that code's number,
    moves a DISTS of edges by less than 1 %.
    Raises ValueError for an unknown mode or eps <= 0. Float32 also under autocast, which leaves these operations alone.
    """
    if mode not in SOBEL_MODES:
        raise ValueError(f"sobel_mode: {mode!r} is unknown; expected one of {', '.join(SOBEL_MODES)}")
    if not eps > 0:
        raise ValueError(f"sobel_eps: {eps!r} must be > 0, or flat regions have no gradient (NaN)")
    gradient_x, gradient_y = sobel_gradients(luma(images) if mode == "grey" else images)
    magnitude = (gradient_x.square() + gradient_y.square() + eps).sqrt()
    return magnitude.repeat(1, 3, 1, 1) if mode == "grey" else magnitude


def _repeat_border(images: Tensor) -> Tensor:
    # Not F.pad(mode="replicate"): its CUDA backward adds up in random order, a concatenation's does not.
    images = torch.cat((images[..., :1], images, images[..., -1:]), dim=-1)
    return torch.cat((images[..., :1, :], images, images[..., -1:, :]), dim=-2)
