"""A size to reach: against arithmetic by hand, and over many sizes what must hold of any."""

import itertools
import math

import numpy as np
import pytest

from restoring.pictures import Restoration, restore_with_alpha
from restoring.target import Target
from tests.restoring.test_rows import blocks


def size(height: int, width: int, measure: str, value: float, most: float = 4) -> tuple[int, int]:
    return Restoration(scale=Target(measure=measure, value=value, most=most)).output_size(height, width)


BY_HAND = [
    ((600, 1000), "long_side", 2048, (1229, 2048)),  # 600 x 2.048 = 1228.8
    ((1000, 600), "long_side", 2048, (2048, 1229)),
    ((600, 1000), "short_side", 900, (900, 1500)),
    ((600, 1000), "width", 1500, (900, 1500)),
    ((600, 1000), "height", 1500, (1500, 2500)),
    ((600, 1000), "megapixels", 2.4, (1200, 2000)),  # 0.6 megapixels: twice each side
    ((3, 1000), "long_side", 1001, (3, 1001)),
    ((1, 1), "long_side", 3, (3, 3)),
    ((600, 1000), "long_side", 8000, (2400, 4000)),  # the network's x4 is as far as it goes
    ((600, 1000), "megapixels", 96, (2400, 4000)),
    ((600, 1000), "long_side", 1000, (600, 1000)),
    ((600, 1000), "long_side", 999, (600, 1000)),  # never smaller than the input
    ((600, 1000), "megapixels", 0.1, (600, 1000)),
]


@pytest.mark.parametrize(("picture", "measure", "value", "expected"), BY_HAND)
def test_sizes_by_hand(picture: tuple[int, int], measure: str, value: float, expected: tuple[int, int]) -> None:
    assert size(*picture, measure, value) == expected


def test_asked_for_a_picture_goes_beyond_the_network() -> None:
    assert size(600, 1000, "long_side", 8000, most=math.inf) == (4800, 8000)


def test_the_named_side_is_exact_and_the_other_follows() -> None:
    sides = (1, 2, 3, 7, 97, 333, 1023, 4001, 20000)
    for height, width, value in itertools.product(sides, sides, (1, 5, 641, 2048, 65535)):
        for measure, side in (("long_side", max), ("short_side", min), ("width", lambda h, w: w), ("height", lambda h, w: h)):
            own = side(height, width)
            found = size(height, width, measure, value)
            assert side(*found) == min(max(own, value), 4 * own), (height, width, measure, value)
            factor = side(*found) / own
            assert all(abs(new - old * factor) <= 0.5 + 1e-9 for new, old in zip(found, (height, width), strict=True))


def test_megapixels_within_what_rounding_two_sides_can_do() -> None:
    for height, width, value in itertools.product((97, 333, 1023), (97, 333, 1023), (0.05, 0.5, 3)):
        high, wide = size(height, width, "megapixels", value)
        wanted = min(max(value * 1e6, height * width), 16 * height * width)
        assert abs(high * wide - wanted) <= 0.5 * (high + wide) + 0.25


def test_what_is_not_reached_is_said_once_and_what_is_reached_is_not() -> None:
    pixels, alpha = np.full((6, 10, 3), 90, np.uint8), np.arange(60, dtype=np.uint8).reshape(6, 10)
    for value, note in (
        (25, None),
        (10, None),
        (40, None),
        (41, "long_side 41 would be x4.1: the network's own x4 is taken; size.beyond: true enlarges further"),
        (9, "long_side 9 is smaller than the picture: restored at its own size (x1)"),
    ):
        said: list[str] = []
        target = Restoration(scale=Target(measure="long_side", value=value, most=4))
        result, result_alpha = restore_with_alpha(blocks(), pixels, alpha, target, said.append)
        assert said == ([note] if note else [])
        assert result.shape[:2] == result_alpha.shape == target.output_size(6, 10)
