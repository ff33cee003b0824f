"""The table of an ablation: a row per variant, a column per metric, the best bold; as Markdown and as CSV."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, no_grad

from losses.perceptual import build_perceptual
from losses.settings import PerceptualSettings
from scoring.tables import MISSING, best_two, bold, csv_text, direction, markdown_text, number

DISTANCES = {"LPIPS*": "lpips", "DISTS*": "dists"}
"""Names in the tables -> perceptual type; the star says that they are not the published metrics."""


@dataclass(frozen=True, kw_only=True)
class CheckpointScores:
    """Means over the images of one checkpoint, metric -> value, and those of the bicubic pictures beside them."""

    mean: dict[str, float | None]
    bicubic: dict[str, float | None]
    lower_better: dict[str, bool]
    images: int
    best_at: dict[str, float] = field(default_factory=dict)
    """Of the metrics that have worse scores on both sides of their best."""

    def extended(self, distances: Mapping[str, float]) -> "CheckpointScores":
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
    scores: Sequence[CheckpointScores] = ()
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
    backbone = {"backbone": "squeezenet1_1", "backbone_weights": weights}
    distances = {name: build_perceptual(PerceptualSettings(type=kind, weight=1, **backbone)) for name, kind in DISTANCES.items()}
    found: dict[str, list[float]] = {name: [] for name in distances}
    with no_grad():
        for sr, hr in pictures:
            for name, distance in distances.items():
                found[name].append(float(distance(sr[None], hr[None])))
    return {name: statistics.fmean(values) for name, values in found.items()}


def markdown_table(rows: Sequence[Row], lower_better: Mapping[str, bool]) -> str:
    """Metric columns in the order of `lower_better`, with an arrow to the better end. Several runs: mean ± standard deviation."""
    notes = list(dict.fromkeys(name for row in rows for name in row.notes))
    best_at = {name: value for row in rows for scores in row.scores for name, value in scores.best_at.items()}
    heading = ["variant", "what", *notes, *(f"{name} {direction(lower, best_at.get(name))[0]}" for name, lower in lower_better.items())]
    lines = []
    for row in rows:
        what = f"failed: {row.failure}" if row.failure else row.what
        lines.append([row.label, " ".join(what.split()), *(row.notes.get(name, MISSING) for name in notes)])
    for metric, lower in lower_better.items():
        means = [row.mean(metric) for row in rows]
        rivals = [mean for row, mean in zip(rows, means, strict=True) if not row.reference]
        best, _ = best_two(rivals, lower, best_at.get(metric))
        for line, row, mean in zip(lines, rows, means, strict=True):
            cell = _cell(row, metric)
            line.append(bold(cell) if number(mean) == best and not row.reference else cell)
    return markdown_text(heading, lines, numbers=len(lower_better))


def csv_table(rows: Sequence[Row], lower_better: Mapping[str, bool]) -> str:
    """Means in full precision; with several runs also METRIC_sd and the number of runs."""
    notes = list(dict.fromkeys(name for row in rows for name in row.notes))
    several = any(len(row.scores) > 1 for row in rows)
    metrics = [column for metric in lower_better for column in ([metric, f"{metric}_sd"] if several else [metric])]
    lines = []
    for row in rows:
        numbers = []
        for metric in lower_better:
            mean, values = row.mean(metric), row.values(metric)
            numbers.append(mean)
            if several:
                numbers.append(statistics.stdev(values) if mean is not None and len(values) > 1 else None)
        lines.append([row.label, row.what, *(row.notes.get(name) for name in notes), len(row.scores), *numbers, row.failure])
    return csv_text(["variant", "what", *notes, "runs", *metrics, "failure"], lines)


def _cell(row: Row, metric: str) -> str:
    mean, values = row.mean(metric), row.values(metric)
    return f"{mean:.4f} ± {statistics.stdev(values):.4f}" if mean is not None and len(values) > 1 else number(mean)
