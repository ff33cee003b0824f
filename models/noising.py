"""What a discriminator is shown: how each kind of Table 6 draws timesteps and noises real and generated latents."""

import torch
from torch import Tensor

from models.diffusion import forward_diffusion
from models.settings import DiscriminatorSettings


class NoiseAware:
    """The paper's: t uniform over [low, high], and F(z, t) of Eq. 4 for real and generated alike."""

    adaptive = False

    def __init__(self, low: int = DiscriminatorSettings.timestep_min, high: int = DiscriminatorSettings.timestep_max):
        self.low, self.high = low, high

    def draw_timestep(self, generator: torch.Generator) -> int:
        return int(torch.randint(self.low, self.high + 1, (), generator=generator))

    def show(self, z: Tensor, timesteps: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
        return forward_diffusion(z, timesteps, noise, alphas_cumprod)

    def observe(self, real_sign: float) -> None:
        """Nothing to adapt."""

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Nothing to restore."""


class Vanilla(NoiseAware):
    """No diffusion at all: clean latents at timestep 0."""

    def __init__(self) -> None:
        super().__init__(0, 0)

    def show(self, z: Tensor, timesteps: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
        return z


class DiffusionGAN(NoiseAware):
    """Diffusion-GAN (Wang et al., 2023): as much noise as keeps the discriminator from overfitting.

    Half of the samples are shown clean (timestep 0); the others at t in [1, limit] with probability proportional to t. The limit
    moves so that the mean sign of the real logits stays at 0.6.
    """

    adaptive = True
    TARGET = 0.6
    INTERVAL = 4
    LOW_LIMIT, HIGH_LIMIT = 10, 999
    STEPS_TO_FULL = 2500

    def __init__(self) -> None:
        super().__init__(0, self.HIGH_LIMIT)
        self.strength = 0.0
        self._signs: list[float] = []

    @property
    def limit(self) -> int:
        """Largest timestep at present."""
        return round(self.LOW_LIMIT + self.strength * (self.HIGH_LIMIT - self.LOW_LIMIT))

    def draw_timestep(self, generator: torch.Generator) -> int:
        clean, position = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        if clean < 0.5:
            return 0
        # The inverse of the cumulative distribution t (t + 1) / (limit (limit + 1)) of p(t) ~ t.
        total = self.limit * (self.limit + 1)
        return min(self.limit, int((-1 + (1 + 4 * position * total) ** 0.5) / 2) + 1)

    def show(self, z: Tensor, timesteps: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
        clean = (timesteps == 0).view(-1, 1, 1, 1)
        return torch.where(clean, z.float(), forward_diffusion(z, timesteps, noise, alphas_cumprod))

    def observe(self, real_sign: float) -> None:
        """Adapts the limit to the mean sign of the real logits, averaged over INTERVAL updates and over all processes."""
        self._signs.append(real_sign)
        if len(self._signs) == self.INTERVAL:
            step = self.INTERVAL / self.STEPS_TO_FULL
            self.strength += step if sum(self._signs) / self.INTERVAL > self.TARGET else -step
            self.strength = min(1.0, max(0.0, self.strength))
            self._signs.clear()

    def state_dict(self) -> dict[str, float]:
        return {"strength": self.strength, **{f"sign_{i}": sign for i, sign in enumerate(self._signs)}}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.strength = state["strength"]
        self._signs = [value for key, value in state.items() if key.startswith("sign_")]


NOISINGS = {"noise_aware": NoiseAware, "vanilla": Vanilla, "diffusion_gan": DiffusionGAN}


def build_noising(settings: DiscriminatorSettings) -> NoiseAware | None:
    """What the discriminator is shown; None where there is none."""
    if settings.type == "none":
        return None
    return NoiseAware(settings.timestep_min, settings.timestep_max) if settings.type == "noise_aware" else NOISINGS[settings.type]()
