"""The page to look at: a before/after slider for every image, with its scores, in one file that works from disk without a network."""

import base64
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image

from data.console import one_line
from data.whole_files import whole_file
from scoring.metrics import Metric
from scoring.report import ImageScores, MethodScores, mean_scores
from scoring.tables import MISSING, best_two, direction, number

PAGE = "index.html"
TEMPLATE, SCRIPT = (Path(__file__).with_name(name) for name in ("page.html", "page.js"))
MAX_SHOWN_SIDE = 1600
"""Pictures with a longer side, in pixels, are shown shrunk to it."""

JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0, "optimize": True}
"""Of 512x512 RealSR photos: 87 KiB and 47 dB (45 at worst), far below what tells methods apart. WebP at the same setting has 57 KiB and
44 dB, since it halves the colour's resolution; lossless WebP 175 KiB and 0.3 s; PNG 277 KiB."""


@dataclass(frozen=True)
class PageEntry:
    """One image of the page, ready to be written.

    pictures: label -> data URI, in the order of comparison; the first two are compared at first.
    width, height: of the result in pixels; shown: (width, height) of the embedded pictures, smaller where the result is very large.
    link: the result's path relative to the page, with slashes. seconds: what the restoration took, None if unknown.
    """

    name: str
    pictures: dict[str, str]
    width: int
    height: int
    shown: tuple[int, int]
    scores: MethodScores
    link: str
    notes: tuple[str, ...] = ()
    seconds: float | None = None


def page_entry(
    name: str,
    pictures: dict[str, np.ndarray],
    scores: ImageScores | None,
    link: str,
    notes: Sequence[str] = (),
    seconds: float | None = None,
) -> PageEntry:
    """Encodes the pictures of one image, so that they need not stay in memory.

    pictures: label -> uint8 (H, W, 3) RGB, two or more of one size: `bicubic`, `ours` and, if known, `HR`.
    link: the result's path relative to the page's folder, with slashes.
    Raises ValueError for pictures of other kinds or of different sizes.
    """
    shapes = {label: (str(picture.dtype), picture.shape) for label, picture in pictures.items()}
    dtype, shape = next(iter(shapes.values()), ("nothing", ()))
    if len(shapes) < 2 or len(set(shapes.values())) > 1 or dtype != "uint8" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"{name}: the page compares two or more pictures, uint8 (H, W, 3) of one size; got {shapes}")
    height, width = shape[:2]
    shrink = min(1.0, MAX_SHOWN_SIDE / max(height, width))
    shown = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    encoded = {label: _data_uri(picture, shown) for label, picture in pictures.items()}
    return PageEntry(name, encoded, width, height, shown, scores.scores if scores else {}, link, tuple(notes), seconds)


def write_page(folder: str | Path, title: str, entries: Sequence[PageEntry], metrics: Sequence[Metric], protocol: dict[str, Any]) -> Path:
    """Writes folder/index.html, whole or not at all, entry by entry. Returns its path.

    metrics: what the scores of the entries mean, in the order of the columns; protocol: how the results came about, anything JSON.
    """
    means = mean_scores([ImageScores(image=entry.name, scores=entry.scores) for entry in entries])
    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    pieces = _generated(
        {
            "title": title,
            "entries": entries,
            "metrics": metrics if means else (),
            "protocol": protocol,
            "means": means,
            "summary": _summary(entries),
            "timed": any(entry.seconds is not None for entry in entries),
            "script": script,
            "script_hash": f"sha256-{digest}",
        }
    )
    path = Path(folder) / PAGE
    with whole_file(path) as file:
        for text in pieces:
            file.write(text.encode("utf-8"))
    return path


def _generated(values: dict[str, Any]) -> Iterator[str]:
    """page.html of these values, in pieces."""
    import jinja2  # late: few runs write a page

    loader = jinja2.FileSystemLoader(TEMPLATE.parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.finalize = lambda value: one_line(value) if type(value) is str else value  # not Markup: what macros made, and the script
    environment.filters["json"] = partial(json.dumps, ensure_ascii=False, default=str)
    environment.filters["address"] = lambda link: quote(os.fsencode(link))
    environment.globals |= {"MISSING": MISSING, "number": number, "direction": direction}
    environment.globals |= {"best": _best, "every_digit": _every_digit, "pairs": _pairs}
    return environment.get_template(TEMPLATE.name).generate(values)


def _summary(entries: Sequence[PageEntry]) -> str:
    """How many images, and how long they took."""
    images = f"{len(entries)} image{'' if len(entries) == 1 else 's'}"
    known = [entry.seconds for entry in entries if entry.seconds is not None]
    if not known:
        return images
    total = math.fsum(known)
    return f"{images}, {total:.1f} s" + (f", {total / len(known):.2f} s each" if len(known) > 1 else "")


def _best(scores: MethodScores, metric: Metric) -> str | None:
    """The best of several methods' scores, as `number` writes it."""
    return best_two([of_method.get(metric.name) for of_method in scores.values()], metric.lower_better, metric.best_at)[0]


def _every_digit(value: float | None) -> str:
    """What a column is sorted by, empty where there is none."""
    return "" if value is None else repr(float(value))


def _pairs(entries: Sequence[PageEntry]) -> list[tuple[str, str]]:
    """Labels of the pictures that can be compared with each other."""
    return list(dict.fromkeys(pair for entry in entries for pair in combinations(entry.pictures, 2)))


def _data_uri(picture: np.ndarray, shown: tuple[int, int]) -> str:
    """A JPEG of uint8 (H, W, 3) at `shown` (width, height) pixels."""
    if shown != picture.shape[1::-1]:
        picture = cv2.resize(picture, shown, interpolation=cv2.INTER_AREA)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, **JPEG)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
