"""What each player minimises (Sec. 3.4), and the noise it is judged under.

Noise and timesteps are drawn per sample from (seed, sample index), never from a global state, so neither the number of
processes nor a restart changes them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from losses.adversarial import discriminator_loss, generator_adversarial_loss
from models.noising import NoiseAware

GENERATOR_STEP, REAL, FAKE, SHIFT = 1, 2, 3, 4


@dataclass(frozen=True)
class Draw:
    """Timesteps (N,) and noise (N, C, h, w) for one batch of latents."""

    timesteps: Tensor
    noise: Tensor


def sample_seed(seed: int, index: int, tag: int) -> int:
    """A seed of its own for every (run, sample, purpose)."""
    return int(np.random.SeedSequence([seed, index, tag]).generate_state(1, np.uint64)[0] >> 1)


def draw(noising: NoiseAware, seed: int, indices: Sequence[int], tag: int, z: Tensor, noise_tag: int | None = None) -> Draw:
    """Timesteps and noise for latents shaped like z, one independent stream per sample.

    noise_tag: where the noise shall be that of another purpose (real and fake under the same noise).
    """
    timesteps = [noising.draw_timestep(torch.Generator().manual_seed(sample_seed(seed, i, tag))) for i in indices]
    noise_tag = tag if noise_tag is None else noise_tag
    generators = [torch.Generator().manual_seed(sample_seed(seed, i, 16 + noise_tag)) for i in indices]
    noise = torch.stack([torch.randn(z.shape[1:], generator=generator) for generator in generators])
    return Draw(torch.tensor(timesteps, device=z.device), noise.to(z.device))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of the module receives a gradient inside; afterwards each is as it was."""
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


def generator_objective(
    discriminator: nn.Module, noising: NoiseAware, z_hat: Tensor, seen: Draw, alphas_cumprod: Tensor
) -> tuple[Tensor, Tensor]:
    """L_G of Eq. 2 on generated latents; the discriminator must be `frozen`.

    Returns:
        The loss, and the logits (N, h', w') it was computed from.
    """
    fake_logits = discriminator(noising.show(z_hat, seen.timesteps, seen.noise, alphas_cumprod), seen.timesteps)
    return generator_adversarial_loss(fake_logits), fake_logits.detach()


def discriminator_objective(
    discriminator: nn.Module, noising: NoiseAware, z_hr: Tensor, z_hat: Tensor, real: Draw, fake: Draw, alphas_cumprod: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """L_D of Eq. 3 on real and generated latents, in one forward pass.

    Returns:
        The loss, real_logits and fake_logits (N, h', w') each.
    """
    shown = torch.cat(
        [
            noising.show(z_hr, real.timesteps, real.noise, alphas_cumprod),
            noising.show(z_hat.detach(), fake.timesteps, fake.noise, alphas_cumprod),
        ]
    )
    real_logits, fake_logits = discriminator(shown, torch.cat([real.timesteps, fake.timesteps])).chunk(2)
    return discriminator_loss(real_logits, fake_logits), real_logits.detach(), fake_logits.detach()
