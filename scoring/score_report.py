"""The scores of several methods as files: scores.json, scores.csv, scores.md."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.console import one_line
from data.whole_files import write_text
from scoring import bootstrap
from scoring.methods import AvailableMetrics
from scoring.metrics import Metric
from scoring.report import ImageScores, MethodScores, csv_table, document, mean_scores, means_table, notes, versions
from scoring.tables import MISSING, markdown_text

LIBRARIES = ("pyiqa", "torch", "torchvision", "timm", "numpy", "scipy", "opencv-python", "pillow")

Intervals = dict[str, dict[str, tuple[float, float] | None]]
"""method -> metric name -> bounds of the mean, None where there are none."""


def all_means(rows: Sequence[ImageScores], of_folders: MethodScores) -> MethodScores:
    """Means over images, and the scores of whole folders beside them."""
    means = mean_scores(rows)
    methods = dict.fromkeys([*means, *of_folders])
    return {method: means.get(method, {}) | of_folders.get(method, {}) for method in methods}


def all_intervals(rows: Sequence[ImageScores]) -> Intervals:
    """95 % bootstrap intervals of the means over images."""
    intervals: Intervals = {}
    for method, means in mean_scores(rows).items():
        of_method = [row.scores[method] for row in rows if method in row.scores]
        for metric in means:
            values = [scores[metric] for scores in of_method if scores.get(metric) is not None]
            intervals.setdefault(method, {})[metric] = bootstrap.interval(values)
    return intervals


def interval_table(intervals: Intervals, metrics: Sequence[Metric]) -> str:
    """Markdown: one line per method, one column per metric: `[low, high]`."""
    lines = []
    for method, of_method in intervals.items():
        bounds = [of_method.get(metric.name) for metric in metrics]
        lines.append([method, *(MISSING if bound is None else f"[{bound[0]:.4f}, {bound[1]:.4f}]" for bound in bounds)])
    return markdown_text([f"{bootstrap.LEVEL:.0%} interval", *(metric.name for metric in metrics)], lines, numbers=len(metrics))


def missing_list(available: AvailableMetrics) -> str:
    """Markdown: what could not be computed, what for, and what to do; empty where nothing is missing."""
    if not available.missing:
        return ""
    lines = [f"- {name}: {'; and '.join(lacking)}" for name, lacking in available.missing.items()]
    return "\n".join(["Not computed, for lack of weights (`python tools/metrics_weights.py` gets them all):", "", *lines])


def write_scores(
    folder: Path,
    rows: Sequence[ImageScores],
    of_folders: MethodScores,
    available: AvailableMetrics,
    protocol: dict[str, Any],
    *,
    unmarked: Sequence[str],
    command: Sequence[str],
) -> str:
    """Writes everything into `folder`. Returns the tables of means and intervals, and what is missing, in Markdown.

    of_folders: method -> metric -> score of a whole folder. unmarked: methods that are there to compare with.
    """
    means, intervals = all_means(rows, of_folders), all_intervals(rows)
    in_order = [*(method for method in means if method not in unmarked), *(method for method in means if method in unmarked)]
    means = {method: means[method] for method in in_order}
    everything = document(rows, available.columns, protocol) | {
        "libraries": versions(LIBRARIES),
        "mean": means,
        "interval": {"level": bootstrap.LEVEL, "resamples": bootstrap.RESAMPLES, "seed": bootstrap.SEED, "bounds": intervals},
        "missing": available.missing,
        "weights": available.weights,
    }
    write_text(folder / "scores.json", json.dumps(everything, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "scores.csv", csv_table(rows, means))
    tables = [
        means_table(means, available.columns, f"mean of {len(rows)}", unmarked),
        interval_table({method: intervals[method] for method in in_order if method in intervals}, available.metrics),
        missing_list(available),
    ]
    conditions = notes(protocol | {"metrics": _options(available), "weights": _weights(available) or "none needed"} | versions(LIBRARIES))
    bold = "Bold: best, underlined: second best of the methods" + (f"; {' and '.join(unmarked)} to compare with." if unmarked else ".")
    text = [*tables[:1], bold, *tables[1:], conditions, f"```\n{one_line(shlex.join(command))}\n```"]
    write_text(folder / "scores.md", "\n\n".join(part for part in text if part) + "\n")
    return "\n\n".join(table for table in tables if table)


def _weights(available: AvailableMetrics) -> str:
    return ", ".join(f"{file} {digest[:8]}" for files in available.weights.values() for file, digest in files.items())


def _options(available: AvailableMetrics) -> str:
    """What each column is to pyiqa."""
    options = {
        metric.name: ", ".join([metric.type, *(f"{key}={value}" for key, value in metric.options.items())]) for metric in available.columns
    }
    return "; ".join(f"{name}: {text}" for name, text in options.items())
