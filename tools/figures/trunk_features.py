"""What tools/plot_features.py draws: features of a discriminator's trunk, of real and of generated latents under noise."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.paired import PairedFolder
from engine.distributed import choose_device, dtype_of
from models.diffusion import forward_diffusion
from models.discriminator import Discriminator, build_discriminator
from models.generator import Generator, build_generator, load_generator
from options.d3sr import TrainOptions
from tools.figures.feature_space import Cloud, draw_clouds


def draw(args: argparse.Namespace, options: TrainOptions) -> list[Path]:
    """From the options to the files. Raises ValueError where the networks or the pictures do not fit."""
    generator, discriminator = build(options, args.generator, choose_device(options.device))
    multiple = max(generator.size_multiple, generator.scale)
    if args.size % multiple:
        raise ValueError(f"--size must be a multiple of {multiple}, got {args.size}")
    return draw_clouds(Path(args.output), clouds(args, generator, discriminator), args.width)


def build(options: TrainOptions, trained: str | None, device: torch.device) -> tuple[Generator, Discriminator]:
    """Both networks, nothing of them to be trained here. Raises ValueError where the two do not fit."""
    g, d = options.network_g, options.network_d
    dtype = torch.float32 if device.type == "cpu" else dtype_of(options.train.precision)  # a few passes need no haste, but every digit
    generator = load_generator(trained, dtype=dtype) if trained else build_generator(g, scale=options.scale, dtype=dtype)
    discriminator = build_discriminator(d, image_size=options.datasets.train.gt_size, dtype=dtype)
    judged, made = discriminator.in_channels, generator.autoencoder.latent_channels
    if judged != made:
        raise ValueError(f"network_d.pretrained: '{d.pretrained}' judges latents of {judged} channels, the generator makes {made}")
    return generator.to(device).eval(), discriminator.to(device).eval()


def latents(args: argparse.Namespace, generator: Generator, device: torch.device) -> tuple[list[str], Tensor, Tensor]:
    """Names, and latents of the pictures' centres: real ones and generated ones, each (N, C, h, w)."""
    pairs, scale, size = PairedFolder(args.lr, args.hr, generator.scale), generator.scale, args.size
    names, real, generated = [], [], []
    for index in tqdm(range(min(args.number, len(pairs))), "encoding", unit="image", disable=None):
        item = pairs[index]
        height, width = item["lr"].shape[1:]
        if min(height, width) * scale < size:
            raise ValueError(f"{item['path']}: its HR of {width * scale}x{height * scale} pixels is smaller than --size {size}")
        top, left = (height - size // scale) // 2, (width - size // scale) // 2
        lr = item["lr"][None, :, top : top + size // scale, left : left + size // scale]
        hr = item["hr"][None, :, top * scale : top * scale + size, left * scale : left * scale + size]
        with torch.no_grad():
            real.append(generator.encode(hr.to(device) * 2 - 1).float().cpu())
            enlarged = generator.upsample(lr.to(device) * 2 - 1, (size, size))
            generated.append(generator.denoise(generator.encode(enlarged)).float().cpu())
        names.append(item["name"])
    return names, torch.cat(real), torch.cat(generated)


def clouds(args: argparse.Namespace, generator: Generator, discriminator: Discriminator) -> list[Cloud]:
    """The features of every timestep."""
    device = discriminator.time_ids.device
    names, *both = latents(args, generator, device)
    if len(names) < 3:
        raise ValueError(f"{args.hr}: three pictures at least are needed, found {len(names)}")
    found = []
    for timestep in args.timesteps:
        features = []
        for z in both:
            draws = torch.Generator().manual_seed(args.seed)  # again for the other kind: the pairs then differ in their realism only
            for one in z:
                noise = torch.randn(1, *one.shape, generator=draws).to(device)
                table = generator.alphas_cumprod
                features.append(trunk_means(discriminator, one[None].to(device), timestep, noise, table, args.channels))
        found.append(Cloud(timestep, np.concatenate(features), names))
    return found


@torch.no_grad()
def trunk_means(discriminator: Discriminator, z: Tensor, timestep: int, noise: Tensor, alphas_cumprod: Tensor, channels: int) -> np.ndarray:
    """What the last head is shown of F(z, t), averaged over the positions: the first channels of the mid block, float64 (N, channels).

    z, noise: (N, C, h, w). Fewer channels come out where the trunk has fewer.
    """
    timesteps = torch.full((len(z),), timestep, device=z.device)
    features = discriminator.features(forward_diffusion(z, timesteps, noise, alphas_cumprod), timesteps)[-1]
    return features.float().mean((2, 3))[:, :channels].double().cpu().numpy()
