"""Comparison sheets as papers print them: the whole picture with a box on it, and what each method made of the box, enlarged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from restoring.arrays import LUMA
from tools.figures.figures import PICTURE_DPI, add_axes, draw_picture, fitting_size, save_figure

GAP = 0.035
FONT_SIZE, LINE = 7.0, 0.13
BOX_COLOUR = "#E6002D"
MARGIN = 0.01

Box = tuple[int, int, int, int]
"""left, top, width, height in pixels."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One image of a sheet. whole: uint8 (H, W, 3); box: on it; crops: label -> picture of the same size, of which the box is shown."""

    title: str
    whole: np.ndarray
    box: Box
    crops: dict[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """Inches of one block: its height, the whole picture's width and height, a crop's, and the grid of the crops."""

    height: float
    whole: tuple[float, float]
    crop: tuple[float, float]
    columns: int
    rows: int


def busiest_box(pictures: Sequence[np.ndarray], width: int, height: int) -> Box:
    """Where the pictures, uint8 (H, W, 3) of one size, differ most: the window with the largest variance of luma between them.

    Of a single picture it is where its luma varies most. Raises ValueError where the window is larger than the picture.
    """
    across, down = pictures[0].shape[1], pictures[0].shape[0]
    if width > across or height > down:
        raise ValueError(f"a box of {width}x{height} pixels does not fit into a picture of {across}x{down}")
    luma = np.stack([picture.astype(np.float32) @ np.float32(LUMA) for picture in pictures])
    spread = luma.var(axis=0) if len(pictures) > 1 else (luma[0] - cv2.blur(luma[0], (9, 9))) ** 2
    sums = cv2.integral(spread.astype(np.float64))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(left), int(top), width, height


def check_box(box: Box, picture: np.ndarray, title: str) -> None:
    """Raises ValueError for a box that leaves the picture."""
    left, top, width, height = box
    inside = left >= 0 and top >= 0 and width > 0 and height > 0 and left + width <= picture.shape[1] and top + height <= picture.shape[0]
    if not inside:
        raise ValueError(f"{title}: the box {','.join(map(str, box))} leaves the picture of {picture.shape[1]}x{picture.shape[0]} pixels")


def lay_out(block: Block, width: float, rows: int, lines: int) -> Layout:
    """Fills `width` inches: whole picture at the left, `rows` rows of crops at the right, all of one height, labels below each.

    lines: how many lines of text each label has room for. Raises ValueError where nothing is left for the pictures.
    """
    label, columns = lines * LINE, math.ceil(len(block.crops) / rows)
    shape = block.whole.shape[1] / block.whole.shape[0]
    of_crop = block.box[2] / block.box[3]
    # width = shape * (height - label) + columns * (gap + of_crop * crop_height), where crop_height = (height + gap) / rows - label - gap
    per_height = shape + columns * of_crop / rows
    rest = width + shape * label - columns * GAP + columns * of_crop * (label + GAP - GAP / rows)
    height = rest / per_height
    crop_height = (height + GAP) / rows - label - GAP
    if crop_height <= 0:
        raise ValueError(f"{block.title}: {len(block.crops)} crops in {rows} rows leave no room within {width} inches; choose fewer rows")
    whole = (shape * (height - label), height - label)
    return Layout(height, whole, (of_crop * crop_height, crop_height), columns, rows)


def draw_crops(stem: Path, blocks: Sequence[Block], width: float, rows: int | None = None) -> list[Path]:
    """stem.pdf, stem.svg and stem.png, `width` inches wide: a block of every image below the other. Returns the files.

    rows: of crops beside each picture; None: one for up to three crops, else two. Raises ValueError for boxes and labels that do not fit.
    """
    lines = 1 + max(text.count("\n") for block in blocks for text in (block.title, *block.crops))
    for block in blocks:
        check_box(block.box, block.whole, block.title)
    layouts = [lay_out(block, width - 2 * MARGIN, rows or (1 if len(block.crops) <= 3 else 2), lines) for block in blocks]
    texts = [
        (text, room)
        for block, layout in zip(blocks, layouts, strict=True)
        for text, room in [(block.title, layout.whole[0]), *((label, layout.crop[0]) for label in block.crops)]
    ]
    size = fitting_size(texts, FONT_SIZE)
    figure = Figure(figsize=(width, sum(layout.height for layout in layouts) + GAP * (len(blocks) - 1) + 2 * MARGIN))
    top = MARGIN
    for block, layout in zip(blocks, layouts, strict=True):
        _draw_block(figure, block, layout, top, size)
        top += layout.height + GAP
    return save_figure(figure, stem, ("pdf", "svg", "png"), PICTURE_DPI)


def _draw_block(figure: Figure, block: Block, layout: Layout, top: float, size: float) -> None:
    axes = add_axes(figure, MARGIN, top, *layout.whole)
    draw_picture(axes, block.whole, layout.whole[0])
    left, upper, width, height = block.box
    for colour, line in (("white", 1.8), (BOX_COLOUR, 1.0)):  # the white rim shows it on red
        axes.add_patch(Rectangle((left, upper), width, height, fill=False, edgecolor=colour, linewidth=line))
    _label(axes, block.title, size)
    for number, (label, picture) in enumerate(block.crops.items()):
        row, column = divmod(number, layout.columns)
        x = MARGIN + layout.whole[0] + GAP + column * (layout.crop[0] + GAP)
        y = top + row * (layout.height + GAP) / layout.rows
        axes = add_axes(figure, x, y, *layout.crop)
        draw_picture(axes, picture[upper : upper + height, left : left + width], layout.crop[0])
        _label(axes, label, size)


def _label(axes: Axes, text: str, size: float) -> None:
    """Centred below the picture; no frame, which would hide its outermost pixels."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    place = {"xycoords": "axes fraction", "xytext": (0, -1.5), "textcoords": "offset points", "ha": "center", "va": "top"}
    axes.annotate(text, (0.5, 0), **place, fontsize=size, parse_math=False)  # a file's name may hold a $
