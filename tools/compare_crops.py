#!/usr/bin/env python
"""Draws comparison sheets as papers print them: each picture with a box on it, and beside it the box in every method's result, enlarged.

    python tools/compare_crops.py --hr RealSR/HR --lr RealSR/LR --results D3SR=results/realsr/D3SR OSEDiff=osediff/realsr \\
        --images Canon_001_LR4 Nikon_010_LR4 --boxes 210,130,96,64 auto -o results/figures/figure6

Writes figure6.pdf, figure6.svg (text stays text in both) and figure6.png. `auto` takes the window in which all these pictures differ most;
the boxes are printed, so that a later figure can have the same. Exit status: 0 done; 2 a mistake.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from scoring.tables import HR
from tools.comparing.arguments import LR, named_folders

AUTO = "auto"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    several = {"nargs": "+", "action": "extend", "default": []}
    add("--results", **several, required=True, metavar="NAME=FOLDER", help="a method and its outputs; NAME is its label")
    add("--hr", metavar="FOLDER", help="the HR pictures: the last crop")
    add("--lr", metavar="FOLDER", help="the LR pictures: the first crop, enlarged")
    add("--lr_as", choices=("pixels", "bicubic"), default="bicubic", help="how LR is enlarged (default: %(default)s)")
    add("--suffix", **several, metavar="NAME=SUFFIX", help=f"what a method's names (or {HR}'s, {LR}'s) end in beyond the others': _out")
    add("--images", nargs="+", action="extend", metavar="NAME", help="paths below the folders, no extension (default: the first three)")
    add("--boxes", nargs="+", action="extend", metavar="BOX", help="left,top,width,height in pixels of each image, or auto (default: auto)")
    add("--box_size", type=int, default=96, metavar="N", help="side of boxes that are found (default: %(default)s)")
    add("--width", type=float, default=5.5, metavar="INCHES", help="of the figure (default: %(default)s, NeurIPS's text)")
    add("--rows", type=int, help="of crops beside a picture (default: one for up to three crops, else two)")
    add("-o", "--output", required=True, metavar="NAME", help="of the files, without ending")
    return parser.parse_args(argv)


def read_box(text: str) -> tuple[int, int, int, int] | None:
    """left,top,width,height; None for auto."""
    if text == AUTO:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--boxes: expected left,top,width,height in pixels or {AUTO}, got {text!r}")
    left, top, width, height = (int(part) for part in parts)
    return left, top, width, height


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        for name, number in (("--box_size", args.box_size), ("--width", args.width), ("--rows", args.rows)):
            if number is not None and number <= 0:
                raise ValueError(f"{name} must be above 0, got {number}")
        known, methods, suffixes = named_folders(args, taken=(HR, LR))
        boxes = [read_box(text) for text in args.boxes or ()]
        from tools.comparing.crops import draw  # late: torch, OpenCV and matplotlib

        say(*draw(args, methods | known, suffixes, boxes))
    except (ValueError, OSError) as error:
        say(f"compare_crops.py: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
