"""The page to look at: a before/after slider for every image, with its scores, in one file that works from disk without a network."""

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image

from data.whole_files import whole_file
from scoring.metrics import Metric
from scoring.page_tables import Scores, definitions, image_table, score_table, size, summary
from scoring.report import ImageScores, mean_scores

PAGE = "index.html"
TEMPLATE = Path(__file__).with_name("page.html")
MAX_SHOWN_SIDE = 1600
"""Pictures with a longer side, in pixels, are shown shrunk to it."""

JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0, "optimize": True}
"""Of 512x512 RealSR photos: 87 KiB and 47 dB (45 at worst), far below what tells methods apart. WebP at the same setting has 57 KiB and
44 dB, since it halves the colour's resolution; lossless WebP 175 KiB and 0.3 s; PNG 277 KiB."""

ZOOMS = {"fit": "Fit", "1": "1×", "2": "2×", "4": "4×"}


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
    scores: Scores
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
    path = Path(folder) / PAGE
    with whole_file(path) as file:
        for text in _page(title, entries, metrics, protocol):
            file.write(text.encode("utf-8", "backslashreplace"))  # a file name that is no valid Unicode must not cost the page
    return path


def _data_uri(picture: np.ndarray, shown: tuple[int, int]) -> str:
    """A JPEG of uint8 (H, W, 3) at `shown` (width, height) pixels."""
    if shown != picture.shape[1::-1]:
        picture = cv2.resize(picture, shown, interpolation=cv2.INTER_AREA)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, **JPEG)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _page(title: str, entries: Sequence[PageEntry], metrics: Sequence[Metric], protocol: dict[str, Any]) -> Iterator[str]:
    """The template's text with everything filled in, its card once for every entry."""
    template = TEMPLATE.read_text(encoding="utf-8")
    head, card, tail = re.split(r"<!-- /?card -->\n", template)
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    means = mean_scores([ImageScores(image=entry.name, scores=entry.scores) for entry in entries])
    metrics = metrics if means else ()
    values = {
        "script_hash": f"sha256-{digest}",
        "title": escape(title),
        "summary": summary(entries),
        "means": f"<section><h3>Mean</h3>{score_table(means, metrics)}</section>" if metrics else "",
        "protocol": f'<section class="protocol"><h3>Protocol</h3>{definitions(protocol)}</section>' if protocol else "",
        "table": image_table(entries, metrics, list(means)),
        "controls": _controls(entry.pictures for entry in entries),
    }
    yield _fill(head, values)
    for index, entry in enumerate(entries):
        yield _fill(card, _card(index, entry, metrics))
    yield tail


def _fill(template: str, values: dict[str, str]) -> str:
    """Puts HTML in the places {{name}}; what is put in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], template)


def _card(index: int, entry: PageEntry, metrics: Sequence[Metric]) -> dict[str, str]:
    """What the template's card is filled with."""
    name, (left, right, *_) = escape(entry.name), entry.pictures
    pictures = "".join(
        _picture(label, uri, entry, chosen=label in (left, right), is_left=label == left) for label, uri in entry.pictures.items()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in entry.notes)
    return {
        "id": f"image-{index}",
        "width": str(entry.shown[0]),
        "height": str(entry.shown[1]),
        "name": name,
        "controls": _controls([entry.pictures]),
        "pictures": pictures,
        "left": escape(left),
        "right": escape(right),
        "scores": score_table(entry.scores, metrics) if entry.scores else "",
        "facts": _facts(entry),
        "notes": f'<ul class="notes">{notes}</ul>' if notes else "",
    }


def _picture(label: str, uri: str, entry: PageEntry, *, chosen: bool, is_left: bool) -> str:
    width, height = entry.shown
    state = (' class="left"' if is_left else "") + ("" if chosen else " hidden")
    label, alt = escape(label), escape(f"{entry.name}, {label}")
    box = f'width="{width}" height="{height}"'
    return f'<img{state} data-label="{label}" alt="{alt}" {box} decoding="sync" draggable="false" src="{uri}">\n'


def _facts(entry: PageEntry) -> str:
    """Size, time and where the whole file lies."""
    facts = [f"{size(entry.width, entry.height)} pixels"]
    if entry.shown != (entry.width, entry.height):
        facts.append(f"shown shrunk to {size(*entry.shown)}")
    if entry.seconds is not None:
        facts.append(f"{entry.seconds:.2f} s")
    facts.append(f'<a href="{quote(os.fsencode(entry.link))}">full file</a>')
    return " · ".join(facts)


def _controls(pictures: Iterable[Iterable[str]]) -> str:
    """Buttons for the zoom and, where images have more than two pictures, for what is compared."""
    pairs = list(dict.fromkeys(pair for labels in pictures for pair in combinations(labels, 2)))
    choices = {json.dumps(pair): "<i>|</i>".join(map(escape, pair)) for pair in pairs}
    compared = _choice("pair", "what is compared", choices, pressed=next(iter(choices))) if len(pairs) > 1 else ""
    return compared + _choice("zoom", "zoom", ZOOMS, pressed="1")


def _choice(kind: str, label: str, choices: dict[str, str], pressed: str) -> str:
    """A group of buttons: value -> HTML of its text."""
    buttons = ""
    for value, text in choices.items():
        buttons += f'<button type="button" data-{kind}="{escape(value)}" aria-pressed="{str(value == pressed).lower()}">{text}</button>'
    return f'<div class="choice" role="group" aria-label="{label}">{buttons}</div>'
