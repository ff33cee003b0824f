"""The table of an ablation: a row per variant, a column per metric, the best bold; as Markdown and as CSV."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, no_grad

from losses.perceptual import build_perceptual
from losses.settings import PerceptualSettings

DISTANCES = {"LPIPS*": "lpips", "DISTS*": "dists"}
"""Names in the tables -> perceptual type; the star says that they are not the published metrics."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over the images of one checkpoint, metric -> value, and those of the bicubic pictures beside them."""

    mean: dict[str, float | None]
    bicubic: dict[str, float | None]
    lower_better: dict[str, bool]
    images: int

    def extended(self, distances: Mapping[str, float]) -> "Scores":
        """With more metrics, of which lower is better."""
        lower = self.lower_better | dict.fromkeys(distances, True)
        return replace(self, mean=self.mean | dict(distances), lower_better=lower)


@dataclass(frozen=True, kw_only=True)
class Row:
    """label, what: name and meaning of a variant. scores: of each of its runs that was scored; logs: of each that was trained.

    failure: why a run has no scores. settings: dotted key -> (value in the variant's own file, value it was trained with).
    notes: more columns. reference: a line to compare with, such as bicubic; never the best.
    """

    label: str
    what: str = ""
    scores: Sequence[Scores] = ()
    logs: Sequence[Path] = ()
    settings: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None
    reference: bool = False

    def values(self, metric: str) -> list[float]:
        """Its scores, one for each run that has one."""
        return [scores.mean[metric] for scores in self.scores if scores.mean.get(metric) is not None]

    def mean(self, metric: str) -> float | None:
        """Over the runs; None where not every run has a score, for then it would be another mean."""
        values = self.values(metric)
        return math.fsum(values) / len(values) if values and len(values) == len(self.scores) else None


def perceptual_distances(pictures: Iterable[tuple[Tensor, Tensor]], weights: str) -> dict[str, float]:
    """Means of LPIPS* and DISTS*: the two formulas with uniform weights on SqueezeNet 1.1.

    pictures: (sr, hr), each (3, H, W) in [0, 1]. weights: see `losses.features.build_features`.
    Raises ValueError (file) or OSError (download).
    """
    how = {"weight": 1, "backbone": "squeezenet1_1", "backbone_weights": weights}
    distances = {name: build_perceptual(PerceptualSettings(type=kind, **how)) for name, kind in DISTANCES.items()}
    found: dict[str, list[float]] = {name: [] for name in distances}
    with no_grad():
        for sr, hr in pictures:
            for name, distance in distances.items():
                found[name].append(float(distance(sr[None], hr[None])))
    return {name: statistics.fmean(values) for name, values in found.items()}


def markdown_table(rows: Sequence[Row], lower_better: Mapping[str, bool]) -> str:
    """Metric columns in the order of `lower_better`, with an arrow to the better end. Several runs: mean ± standard deviation."""
    notes = list(dict.fromkeys(name for row in rows for name in row.notes))
    heading = ["variant", "what", *notes, *(f"{name} {'↓' if lower else '↑'}" for name, lower in lower_better.items())]
    lines = [
        [row.label, f"failed: {row.failure}" if row.failure else row.what, *(row.notes.get(name, "–") for name in notes)] for row in rows
    ]
    for metric, lower in lower_better.items():
        means = [row.mean(metric) for row in rows]
        ours = [mean for row, mean in zip(rows, means, strict=True) if mean is not None and not row.reference]
        best = f"{min(ours) if lower else max(ours):.4f}" if len(ours) > 1 else None
        for line, row, mean in zip(lines, rows, means, strict=True):
            cell = _cell(row, metric)
            line.append(f"**{cell}**" if best is not None and not row.reference and mean is not None and f"{mean:.4f}" == best else cell)
    return markdown(heading, lines, numbers=len(lower_better))


def markdown(heading: Sequence[str], lines: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A padded Markdown table; its last `numbers` columns are set to the right."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in [heading, *lines]]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(heading))]
    right = [column >= len(heading) - numbers for column in range(len(heading))]
    rule = "".join(f"|{'-' * (width + 1)}{':' if aligned else '-'}" for width, aligned in zip(widths, right, strict=True)) + "|"
    text = []
    for line in cells:
        padded = [cell.rjust(width) if aligned else cell.ljust(width) for cell, width, aligned in zip(line, widths, right, strict=True)]
        text.append(f"| {' | '.join(padded)} |")
    return "\n".join([text[0], rule, *text[1:]])


def csv_table(rows: Sequence[Row], lower_better: Mapping[str, bool]) -> str:
    """Means in full precision; with several runs also METRIC_sd and the number of runs."""
    notes = list(dict.fromkeys(name for row in rows for name in row.notes))
    several = any(len(row.scores) > 1 for row in rows)
    metrics = [column for metric in lower_better for column in ([metric, f"{metric}_sd"] if several else [metric])]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["variant", "what", *notes, "runs", *metrics, "failure"])
    for row in rows:
        numbers = []
        for metric in lower_better:
            mean, values = row.mean(metric), row.values(metric)
            numbers.append("" if mean is None else repr(mean))
            if several:
                numbers.append(repr(statistics.stdev(values)) if mean is not None and len(values) > 1 else "")
        writer.writerow([row.label, row.what, *(row.notes.get(name, "") for name in notes), len(row.scores), *numbers, row.failure or ""])
    return buffer.getvalue()


def _cell(row: Row, metric: str) -> str:
    mean, values = row.mean(metric), row.values(metric)
    if mean is None:
        return "–"
    return f"{mean:.4f} ± {statistics.stdev(values):.4f}" if len(values) > 1 else f"{mean:.4f}"
