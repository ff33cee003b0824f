"""Scores as tables (JSON, CSV, Markdown) and pictures side by side."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.console import one_line
from data.whole_files import write_text
from scoring.metrics import Metric
from scoring.tables import HR, OURS, Markup, best_two, bold, csv_text, direction, escaped, markdown_text, number

PAPER_WHITE, INK = (255, 255, 255), (34, 34, 34)
GAP = 8
MAX_FONT = 40

MethodScores = dict[str, dict[str, float | None]]
"""method -> metric name -> score or mean, None where there is none."""


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """Scores of one image, None where a metric could not score the picture."""

    image: str
    scores: MethodScores


def score_image(image: str, pictures: dict[str, np.ndarray], metrics: Sequence[Metric], warn: Callable[[str], None]) -> ImageScores:
    """Every picture but `HR` under every metric, `ours` first.

    pictures: label -> uint8 (H, W, 3); `HR` may be missing where no metric needs it.
    warn: told about a metric that cannot score a picture; its place stays empty.
    """
    methods = sorted((label for label in pictures if label != HR), key=lambda label: label != OURS)
    scores = {method: score_picture(f"{image} ({method})", pictures[method], pictures.get(HR), metrics, warn) for method in methods}
    return ImageScores(image=image, scores=scores)


def score_picture(
    what: str, picture: np.ndarray, hr: np.ndarray | None, metrics: Sequence[Metric], warn: Callable[[str], None]
) -> dict[str, float | None]:
    """Metric name -> score of one picture, None where there is none; `warn` is told which and why, `what` being the picture's name."""
    scores: dict[str, float | None] = {}
    for metric in metrics:
        try:
            scores[metric.name] = metric(picture, hr)
        except ValueError as error:
            scores[metric.name] = None
            warn(f"not scored: {what}: {error}")
    return scores


def mean_scores(rows: Sequence[ImageScores]) -> MethodScores:
    """method -> metric -> mean over the images that have a score (None where no image has one)."""
    means: MethodScores = {}
    for method in dict.fromkeys(method for row in rows for method in row.scores):
        per_image = [row.scores[method] for row in rows if method in row.scores]
        for metric in dict.fromkeys(name for scores in per_image for name in scores):
            values = [scores[metric] for scores in per_image if scores.get(metric) is not None]
            means.setdefault(method, {})[metric] = math.fsum(values) / len(values) if values else None
    return means


def mean_table(rows: Sequence[ImageScores], metrics: Sequence[Metric]) -> str:
    """Markdown: one line per method, one column per metric with an arrow to its better end; the best mean of a column is bold, and from
    three methods on the second best underlined."""
    return means_table(mean_scores(rows), metrics, f"mean of {len(rows)}")


def means_table(means: MethodScores, metrics: Sequence[Metric], title: str, unmarked: Sequence[str] = ()) -> str:
    """`mean_table` of means that are known already; methods of `unmarked` are there to compare with and never the best."""
    lines = [[method, *(number(means[method].get(metric.name)) for metric in metrics)] for method in means]
    for column, metric in enumerate(metrics, start=1):
        rivals = [scores.get(metric.name) for method, scores in means.items() if method not in unmarked]
        best, second = best_two(rivals, metric.lower_better, metric.best_at)
        for line in lines:
            marks = {best: bold(str(best)), second: Markup(f"<u>{second}</u>")} if line[0] not in unmarked else {}
            line[column] = marks.get(line[column], line[column])
    return markdown_text([title, *map(_heading, metrics)], lines, numbers=len(metrics))


def image_table(rows: Sequence[ImageScores], metrics: Sequence[Metric]) -> str:
    """Markdown: one line per image, and per metric one column for each method."""
    methods = list(mean_scores(rows))
    heading = [f"{_heading(metric)} {method}" for metric in metrics for method in methods]
    lines = []
    for row in rows:
        values = [row.scores.get(method, {}).get(metric.name) for metric in metrics for method in methods]
        lines.append([row.image, *map(number, values)])
    return markdown_text(["image", *heading], lines, numbers=len(heading))


def write_report(folder: str | Path, rows: Sequence[ImageScores], metrics: Sequence[Metric], protocol: dict[str, Any]) -> None:
    """Write metrics.json (see `document`), metrics.csv (see `csv_table`) and metrics.md (means, protocol, images) into folder.

    protocol: anything JSON that says how the numbers came about (scale, colour fix, resizer of the baseline ...).
    """
    folder = Path(folder)
    write_text(folder / "metrics.json", json.dumps(document(rows, metrics, protocol), indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "metrics.csv", csv_table(rows, mean_scores(rows)))
    text = "\n\n".join([mean_table(rows, metrics), notes(protocol | versions()), image_table(rows, metrics)])
    write_text(folder / "metrics.md", f"{text}\n")


def document(rows: Sequence[ImageScores], metrics: Sequence[Metric], protocol: dict[str, Any]) -> dict[str, Any]:
    """Everything about some scores, as JSON: protocol, versions, options of the metrics, means, images."""
    return {
        "protocol": protocol,
        "libraries": versions(),
        "metrics": {
            metric.name: {"type": metric.type, "lower_better": metric.lower_better, "options": metric.options} for metric in metrics
        },
        "images_scored": len(rows),
        "mean": mean_scores(rows),
        "images": [{"image": row.image, "scores": row.scores} for row in rows],
    }


def notes(values: dict[str, Any]) -> str:
    """A Markdown list of what is to be known about a table."""
    return "\n".join(f"- {escaped(key)}: {escaped(str(value))}" for key, value in values.items())


def comparison_sheet(pictures: Sequence[np.ndarray], labels: Sequence[str], *, max_side: int = 6144) -> np.ndarray:
    """Pictures of one image side by side, whole, each under its label; uint8 (H, W, 3).

    pictures: uint8 (h, w, 3) RGB of one size, shown pixel by pixel unless the sheet would be wider or higher than max_side: then shrunk.
    """
    height, width = pictures[0].shape[:2]
    room_across = max_side - GAP * (len(pictures) + 1)
    room_down = max_side - 2 * GAP - math.ceil(1.4 * MAX_FONT)
    shrink = min(1.0, room_across / (width * len(pictures)), room_down / height)
    if shrink < 1:
        size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
        pictures = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    return _sheet([pictures], labels, captions=None)


def picture_sheet(
    rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str], captions: Sequence[str] | None = None, *, cell: int = 320
) -> np.ndarray:
    """Several images below each other, a line per image and a column per label: the overview of a test or of a validation during training.

    rows: per image its pictures, uint8 (h, w, 3) RGB, one per label. To keep pixels comparable nothing is resized: of a picture larger than
    `cell` pixels the middle is shown. The sheet is at most len(labels) * (cell + gap) wide; choose the rows to bound its height.
    """
    return _sheet([[middle(picture, cell) for picture in row] for row in rows], labels, captions)


def middle(picture: np.ndarray, cell: int = 320) -> np.ndarray:
    """What `picture_sheet` shows of a picture: at most cell x cell pixels of its middle, a view."""
    top, left = (max(0, side - cell) // 2 for side in picture.shape[:2])
    return picture[top : top + cell, left : left + cell]


def _sheet(rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str], captions: Sequence[str] | None) -> np.ndarray:
    if any(len(row) != len(labels) for row in rows):
        raise ValueError(f"a sheet with the columns {', '.join(labels)} needs {len(labels)} pictures per row, got {list(map(len, rows))}")
    labels = [one_line(label) for label in labels]
    column_width = max(picture.shape[1] for row in rows for picture in row)
    font = ImageFont.load_default(size=min(MAX_FONT, max(16, column_width // 20)))
    column_width = max(column_width, *(math.ceil(font.getlength(label)) for label in labels))
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    line = math.ceil(font.size * 1.4)
    caption_line = line if captions else 0
    width, height = GAP + len(labels) * (column_width + GAP), line + GAP + sum(heights) + (GAP + caption_line) * len(rows)
    sheet = Image.new("RGB", (width, height), PAPER_WHITE)
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels):
        draw.text((GAP + column * (column_width + GAP) + column_width / 2, (GAP + line) / 2), label, fill=INK, font=font, anchor="mm")
    top = line + GAP
    for index, (row, row_height) in enumerate(zip(rows, heights, strict=True)):
        for column, picture in enumerate(row):
            indent = (column_width - picture.shape[1]) // 2
            sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (GAP + column * (column_width + GAP) + indent, top))
        if captions:
            text = _shorten(one_line(captions[index]), font, width - 2 * GAP)
            draw.text((GAP, top + row_height + caption_line / 2), text, fill=INK, font=font, anchor="lm")
        top += row_height + caption_line + GAP
    return np.asarray(sheet)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """text, without its beginning where it is too long: the end of a path tells more."""
    short = text
    while len(short) > 1 and font.getlength(short) > width:
        text = text[1:]
        short = f"…{text}"
    return short


def _heading(metric: Metric) -> str:
    return f"{metric.name} {direction(metric.lower_better, metric.best_at)[0]}"


def csv_table(rows: Sequence[ImageScores], means: MethodScores) -> str:
    """A line per image and a last one "mean"; columns are metric names for our own results and METHOD_METRIC for the others."""
    columns = [(method, metric) for method, scores in means.items() for metric in scores]
    heading = [metric if method == OURS else f"{method}_{metric}" for method, metric in columns]
    lines = []
    for image, scores in [*((row.image, row.scores) for row in rows), ("mean", means)]:
        values = [scores.get(method, {}).get(metric) for method, metric in columns]
        lines.append([image, *(None if value is None else float(value) for value in values)])
    return csv_text(["image", *heading], lines)


def versions(libraries: Sequence[str] = ("pyiqa", "torch", "numpy")) -> dict[str, str]:
    """Library -> the version that is installed."""
    return {library: version(library) for library in libraries}
