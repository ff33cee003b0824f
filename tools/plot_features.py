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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from options.arguments import add_option_arguments
from options.d3sr import load_train_options


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_option_arguments(parser, "option file of a training: its network_g and network_d", "change options")
    add("--lr", required=True, metavar="FOLDER", help="LR pictures; generated latents come from them")
    add("--hr", required=True, metavar="FOLDER", help="their HR pictures: the real latents")
    add("--generator", metavar="FOLDER", help="a trained generator (default: network_g before training)")
    add("--timesteps", nargs="+", type=int, default=[0, 100, 250, 500, 750], metavar="T", help="default: 0 100 250 500 750")
    add("--channels", type=int, default=100, help="of the mid block (default: %(default)s, as in the paper)")
    add("--number", type=int, default=100, help="of pictures, the first ones (default: %(default)s)")
    add("--size", type=int, help="side of the centre that is looked at, in HR pixels (default: datasets.train.gt_size)")
    add("--seed", type=int, default=0, help="of the noise; real and generated see the same (default: %(default)s)")
    add("--width", type=float, default=5.5, metavar="INCHES", help="of the figure (default: %(default)s, NeurIPS's text)")
    add("-o", "--output", required=True, metavar="NAME", help="of the files, without ending")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        options = load_train_options(args.opt, args.force_yml)
        args.size = args.size or options.datasets.train.gt_size
        for name in ("channels", "number", "size", "width"):
            if getattr(args, name) <= 0:
                raise ValueError(f"--{name} must be above 0, got {getattr(args, name)}")
        for timestep in args.timesteps:
            if not 0 <= timestep <= 999:
                raise ValueError(f"--timesteps: expected 0 to 999, got {timestep}")
        if options.network_d.type == "none":
            raise ValueError("network_d.type: none has no features; take an option file with a discriminator")
        from tools.figures.trunk_features import draw  # late: it imports torch

        say(*draw(args, options))
    except (ValueError, OSError) as error:
        say(f"plot_features.py: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
