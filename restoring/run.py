"""A run of test_d3sr.py from its options to its exit status: pictures, generator, metrics, each process's share, reports."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from data.image_io import list_images, write_image
from data.paired import pair_by_name
from engine.distributed import World, chosen_precision, dtype_of, gather, start
from models.fused import compile_networks, fuse
from models.generator import Generator, cast_weights, load_generator, use_fast_vae
from models.release import describe_generator
from options.d3sr import TestOptions
from restoring.host import physical_cores
from restoring.jobs import OVERVIEW, JobSet, make_set, settings_key
from restoring.pictures import Restoration, restore_array
from restoring.pipeline import overlapped
from restoring.tile_size import is_out_of_memory
from restoring.worker import Done, Output, Worker
from scoring.metrics import Metric, build_metric
from scoring.page import write_page
from scoring.report import mean_table, picture_sheet, write_report

OVERVIEW_ROWS = 6
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
TIMEOUT = timedelta(days=7)  # how long processes wait for each other: one share of the pictures may take much longer than another


def run(options: TestOptions, inputs: Sequence[str] | None, output: str | None, report: Callable[[BaseException], int]) -> int:
    """Restores and scores everything; returns the exit status.

    inputs, output: pictures and folder of the command line, in place of those of the options. report: says what an exception is to the
    user, where several processes must leave together.
    Raises ValueError and OSError for what keeps all pictures from being restored.
    """
    with start(options.device, timeout=TIMEOUT, report=report) as world:
        videos, inputs = find_videos(options, inputs, output)
        test_sets = [] if videos and not inputs else find_pictures(options, inputs, output)
        options = replace(options, precision=chosen_precision(options.precision, world.device))
        set_threads(options, world)
        generator = load(options, world.device)
        metrics = build_metrics(options, test_sets, world.device)
        failed = restore_videos(videos, generator, options, world) if videos else 0
        return max(failed, restore_sets(test_sets, generator, metrics, options, world))


def describe(options: TestOptions, inputs: Sequence[str] | None, output: str | None) -> str:
    """What would be read and written, in lines; loads no weights and needs no GPU. What is missing is said, not raised."""
    lines = [describe_generator(options.network_g.path, options.network_g.pretrained)]
    try:
        videos, inputs = find_videos(options, inputs, output)
        lines += [video.describe() for video in videos]
        for test_set in [] if videos and not inputs else find_pictures(options, inputs, output):
            scored = f", scored with {', '.join(options.metrics)}" if test_set.has_hr else ""
            lines.append(f"{test_set.name or 'input'}: {len(test_set.jobs)} pictures -> {test_set.folder}{scored}")
    except ValueError as error:
        lines.append(f"input: MISSING: {error}")
    return "\n".join(lines)


def find_videos(options: TestOptions, inputs: Sequence[str] | None, output: str | None) -> tuple[list[Any], Sequence[str] | None]:
    """The videos among what is to be restored (see `restoring.video.Video`), and the inputs without them; folders are not looked into.

    Raises ValueError where PyAV is missing, and what `restoring.video.find_videos` raises.
    """
    given = inputs or (() if options.datasets.test else options.inputs)
    names = [name for name in given if Path(name).suffix.lower() in VIDEOS and not Path(name).is_dir()]
    if not names:
        return [], inputs
    try:
        from restoring import video  # late: it needs PyAV, which is optional
    except ImportError as error:
        raise ValueError(f"{names[0]}: videos need PyAV: pip install av ({error})") from error
    others = [name for name in given if name not in names]
    root = Path(output) if output else Path(options.path.results_root, options.name)
    videos = video.find_videos(
        [Path(name) for name in names],
        root,
        alone=len(given) == 1,
        suffix=options.output.suffix,
        max_megapixels=options.max_megapixels,
        scale=options.scale,
    )
    return videos, others


def find_pictures(options: TestOptions, inputs: Sequence[str] | None, output: str | None) -> list[JobSet]:
    """What is to be done: the pictures of -i, else the sets of datasets.test, else those of `input`.

    Raises ValueError for paths that lead to no picture, LR and HR that do not pair up, and results that would replace an input.
    """
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


def set_threads(options: TestOptions, world: World) -> None:
    """The same number in every process, however many there are: on a CPU it decides the last bits of the sums."""
    if world.device.type == "cpu":
        torch.set_num_threads(physical_cores() if options.num_threads == "auto" else options.num_threads)


def load(options: TestOptions, device: torch.device) -> Generator:
    """The generator in the asked precision. Raises ValueError where the device cannot compute in it, or files are missing or do not fit."""
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


def build_metrics(options: TestOptions, test_sets: Sequence[JobSet], device: torch.device) -> list[Metric]:
    """The metrics that some set can be scored with; without any, pyiqa is not even imported."""
    named = [test_set for test_set in test_sets if test_set.name is not None]
    wanted = {name: metric for name, metric in options.metrics.items() if any(test_set.has_hr or not metric.needs_gt for test_set in named)}
    return [build_metric(name, **asdict(metric), device=device) for name, metric in wanted.items()]


def restore_sets(
    test_sets: Sequence[JobSet], generator: Generator, metrics: Sequence[Metric], options: TestOptions, world: World
) -> int:
    """Restores and scores every set, each process its share of the pictures. Returns the exit status."""
    restoration, key = settings_of(options)
    file = options.output
    output = Output(key=key, quality=file.quality, overwrite=file.overwrite, sheet=options.comparison_sheet, page=options.report)
    everything: list[Done] = []
    for test_set in test_sets:
        worker = Worker(
            job_set=test_set,
            generator=generator,
            restoration=restoration,
            metrics=[metric for metric in metrics if test_set.name is not None and (test_set.has_hr or not metric.needs_hr)],
            output=output,
            max_megapixels=options.max_megapixels,
            seed=options.manual_seed,
            warn=warn,
        )
        shares = gather(restore_share(worker, world), world)
        done = [shares[index % world.size][index // world.size] for index in range(len(test_set.jobs))]
        if world.is_main:
            write_results(test_set, done, worker.metrics, options)
        everything += done
    return summarize(everything, quiet=not world.is_main)


def settings_of(options: TestOptions) -> tuple[Restoration, str]:
    """How everything is restored, and the key that tells its results from those of other settings."""
    restoration = Restoration(
        scale=options.scale, tile=options.tile, tile_overlap=options.tile_overlap, color_fix=options.color_fix
    )
    settings = asdict(restoration) | {
        "precision": options.precision, "quality": options.output.quality, "strength": options.network_g.strength
    }
    if options.network_g.fast_vae is not None:
        settings |= {"fast_vae": asdict(options.network_g.fast_vae)}
    return restoration, settings_key(options.network_g.path, settings)


def restore_videos(videos: Sequence[Any], generator: Generator, options: TestOptions, world: World) -> int:
    """Restores what `find_videos` found, each process its share of the parts. Returns the exit status."""
    from restoring import video  # late: it needs PyAV, which is optional

    restoration, key = settings_of(options)
    say = cache(warn)  # not once for every frame
    run = video.Run(
        restore=lambda pixels: restore_array(generator, pixels, restoration, say),
        settings_key=key,
        quality=options.output.quality,
        overwrite=options.output.overwrite,
        rank=world.rank,
        processes=world.size,
    )
    return video.restore_videos(videos, run, gather=lambda value: gather(value, world), reason=reason, warn=warn)


def warn(message: str) -> None:
    """A line above the progress bar."""
    tqdm.write(message, file=sys.stderr)


def restore_share(worker: Worker, world: World) -> list[Done]:
    """This process's share of a set, in order; what failed is said at once, and the others are done."""
    jobs = worker.job_set.jobs[world.rank :: world.size]
    title = worker.job_set.name if world.size == 1 else f"{worker.job_set.name or 'pictures'}, process 1 of {world.size}"
    done = []
    for outcome in tqdm(
        overlapped(jobs, worker.read, worker.restore, worker.write), title, len(jobs), unit="image", disable=not world.is_main
    ):
        result = outcome.value or Done(failure=reason(outcome.error, outcome.item.lr))
        done.append(result)
        if result.failure:
            warn(f"failed: {result.failure}")
    return done


def reason(error: Exception, path: Path) -> str:
    """What failed, in one line."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix(f"{path}: ")
    if is_out_of_memory(error):
        text = f"out of memory; set tile: auto, or a smaller one ({text})"
    return f"{path}: {text}"


def write_results(test_set: JobSet, done: Sequence[Done], metrics: Sequence[Metric], options: TestOptions) -> None:
    """The overview sheet, metrics.{json,csv,md}, index.html, and the table of means on the terminal."""
    shown = [item.shown for item in done if item.shown]
    if shown:
        chosen = [shown[index * len(shown) // OVERVIEW_ROWS] for index in range(OVERVIEW_ROWS)] if len(shown) > OVERVIEW_ROWS else shown
        rows = [list(crops.values()) for _, crops in chosen]
        write_image(test_set.folder / OVERVIEW, picture_sheet(rows, list(chosen[0][1]), [name for name, _ in chosen]))
    scores = [item.scores for item in done if item.scores]
    if scores:
        write_report(test_set.folder, scores, metrics, protocol(test_set, options))
        tqdm.write(f"\n{test_set.name}\n{mean_table(scores, metrics)}\n")
    entries = [item.entry for item in done if item.entry]
    if entries:
        write_page(test_set.folder, test_set.name or options.name, entries, metrics, protocol(test_set, options))
    tqdm.write(f"results in {test_set.folder}")


def protocol(test_set: JobSet, options: TestOptions) -> dict[str, object]:
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


def summarize(done: Sequence[Done], quiet: bool) -> int:
    """Says what was kept, and names the failures once more, below each other. Returns the exit status."""
    failures = [item.failure for item in done if item.failure]
    kept, elsewhere = (sum(getattr(item, name) for item in done) for name in ("kept", "from_elsewhere"))
    if kept and not quiet:
        warn(f"{kept} of {len(done)} results existed and were kept; --force_yml output.overwrite=true makes them anew")
    if elsewhere and not quiet:
        warn(f"WARNING: {elsewhere} of them were made from other pictures or with other settings than these")
    if failures and not quiet:
        warn("\n  ".join([f"{len(failures)} of {len(done)} pictures failed:", *failures]))
    return int(bool(failures))
