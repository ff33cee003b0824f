"""Scores folders of several methods' results beside each other: from the folders to the files."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.console import say
from data.image_io import image_size, read_image
from engine.distributed import choose_device
from restoring.jobs import OVERVIEW, SHEETS
from scoring.methods import DEFAULT, WITH_HR, AvailableMetrics, find_metrics, score_folders, score_pictures
from scoring.score_report import write_scores
from scoring.tables import BICUBIC, HR
from tools.comparing.arguments import LR
from tools.comparing.result_sets import Crop, ResultSets, check_sizes, enlarged, match_folders


def score(args: argparse.Namespace, folders: Mapping[str, str], suffixes: Mapping[str, str], weights: Mapping[str, str]) -> int:
    """Everything from the folders to the files. Returns the exit status.

    folders: label -> folder, HR and LR before the methods. weights: metric -> file.
    """
    crop = Crop(border=args.crop_border, centre=args.crop_centre)
    sets, protocol = find_pictures(folders, suffixes, crop, common=args.common)
    available, protocol["device"] = metrics_for(args, weights)
    warnings: list[str] = []

    def warn(message: str) -> None:
        warnings.append(message)
        say(message, error=True)

    rows = score_pictures(read_pictures(sets, crop, "scoring"), available.metrics, warn)
    of_folders = score_folders(read_pictures(sets, crop, "copying"), available.folder_metrics, warn)
    unmarked = [label for label in (BICUBIC, HR) if label in {method for row in rows for method in row.scores} | set(of_folders)]
    tables = write_scores(Path(args.output), rows, of_folders, available, protocol, unmarked=unmarked, command=args.command)
    missing = f"; {len(warnings)} scores are missing" if warnings else ""
    say(*tables.split("\n"), "", f"{Path(args.output) / 'scores.md'}{missing}")
    return int(bool(available.missing or warnings))


def metrics_for(args: argparse.Namespace, weights: Mapping[str, str]) -> tuple[AvailableMetrics, str]:
    """What can be computed here, and on which device. Raises ValueError where nothing can, or for a metric that is asked too much."""
    types = list(dict.fromkeys(args.metrics or DEFAULT))
    compared = [type for type in types if type in WITH_HR and not args.hr]
    if not args.metrics:
        types = [type for type in types if type not in compared]
    elif compared:
        raise ValueError(f"--metrics: {compared[0]} compares with HR, so it needs --hr")
    idle = [type for type in weights if type not in types or type == "fid"]
    if idle:
        raise ValueError(f"--weights: {idle[0]} is not computed, or takes no file (fid)")
    device = choose_device(args.device)
    available = find_metrics(types, weights, device)
    if not available.columns:
        raise ValueError("no metric can be computed: " + "; ".join(f"{name}: {what}" for name, what in available.missing.items()))
    compared = [metric.type for metric in available.columns if metric.needs_hr and not args.hr]
    if compared:
        raise ValueError(f"--metrics: {compared[0]} compares with HR, so it needs --hr")
    return available, str(device)


def find_pictures(
    folders: Mapping[str, str], suffixes: Mapping[str, str], crop: Crop, *, common: bool
) -> tuple[ResultSets, dict[str, object]]:
    """The pictures of all folders, and the protocol that they make. Says what is extra, refuses what lacks pictures (but for `common`)."""
    overview = Path(OVERVIEW).stem
    sets = match_folders(folders, suffixes, ignore=lambda name: name == overview or name.startswith(f"{SHEETS}/"))
    problems = sets.problems()
    if any(sets.missing.values()) and not common:
        raise ValueError("\n  ".join(["the folders do not hold the same pictures (--common scores those that all hold):", *problems]))
    if problems:
        say("left out, since not all folders hold it:", *problems, error=True)
    check_sizes(sets, [label for label in folders if label != LR], crop)
    left_out = {f"left out of {label}": names for label, names in (*sets.missing.items(), *sets.extra.items()) if names}
    protocol = {label: str(folder) for label, folder in folders.items()} | {"pictures": f"{crop}, 8 bit RGB"}
    if LR in folders:
        protocol[BICUBIC] = "of LR, a = -0.75, no antialiasing (torch and cv2.INTER_CUBIC)"
    return sets, protocol | left_out


def read_pictures(sets: ResultSets, crop: Crop, title: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Name, and label -> picture to be scored: HR, bicubic where LR is known, then the methods."""
    for name in tqdm(sets.names, title, unit="image", disable=None):
        pictures = {label: crop.of(read_image(files[name])) for label, files in sets.files.items() if label != LR}
        if LR in sets.files:
            size = image_size(next(files[name] for label, files in sets.files.items() if label != LR))
            pictures[BICUBIC] = crop.of(enlarged(read_image(sets.files[LR][name]), size))
        yield name, pictures
