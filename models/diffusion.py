"""Eq. 1 and Eq. 4 of the paper as pure functions: noise a latent, and predict the clean latent in one step.

Everything here is computed in float32: at large timesteps sqrt(alpha_bar) is small and half precision would lose the result.
"""

import torch
from torch import Tensor


def scaled_linear_alphas_cumprod(num_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Tensor:
    """Stable Diffusion's noise schedule, betas linear in sqrt(beta).

    Returns:
        alphas_cumprod (T,) float32, falling from about 1 to about 0.0047.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def gather_alpha_bar(alphas_cumprod: Tensor, timesteps: Tensor | int, z: Tensor) -> Tensor:
    """alpha_bar of every timestep, shaped to multiply z: (N, 1, 1, 1), or (1, 1, 1, 1) for one fixed timestep."""
    timesteps = torch.as_tensor(timesteps, device=alphas_cumprod.device).reshape(-1)
    return alphas_cumprod[timesteps].float().to(z.device).reshape(-1, *[1] * (z.ndim - 1))


def forward_diffusion(z: Tensor, timesteps: Tensor | int, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """F(z, t) = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) noise (Eq. 4).

    Args:
        z: clean latents (N, C, h, w).
        timesteps: (N,) integers in [0, T), or one for all.
        noise: standard normal, the shape of z.
        alphas_cumprod: the (T,) table.

    Returns:
        Noised latents (N, C, h, w), float32.
    """
    alpha_bar = gather_alpha_bar(alphas_cumprod, timesteps, z)
    return alpha_bar.sqrt() * z.float() + (1.0 - alpha_bar).sqrt() * noise.float()


def predict_z0(z_t: Tensor, noise_pred: Tensor, timesteps: Tensor | int, alphas_cumprod: Tensor) -> Tensor:
    """z_hat = (z_t - sqrt(1 - alpha_bar_t) noise_pred) / sqrt(alpha_bar_t) (Eq. 1).

    The generator calls it with z_t = z_lr and its fixed timestep T_L.

    Returns:
        Predicted clean latents (N, C, h, w), float32.
    """
    alpha_bar = gather_alpha_bar(alphas_cumprod, timesteps, z_t)
    return (z_t.float() - (1.0 - alpha_bar).sqrt() * noise_pred.float()) / alpha_bar.sqrt()
