"""What the figures for papers share: sizes in inches, text that stays text in SVG and PDF, files that are the same each time."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers; a second round gets dashes."""

TEXT_WIDTH = 5.5
"""Inches between the margins of a NeurIPS page."""

PICTURE_DPI = 300

FILL = 0.95
"""Of its room a label may take this much: what draws it rounds the widths of letters."""


def save_figure(figure: Figure, stem: Path, endings: Sequence[str] = ("png", "svg"), dpi: int = 130) -> list[Path]:
    """Writes stem.ENDING for every ending; dpi is that of pixels, also of those inside SVG and PDF. Missing folders are created."""
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in endings]
    stem.parent.mkdir(parents=True, exist_ok=True)
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "d3sr", "pdf.fonttype": 42}):
        for file, ending in zip(files, endings, strict=True):
            figure.savefig(file, dpi=dpi, metadata=undated[ending])
    return files


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes without ticks, placed in inches from the figure's upper left corner."""
    across, down = figure.get_size_inches()
    axes = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def draw_picture(axes: Axes, picture: np.ndarray, width: float) -> None:
    """uint8 (h, w, 3) on axes of `width` inches; its coordinates there are those of its pixels.

    Small pictures are enlarged to squares, so that no viewer smoothes them; large ones are shrunk to what PICTURE_DPI can show.
    """
    height, across = picture.shape[:2]
    factor = width * PICTURE_DPI / across
    if factor < 1:
        shown = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    else:
        shown = picture.repeat(round(factor), axis=0).repeat(round(factor), axis=1)
    axes.imshow(shown, extent=(0, across, height, 0), interpolation="none", aspect="auto")


def text_width(text: str, size: float) -> float:
    """Inches that the longest line of a text takes at `size` points."""
    lines = [line for line in text.split("\n") if line.strip()]
    return max((TextPath((0, 0), line, size=size, prop=FontProperties()).get_extents().width / 72 for line in lines), default=0.0)


def fitting_size(texts: Sequence[tuple[str, float]], size: float, smallest: float = 4.5) -> float:
    """The largest font size up to `size` points at which every text fits into its width in inches.

    Raises ValueError naming a text that does not fit even at the smallest.
    """
    for text, width in texts:
        needed = text_width(text, size) / FILL
        if needed > width:
            size *= width / needed
        if size < smallest:
            raise ValueError(f"the label {text!r} does not fit into {width:.2f} inches; shorten it, or make the figure wider")
    return size
