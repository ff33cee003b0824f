"""What tools/pretrain_tiny.py does: a UNet over block-transform latents learns to predict noise, from scratch."""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.console import say
from data.hr_crops import HRCrops
from data.image_io import to_unit_range
from data.loading import endless_batches
from data.sampler import ShardedSampler
from data.whole_files import whole_file
from models import configs
from models.autoencoders import BlockAutoencoder
from models.backbones import cast, load_autoencoder, new_unet, save_base
from models.block_transform import BlockTransform
from models.diffusion import forward_diffusion, scaled_linear_alphas_cumprod

NULL_TOKENS = 8


class Training:
    """What changes as it trains, and what is written to resume from.

    Attributes:
        iteration: how many are done.
        ema: the moving average of the UNet's weights, by name.
        transform: the block transform whose latents the UNet learns.
    """

    def __init__(self, args: argparse.Namespace, dataset: HRCrops):
        """A new training, or the one that was interrupted. Raises ValueError for a --latents that has no block transform."""
        self.file = Path(args.out) / "pretrain_state.pt"
        sizes = {"block_out_channels": args.channels, "layers_per_block": args.layers}
        config = configs.TINY_UNET | {name: size for name, size in sizes.items() if size}
        self.unet = new_unet(config, args.seed).to(args.device, memory_format=torch.channels_last)
        self.ema = {name: p.detach().clone() for name, p in self.unet.named_parameters()}
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.iteration = 0
        if self.file.is_file():
            self.transform = BlockTransform(block_size=4)
            self.resume()
        else:
            self.transform = read_transform(args.latents) if args.latents else fit_transform(dataset, num_crops=args.fit_crops)
        self.transform.to(args.device)

    def resume(self) -> None:
        """Reads what `save` wrote."""
        state = torch.load(self.file, map_location="cpu", weights_only=True)
        for name in ("unet", "optimizer", "transform"):
            getattr(self, name).load_state_dict(state[name])
        self.ema = {name: state["ema"][name].to(mean.device) for name, mean in self.ema.items()}
        self.iteration = state["iteration"]
        say(f"resuming {self.file} at iteration {self.iteration}")

    def save(self) -> None:
        """Writes the whole state, or leaves the former one."""
        states = {name: getattr(self, name).state_dict() for name in ("unet", "optimizer", "transform")}
        with whole_file(self.file) as file:
            torch.save({**states, "ema": self.ema, "iteration": self.iteration}, file)

    def step(self, hr: Tensor, alphas_cumprod: Tensor, args: argparse.Namespace) -> float:
        """One iteration on HR crops (N, 3, H, W) in [0, 1]. Returns the loss."""
        with torch.no_grad():
            z = self.transform.encode(hr * 2 - 1)
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + self.iteration)
        loss = denoising_loss(self.unet, z, alphas_cumprod, generator, args.precision)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.iteration, args)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        decay = min(args.ema_decay, (1 + self.iteration) / (10 + self.iteration))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.unet.parameters()], 1 - decay)
        self.iteration += 1
        return loss.item()


def pretrain(args: argparse.Namespace) -> None:
    """Trains, or goes on training, and writes the base: averaged weights in half precision.

    Raises ValueError or OSError where there are no photographs or the disk refuses.
    """
    dataset = HRCrops([(path, 1.0) for path in args.data], gt_size=args.size, scale=4, seed=args.seed, use_hflip=True)
    say(dataset.report())
    training = Training(args, dataset)
    sampler = ShardedSampler(rank=0, world_size=1, start=training.iteration * args.batch)
    batches = endless_batches(dataset, args.batch, sampler, workers=args.workers, device=torch.device(args.device), warn=say)
    train(training, batches, args)
    training.unet.load_state_dict(training.ema)
    save_base(Path(args.out), cast(training.unet, torch.half), BlockAutoencoder(training.transform.cpu()))
    say(f"wrote {args.out}; {training.file} is needed no more")


def train(training: Training, batches: Iterator[dict[str, Any]], args: argparse.Namespace) -> None:
    """All iterations that are left, with lines and states as often as they are asked for."""
    alphas_cumprod = scaled_linear_alphas_cumprod()
    started, first, running = time.time(), training.iteration, 0.0
    while training.iteration < args.iterations:
        running += training.step(next(batches)["hr"], alphas_cumprod, args)
        if training.iteration % args.log_every == 0:
            speed = (training.iteration - first) * args.batch / (time.time() - started)
            say(f"iter {training.iteration:6d}  loss {running / args.log_every:.4f}  {speed:.4g} crops/s")
            running = 0.0
        if training.iteration % args.save_every == 0:
            training.save()


def fit_transform(dataset: HRCrops, num_crops: int) -> BlockTransform:
    """The block transform, whitened over the first crops of the run."""
    transform = BlockTransform(block_size=4)
    transform.fit(to_unit_range(torch.stack([dataset[n]["hr"] for n in range(num_crops)])) * 2 - 1)
    return transform


def read_transform(base: str) -> BlockTransform:
    """The block transform of another base. Raises ValueError where it has a learned autoencoder instead."""
    autoencoder = load_autoencoder(base)
    if not autoencoder.is_blockwise:
        raise ValueError(f"--latents: '{base}' has a learned autoencoder; expected a base that this tool made")
    return autoencoder.model


def learning_rate_at(iteration: int, args: argparse.Namespace) -> float:
    """Linear warm-up, then half a cosine."""
    warmup = min(1.0, (iteration + 1) / 100)
    return args.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * iteration / args.iterations))


def denoising_loss(unet: nn.Module, z: Tensor, alphas_cumprod: Tensor, generator: torch.Generator, precision: str = "bf16") -> Tensor:
    """Mean squared error of the predicted noise at uniform timesteps, one per sample: a number, with its gradient.

    Args:
        z: latents (N, C, h, w).
        generator: of the timesteps and the noise, on the CPU.
        precision: bf16 or fp32, of the UNet's pass.
    """
    timesteps = torch.randint(0, len(alphas_cumprod), (len(z),), generator=generator)
    noise = torch.randn(z.shape, generator=generator).to(z.device)
    z_t = forward_diffusion(z, timesteps, noise, alphas_cumprod)
    null = z.new_zeros(len(z), NULL_TOKENS, unet.config.cross_attention_dim)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=precision == "bf16"):
        noise_pred = unet(z_t, timesteps.to(z.device), encoder_hidden_states=null, return_dict=False)[0]
    return F.mse_loss(noise_pred.float(), noise)
