"""The tables of the page to look at, as HTML: means, scores of one image, the sortable list of all images."""

import json
import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from scoring.metrics import Metric

if TYPE_CHECKING:
    from scoring.page import PageEntry

MISSING = "–"

Scores = dict[str, dict[str, float | None]]
"""method -> metric name -> value, None where there is none."""


def summary(entries: "Sequence[PageEntry]") -> str:
    """How many images, and how long they took."""
    images = f"{len(entries)} image{'' if len(entries) == 1 else 's'}"
    known = [entry.seconds for entry in entries if entry.seconds is not None]
    if not known:
        return images
    total = math.fsum(known)
    return f"{images}, {total:.1f} s" + (f", {total / len(known):.2f} s each" if len(known) > 1 else "")


def definitions(values: dict[str, Any]) -> str:
    """A definition list; what is not text is shown as JSON."""
    lines = []
    for key, value in values.items():
        text = value if isinstance(value, str) else MISSING if value is None else json.dumps(value, ensure_ascii=False, default=str)
        lines.append(f"<dt>{escape(str(key))}</dt><dd>{escape(text)}</dd>")
    return f"<dl>{''.join(lines)}</dl>"


def score_table(scores: Scores, metrics: Sequence[Metric]) -> str:
    """A line per method and a column per metric; the best of a column is bold."""
    columns = [_cells(scores, metric) for metric in metrics]
    heading = "".join(f'<th scope="col">{_heading(metric)}</th>' for metric in metrics)
    lines = []
    for method in scores:
        cells = "".join(f"<td>{column[method]}</td>" for column in columns)
        lines.append(f'<tr><th scope="row">{escape(method)}</th>{cells}</tr>')
    return f'<div class="scores"><table><thead><tr><td></td>{heading}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def image_table(entries: "Sequence[PageEntry]", metrics: Sequence[Metric], methods: Sequence[str]) -> str:
    """A line per image; its columns are the name, per metric one for each method below a common heading, the size, and the time if known.

    A cell's data-value is what its column is sorted by, empty where there is none.
    """
    columns = len(metrics) * len(methods)
    plain = {0: "image", columns + 1: "size"}
    if any(entry.seconds is not None for entry in entries):
        plain[columns + 2] = "seconds"
    name, *others = (f'<th scope="col" rowspan="2" class="first">{_sorter(label, column, label)}</th>' for column, label in plain.items())
    groups = "".join(f'<th scope="colgroup" colspan="{len(methods)}" class="first">{_heading(metric)}</th>' for metric in metrics)
    below = ""
    for index in range(columns):
        metric, method = metrics[index // len(methods)].name, methods[index % len(methods)]
        below += f'<th scope="col"{_first(index, methods)}>{_sorter(method, index + 1, f"{metric} of {method}")}</th>'
    rows = "".join(_row(index, entry, metrics, methods, timed=len(plain) == 3) for index, entry in enumerate(entries))
    return f"<table><thead><tr>{name}{groups}{''.join(others)}</tr><tr>{below}</tr></thead><tbody>{rows}</tbody></table>"


def size(width: int, height: int) -> str:
    return f"{width} × {height}"


def _row(index: int, entry: "PageEntry", metrics: Sequence[Metric], methods: Sequence[str], *, timed: bool) -> str:
    name = escape(entry.name)
    cells = [f'<th scope="row" data-value="{name}"><a href="#image-{index}"><bdi>{name}</bdi></a></th>']
    for metric in metrics:
        texts = _cells(entry.scores, metric)
        for column, method in enumerate(methods):
            value = _value(entry.scores.get(method, {}).get(metric.name))
            cells.append(f'<td{_first(column, methods)} data-value="{value}">{texts.get(method, MISSING)}</td>')
    cells.append(f'<td class="first" data-value="{entry.width * entry.height}">{size(entry.width, entry.height)}</td>')
    if timed:
        cells.append(f'<td class="first" data-value="{_value(entry.seconds)}">{_number(entry.seconds, 2)}</td>')
    return f'<tr data-card="image-{index}" data-index="{index}">{"".join(cells)}</tr>'


def _sorter(label: str, column: int, title: str) -> str:
    kind = "text" if column == 0 else "number"
    return f'<button type="button" data-column="{column}" data-kind="{kind}" title="sort by {escape(title)}">{escape(label)}</button>'


def _first(column: int, methods: Sequence[str]) -> str:
    """Marks the first of a metric's columns."""
    return ' class="first"' if column % len(methods) == 0 else ""


def _heading(metric: Metric) -> str:
    better, arrow = ("lower", "↓") if metric.lower_better else ("higher", "↑")
    return f'{escape(metric.name)} <span role="img" aria-label="{better} is better" title="{better} is better">{arrow}</span>'


def _cells(scores: Scores, metric: Metric) -> dict[str, str]:
    """method -> its number under one metric; the best of several is bold."""
    values = {method: of_method.get(metric.name) for method, of_method in scores.items()}
    known = [value for value in values.values() if value is not None]
    best = _number(min(known) if metric.lower_better else max(known)) if len(known) > 1 else None
    texts = {method: _number(value) for method, value in values.items()}
    return {method: f"<b>{text}</b>" if text == best else text for method, text in texts.items()}


def _number(value: float | None, digits: int = 4) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def _value(value: float | None) -> str:
    """Every digit, to sort by."""
    return "" if value is None else repr(float(value))
