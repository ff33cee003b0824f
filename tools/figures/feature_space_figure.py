"""The scatter plots of `tools.figures.feature_space`, a row per reduction and a column per timestep, and their numbers as CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scoring.tables import csv_text
from tools.figures.feature_space import REDUCTIONS, separability, standardized
from tools.figures.figures import COLOURS, PICTURE_DPI, save_figure

KINDS = {True: ("real", COLOURS[0], "o"), False: ("generated", COLOURS[1], "^")}


@dataclass(frozen=True)
class Cloud:
    """Features (N, D) of one timestep; N rows of real pictures, then N of generated ones in the same order, are `names` twice."""

    timestep: int
    features: np.ndarray
    names: list[str]

    @property
    def is_real(self) -> np.ndarray:
        return np.arange(len(self.features)) < len(self.names)


def draw_clouds(stem: Path, clouds: Sequence[Cloud], width: float) -> list[Path]:
    """stem.pdf, stem.svg, stem.png and stem.csv. Above each column stands how well the kinds are told apart in all dimensions."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    side = (width - 0.25) / len(clouds)
    figure = Figure(figsize=(width, side * len(REDUCTIONS) + 0.65), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    axes = figure.subplots(len(REDUCTIONS), len(clouds), squeeze=False)
    lines = []
    for column, cloud in enumerate(clouds):
        features = standardized(cloud.features)
        axes[0, column].set_title(
            f"$t$ = {cloud.timestep}\nseparated {separability(features[cloud.is_real], features[~cloud.is_real]):.0%}", fontsize=7
        )
        for row, (name, reduce) in enumerate(REDUCTIONS.items()):
            points = reduce(features)
            _scatter(axes[row, column], points, cloud.is_real)
            if column == 0:
                axes[row, column].set_ylabel(name, fontsize=8)
            for point, is_real, image in zip(points, cloud.is_real, cloud.names * 2, strict=True):
                lines.append([cloud.timestep, name, KINDS[bool(is_real)][0], image, *map(float, point)])
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4) for _, colour, marker in KINDS.values()]
    labels = [f"latents of {kind} pictures" for kind, _, _ in KINDS.values()]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    files = save_figure(figure, stem, ("pdf", "svg", "png"), PICTURE_DPI)
    table = stem.with_name(f"{stem.name}.csv")
    table.write_text(csv_text(["timestep", "reduction", "kind", "image", "x", "y"], lines), encoding="utf-8", newline="")
    return [*files, table]


def _scatter(axes, points: np.ndarray, is_real: np.ndarray) -> None:
    size = max(2.0, min(14.0, 700 / len(points)))
    for real, (_, colour, marker) in KINDS.items():
        chosen = points[is_real == real]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=size, c=colour, marker=marker, alpha=0.65, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.08)
    axes.set_box_aspect(1)
