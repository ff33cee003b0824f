#!/usr/bin/env python
"""Restores pictures with D3SR, and scores them where HR is known.

    python test_d3sr.py -opt options/test.yml                               the pictures that the option file names
    python test_d3sr.py -opt options/test.yml -i photo.jpg folder/ -o OUT   yours: OUT/<stem>.png, sub-folders kept
    python test_d3sr.py -opt options/test.yml --force_yml datasets.test.realsr.dataroot_lq=A/LR datasets.test.realsr.dataroot_gt=A/HR

Exit status: 0 all done; 1 some pictures failed, named at the end, the others are done; 2 a mistake in options or paths, nothing done.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from engine.jobs import Job, JobSet
    from engine.metrics import Metric
    from engine.report import ImageScores
    from models.generator import Generator
    from options.d3sr import TestOptions

OVERVIEW_ROWS = 6


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        from options.d3sr import load_test_options

        options = load_test_options(arguments.opt, arguments.force_yml)
        if arguments.dry_run:
            return dry_run(options, arguments.input, arguments.output)
        from engine.distributed import choose_device

        test_sets = plan(options, arguments.input, arguments.output)
        device = choose_device(options.device)
        generator = load(options, device)
        metrics = build_metrics(options, test_sets, device)
    except (ValueError, OSError) as error:
        print(f"test_d3sr.py: {error}", file=sys.stderr)
        return 2
    failures = [failure for test_set in test_sets for failure in run(test_set, generator, metrics, options, device)]
    return summarize(failures, sum(len(test_set.jobs) for test_set in test_sets))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file, such as options/test.yml")
    parser.add_argument("-i", "--input", nargs="+", metavar="INPUT", help="pictures, folders or .txt lists, instead of the option file's")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the results (default: results/NAME, or results/NAME/SET)")
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change options, such as tile=512")
    parser.add_argument("--dry-run", action="store_true", help="print the options and what would be done, and stop")
    return parser.parse_args(argv)


def plan(options: "TestOptions", inputs: Sequence[str] | None, output: str | None) -> "list[JobSet]":
    """What is to be done: the pictures of -i, else the sets of datasets.test, else those of `input`.

    Raises ValueError for paths that lead to no picture, LR and HR that do not pair up, and results that would replace an input.
    """
    from data.image_io import list_images
    from data.paired import pair_by_name
    from engine.jobs import make_set

    root = Path(output) if output else Path(options.path.results_root, options.name)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root}: the results need a folder, but this is a file; choose another -o")
    if inputs or not options.datasets.test:
        if not (inputs or options.inputs):
            raise ValueError("nothing to restore: give -i, or `input` or `datasets.test` in the option file")
        return [make_set(None, root, [(file.path, file.relative, None) for file in list_images(inputs or options.inputs)])]
    sets = []
    for name, data in options.datasets.test.items():
        folder = root if output and len(options.datasets.test) == 1 else root / name
        pairs = pair_by_name(data.dataroot_lq, data.dataroot_gt)
        sets.append(make_set(name, folder, [(lr.path, lr.relative, hr and hr.path) for lr, hr in pairs]))
    return sets


def load(options: "TestOptions", device: "torch.device") -> "Generator":
    """The generator in the asked precision. Raises ValueError where the device cannot compute in it, or files are missing or do not fit."""
    import torch

    from models.generator import load_generator

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[options.precision]
    if device.type == "cpu" and dtype == torch.float16:
        raise ValueError("precision: fp16 needs a GPU, and there is none; use fp32 or bf16")
    network = options.network_g
    return load_generator(network.path, base=network.pretrained, revision=network.revision, dtype=dtype).to(device)


def build_metrics(options: "TestOptions", test_sets: "Sequence[JobSet]", device: "torch.device") -> "list[Metric]":
    """The metrics that some set can be scored with; without any, pyiqa is not even imported."""
    named = [test_set for test_set in test_sets if test_set.name is not None]
    wanted = {name: metric for name, metric in options.metrics.items() if any(test_set.has_hr or not metric.needs_gt for test_set in named)}
    if not wanted:
        return []
    from engine.metrics import build_metric

    return [build_metric(name, **asdict(metric), device=device) for name, metric in wanted.items()]


def run(
    test_set: "JobSet", generator: "Generator", metrics: "Sequence[Metric]", options: "TestOptions", device: "torch.device"
) -> list[str]:
    """Restores one set and scores it. Returns one line for every picture that failed; the others are done."""
    import torch
    from tqdm import tqdm

    from engine.jobs import SHEETS
    from engine.report import middle, score_image

    def warn(message: str) -> None:
        tqdm.write(message, file=sys.stderr)

    torch.manual_seed(options.manual_seed)  # restoring draws nothing, but some metrics look at random crops
    metrics = [metric for metric in metrics if test_set.name is not None and (test_set.has_hr or not metric.needs_hr)]
    rows, overview, failures = [], {}, []
    shown = {index * len(test_set.jobs) // OVERVIEW_ROWS for index in range(OVERVIEW_ROWS)}
    for index, job in enumerate(tqdm(test_set.jobs, desc=test_set.name, unit="image")):
        try:
            pictures = restore(job, test_set.folder, generator, options, device)
            if metrics:
                rows.append(score_image(job.output.as_posix(), pictures, metrics, warn))
            if options.comparison_sheet and "HR" in pictures:
                write_comparison(test_set.folder / SHEETS / job.output, pictures)
                if index in shown:  # crops are copied, so that the whole pictures need not stay in memory
                    overview[job.output.as_posix()] = {label: middle(picture).copy() for label, picture in pictures.items()}
        except (ValueError, OSError, RuntimeError) as error:
            failures.append(f"{job.lr}: {reason(error, job)}")
            warn(f"failed: {failures[-1]}")
    write_results(test_set, rows, metrics, overview, options)
    return failures


def restore(job: "Job", folder: Path, generator: "Generator", options: "TestOptions", device: "torch.device") -> dict[str, "np.ndarray"]:
    """Writes the restored picture. Returns what is compared: `bicubic` (what the network was given), `ours` and, if known, `HR`."""
    from data.image_io import read_image, to_tensor, to_uint8, write_image
    from engine.restore import restore_picture

    lr = to_tensor(read_image(job.lr))[None].to(device)
    sr, lr_up = restore_picture(
        generator, lr, scale=options.scale, tile=options.tile, tile_overlap=options.tile_overlap, color_fix=options.color_fix
    )
    pictures = {"bicubic": to_uint8(lr_up[0]), "ours": to_uint8(sr[0])}
    write_image(folder / job.output, pictures["ours"])
    if job.hr is not None:
        pictures["HR"] = read_image(job.hr)
        (height, width), (hr_height, hr_width) = pictures["ours"].shape[:2], pictures["HR"].shape[:2]
        if (height, width) != (hr_height, hr_width):
            raise ValueError(f"not scored: HR is {hr_width}x{hr_height}, the result {width}x{height} ({options.scale:g} x LR): {job.hr}")
    return pictures


def write_comparison(path: Path, pictures: dict[str, "np.ndarray"]) -> None:
    from data.image_io import write_image
    from engine.report import comparison_sheet

    write_image(path, comparison_sheet(list(pictures.values()), list(pictures)))


def write_results(
    test_set: "JobSet",
    rows: "Sequence[ImageScores]",
    metrics: "Sequence[Metric]",
    overview: dict[str, dict[str, "np.ndarray"]],
    options: "TestOptions",
) -> None:
    """The overview sheet, metrics.{json,csv,md}, and the table of means on the terminal."""
    from data.image_io import write_image
    from engine.jobs import OVERVIEW
    from engine.report import mean_table, picture_sheet, write_report

    if overview:
        labels = list(next(iter(overview.values())))
        write_image(test_set.folder / OVERVIEW, picture_sheet([list(row.values()) for row in overview.values()], labels, list(overview)))
    if rows:
        write_report(test_set.folder, rows, metrics, protocol(test_set, options))
        print(f"\n{test_set.name}\n{mean_table(rows, metrics)}\n")
    print(f"results in {test_set.folder}")


def protocol(test_set: "JobSet", options: "TestOptions") -> dict[str, object]:
    """How the numbers came about, for metrics.json and metrics.md."""
    data = options.datasets.test[test_set.name or ""]
    return {
        "set": test_set.name,
        "dataroot_lq": data.dataroot_lq,
        "dataroot_gt": data.dataroot_gt,
        "pictures": "whole, 8 bit RGB",
        "bicubic": "a = -0.75, no antialiasing (torch and cv2.INTER_CUBIC), the network's own input",
        "generator": options.network_g.path,
        **{key: getattr(options, key) for key in ("scale", "precision", "tile", "tile_overlap", "color_fix")},
    }


def reason(error: Exception, job: "Job") -> str:
    """Why a picture failed, in one line that does not name the file again."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix(f"{job.lr}: ")
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory; set tile (output pixels), or a smaller one ({text})"
    return text


def summarize(failures: Sequence[str], total: int) -> int:
    """Names the failures once more, below each other. Returns the exit status."""
    if not failures:
        return 0
    print(f"{len(failures)} of {total} pictures failed:", *failures, sep="\n  ", file=sys.stderr)
    return 1


def dry_run(options: "TestOptions", inputs: Sequence[str] | None, output: str | None) -> int:
    """Prints the options with every default, and what would be read and written; loads no weights and needs no GPU."""
    from engine.inventory import describe_generator
    from options.d3sr import to_yaml

    print(to_yaml(options))
    print(describe_generator(options.network_g.path, options.network_g.pretrained))
    try:
        for test_set in plan(options, inputs, output):
            scored = f", scored with {', '.join(options.metrics)}" if test_set.has_hr else ""
            print(f"{test_set.name or 'input'}: {len(test_set.jobs)} pictures -> {test_set.folder}{scored}")
    except ValueError as error:
        print(f"input: MISSING: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
