"""What can be scored on this machine, and the scores of several methods on the same pictures."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.image_io import write_image
from scoring.folder_metric import FOLDER_METRICS, FolderMetric, build_folder_metric
from scoring.looks import LOOKS
from scoring.metric_weights import FILES, how_to_get, read_record, sha256_of, state_of
from scoring.metrics import Metric, WeightsError, build_metric
from scoring.report import ImageScores, MethodScores, score_image, score_picture
from scoring.tables import HR

TITLES = {
    "psnr": "PSNR-Y",
    "ssim": "SSIM-Y",
    "lpips": "LPIPS",
    "dists": "DISTS",
    "fid": "FID",
    "niqe": "NIQE",
    "musiq": "MUSIQ",
    "maniqa": "MANIQA (maniqa)",
    "maniqa-pipal": "MANIQA (maniqa-pipal)",
    "clipiqa": "CLIPIQA",
    "flat_texture": "flat texture",
}
"""pyiqa's names -> the papers'. Two models go by MANIQA and give other numbers, so the variant is named."""

OF_TABLES = ("psnr", "ssim", "lpips", "dists", "fid")
DEFAULT = (*OF_TABLES, "niqe", "musiq", "maniqa-pipal", "clipiqa")
"""The metrics of the paper's Tables 1 and 2, and what peers add."""

WITH_HR = (*OF_TABLES, *LOOKS)
"""These compare with HR."""


@dataclass(kw_only=True)
class AvailableMetrics:
    """What can be scored here. missing: metric -> what it lacks, where to get that, where to put it. weights: metric -> file -> SHA-256."""

    metrics: list[Metric] = field(default_factory=list)
    folder_metrics: list[FolderMetric] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    weights: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def columns(self) -> list[Metric | FolderMetric]:
        """Of the tables, in the papers' order: what compares with HR first."""
        return sorted([*self.metrics, *self.folder_metrics], key=lambda metric: not metric.needs_hr)


def find_metrics(types: Iterable[str], given: Mapping[str, str], device: str) -> AvailableMetrics:
    """Builds every metric whose weights are on this machine. Nothing is downloaded for those that FILES lists; pyiqa may do so for others.

    types: pyiqa's names. given: type -> file of its own weights, in place of the first of FILES.
    Raises ValueError for an unknown metric or a given file that is not there.
    """
    found, recorded = AvailableMetrics(), read_record()
    for type in types:
        name = TITLES.get(type, type)
        states = [state_of(file, recorded) for file in FILES.get(type, ())[type in given :]]
        lacking = [f"{how_to_get(state.file)} ({state.problem})" for state in states if state.problem]
        if lacking:
            found.missing[name] = lacking
            continue
        build, column = (build_folder_metric, found.folder_metrics) if type in FOLDER_METRICS else (build_metric, found.metrics)
        options = {} if type in FOLDER_METRICS else {"pretrained_model_path": given.get(type)}
        try:
            column.append(build(name, type, device=device, **options))
        except WeightsError as error:
            found.missing[name] = [str(error)]
            continue
        found.weights[name] = {state.path.name: state.sha256 for state in states}
        if type in given:
            found.weights[name][Path(given[type]).name] = sha256_of(Path(given[type]).expanduser())
    return found


def score_pictures(
    pictures: Iterator[tuple[str, dict[str, np.ndarray]]], metrics: Sequence[Metric], warn: Callable[[str], None]
) -> list[ImageScores]:
    """Every picture of every method under every metric that can score it; HR, too, under those that need no HR.

    pictures: name, and label -> uint8 (H, W, 3), `HR` where it is known.
    """
    alone = [metric for metric in metrics if not metric.needs_hr]
    rows = []
    for name, of_methods in pictures:
        row = score_image(name, of_methods, metrics, warn)
        if HR in of_methods and alone:
            row.scores[HR] = score_picture(f"{name} ({HR})", of_methods[HR], None, alone, warn)
        rows.append(row)
    return rows


def score_folders(
    pictures: Iterator[tuple[str, dict[str, np.ndarray]]], metrics: Sequence[FolderMetric], warn: Callable[[str], None]
) -> MethodScores:
    """method -> metric -> score of its folder. What is compared are copies of just the pictures that are scored, cropped as they are.

    pictures: as for `score_pictures`, with HR.
    """
    scores: MethodScores = {}
    if not metrics:
        return scores
    with tempfile.TemporaryDirectory(prefix="d3sr-score-") as folder:
        folders: dict[str, Path] = {}
        for index, (_, of_methods) in enumerate(pictures):
            for number, (label, picture) in enumerate(of_methods.items()):
                folders[label] = Path(folder, str(number))
                write_image(folders[label] / f"{index:06d}.png", picture)
        for label in folders:
            for metric in metrics if label != HR else ():
                try:
                    score = metric(folders[label], folders[HR])
                except ValueError as error:
                    score = None
                    warn(f"not scored: {label}: {error}")
                scores.setdefault(label, {})[metric.name] = score
    return scores
