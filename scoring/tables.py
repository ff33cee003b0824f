"""Tables as text: Markdown and CSV, how a number is written, and which of a column's numbers is the best."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from data.console import one_line

OURS, BICUBIC, HR = "ours", "bicubic", "HR"  # labels of what is compared
MISSING = "–"

ACTS_IN_MARKDOWN = re.compile(r"\\(?=[!-/:-@\[-`{-~])|&(?=#?\w+;)|[<>`|]|(?<=\])\(")
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet computes; OWASP, CSV injection."""


class Markup(str):
    """Markdown of our own, which `markdown_text` takes as it is."""


def bold(text: str) -> Markup:
    """**text**."""
    return Markup(f"**{escaped(text)}**")


def escaped(text: str) -> str:
    """Markdown that shows any text, such as a file's name, in one line: no HTML, link, code or cell of a table begins or ends in it."""
    line = one_line(" ".join(text.splitlines()))
    return ACTS_IN_MARKDOWN.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), line)


def number(value: float | None, digits: int = 4) -> str:
    """A number as tables show it; a dash for None."""
    return MISSING if value is None else f"{value:.{digits}f}"


def direction(lower_better: bool, best_at: float | None = None) -> tuple[str, str]:
    """Where a metric's better end is, as a sign behind its name and in words. best_at: the value that no other is better than, if any."""
    if best_at is not None:
        return f"→ {best_at:g}", f"{best_at:g} is best"
    return ("↓", "lower is better") if lower_better else ("↑", "higher is better")


def shortfall(value: float, lower_better: bool, best_at: float | None = None) -> float:
    """How far a score is from the best, up to a constant: less is better. best_at: as for `direction`."""
    if best_at is not None:
        return abs(value - best_at)
    return value if lower_better else -value


def best_two(values: Iterable[float | None], lower_better: bool, best_at: float | None = None) -> tuple[str | None, str | None]:
    """The best and the second best of several values, as `number` writes them, so what looks the same is marked the same.

    None where there is nothing to be told apart: a single value has no best, two have no second best. best_at: as for `direction`.
    """
    known = sorted((value for value in values if value is not None), key=lambda value: shortfall(value, lower_better, best_at))
    shown = [*dict.fromkeys(map(number, known)), None]
    return (shown[0] if len(known) > 1 else None), (shown[1] if len(known) > 2 else None)


def markdown_text(heading: Sequence[str], lines: Iterable[Sequence[str]], numbers: int = 0, *, padded: bool = True) -> str:
    """A Markdown table, padded so that it also reads well in a terminal; its last `numbers` columns are set to the right.

    Cells are shown as they are, see `escaped`, but for `Markup`.
    """
    cells = [[cell if isinstance(cell, Markup) else escaped(cell) for cell in line] for line in [heading, *lines]]
    if not padded:
        return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], ["---"] * len(heading), *cells[1:]])
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(heading))]
    to_right = [column >= len(heading) - numbers for column in range(len(heading))]
    rule = "".join(f"|{'-' * (width + 1)}{':' if right else '-'}" for width, right in zip(widths, to_right, strict=True)) + "|"
    text = []
    for line in cells:
        filled = [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(line, widths, to_right, strict=True)]
        text.append(f"| {' | '.join(filled)} |")
    return "\n".join([text[0], rule, *text[1:]])


def csv_text(heading: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A CSV table; None is an empty cell, and a float has every digit. A text is one line (see `one_line`) and never a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([_csv_cell(cell) for cell in line] for line in [heading, *lines])
    return buffer.getvalue()


def _csv_cell(cell: Any) -> Any:
    """A text that a spreadsheet would compute gets an apostrophe in front, which spreadsheets take as the sign of a text."""
    if not isinstance(cell, str):
        return cell
    return f"'{one_line(cell)}" if cell.startswith(FORMULA) else one_line(cell)
