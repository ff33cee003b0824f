#!/usr/bin/env python
"""Draws Fig. 4: the features that DISTS compares of a picture, and those of its Sobel edges, which EA-DISTS compares as well.

    python tools/feature_maps.py HR.png SR.png -o results/figures/figure4                      VGG16 of torchvision, downloaded once
    python tools/feature_maps.py HR.png -o FIGURE --backbone squeezenet1_1 --weights squeezenet1_1_features.safetensors
    python tools/feature_maps.py HR.png SR.png -o FIGURE --dists_weights DISTS_weights-f5e65c96.pth   also prints both distances

Writes FIGURE.pdf, FIGURE.svg and FIGURE.png: for every picture a line of what DISTS sees (the picture and its features) and one of what
EA-DISTS adds (the edges and theirs); a map is the mean over the channels of a tap, black is 0. Exit status: 0 done; 2 a mistake.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PICTURE", help="one, or several of one size: HR first")
    add("-o", "--output", required=True, metavar="NAME", help="of the files, without ending")
    add("--backbone", choices=("vgg16", "squeezenet1_1"), default="vgg16", help="default: %(default)s, as in the paper")
    add("--weights", default="torchvision", help="of the backbone: torchvision, a file, or random (default: %(default)s)")
    add("--dists_weights", metavar="FILE", help="alpha and beta of DISTS, to print the distances of the second picture from the first")
    add("--sobel_mode", choices=("channel", "grey"), default="channel", help="default: %(default)s")
    add("--crop", metavar="BOX", help="left,top,width,height in pixels (default: the whole pictures)")
    add("--labels", nargs="+", action="extend", metavar="LABEL", help="of the pictures (default: their names)")
    add("--width", type=float, default=5.5, metavar="INCHES", help="of the figure (default: %(default)s, NeurIPS's text)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        if args.width <= 0:
            raise ValueError(f"--width must be above 0, got {args.width}")
        from tools.figures.feature_maps import draw  # late: it imports torch

        say(*draw(args))
    except (ValueError, OSError) as error:
        say(f"feature_maps.py: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
