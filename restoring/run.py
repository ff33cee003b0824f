"""A run of test_d3sr.py from its options to its exit status: pictures, generator, metrics, each process's share, reports."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import torch
from tqdm import tqdm

from data.console import say
from data.image_io import write_image
from data.listing import Listing, is_image_name, list_images
from data.pairing import pair_by_name
from data.whole_files import remove_leftovers, require_writable
from engine.distributed import World, chosen_precision, dtype_of, gather, start
from models.fused import compile_networks, fuse
from models.generator import Generator, cast_weights, load_generator, use_fast_vae
from models.release import describe_generator
from options.d3sr import TestOptions
from options.target_size import TargetSize
from restoring.host import physical_cores
from restoring.jobs import OVERVIEW, Job, JobSet, make_set, settings_key, single_set
from restoring.pictures import Restoration
from restoring.pipeline import overlapped
from restoring.target import Target
from restoring.tile_size import is_out_of_memory
from restoring.worker import Done, Output, Worker
from scoring.metrics import Metric, build_metric
from scoring.page import write_page
from scoring.report import mean_table, picture_sheet, write_report

OVERVIEW_ROWS = 6
TIMEOUT = timedelta(days=7)  # how long processes wait for each other: one share of the pictures may take much longer than another


def run(options: TestOptions, inputs: Sequence[str] | None, output: str | None, report: Callable[[BaseException], int]) -> int:
    """Restores and scores everything; returns the exit status.

    inputs, output: pictures and folder of the command line, in place of those of the options. report: says what an exception is to the
    user, where several processes must leave together.
    Raises ValueError and OSError for what keeps all pictures from being restored.
    """
    check_size(options, inputs)
    with start(options.device, timeout=TIMEOUT, report=report) as world:
        test_sets = find_pictures(options, inputs, output)
        for test_set in test_sets:
            require_writable(test_set.folder)
        options = replace(options, precision=chosen_precision(options.precision, world.device))
        set_threads(options, world)
        generator = load(options, world.device)
        metrics = build_metrics(options, test_sets, world.device)
        return restore_sets(test_sets, generator, metrics, options, world)


def describe(options: TestOptions, inputs: Sequence[str] | None, output: str | None) -> str:
    """What would be read and written, in lines; loads no weights and needs no GPU. What is missing is said, not raised.

    Raises ValueError where HR is to be compared with results of another size.
    """
    check_size(options, inputs)
    lines = [describe_generator(options.network_g.path, options.network_g.pretrained)]
    if options.size is not None:
        lines.append(f"size: {named_size(options.size)}, not scale")
    try:
        for test_set in find_pictures(options, inputs, output):
            scored = f", scored with {', '.join(options.metrics)}" if test_set.has_hr else ""
            lines.append(f"{test_set.name or 'input'}: {len(test_set.jobs)} pictures -> {test_set.place}{scored}")
            lines += [f"  {line}" for line in (*test_set.remarks, *(f"CANNOT BE READ: {failure}" for failure in test_set.failures))]
    except ValueError as error:
        lines.append(f"input: MISSING: {error}")
    return "\n".join(lines)


def check_size(options: TestOptions, inputs: Sequence[str] | None) -> None:
    """Raises ValueError where a set with HR is to be restored to another size than scale times LR."""
    scored = [] if inputs else [name for name, data in options.datasets.test.items() if data.dataroot_gt is not None]
    if scored and options.size is not None:
        raise ValueError(f"size: expected null with datasets.test.{scored[0]}.dataroot_gt, since HR is scale times LR; set scale instead")


def named_size(size: TargetSize) -> str:
    """For people: `long_side 2048`."""
    measure, value = size.chosen
    return f"{measure} {value:.10g}{', however far beyond the network' if size.beyond else ''}"


def find_pictures(options: TestOptions, inputs: Sequence[str] | None, output: str | None) -> list[JobSet]:
    """What is to be done: the pictures of -i, else the sets of datasets.test, else those of `input`.

    output: a folder, or the name of a picture where there is one to restore.
    Raises ValueError for paths that lead to no picture, LR and HR that do not pair up, and results that would replace an input.
    """
    pictures = inputs or ([] if options.datasets.test else options.inputs)
    if output and is_image_name(Path(output).name) and not Path(output).is_dir():
        found = list_images(pictures) if pictures else Listing()
        return [told(single_set(Path(output), [file.path for file in found.files]), found)]
    naming = {"extension": options.output.format, "suffix": options.output.suffix}
    root = Path(output) if output else Path(options.path.results_root, options.name)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root}: the results need a folder, but this is a file; choose another -o")
    if inputs or not options.datasets.test:
        if not pictures:
            raise ValueError("nothing to restore: give -i, or `input` or `datasets.test` in the option file")
        found = list_images(pictures)
        return [told(make_set(None, root, [(file.path, file.relative, None) for file in found.files], **naming), found)]
    sets = []
    for name, data in options.datasets.test.items():
        folder = root if output and len(options.datasets.test) == 1 else root / name
        pairs, remarks, failures = pair_by_name(data.dataroot_lq, data.dataroot_gt, data.templates)
        job_set = make_set(name, folder, [(lr.path, lr.relative, hr and hr.path) for lr, hr in pairs], **naming)
        sets.append(replace(job_set, failures=failures, remarks=remarks))
    return sets


def told(job_set: JobSet, found: Listing) -> JobSet:
    """The set, and what listing its pictures has to say."""
    return replace(job_set, failures=found.failures, remarks=[found.remark()] if found.passed_over else [])


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
    restoration = restoration_of(options, generator.scale)
    file = options.output
    settings = asdict(restoration) | {"precision": options.precision, "quality": file.quality, "strength": options.network_g.strength}
    if options.network_g.fast_vae is not None:
        settings |= {"fast_vae": asdict(options.network_g.fast_vae)}
    key = settings_key(options.network_g.path, settings)
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


def restoration_of(options: TestOptions, own_scale: float) -> Restoration:
    """How pictures are restored; own_scale: the network's."""
    scale: float | Target = options.scale
    if options.size is not None:
        measure, value = options.size.chosen
        scale = Target(measure=measure, value=value, most=math.inf if options.size.beyond else own_scale)
    return Restoration(scale=scale, tile=options.tile, tile_overlap=options.tile_overlap, color_fix=options.color_fix)


def warn(message: str) -> None:
    """A line above the progress bar."""
    say(message, error=True)


def restore_share(worker: Worker, world: World) -> list[Done]:
    """This process's share of a set, in order; what failed is said at once, and the others are done."""
    jobs = worker.job_set.jobs[world.rank :: world.size]
    title = worker.job_set.name if world.size == 1 else f"{worker.job_set.name or 'pictures'}, process 1 of {world.size}"
    done = []
    for outcome in tqdm(
        overlapped(jobs, worker.read, worker.restore, worker.write), title, len(jobs), unit="image", disable=not world.is_main
    ):
        result = outcome.value or Done(failure=reason(outcome.error, outcome.item, worker.restoration.tile))
        done.append(result)
        if result.failure:
            warn(f"failed: {result.failure}")
    return [worker.checked(job, result) for job, result in zip(jobs, done, strict=True)]


def reason(error: Exception, job: Job, tile: int | str) -> str:
    """What failed, in one line, and what to do about memory, by the `tile` that was set."""
    text = (str(error).strip() or type(error).__name__).removeprefix(f"{job.lr}: ").partition("\n")[0]
    if is_out_of_memory(error):
        smaller = "set tile: auto" if tile == 0 else f"set tile: auto, or less than {tile}"
        advice = "the smallest tiles were tried; end other programs, or take a smaller scale" if tile == "auto" else smaller
        text = f"out of memory; {advice} ({text})"
    return f"{job.lr}: {text}"


def write_results(test_set: JobSet, done: Sequence[Done], metrics: Sequence[Metric], options: TestOptions) -> bool:
    """`write_reports`, and whether it went well: the results are whole even where the disk has no room for more."""
    try:
        write_reports(test_set, done, metrics, options)
    except OSError as error:
        again = "the results are whole, and the same command writes the rest"
        warn(f"failed: {test_set.folder}: scores or sheets could not be written ({error.strerror or error}); {again}")
        return False
    return True


def write_reports(test_set: JobSet, done: Sequence[Done], metrics: Sequence[Metric], options: TestOptions) -> None:
    """The overview sheet, metrics.{json,csv,md}, index.html, and the table of means on the terminal."""
    shown = [item.shown for item in done if item.shown]
    if shown:
        chosen = [shown[index * len(shown) // OVERVIEW_ROWS] for index in range(OVERVIEW_ROWS)] if len(shown) > OVERVIEW_ROWS else shown
        rows = [list(crops.values()) for _, crops in chosen]
        write_image(test_set.folder / OVERVIEW, picture_sheet(rows, list(chosen[0][1]), [name for name, _ in chosen]))
    scores = [item.scores for item in done if item.scores]
    if scores:
        write_report(test_set.folder, scores, metrics, protocol(test_set, options))
        say("", test_set.name, *mean_table(scores, metrics).split("\n"), "")
    entries = [item.entry for item in done if item.entry]
    if entries:
        write_page(test_set.folder, test_set.name or options.name, entries, metrics, protocol(test_set, options))
    say(f"results in {test_set.place}")


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
        **({"scale": options.scale} if options.size is None else {"size": named_size(options.size)}),
        **{key: getattr(options, key) for key in ("precision", "tile", "tile_overlap", "color_fix")},
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
