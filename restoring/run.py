"""A run of test_d3sr.py from its options to its exit status: pictures, generator, metrics, each process's share, reports."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from functools import cache, partial
from typing import Any

import torch
from tqdm import tqdm

from data.whole_files import remove_leftovers, require_writable
from engine.distributed import World, chosen_precision, dtype_of, gather, start
from models.fused import compile_networks, fuse
from models.generator import Generator, cast_weights, load_generator, use_fast_vae
from models.ncnn_unet import use_ncnn
from models.release import describe_generator
from options.d3sr import TestOptions
from restoring.host import physical_cores
from restoring.inputs import check_size, find_pictures, find_videos, named_size, restoration_of
from restoring.jobs import JobSet, settings_key
from restoring.outcome import reason, summarize, warn, write_results
from restoring.pictures import Restoration, restore_array
from restoring.pipeline import overlapped
from restoring.worker import Done, Output, Worker
from scoring.metrics import Metric, build_metric

TIMEOUT = timedelta(days=7)  # how long processes wait for each other: one share of the pictures may take much longer than another


def run(options: TestOptions, inputs: Sequence[str] | None, output: str | None, report: Callable[[BaseException], int]) -> int:
    """Restores and scores everything; returns the exit status.

    inputs, output: pictures and folder of the command line, in place of those of the options. report: says what an exception is to the
    user, where several processes must leave together.
    Raises ValueError and OSError for what keeps all pictures from being restored.
    """
    check_size(options, inputs)
    with start(options.device, timeout=TIMEOUT, report=report) as world:
        videos, inputs = find_videos(options, inputs, output)
        test_sets = [] if videos and not inputs else find_pictures(options, inputs, output)
        for folder in (*(test_set.folder for test_set in test_sets), *(video.output.parent for video in videos)):
            require_writable(folder)
        options = replace(options, precision=precision_of(options, world.device))
        set_threads(options, world)
        generator = load(options, world.device)
        metrics = build_metrics(options, test_sets, world.device)
        failed = restore_videos(videos, generator, options, world) if videos else 0
        return max(failed, restore_sets(test_sets, generator, metrics, options, world))


def describe(options: TestOptions, inputs: Sequence[str] | None, output: str | None) -> str:
    """What would be read and written, in lines; loads no weights and needs no GPU. What is missing is said, not raised.

    Raises ValueError where HR is to be compared with results of another size.
    """
    check_size(options, inputs)
    lines = [describe_generator(options.network_g.path, options.network_g.pretrained)]
    if options.size is not None:
        lines.append(f"size: {named_size(options.size)}, not scale")
    try:
        videos, inputs = find_videos(options, inputs, output)
        lines += [video.describe() for video in videos]
        for test_set in [] if videos and not inputs else find_pictures(options, inputs, output):
            scored = f", scored with {', '.join(options.metrics)}" if test_set.has_hr else ""
            lines.append(f"{test_set.name or 'input'}: {len(test_set.jobs)} pictures -> {test_set.place}{scored}")
            lines += [f"  {line}" for line in (*test_set.remarks, *(f"CANNOT BE READ: {failure}" for failure in test_set.failures))]
    except ValueError as error:
        lines.append(f"input: MISSING: {error}")
    return "\n".join(lines)


def set_threads(options: TestOptions, world: World) -> None:
    """The same number in every process, however many there are: on a CPU it decides the last bits of the sums."""
    if world.device.type == "cpu":
        torch.set_num_threads(physical_cores() if options.num_threads == "auto" else options.num_threads)


def precision_of(options: TestOptions, device: torch.device) -> str:
    """What `auto` comes to: ncnn computes in float32."""
    return "fp32" if options.network_g.runtime == "ncnn" else chosen_precision(options.precision, device)


def load(options: TestOptions, device: torch.device) -> Generator:
    """The generator in the asked precision. Raises ValueError where the device cannot compute in it, or files are missing or do not fit."""
    if device.type == "cpu" and options.precision == "fp16":
        raise ValueError("precision: fp16 needs a GPU, and there is none; use fp32 or bf16")
    network = options.network_g
    if device.type != "cpu" and network.runtime == "ncnn":
        raise ValueError(f"network_g.runtime: ncnn computes on the CPU, and this machine has {device.type}: use torch, or set device: cpu")
    generator = load_generator(network.path, base=network.pretrained, revision=network.revision, strength=network.strength)
    if network.fast_vae is not None:
        use_fast_vae(generator, network.fast_vae.path, network.fast_vae.parts)
    if network.fuse:
        generator = fuse(generator)
    generator = cast_weights(generator, dtype_of(options.precision)).to(device)
    if network.compile:
        compile_networks(generator)
    if network.runtime == "ncnn":
        use_ncnn(generator, network.path)
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
    written = True
    for test_set in test_sets:
        if world.is_main:
            for folder in test_set.folders:
                remove_leftovers(folder)
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
            written &= write_results(test_set, done, worker.metrics, options)
            for line in test_set.remarks:
                warn(line)
        everything += [*done, *(Done(failure=failure) for failure in test_set.failures)]
    return summarize(everything, quiet=not world.is_main) or int(not written)


def settings_of(options: TestOptions) -> tuple[Restoration, str]:
    """How everything is restored, and the key that tells its results from those of other settings."""
    restoration, network = restoration_of(options), options.network_g
    settings = asdict(restoration) | {"precision": options.precision, "quality": options.output.quality, "strength": network.strength}
    if network.fast_vae is not None:
        settings |= {"fast_vae": asdict(network.fast_vae)}
    if network.runtime != "torch":
        settings |= {"runtime": network.runtime}
    return restoration, settings_key(network.path, settings)


def restore_videos(videos: Sequence[Any], generator: Generator, options: TestOptions, world: World) -> int:
    """Restores what `find_videos` found, each process its share of the parts. Returns the exit status."""
    from restoring import video  # late: it needs PyAV, which is optional

    restoration, key = settings_of(options)
    warn_once = cache(warn)  # not for every frame
    run = video.Run(
        restore=lambda pixels: restore_array(generator, pixels, restoration, warn_once),
        settings_key=key,
        quality=options.output.quality,
        overwrite=options.output.overwrite,
        rank=world.rank,
        processes=world.size,
    )
    why = partial(reason, tile=options.tile)
    return video.restore_videos(videos, run, gather=lambda value: gather(value, world), reason=why, warn=warn)


def restore_share(worker: Worker, world: World) -> list[Done]:
    """This process's share of a set, in order; what failed is said at once, and the others are done."""
    jobs = worker.job_set.jobs[world.rank :: world.size]
    title = worker.job_set.name if world.size == 1 else f"{worker.job_set.name or 'pictures'}, process 1 of {world.size}"
    done = []
    for outcome in tqdm(
        overlapped(jobs, worker.read, worker.restore, worker.write), title, len(jobs), unit="image", disable=not world.is_main
    ):
        result = outcome.value or Done(failure=reason(outcome.error, outcome.item.lr, worker.restoration.tile))
        done.append(result)
        if result.failure:
            warn(f"failed: {result.failure}")
    return [worker.checked(job, result) for job, result in zip(jobs, done, strict=True)]
