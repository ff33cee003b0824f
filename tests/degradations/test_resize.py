"""Resizing against torch (bilinear, bicubic), which Real-ESRGAN uses, and against exact pixel coverage (area)."""

from collections import Counter

import numpy as np
import pytest
import torch

from degradations.resize import RESIZE_MODES, DrawnResize, draw_final_resize, draw_resize, resize
from degradations.stage import DegradationStage


def to(height: int, width: int, mode: str) -> DrawnResize:
    return DrawnResize(direction="keep", factor=1.0, mode=mode, height=height, width=width)


@pytest.mark.parametrize("size", [(17, 20), (50, 61), (9, 70)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_equals_torch_interpolate(mode, size):
    image = np.random.default_rng(0).random((32, 41, 3), dtype=np.float32)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(tensor, size=size, mode=mode, align_corners=False)[0].permute(1, 2, 0).numpy()
    assert np.allclose(resize(image, to(*size, mode)), expected, atol=1e-5)


def coverage(old: int, new: int) -> np.ndarray:
    """(new, old) share of each new pixel that each old pixel covers."""
    ratio = old / new
    begin, end = np.arange(new)[:, None] * ratio, (np.arange(new)[:, None] + 1) * ratio
    return np.clip(np.minimum(end, np.arange(old) + 1) - np.maximum(begin, np.arange(old)), 0, None) / ratio


@pytest.mark.parametrize("size", [(16, 16), (17, 20), (50, 61)])
def test_area_is_pixel_coverage(size):
    image = np.random.default_rng(0).random((32, 48, 3), dtype=np.float32)
    expected = np.einsum("ah,bw,hwc->abc", coverage(32, size[0]), coverage(48, size[1]), image)
    assert np.allclose(resize(image, to(*size, "area")), expected, atol=1e-5)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_tiny_pictures(mode):
    pixel = np.array([[[0.2, 0.4, 0.6]]], np.float32)
    grown = resize(pixel, to(3, 2, mode))
    assert grown.shape == (3, 2, 3)
    assert np.allclose(grown, pixel)
    assert resize(grown, to(1, 1, mode)).shape == (1, 1, 3)


def test_same_size_is_untouched():
    image = np.random.default_rng(0).random((5, 6, 3), dtype=np.float32)
    assert resize(image, to(5, 6, "bicubic")) is image


def test_draw_follows_the_probabilities():
    generator = np.random.default_rng(0)
    draws = [draw_resize(generator, DegradationStage(), (300, 200)) for _ in range(6000)]
    directions = Counter(drawn.direction for drawn in draws)
    for direction, probability in (("up", 0.2), ("down", 0.7), ("keep", 0.1)):
        assert directions[direction] / 6000 == pytest.approx(probability, abs=0.02)
    modes = Counter(drawn.mode for drawn in draws)
    assert sorted(modes) == ["area", "bicubic", "bilinear"]
    assert all(count / 6000 == pytest.approx(1 / 3, abs=0.025) for count in modes.values())
    bounds = {"up": (1.0, 1.5), "down": (0.15, 1.0), "keep": (1.0, 1.0)}
    for drawn in draws:
        low, high = bounds[drawn.direction]
        assert low <= drawn.factor <= high
        assert (drawn.height, drawn.width) == (int(300 * drawn.factor), int(200 * drawn.factor))
    up = [drawn.factor for drawn in draws if drawn.direction == "up"]
    assert min(up) < 1.01 and max(up) > 1.49
    down = [drawn.factor for drawn in draws if drawn.direction == "down"]
    assert np.mean(down) == pytest.approx((0.15 + 1) / 2, abs=0.02)


def test_never_below_one_pixel():
    stage = DegradationStage(resize_prob=(0, 1, 0), resize_range=(0.02, 1.0))
    draws = [draw_resize(np.random.default_rng(seed), stage, (1, 2)) for seed in range(50)]
    assert all(drawn.height == 1 and drawn.width == 1 for drawn in draws)


def test_final_resize_and_texts():
    final = draw_final_resize(np.random.default_rng(0), (5, 7))
    assert (final.height, final.width) == (5, 7)
    assert str(final) == f"to 7x5 by {final.mode}"
    assert str(DrawnResize(direction="down", factor=0.5, mode="area", height=2, width=3)) == "down x0.50 to 3x2 by area"
