import csv
import math

import pytest
from markdown_it import MarkdownIt

from scoring.tables import Markup, best_two, bold, csv_text, escaped, markdown_text


@pytest.mark.parametrize(
    ("values", "lower_better", "marked"),
    [
        ([1.0, 2.0, 3.0], False, ("3.0000", "2.0000")),
        ([1.0, 2.0, 3.0], True, ("1.0000", "2.0000")),
        ([3.0, 3.0, 1.0], False, ("3.0000", "1.0000")),  # a tie shares the first place, the next value is the second best
        ([1.00001, 1.00002, 2.0], True, ("1.0000", "2.0000")),  # a tie in what the table shows
        ([1.0, 2.0], True, ("1.0000", None)),
        ([1.0, None, None], True, (None, None)),
        ([2.0, 2.0, 2.0], True, ("2.0000", None)),
        ([], True, (None, None)),
    ],
)
def test_the_best_two_of_several_values(values, lower_better, marked):
    assert best_two(values, lower_better) == marked


@pytest.mark.parametrize(
    ("values", "best_at", "marked"),
    [
        ([-0.5, 0.1, 0.3], 0.0, ("0.1000", "0.3000")),
        ([-0.1, 0.2, None], 0.0, ("-0.1000", None)),
        ([0.4, 1.5, 0.8], 1.0, ("0.8000", "1.5000")),
        ([0.4], 1.0, (None, None)),
    ],
)
def test_the_nearest_to_a_value_between_worse_ones_is_best(values: list, best_at: float, marked: tuple) -> None:
    assert best_two(values, lower_better=True, best_at=best_at) == marked == best_two(values, lower_better=False, best_at=best_at)


def test_markdown_keeps_every_cell_in_its_line_and_its_column() -> None:
    lines = markdown_text(["name", "what", "score"], [["a|b", "two\nlines", "1.5"], ["c", "", "12.25"]], numbers=1).splitlines()
    assert lines == [
        "| name | what      | score |",
        "|------|-----------|------:|",
        "| a\\|b | two lines |   1.5 |",
        "| c    |           | 12.25 |",
    ]
    assert markdown_text(["name", "n"], [["a|b", "1"]], padded=False).splitlines() == ["| name | n |", "| --- | --- |", "| a\\|b | 1 |"]


def test_csv_is_read_back_with_every_digit() -> None:
    numbers = [1 / 3, -1e-300, math.inf]
    text = csv_text(["name, quoted", "x", "y", "z", "none"], [['a "b", c', *numbers, None]])
    (row,) = csv.DictReader(text.splitlines(keepends=True))
    assert row["name, quoted"] == 'a "b", c' and row["none"] == "" and [float(row[name]) for name in "xyz"] == numbers


NAMES = [
    "<img src=x onerror=alert(1)>.png",
    "a|b\\|c.png",
    "`code` & &lt; &amp; R&D.png",
    "[x](javascript:alert(1)).png",
    "![x](http://example.com/x.png)",
    "C:\\_new\\x.png",
    "end\\",
    "two\nlines\x1b[2J\u202e\udcff.png",
]
VISIBLE = {NAMES[-1]: "two lines\\x1b[2J\\u202e\\udcff.png"}


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_names_and_obeys_none(name: str) -> None:
    """markdown-it, GitHub's rules: the cell's only content is the name as text."""
    table = markdown_text(["name", "score"], [[name, bold("1|2")]])
    tokens = MarkdownIt("commonmark").enable("table").parse(table)
    first, second = [token for token in tokens if token.type == "inline"][2:]
    assert {child.type for child in first.children} <= {"text", "text_special"}
    assert "".join(child.content for child in first.children) == VISIBLE.get(name, name)
    assert [child.type for child in second.children if child.content or "strong" in child.type] == ["strong_open", "text", "strong_close"]
    assert "\n" not in escaped(name) and "<img" not in escaped(name)


def test_markup_of_our_own_is_taken_as_it_is() -> None:
    assert markdown_text(["a"], [[Markup("<u>1</u>")]], padded=False).endswith("| <u>1</u> |")


@pytest.mark.parametrize("sign", "=+-@＝＋－＠")
def test_no_text_is_a_formula_in_a_spreadsheet_and_numbers_stay_numbers(sign: str) -> None:
    text = csv_text(["name", f"{sign}x"], [[f"{sign}cmd|'/c calc'!A1", -1.5]])
    assert list(csv.reader(text.splitlines())) == [["name", f"'{sign}x"], [f"'{sign}cmd|'/c calc'!A1", "-1.5"]]


@pytest.mark.parametrize("name", ["\t=1+1", "\r=1+1", "\n=1+1", "a\n=1+1", "\x1b[2J", "\udcff"])
def test_a_row_of_csv_is_one_line_of_visible_characters(name: str) -> None:
    text = csv_text(["name"], [[name]])
    assert text.count("\n") == 2 and text.splitlines()[1].startswith(("\\", "a\\")) and text.encode()
