#!/usr/bin/env python
"""Draws Fig. 2 of D3SR (Fig. 3 of DFOSD): mid-block features of real and generated latents under more and more noise, in two dimensions.

    python tools/plot_features.py -opt options/train_tiny.yml --lr RealSR/LR --hr RealSR/HR -o results/figures/figure2
    python tools/plot_features.py -opt options/train.yml --lr RealSR/LR --hr RealSR/HR --generator experiments/NAME/models/NAME_ITER -o NAME

The trunk is network_d's, as pre-trained; generated latents come from network_g as a training begins, or from a trained --generator. A
point is a picture's centre: the first --channels channels of the mid block, averaged over its positions. Rows are PCA and LLE; "separated"
is how many points are nearer to the mean of their own kind in all dimensions, each pair left out of it (chance is 50 %).
Writes NAME.pdf, NAME.svg, NAME.png and NAME.csv. Exit status: 0 done; 2 a mistake.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.discriminator import Discriminator
    from models.generator import Generator
    from options.d3sr import TrainOptions
    from tools.figures.feature_space_figure import Cloud


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-opt", required=True, metavar="FILE", help="option file of a training: its network_g and network_d")
    add("--lr", required=True, metavar="FOLDER", help="LR pictures; generated latents come from them")
    add("--hr", required=True, metavar="FOLDER", help="their HR pictures: the real latents")
    add("--generator", metavar="FOLDER", help="a trained generator (default: network_g before training)")
    add("--timesteps", nargs="+", type=int, default=[0, 100, 250, 500, 750], metavar="T", help="default: 0 100 250 500 750")
    add("--channels", type=int, default=100, help="of the mid block (default: %(default)s, as in the paper)")
    add("--number", type=int, default=100, help="of pictures, the first ones (default: %(default)s)")
    add("--size", type=int, help="side of the centre that is looked at, in HR pixels (default: datasets.train.gt_size)")
    add("--seed", type=int, default=0, help="of the noise; real and generated see the same (default: %(default)s)")
    add("--width", type=float, default=5.5, metavar="INCHES", help="of the figure (default: %(default)s, NeurIPS's text)")
    add("--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change options")
    add("-o", "--output", required=True, metavar="NAME", help="of the files, without ending")
    return parser.parse_args(argv)


def build(options: "TrainOptions", trained: str | None, device: "torch.device") -> "tuple[Generator, Discriminator]":
    """Both networks, nothing of them to be trained here. Raises ValueError where there is no discriminator, or the two do not fit."""
    import torch

    from engine.distributed import dtype_of
    from models.discriminator import build_discriminator
    from models.generator import build_generator, load_generator

    g, d = options.network_g, options.network_d
    dtype = torch.float32 if device.type == "cpu" else dtype_of(options.train.precision)  # a few passes need no haste, but every digit
    if d.type == "none":
        raise ValueError("network_d.type: none has no features; take an option file with a discriminator")
    generator = load_generator(trained, dtype=dtype) if trained else build_generator(g, scale=options.scale, dtype=dtype)
    discriminator = build_discriminator(d, image_size=options.datasets.train.gt_size, dtype=dtype)
    judged, made = discriminator.in_channels, generator.autoencoder.latent_channels
    if judged != made:
        raise ValueError(f"network_d.pretrained: '{d.pretrained}' judges latents of {judged} channels, the generator makes {made}")
    return generator.to(device).eval(), discriminator.to(device).eval()


def latents(args: argparse.Namespace, generator: "Generator", size: int, device: "torch.device") -> "tuple[list[str], Tensor, Tensor]":
    """Names, and latents of the pictures' centres: real ones and generated ones, each (N, C, h, w)."""
    import torch
    from tqdm import tqdm

    from data.paired import PairedFolder

    pairs, scale = PairedFolder(args.lr, args.hr, generator.scale), generator.scale
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


def clouds(args: argparse.Namespace, generator: "Generator", discriminator: "Discriminator", size: int) -> "list[Cloud]":
    """The features of every timestep."""
    import numpy as np
    import torch

    from tools.figures.feature_space import trunk_means
    from tools.figures.feature_space_figure import Cloud

    device = discriminator.time_ids.device
    names, *both = latents(args, generator, size, device)
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


def draw(args: argparse.Namespace) -> list[Path]:
    """From the options to the files."""
    from options.d3sr import load_train_options

    options = load_train_options(args.opt, args.force_yml)
    size = args.size or options.datasets.train.gt_size
    for name, number in (("--channels", args.channels), ("--number", args.number), ("--size", size), ("--width", args.width)):
        if number <= 0:
            raise ValueError(f"{name} must be above 0, got {number}")
    wrong = [timestep for timestep in args.timesteps if not 0 <= timestep <= 999]
    if wrong:
        raise ValueError(f"--timesteps: expected 0 to 999, got {wrong[0]}")
    from engine.distributed import choose_device
    from tools.figures.feature_space_figure import draw_clouds

    generator, discriminator = build(options, args.generator, choose_device(options.device))
    multiple = max(generator.size_multiple, generator.scale)
    if size % multiple:
        raise ValueError(f"--size must be a multiple of {multiple}, got {size}")
    return draw_clouds(Path(args.output), clouds(args, generator, discriminator, size), args.width)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        print(*draw(args), sep="\n")
    except (ValueError, OSError) as error:
        print(f"plot_features.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
