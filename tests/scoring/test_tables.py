import csv
import math

import pytest

from scoring.tables import best_two, csv_text, markdown_text


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
    text = csv_text(["name, quoted", "x", "y", "z", "none"], [['a "b"\nc', *numbers, None]])
    (row,) = csv.DictReader(text.splitlines(keepends=True))
    assert row["name, quoted"] == 'a "b"\nc' and row["none"] == "" and [float(row[name]) for name in "xyz"] == numbers
