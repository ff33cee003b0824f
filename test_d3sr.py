#!/usr/bin/env python
"""Restores pictures with D3SR, and scores them where HR is known.

    python test_d3sr.py -opt options/test.yml                               the pictures that the option file names
    python test_d3sr.py -opt options/test.yml -i photo.jpg folder/ -o OUT   yours: OUT/<stem>.png, sub-folders kept
    python test_d3sr.py -opt options/test.yml --force_yml datasets.test.realsr.dataroot_lq=A/LR datasets.test.realsr.dataroot_gt=A/HR
    torchrun --nproc_per_node 4 test_d3sr.py -opt options/test.yml ...      the pictures shared among four processes or GPUs

Running it again goes on where it stopped: results that exist are kept, unless output.overwrite is true.
Exit status: 0 all done; 1 some pictures failed, named at the end, the others are done; 2 a mistake in options or paths, nothing done;
130 stopped by Ctrl-C.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from engine.distributed import World
    from models.generator import Generator
    from options.d3sr import TestOptions
    from restoring.jobs import Job, JobSet
    from restoring.worker import Done, Worker
    from scoring.metrics import Metric

OVERVIEW_ROWS = 6


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        from options.d3sr import load_test_options

        device = [f"device={arguments.device}"] if arguments.device else []
        options = load_test_options(arguments.opt, [*arguments.force_yml, *device])
        if arguments.dry_run:
            return dry_run(options, arguments.input, arguments.output)
        from engine import distributed

        long = timedelta(days=7)  # one share of the pictures may take much longer
        with distributed.start(options.device, timeout=long, report=say) as world:
            test_sets = plan(options, arguments.input, arguments.output)
            options = replace(options, precision=distributed.chosen_precision(options.precision, world.device))
            set_threads(options, world)
            generator = load(options, world.device)
            metrics = build_metrics(options, test_sets, world.device)
            return restore_sets(test_sets, generator, metrics, options, world)
    except (ValueError, OSError, KeyboardInterrupt) as error:
        return say(error)


def say(error: BaseException) -> int:
    """Says what ended the program; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        print("stopped; every result that exists is whole, and the same command goes on from here", file=sys.stderr)
        return 130
    if not isinstance(error, (ValueError, OSError)):
        traceback.print_exception(error)
        return 1
    print(f"test_d3sr.py: {error}", file=sys.stderr)
    return 2


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file, such as options/test.yml")
    parser.add_argument("-i", "--input", nargs="+", metavar="INPUT", help="pictures, folders or .txt lists, instead of the option file's")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the results (default: results/NAME, or results/NAME/SET)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="instead of the option file's")
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change options, such as tile=512")
    parser.add_argument("--dry-run", action="store_true", help="print the options and what would be done, and stop")
    return parser.parse_args(argv)


def plan(options: "TestOptions", inputs: Sequence[str] | None, output: str | None) -> "list[JobSet]":
    """What is to be done: the pictures of -i, else the sets of datasets.test, else those of `input`.

    Raises ValueError for paths that lead to no picture, LR and HR that do not pair up, and results that would replace an input.
    """
    from data.image_io import list_images
    from data.paired import pair_by_name
    from restoring.jobs import make_set

    naming = {"extension": options.output.format, "suffix": options.output.suffix}
    root = Path(output) if output else Path(options.path.results_root, options.name)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root}: the results need a folder, but this is a file; choose another -o")
    if inputs or not options.datasets.test:
        if not (inputs or options.inputs):
            raise ValueError("nothing to restore: give -i, or `input` or `datasets.test` in the option file")
        return [make_set(None, root, [(file.path, file.relative, None) for file in list_images(inputs or options.inputs)], **naming)]
    sets = []
    for name, data in options.datasets.test.items():
        folder = root if output and len(options.datasets.test) == 1 else root / name
        pairs = pair_by_name(data.dataroot_lq, data.dataroot_gt)
        sets.append(make_set(name, folder, [(lr.path, lr.relative, hr and hr.path) for lr, hr in pairs], **naming))
    return sets


def set_threads(options: "TestOptions", world: "World") -> None:
    """The same number in every process, however many there are: on a CPU it decides the last bits of the sums."""
    import torch

    from restoring.threads import physical_cores

    if world.device.type == "cpu":
        torch.set_num_threads(physical_cores() if options.num_threads == "auto" else options.num_threads)


def load(options: "TestOptions", device: "torch.device") -> "Generator":
    """The generator in the asked precision. Raises ValueError where the device cannot compute in it, or files are missing or do not fit."""
    from engine.distributed import dtype_of
    from models.fused import compile_networks, fuse
    from models.generator import cast_weights, load_generator, use_fast_vae

    if device.type == "cpu" and options.precision == "fp16":
        raise ValueError("precision: fp16 needs a GPU, and there is none; use fp32 or bf16")
    network = options.network_g
    generator = load_generator(network.path, base=network.pretrained, revision=network.revision, strength=network.strength)
    if network.fast_vae is not None:
        use_fast_vae(generator, network.fast_vae.path, network.fast_vae.parts)
    if network.fuse:
        generator = fuse(generator)
    generator = cast_weights(generator, dtype_of(options.precision)).to(device)
    if network.compile:
        compile_networks(generator)
    return generator


def build_metrics(options: "TestOptions", test_sets: "Sequence[JobSet]", device: "torch.device") -> "list[Metric]":
    """The metrics that some set can be scored with; without any, pyiqa is not even imported."""
    named = [test_set for test_set in test_sets if test_set.name is not None]
    wanted = {name: metric for name, metric in options.metrics.items() if any(test_set.has_hr or not metric.needs_gt for test_set in named)}
    if not wanted:
        return []
    from scoring.metrics import build_metric

    return [build_metric(name, **asdict(metric), device=device) for name, metric in wanted.items()]


def restore_sets(
    test_sets: "Sequence[JobSet]", generator: "Generator", metrics: "Sequence[Metric]", options: "TestOptions", world: "World"
) -> int:
    """Restores and scores every set, each process its share of the pictures. Returns the exit status."""
    from data.photos import photo
    from engine.distributed import gather
    from restoring.jobs import settings_key
    from restoring.pictures import Restoration
    from restoring.worker import Output, Worker

    how = Restoration(scale=options.scale, tile=options.tile, tile_overlap=options.tile_overlap, color_fix=options.color_fix)
    file = options.output
    settings = asdict(how) | {"precision": options.precision, "quality": file.quality, "strength": options.network_g.strength}
    if options.network_g.fast_vae is not None:
        settings |= {"fast_vae": asdict(options.network_g.fast_vae)}
    key = settings_key(options.network_g.path, settings)
    output = Output(key=key, quality=file.quality, overwrite=file.overwrite, sheet=options.comparison_sheet, page=options.report)
    everything: list[Done] = []
    for test_set in test_sets:
        worker = Worker(
            job_set=test_set,
            generator=generator,
            how=how,
            metrics=[metric for metric in metrics if test_set.name is not None and (test_set.has_hr or not metric.needs_hr)],
            output=output,
            files=photo,
            max_megapixels=options.max_megapixels,
            seed=options.manual_seed,
            warn=warn,
        )
        shares = gather(run(worker, world), world)
        done = [shares[index % world.size][index // world.size] for index in range(len(test_set.jobs))]
        if world.is_main:
            write_results(test_set, done, worker.metrics, options)
        everything += done
    return summarize(everything, quiet=not world.is_main)


def warn(message: str) -> None:
    """A line above the progress bar."""
    from tqdm import tqdm

    tqdm.write(message, file=sys.stderr)


def run(worker: "Worker", world: "World") -> "list[Done]":
    """This process's share of a set, in order; what failed is said at once, and the others are done."""
    from tqdm import tqdm

    from restoring.pipeline import overlapped
    from restoring.worker import Done

    jobs = worker.job_set.jobs[world.rank :: world.size]
    title = worker.job_set.name if world.size == 1 else f"{worker.job_set.name or 'pictures'}, process 1 of {world.size}"
    done = []
    for outcome in tqdm(
        overlapped(jobs, worker.read, worker.restore, worker.write), title, len(jobs), unit="image", disable=not world.is_main
    ):
        result = outcome.value or Done(failure=reason(outcome.error, outcome.item))
        done.append(result)
        if result.failure:
            warn(f"failed: {result.failure}")
    return done


def reason(error: Exception, job: "Job") -> str:
    """What failed, in one line."""
    from restoring.tile_size import is_out_of_memory

    text = (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix(f"{job.lr}: ")
    if is_out_of_memory(error):
        text = f"out of memory; set tile: auto, or a smaller one ({text})"
    return f"{job.lr}: {text}"


def write_results(test_set: "JobSet", done: "Sequence[Done]", metrics: "Sequence[Metric]", options: "TestOptions") -> None:
    """The overview sheet, metrics.{json,csv,md}, index.html, and the table of means on the terminal."""
    from data.image_io import write_image
    from restoring.jobs import OVERVIEW
    from scoring.page import write_page
    from scoring.report import mean_table, picture_sheet, write_report

    shown = [item.shown for item in done if item.shown]
    if shown:
        chosen = [shown[index * len(shown) // OVERVIEW_ROWS] for index in range(OVERVIEW_ROWS)] if len(shown) > OVERVIEW_ROWS else shown
        rows = [list(crops.values()) for _, crops in chosen]
        write_image(test_set.folder / OVERVIEW, picture_sheet(rows, list(chosen[0][1]), [name for name, _ in chosen]))
    scores = [item.scores for item in done if item.scores]
    if scores:
        write_report(test_set.folder, scores, metrics, protocol(test_set, options))
        print(f"\n{test_set.name}\n{mean_table(scores, metrics)}\n")
    entries = [item.entry for item in done if item.entry]
    if entries:
        write_page(test_set.folder, test_set.name or options.name, entries, metrics, protocol(test_set, options))
    print(f"results in {test_set.folder}")


def protocol(test_set: "JobSet", options: "TestOptions") -> dict[str, object]:
    """How the results came about, for metrics.json, metrics.md and index.html."""
    data = options.datasets.test.get(test_set.name or "")
    fast = options.network_g.fast_vae
    roots = {"set": test_set.name, "dataroot_lq": data.dataroot_lq, "dataroot_gt": data.dataroot_gt} if data else {}
    return {
        **roots,
        "pictures": "whole, 8 bit RGB",
        "bicubic": "a = -0.75, no antialiasing (torch and cv2.INTER_CUBIC), the network's own input",
        "generator": options.network_g.path,
        "strength": options.network_g.strength,
        **({"fast_vae": f"{fast.path} ({fast.parts})"} if fast else {}),
        **{key: getattr(options, key) for key in ("scale", "precision", "tile", "tile_overlap", "color_fix")},
    }


def summarize(done: "Sequence[Done]", quiet: bool) -> int:
    """Says what was kept, and names the failures once more, below each other. Returns the exit status."""
    failures = [item.failure for item in done if item.failure]
    kept, elsewhere = (sum(getattr(item, name) for item in done) for name in ("kept", "from_elsewhere"))
    if kept and not quiet:
        print(f"{kept} of {len(done)} results existed and were kept; --force_yml output.overwrite=true makes them anew", file=sys.stderr)
    if elsewhere and not quiet:
        print(f"WARNING: {elsewhere} of them were made from other pictures or with other settings than these", file=sys.stderr)
    if failures and not quiet:
        print(f"{len(failures)} of {len(done)} pictures failed:", *failures, sep="\n  ", file=sys.stderr)
    return int(bool(failures))


def dry_run(options: "TestOptions", inputs: Sequence[str] | None, output: str | None) -> int:
    """Prints the options with every default, and what would be read and written; loads no weights and needs no GPU."""
    from models.release import describe_generator
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
