#!/usr/bin/env python
"""Scores folders of any method's outputs beside each other: a table over methods, every image, and how the numbers came about.

    python tools/score.py --hr RealSR/HR --lr RealSR/LR --results D3SR=results/realsr OSEDiff=osediff/realsr -o results/scores/realsr
    python tools/score.py --results D3SR=results/realset65 OSEDiff=osediff/realset65 -o results/scores/realset65      no HR
    python tools/score.py --hr HR --results mine=OUT --suffix mine=_out HR=_HR --metrics psnr ssim niqe --weights niqe=niqe.npz -o SCORES

Pictures belong together by their path below the folder, without extension. Writes scores.md (means, 95 % bootstrap intervals, protocol),
scores.json (everything, with versions and the SHA-256 of the weights) and scores.csv (every image). None of these weights is downloaded: a
metric that lacks them is listed as missing, with what it needs, and the others are computed; tools/metrics_weights.py gets them all.

Exit status: 0 all done; 1 a metric is missing or a picture could not be scored; 2 a mistake, nothing done; 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from scoring.metric_weights import use_cache
from scoring.tables import BICUBIC, HR
from tools.comparing.arguments import LR, assignments, named_folders


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    several = {"nargs": "+", "action": "extend", "default": []}
    add("--results", **several, required=True, metavar="NAME=FOLDER", help="a method and its outputs")
    add("--hr", metavar="FOLDER", help="the HR pictures; without them only metrics that need none are computed")
    add("--lr", metavar="FOLDER", help="the LR pictures: adds a line of bicubic enlargement to compare with")
    add("--suffix", **several, metavar="NAME=SUFFIX", help=f"what a method's names (or {HR}'s, {LR}'s) end in beyond the others': _out")
    add("--common", action="store_true", help="score the pictures that all folders hold, where some lack others")
    add("--metrics", **several, metavar="METRIC", help="pyiqa's names, or those of scoring/looks.py (default: the paper's tables')")
    add("--weights", **several, metavar="METRIC=FILE", help="a metric's own weights: niqe=FILE, MATLAB's .mat or BasicSR's .npz")
    add("--cache", metavar="FOLDER", help="where tools/metrics_weights.py --cache put the weights (default: the user's caches)")
    add("--crop_border", type=int, default=0, metavar="N", help="leave out N pixels at each side (default: whole pictures)")
    add("--crop_centre", type=int, default=0, metavar="N", help="score the centre of N x N pixels only (default: whole pictures)")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: %(default)s")
    add("-o", "--output", required=True, metavar="FOLDER", help="of scores.md, scores.json and scores.csv")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    args.command = ["python", "tools/score.py", *(sys.argv[1:] if argv is None else argv)]
    try:
        for name in ("crop_border", "crop_centre"):
            if getattr(args, name) < 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(args, name)}")
        known, methods, suffixes = named_folders(args, taken=(HR, LR, BICUBIC))
        weights = assignments("--weights", args.weights)
        if args.cache:
            use_cache(args.cache)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else timm asks the hub for news, for a minute where there is no network
        from tools.comparing.scores import score  # late: torch; and the hub's client reads the two settings above once

        return score(args, known | methods, suffixes, weights)
    except KeyboardInterrupt:
        say("stopped; nothing was written", error=True)
        return 130
    except (ValueError, OSError) as error:
        say(f"score.py: {error}", error=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
