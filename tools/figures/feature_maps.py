"""Fig. 4: what DISTS and EA-DISTS look at. Feature maps of a frozen trunk, of pictures and of their Sobel edges."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from losses.ea_dists import EdgeAware
from tools.figures.figures import PICTURE_DPI, add_axes, draw_picture, fitting_size, save_figure

GAP, MARGIN = 0.03, 0.01
FONT_SIZE, LINE, SIDE = 7.0, 0.15, 0.16
COLOUR_MAP = "magma"


@dataclass(frozen=True)
class Rows:
    """What one picture becomes. pictures: (3, H, W) in [0, 1]; edges: (3, H, W), its Sobel magnitude (Eq. 7).

    of_pictures, of_edges: per tap (h, w), the mean over the channels: what DISTS sees, and what EA-DISTS sees besides.
    """

    picture: Tensor
    edges: Tensor
    of_pictures: list[Tensor]
    of_edges: list[Tensor]


@torch.no_grad()
def feature_rows(distance: EdgeAware, picture: Tensor) -> Rows:
    """The maps of a picture (3, H, W) in [0, 1] under EA-DISTS' own trunk and Sobel operator."""
    both = distance.with_edges(picture[None])
    taps = [tap.mean(1) for tap in distance.distance.features(both)]
    return Rows(picture, both[1], [tap[0] for tap in taps], [tap[1] for tap in taps])


@torch.no_grad()
def both_distances(distance: EdgeAware, sr: Tensor, hr: Tensor) -> tuple[float, float]:
    """DISTS and EA-DISTS (Eq. 5) of two pictures (3, H, W) in [0, 1]."""
    return float(distance.distance(sr[None], hr[None])), float(distance(sr[None], hr[None]))


def coloured(maps: Sequence[Tensor]) -> list[np.ndarray]:
    """Maps (h, w) >= 0 as uint8 (h, w, 3), all on one scale from 0 to the 99.5th percentile of them together."""
    import matplotlib

    top = float(np.quantile(np.concatenate([one.flatten().numpy() for one in maps]), 0.995)) or 1.0
    table = matplotlib.colormaps[COLOUR_MAP]
    return [np.round(table((one / top).clamp(0, 1).numpy())[..., :3] * 255).astype(np.uint8) for one in maps]


def draw_feature_maps(stem: Path, rows: dict[str, Rows], taps: Sequence[str], width: float) -> list[Path]:
    """stem.pdf, stem.svg, stem.png: per picture two lines, what DISTS sees (the picture) and what EA-DISTS adds (its edges).

    rows: label -> maps; taps: the trunk's names of the taps. All pictures share one scale per column and line, so brightness can be
    compared between them, and between neighbours of a column that are of one kind only.
    """
    from matplotlib.figure import Figure

    grids = _grids(list(rows.values()))
    cell = (width - 2 * MARGIN - SIDE - len(taps) * GAP) / (len(taps) + 1)
    heights = [cell * row.picture.shape[1] / row.picture.shape[2] for row in rows.values() for _ in range(2)]
    kinds = [f"{label}: {kind}" for label in rows for kind in ("DISTS", "EA-DISTS adds")]
    headings = ["input", *taps]
    size = fitting_size([*((text, cell) for text in headings), *zip(kinds, heights, strict=True)], FONT_SIZE)
    figure = Figure(figsize=(width, LINE + sum(heights) + GAP * (len(heights) - 1) + 2 * MARGIN))
    top = MARGIN + LINE
    for number, (kind, height, pictures) in enumerate(zip(kinds, heights, grids, strict=True)):
        for column, picture in enumerate(pictures):
            axes = add_axes(figure, MARGIN + SIDE + column * (cell + GAP), top, cell, height)
            draw_picture(axes, picture, cell)
            axes.set_frame_on(False)
            if number == 0:
                axes.set_title(headings[column], fontsize=size, pad=2)
            if column == 0:
                axes.set_ylabel(kind, fontsize=size, labelpad=2)
        top += height + GAP
    return save_figure(figure, stem, ("pdf", "svg", "png"), PICTURE_DPI)


def _grids(rows: list[Rows]) -> list[list[np.ndarray]]:
    """Per picture its two lines of cells."""
    edges = coloured([row.edges.mean(0) for row in rows])
    of_pictures = list(zip(*(coloured(taps) for taps in zip(*(row.of_pictures for row in rows), strict=True)), strict=True))
    of_edges = list(zip(*(coloured(taps) for taps in zip(*(row.of_edges for row in rows), strict=True)), strict=True))
    lines = []
    for number, row in enumerate(rows):
        picture = np.round(row.picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        lines += [[picture, *of_pictures[number]], [edges[number], *of_edges[number]]]
    return lines
