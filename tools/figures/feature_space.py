"""Fig. 2 of D3SR (Fig. 3 of DFOSD): what a discriminator's trunk makes of real and of generated latents, brought down to two dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scoring.tables import csv_text
from tools.figures.figures import COLOURS, PICTURE_DPI, save_figure

NEIGHBOURS, REGULARIZATION = 12, 1e-3
KINDS = {True: ("real", COLOURS[0], "o"), False: ("generated", COLOURS[1], "^")}


def standardized(features: np.ndarray) -> np.ndarray:
    """(N, D) with mean 0 and deviation 1 in every dimension, so that no loud channel decides; constant ones become 0."""
    centred = features - features.mean(axis=0)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 1e-12, deviation, 1.0)


def pca(features: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, 2): the two principal components, the larger first, scaled as the features are."""
    centred = features - features.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return _signed((left * singular)[:, :2])


def lle(features: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """(N, D) -> (N, 2): locally linear embedding (Roweis and Saul, Science 2000), columns of unit variance.

    Every point is written as a weighted mean of its nearest neighbours; the embedding is the one these weights fit best. Clouds that have
    no neighbours in common cannot be placed relative to each other: each then shrinks to a line or a point.
    """
    count = len(features)
    neighbours = min(neighbours, count - 1)
    distances = np.square(features[:, None] - features[None]).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    weights = np.zeros((count, count))
    for point, nearest in enumerate(np.argsort(distances, axis=1, kind="stable")[:, :neighbours]):
        offsets = features[nearest] - features[point]
        gram = offsets @ offsets.T
        gram += np.eye(neighbours) * (REGULARIZATION * np.trace(gram) or REGULARIZATION)  # more neighbours than dimensions: singular
        solution = np.linalg.solve(gram, np.ones(neighbours))
        weights[point, nearest] = solution / solution.sum()
    rest = np.eye(count) - weights
    _, vectors = np.linalg.eigh(rest.T @ rest)
    return _signed(vectors[:, 1:3] * np.sqrt(count))  # the first, all equal, belongs to eigenvalue 0


def _signed(points: np.ndarray) -> np.ndarray:
    """Axes whose sign is free, turned so that the largest value is positive: the same picture on every machine."""
    largest = points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])]
    return points * np.where(largest < 0, -1.0, 1.0)


def separability(real: np.ndarray, generated: np.ndarray) -> float:
    """How well pairs are told apart: the share of points nearer to the mean of their own kind than to the other's, 0.5 by chance.

    real, generated: (N, D), two pairs at least. Each pair is left out of the means it is measured by: what it shows decides nothing.
    """
    right = 0
    for pair in range(len(real)):
        others = np.arange(len(real)) != pair
        means = real[others].mean(axis=0), generated[others].mean(axis=0)
        for point, own, other in ((real[pair], *means), (generated[pair], *means[::-1])):
            right += np.linalg.norm(point - own) < np.linalg.norm(point - other)
    return right / (2 * len(real))


REDUCTIONS = {"PCA": pca, "LLE": lle}
"""What a row of the figure shows."""


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
