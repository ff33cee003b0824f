"""What a run of test_d3sr.py says and writes of its results: failures and what to do about them, scores, sheets, pages."""

from collections.abc import Sequence
from pathlib import Path

from data.console import say
from data.image_io import write_image
from data.whole_files import why_refused
from options.d3sr import TestOptions
from restoring.inputs import named_size
from restoring.jobs import OVERVIEW, JobSet
from restoring.tile_size import is_out_of_memory
from restoring.worker import Done
from scoring.metrics import Metric
from scoring.page import write_page
from scoring.report import mean_table, picture_sheet, write_report

OVERVIEW_ROWS = 6


def warn(message: str) -> None:
    """A line above the progress bar."""
    say(message, error=True)


def reason(error: Exception, path: Path, tile: int | str) -> str:
    """What failed, in one line, and what to do about memory, by the `tile` that was set."""
    text = (str(error).strip() or type(error).__name__).removeprefix(f"{path}: ").partition("\n")[0]
    if isinstance(error, OSError) and error.errno:
        where = error.filename2 or error.filename
        text = why_refused(error) + (f": {where}" if where else "")
    if is_out_of_memory(error):
        smaller = "set tile: auto" if tile == 0 else f"set tile: auto, or less than {tile}"
        advice = "the smallest tiles were tried; end other programs, or take a smaller scale" if tile == "auto" else smaller
        text = f"out of memory; {advice} ({text})"
    return f"{path}: {text}"


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
