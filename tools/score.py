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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import numpy as np

    from scoring.methods import Plan
    from scoring.result_sets import Crop, ResultSets

HR, LR, BICUBIC = "HR", "LR", "bicubic"


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
    args = parse_args(argv)
    args.command = ["python", "tools/score.py", *(sys.argv[1:] if argv is None else argv)]
    try:
        return score(args)
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"score.py: {error}", file=sys.stderr)
        return 2


def score(args: argparse.Namespace) -> int:
    """Everything from the folders to the files. Returns the exit status."""
    from data.image_io import write_image
    from scoring.result_sets import Crop

    for name in ("crop_border", "crop_centre"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name} must not be negative, got {getattr(args, name)}")
    crop = Crop(border=args.crop_border, centre=args.crop_centre)
    sets, protocol = find_pictures(args, crop)
    plan, protocol["device"] = plan_metrics(args)
    from scoring.methods import score_folders, score_pictures
    from scoring.score_report import write_scores

    warnings: list[str] = []

    def warn(message: str) -> None:
        from tqdm import tqdm

        warnings.append(message)
        tqdm.write(message, file=sys.stderr)

    rows = score_pictures(read_pictures(sets, crop, "scoring"), plan.metrics, warn)
    of_folders = score_folders(read_pictures(sets, crop, "copying"), plan.folder_metrics, write_image, warn)
    unmarked = [label for label in (BICUBIC, HR) if label in {method for row in rows for method in row.scores} | set(of_folders)]
    print(write_scores(Path(args.output), rows, of_folders, plan, protocol, unmarked=unmarked, command=args.command))
    print(f"\n{Path(args.output) / 'scores.md'}" + (f"; {len(warnings)} scores are missing" if warnings else ""))
    return int(bool(plan.missing or warnings))


def plan_metrics(args: argparse.Namespace) -> "tuple[Plan, str]":
    """What can be computed here, and on which device. Raises ValueError where nothing can, or for a metric that is asked too much."""
    from scoring.result_sets import assignments

    types, given = chosen_metrics(args), assignments("--weights", args.weights)
    idle = [type for type in given if type not in types or type == "fid"]
    if idle:
        raise ValueError(f"--weights: {idle[0]} is not computed, or takes no file (fid)")
    if args.cache:
        from scoring.metric_weights import use_cache

        use_cache(args.cache)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else timm asks the hub for news of what it has, for a minute where there is no network
    from engine.distributed import choose_device
    from scoring.methods import make_plan

    device = choose_device(args.device)
    plan = make_plan(types, given, device)
    if not plan.columns:
        raise ValueError("no metric can be computed: " + "; ".join(f"{name}: {what}" for name, what in plan.missing.items()))
    compared = [metric.type for metric in plan.columns if metric.needs_hr and not args.hr]
    if compared:
        raise ValueError(f"--metrics: {compared[0]} compares with HR, so it needs --hr")
    return plan, str(device)


def find_pictures(args: argparse.Namespace, crop: "Crop") -> "tuple[ResultSets, dict[str, object]]":
    """The pictures of all folders, and the protocol that they make. Says what is extra, refuses what lacks pictures (but for --common)."""
    from restoring.jobs import OVERVIEW, SHEETS
    from scoring.result_sets import assignments, check_sizes, match_folders

    methods = assignments("--results", args.results)
    taken = [name for name in (HR, LR, BICUBIC) if name in methods]
    if taken:
        raise ValueError(f"--results: {taken[0]} is the name of a line of its own; call the method otherwise")
    folders = {HR: args.hr} if args.hr else {}
    folders |= ({LR: args.lr} if args.lr else {}) | methods
    suffixes = assignments("--suffix", args.suffix)
    strange = [name for name in suffixes if name not in folders]
    if strange:
        raise ValueError(f"--suffix: {strange[0]} is none of {', '.join(folders)}")
    overview = Path(OVERVIEW).stem
    sets = match_folders(folders, suffixes, ignore=lambda name: name == overview or name.startswith(f"{SHEETS}/"))
    problems = sets.problems()
    if any(sets.missing.values()) and not args.common:
        raise ValueError("\n".join(["the folders do not hold the same pictures (--common scores those that all hold):", *problems]))
    if problems:
        print("left out, since not all folders hold it:", *problems, sep="\n", file=sys.stderr)
    check_sizes(sets, [label for label in folders if label != LR], crop)
    left_out = {f"left out of {kind}": names for kind, names in (*sets.missing.items(), *sets.extra.items()) if names}
    protocol = {label: str(folder) for label, folder in folders.items()} | {"pictures": f"{crop}, 8 bit RGB"}
    if args.lr:
        protocol[BICUBIC] = "of LR, a = -0.75, no antialiasing (torch and cv2.INTER_CUBIC)"
    return sets, protocol | left_out


def chosen_metrics(args: argparse.Namespace) -> list[str]:
    """pyiqa's names of the metrics that are asked for, or of all that make sense."""
    from scoring.methods import DEFAULT, WITH_HR

    chosen = list(dict.fromkeys(args.metrics or DEFAULT))
    if args.hr:
        return chosen
    compared = [type for type in chosen if type in WITH_HR]
    if args.metrics and compared:
        raise ValueError(f"--metrics: {compared[0]} compares with HR, so it needs --hr")
    return [type for type in chosen if type not in WITH_HR]


def read_pictures(sets: "ResultSets", crop: "Crop", title: str) -> "Iterator[tuple[str, dict[str, np.ndarray]]]":
    """Name, and label -> picture to be scored: HR, bicubic where LR is known, then the methods."""
    from tqdm import tqdm

    from data.image_io import image_size, read_image
    from scoring.result_sets import enlarged

    for name in tqdm(sets.names, title, unit="image", disable=None):
        pictures = {label: crop.of(read_image(files[name])) for label, files in sets.files.items() if label != LR}
        if LR in sets.files:
            size = image_size(next(files[name] for label, files in sets.files.items() if label != LR))
            pictures[BICUBIC] = crop.of(enlarged(read_image(sets.files[LR][name]), size))
        yield name, pictures


if __name__ == "__main__":
    sys.exit(main())
