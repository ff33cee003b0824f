"""The two steps of an iteration (Sec. 3.4): what the generator learns from, and what its discriminator learns from.

Both leave gradients behind; the optimizers' updates follow together (`Run.step`), so that the device is waited for once an iteration.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.distributed import World, sum_over_ranks, synchronised
from engine.health import DiscriminatorHealth, per_sample
from engine.logs import Means
from engine.objectives import SHIFT, Draws, discriminator_objective, draw, frozen, generator_objective, real_penalty, sample_seed
from engine.run import Run
from losses.perceptual import shifted_distance
from losses.spatial import EXTRA_LOSSES, spatial_loss
from options.d3sr import TrainOptions


@dataclass(frozen=True)
class Judged:
    """What the discriminator judges of one batch: latents (N, C, h, w) float32 without a graph, and the noise they are seen under."""

    z_hat: Tensor
    z_hr: Tensor
    draws: Draws


@dataclass(frozen=True)
class Steps:
    """The two steps of a run, with all that stays the same from iteration to iteration.

    generator, discriminator: the run's own, or what averages their gradients over the processes. distance: (sr, hr) -> scalar or None.
    """

    run: Run
    options: TrainOptions
    world: World
    generator: nn.Module
    discriminator: nn.Module | None
    distance: nn.Module | None
    autocast: Callable[[], AbstractContextManager]
    means: Means
    health: DiscriminatorHealth | None

    def generator_step(self, batches: list[dict[str, Any]]) -> list[Judged]:
        """Leaves the gradient of L_spatial + lambda_1 L_G at the generator. Returns what the discriminator judges, [] before its start.

        The gradients of the spatial loss (Eq. 8) and of the adversarial loss (Eq. 2) are taken separately down to z_hat, where they meet
        and go on through the UNet as one: their ratio can be watched and held, and it costs nothing.
        """
        t, run = self.options.train, self.run
        training_d = run.discriminator is not None and run.iteration >= t.discriminator_starts
        adversarial = run.discriminator is not None and run.iteration >= t.adversarial_start
        draws = [self._draw(batch) for batch in batches] if training_d else []
        loss_scale = run.scalers["g"].scale(torch.ones((), device=self.world.device)) / len(batches)  # of fp16, else 1; of one batch
        squares = torch.zeros(2, device=self.world.device)
        judged = []
        for number, batch in enumerate(batches):
            with synchronised(self.generator, last=number == len(batches) - 1):
                with self.autocast():
                    sr, z_hat = self.generator(batch["lr"] * 2 - 1)
                gradient = torch.autograd.grad(loss_scale * self._spatial((sr + 1) / 2, batch["hr"]), z_hat)[0]
                squares[0] += gradient.square().sum()
                if adversarial:
                    heard = self._adversarial(z_hat, draws[number], loss_scale)
                    squares[1] += heard.square().sum()
                    gradient = gradient + run.balance.weight * heard
                z_hat.backward(gradient)
            if training_d:
                with self.autocast():
                    judged.append(Judged(z_hat.detach(), run.generator.encode(batch["hr"] * 2 - 1), draws[number]))
        self._note_norms(squares, loss_scale * len(batches), adversarial)
        return judged

    def discriminator_step(self, judged: list[Judged]) -> Tensor:
        """Leaves the gradient of L_D (Eq. 3) at the discriminator. Returns the mean sign of its votes on real latents."""
        run, real_sign = self.run, torch.zeros((), device=self.world.device)
        if self.options.train.r1_weight and run.iteration % self.options.train.r1_every == 0:
            self._penalise(judged)
        for number, one in enumerate(judged):
            real, fake = one.draws.real, one.draws.fake
            with synchronised(self.discriminator, last=number == len(judged) - 1):
                with self.autocast():
                    loss_d, real_logits, fake_logits = discriminator_objective(
                        self.discriminator, run.noising, one.z_hr, one.z_hat, real, fake, run.generator.alphas_cumprod
                    )
                run.scalers["d"].scale(loss_d / len(judged)).backward()
            self.means.add(loss_d=loss_d, real_logits=per_sample(real_logits).mean(), fake_logits=per_sample(fake_logits).mean())
            self.health.add(real_logits, real.timesteps, fake_logits, fake.timesteps)
            real_sign += per_sample([logits.sign() for logits in real_logits]).mean() / len(judged)
        return real_sign

    def _penalise(self, judged: list[Judged]) -> None:
        """Leaves the gradient of R1 at the discriminator, in whose sum over the processes `discriminator_step` includes it."""
        t, run = self.options.train, self.run
        for one in judged:
            with synchronised(self.discriminator, last=False):
                with self.autocast():
                    penalty = real_penalty(self.discriminator, run.noising, one.z_hr, one.draws.real, run.generator.alphas_cumprod)
                self.means.add(r1=penalty)
                run.scalers["d"].scale(t.r1_weight / 2 * t.r1_every * penalty / len(judged)).backward()

    def _draw(self, batch: dict[str, Any]) -> Draws:
        d, autoencoder, hr = self.options.network_d, self.run.generator.autoencoder, batch["hr"]
        shape = (autoencoder.latent_channels, hr.shape[-2] // autoencoder.factor, hr.shape[-1] // autoencoder.factor)
        shared = {"share_timesteps": d.share_timesteps, "share_noise": d.share_noise}
        return draw(self.run.noising, self.options.manual_seed, batch["index"].tolist(), shape, self.world.device, **shared)

    def _spatial(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Eq. 8, and the losses against patterns, frayed edges and halos where the options ask for them."""
        t = self.options.train
        offset = sample_seed(self.options.manual_seed, self.run.iteration, SHIFT)
        distance = shifted_distance(self.distance, t.perceptual.shift, offset)
        weights = {"mse_weight": t.mse_weight, "perceptual_weight": t.perceptual.weight}
        extra = {name: getattr(t, f"{name}_weight") for name in EXTRA_LOSSES}
        loss, parts = spatial_loss(sr, hr, distance, **weights, extra_weights=extra)
        self.means.add(**parts)
        return loss

    def _adversarial(self, z_hat: Tensor, draws: Draws, loss_scale: Tensor) -> Tensor:
        """The gradient of L_G (Eq. 2) at z_hat, times `loss_scale` and, channel by channel, what the channel does to a picture."""
        run = self.run
        with frozen(run.discriminator), self.autocast():
            loss_g, _ = generator_objective(run.discriminator, run.noising, z_hat, draws.generator_step, run.generator.alphas_cumprod)
            self.means.add(loss_g=loss_g)
            gradient = torch.autograd.grad(loss_scale * loss_g, z_hat)[0]
        return gradient * run.generator.autoencoder.channel_gain.view(1, -1, 1, 1)

    def _note_norms(self, squares: Tensor, loss_scale: Tensor, adversarial: bool) -> None:
        """Norms of the whole batch's gradients at z_hat: each part has its share of the mean, so that they do not depend on the parts."""
        norms = sum_over_ranks(squares, self.world).sqrt() / (loss_scale * self.world.size)
        self.means.add(spatial_gradient=norms[0])
        if adversarial:
            balance = self.run.balance
            self.means.add(adversarial_gradient=balance.weight * norms[1])
            if balance.ratio is not None:
                self.means.add(adversarial_weight=balance.weight)
            balance.observe(norms)
