"""Fig. 4: what DISTS and EA-DISTS look at. Feature maps of a frozen trunk, of pictures and of their Sobel edges."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from data.console import say
from data.image_io import read_image, to_tensor
from losses.ea_dists import EdgeAware
from losses.perceptual import build_perceptual
from losses.settings import PerceptualSettings
from tools.figures.figures import PICTURE_DPI, add_axes, draw_picture, fitting_size, save_figure

GAP, MARGIN = 0.03, 0.01
FONT_SIZE, LINE, SIDE = 7.0, 0.15, 0.16
COLOUR_MAP = "magma"
NAMES = {
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
    "squeezenet1_1": ("relu 1", "fire 2", "fire 4", "fire 6"),
}
"""What the literature calls the taps; those of SqueezeNet are counted by torchvision's blocks."""


def draw(args: argparse.Namespace) -> list[Path]:
    """Reads the pictures, writes the files, prints the distances where they are known."""
    pictures = read_pictures(args)
    # Features do not depend on alpha and beta; uniform ones stand in where only the maps are asked for.
    settings = PerceptualSettings(
        type="ea_dists", weight=1, backbone=args.backbone, backbone_weights=args.weights, dists_weights=args.dists_weights or "uniform",
        sobel_mode=args.sobel_mode,
    )  # fmt: skip
    distance = build_perceptual(settings)
    rows = {label: feature_rows(distance, picture) for label, picture in pictures.items()}
    files = draw_feature_maps(Path(args.output), rows, NAMES[args.backbone], args.width)
    if args.dists_weights:
        (first, hr), *others = pictures.items()
        for label, sr in others:
            dists, ea_dists = both_distances(distance, sr, hr)
            say(f"{label} and {first}: DISTS {dists:.4f}, EA-DISTS {ea_dists:.4f}")
    return files


def read_pictures(args: argparse.Namespace) -> dict[str, Tensor]:
    """Label -> (3, H, W) in [0, 1], all of one size."""
    labels = args.labels or [Path(path).stem for path in args.pictures]
    if len(labels) != len(args.pictures) or len(set(labels)) < len(labels):
        raise ValueError(f"--labels: expected {len(args.pictures)} different ones, got {', '.join(labels)}")
    pictures = {label: to_tensor(read_image(path)) for label, path in zip(labels, args.pictures, strict=True)}
    if args.crop:
        pictures = {label: cropped(picture, args.crop) for label, picture in pictures.items()}
    sizes = {label: f"{picture.shape[2]}x{picture.shape[1]}" for label, picture in pictures.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the pictures must have one size: {', '.join(f'{label} {size}' for label, size in sizes.items())}")
    return pictures


def cropped(picture: Tensor, text: str) -> Tensor:
    """The part left,top,width,height of (3, H, W)."""
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--crop: expected left,top,width,height in pixels, got {text!r}")
    left, top, width, height = (int(part) for part in parts)
    if not (width and height) or left + width > picture.shape[2] or top + height > picture.shape[1]:
        raise ValueError(f"--crop: {text} leaves a picture of {picture.shape[2]}x{picture.shape[1]} pixels")
    return picture[:, top : top + height, left : left + width]


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
    top = float(np.quantile(np.concatenate([one.flatten().numpy() for one in maps]), 0.995)) or 1.0
    table = matplotlib.colormaps[COLOUR_MAP]
    return [np.round(table((one / top).clamp(0, 1).numpy())[..., :3] * 255).astype(np.uint8) for one in maps]


def draw_feature_maps(stem: Path, rows: dict[str, Rows], taps: Sequence[str], width: float) -> list[Path]:
    """stem.pdf, stem.svg, stem.png: per picture two lines, what DISTS sees (the picture) and what EA-DISTS adds (its edges).

    rows: label -> maps; taps: the trunk's names of the taps. All pictures share one scale per column and line, so brightness can be
    compared between them, and between neighbours of a column that are of one kind only.
    """
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
