#!/usr/bin/env python
"""Measures which timestep T_L fits an autoencoder and a degradation: the one with the noise level of the LR latents.

    python tools/choose_timestep.py -opt options/train.yml -o results/choose_timestep
    python tools/choose_timestep.py -opt options/train_tiny.yml --pictures 1000 --force_yml datasets.train.dataroot_gt=/my/photos

Crops of datasets.train are degraded as the training degrades them (or cut from its pairs), LR is enlarged as the generator does it, and
both are encoded in float32. Eq. 1 takes z_lr for a z_t; the t whose signal-to-noise ratio is that of z_lr (OMGSR, arXiv 2508.08227) has

    alpha_bar E[z_hr^2] / (1 - alpha_bar) = E[z_hr^2] / E[(z_lr - z_hr)^2],    that is    alpha_bar = 1 / (1 + E[(z_lr - z_hr)^2]),

where E is over all pictures together; tools/figures/noise_level.py says what this leaves out. Nothing is set: write the number into
network_g.timestep. Needs vae/ and scheduler/ of the base, no UNet. Writes OUT/choose_timestep.png and OUT/choose_timestep.json.
Exit status: 0 done; 2 a mistake.
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
    add_option_arguments(parser, "option file of a training", "change options")
    add("-o", "--output", default="results/choose_timestep", metavar="OUT", help="folder of the results (default: %(default)s)")
    add("--pictures", type=int, default=200, metavar="N", help="crops, the first that the training would see (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        if args.pictures < 1:
            raise ValueError(f"--pictures must be at least 1, got {args.pictures}")
        options = load_train_options(args.opt, args.force_yml)
        from tools.figures.choose_timestep import choose  # late: it imports torch

        say(*choose(args, options))
    except (ValueError, OSError) as error:
        say(f"choose_timestep.py: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
