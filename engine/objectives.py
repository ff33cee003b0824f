"""What each player minimises (Sec. 3.4), the noise it is judged under, and how much the generator hears of it (lambda_1).

Noise and timesteps are drawn per sample from (seed, sample index), never from a global state, so neither the number of
processes nor a restart changes them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from losses.adversarial import discriminator_loss, generator_adversarial_loss, gradient_penalty
from models.noising import NoiseAware

GENERATOR_STEP, REAL, FAKE, SHIFT = 1, 2, 3, 4
DECAY = 0.99
LARGEST = 1e4


@dataclass(frozen=True)
class Draw:
    """Timesteps (N,) and noise (N, C, h, w) for one batch of latents."""

    timesteps: Tensor
    noise: Tensor


def sample_seed(seed: int, index: int, tag: int) -> int:
    """A seed of its own for every (run, sample, purpose)."""
    return int(np.random.SeedSequence([seed, index, tag]).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class Draws:
    """The noise of one batch, for each of its three uses in an iteration."""

    generator_step: Draw
    real: Draw
    fake: Draw


def draw(
    noising: NoiseAware,
    seed: int,
    indices: Sequence[int],
    shape: Sequence[int],
    device: torch.device,
    *,
    share_timesteps: bool = True,
    share_noise: bool = True,
) -> Draws:
    """Timesteps and noise for latents of `shape` (C, h, w), one independent stream per sample and use.

    Drawn on the CPU, so that every device sees the same, and sent at once from pinned memory, so that nobody waits for it.

    Args:
        share_timesteps, share_noise: real and generated latents see the same ones.
    """
    timestep_tags = (GENERATOR_STEP, REAL, REAL if share_timesteps else FAKE)
    noise_tags = (GENERATOR_STEP, REAL, REAL if share_noise else FAKE)
    pinned, tags = device.type == "cuda", sorted({*timestep_tags, *noise_tags})
    timesteps = torch.empty(len(tags), len(indices), dtype=torch.int64, pin_memory=pinned)
    noise = torch.empty(len(tags), len(indices), *shape, pin_memory=pinned)
    for row, tag in enumerate(tags):
        for column, index in enumerate(indices):
            timesteps[row, column] = noising.draw_timestep(torch.Generator().manual_seed(sample_seed(seed, index, tag)))
            noise[row, column].normal_(generator=torch.Generator().manual_seed(sample_seed(seed, index, 16 + tag)))
    timesteps, noise = timesteps.to(device, non_blocking=True), noise.to(device, non_blocking=True)
    return Draws(*(Draw(timesteps[tags.index(t)], noise[tags.index(n)]) for t, n in zip(timestep_tags, noise_tags, strict=True)))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of the module receives a gradient inside; afterwards each is as it was."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def generator_objective(
    discriminator: nn.Module, noising: NoiseAware, z_hat: Tensor, seen: Draw, alphas_cumprod: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """L_G of Eq. 2 on generated latents; the discriminator must be `frozen`. Where it judges at several depths, their mean.

    Returns:
        The loss, and the logits (N, h', w') of each depth that it was computed from.
    """
    fake_logits = discriminator(noising.show(z_hat, seen.timesteps, seen.noise, alphas_cumprod), seen.timesteps)
    losses = [generator_adversarial_loss(logits) for logits in fake_logits]
    return torch.stack(losses).mean(), [logits.detach() for logits in fake_logits]


def discriminator_objective(
    discriminator: nn.Module, noising: NoiseAware, z_hr: Tensor, z_hat: Tensor, real: Draw, fake: Draw, alphas_cumprod: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """L_D of Eq. 3 on real and generated latents, in one forward pass. Where it judges at several depths, their mean.

    Returns:
        The loss, real_logits and fake_logits, (N, h', w') for each depth.
    """
    shown = torch.cat(
        [
            noising.show(z_hr, real.timesteps, real.noise, alphas_cumprod),
            noising.show(z_hat.detach(), fake.timesteps, fake.noise, alphas_cumprod),
        ]
    )
    votes = [logits.chunk(2) for logits in discriminator(shown, torch.cat([real.timesteps, fake.timesteps]))]
    losses = [discriminator_loss(*of_depth) for of_depth in votes]
    real_logits, fake_logits = ([logits.detach() for logits in of_side] for of_side in zip(*votes, strict=True))
    return torch.stack(losses).mean(), real_logits, fake_logits


def real_penalty(discriminator: nn.Module, noising: NoiseAware, z_hr: Tensor, seen: Draw, alphas_cumprod: Tensor) -> Tensor:
    """R1 on real latents as the discriminator sees them, before its weight: a scalar with a graph to the discriminator's weights.

    Where it judges at several depths, each has the same share of the votes. Attention is computed step by step meanwhile: the fused
    kernels have no second derivative.
    """
    shown = noising.show(z_hr, seen.timesteps, seen.noise, alphas_cumprod).detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        depths = discriminator(shown, seen.timesteps)
        votes = torch.stack([logits.sum() for logits in depths]).mean()
        return gradient_penalty(torch.autograd.grad(votes, shown, create_graph=True)[0])


class AdversarialBalance:
    """lambda_1: `weight` itself, or the weight that makes the adversarial gradient at z_hat `ratio` times as long as the spatial one.

    The latter is VQGAN's adaptive weight (Esser et al. 2021, Eq. 7), taken at z_hat and smoothed: both norms are running means over
    iterations (decay 0.99, shorter at the start), so the weight of an iteration is known before it begins and no gradient flows through
    it. Before the first measurement it is 0. Everything stays on the device.
    """

    def __init__(self, device: torch.device, *, weight: float | None = None, ratio: float | None = None) -> None:
        """One of weight and ratio is None."""
        assert (weight is None) != (ratio is None)
        self.ratio = ratio
        self.weight = torch.tensor(0.0 if weight is None else weight, device=device)
        self._norms = torch.zeros(2, device=device)
        self._count = 0

    @torch.no_grad()
    def observe(self, norms: Tensor) -> None:
        """norms (2,): of the spatial and of the adversarial gradient before weighting. A pair that is not finite is passed over."""
        if self.ratio is None:
            return
        decay = min(DECAY, self._count / (self._count + 1))
        self._count += 1
        self._norms = torch.where(norms.isfinite().all(), torch.lerp(norms, self._norms, decay), self._norms)
        spatial, adversarial = self._norms
        weight = self.ratio * spatial / adversarial.clamp(min=torch.finfo(torch.float32).tiny)
        self.weight = weight.clamp(max=LARGEST)

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs, as JSON's numbers."""
        if self.ratio is None:
            return {}
        spatial, adversarial = self._norms.tolist()
        return {"spatial": spatial, "adversarial": adversarial, "weight": self.weight.item(), "count": self._count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from a saved state; one that was saved with a fixed weight starts anew."""
        if self.ratio is not None and state:
            self._norms = self._norms.new_tensor([state["spatial"], state["adversarial"]])
            self.weight, self._count = self.weight.new_tensor(state["weight"]), int(state["count"])
