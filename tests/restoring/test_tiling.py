from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from restoring.tiling import WEIGHT_FLOOR, axis_weights, blend_rows, edge_ramp, tile_ranges


class Whole:
    """A picture that exists, and the windows that were looked at."""

    def __init__(self, image: torch.Tensor) -> None:
        self.image, self.windows = image, []
        self.height, self.width = image.shape[-2:]

    def window(self, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        self.windows.append((top, bottom, left, right))
        return self.image[..., top:bottom, left:right]


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def blended(network, image: torch.Tensor, tile: int, overlap: int) -> torch.Tensor:
    """All rows below each other; each part must begin where the one above it ends."""
    parts, bottom = [], 0
    for top, rows in blend_rows(network, Whole(image), tile, overlap):
        assert top == bottom and rows.dtype == torch.float32
        bottom += rows.shape[-2]
        parts.append(rows)
    return torch.cat(parts, dim=-2)


def test_tiles_share_the_picture_evenly():
    assert tile_ranges(100, 40, 10) == [(0, 40), (30, 70), (60, 100)]
    assert tile_ranges(101, 40, 10) == [(0, 33), (22, 55), (45, 78), (68, 101)]
    assert tile_ranges(2096, 1024, 64, 16) == [(0, 752), (672, 1424), (1344, 2096)]  # 2048 pixels and their frame
    assert tile_ranges(40, 40, 10) == [(0, 40)]
    assert tile_ranges(7, 40, 10) == [(0, 7)]


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize(("tile", "overlap"), [(1, 0), (5, 4), (8, 0), (8, 3), (16, 6), (40, 39), (64, 4)])
def test_tiles_are_as_few_and_as_small_as_they_can_be(tile, overlap, multiple):
    for size in range(tile + 1, 200):
        found = tile_ranges(size * multiple, tile * multiple, overlap * multiple, multiple)
        ranges = [(start // multiple, stop // multiple) for start, stop in found]
        assert [(start * multiple, stop * multiple) for start, stop in ranges] == found, "all on the grid"
        starts, lengths = [start for start, _ in ranges], {stop - start for start, stop in ranges}
        assert starts[0] == 0 and ranges[-1][1] == size and starts == sorted(set(starts))
        assert all(stop - start >= overlap for (_, stop), (start, _) in pairwise(ranges))
        (length,), count = lengths, len(ranges)
        assert length <= tile
        assert count * length - (count - 1) * overlap - size < count, "one position less would leave a gap"
        assert (count - 1) * tile - (count - 2) * overlap < size, "one tile less would do"


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-8, 0), (16, 16), (16, -1)])
def test_impossible_tiles_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="tile"):
        tile_ranges(100, tile, overlap)


@pytest.mark.parametrize("overlap", [1, 2, 7, 64])
def test_ramp_is_positive_rising_and_complementary(overlap):
    ramp = edge_ramp(overlap)
    assert (ramp >= WEIGHT_FLOOR * (1 - 1e-9)).all()
    assert (ramp.diff() >= 0).all()
    torch.testing.assert_close(ramp + ramp.flip(0), torch.ones(overlap, dtype=torch.float64))


@pytest.mark.parametrize(("size", "tile", "overlap"), [(100, 40, 10), (101, 40, 10), (97, 32, 31), (61, 60, 20), (33, 64, 16), (50, 10, 0)])
def test_weights_are_positive_and_sum_to_one_at_every_pixel(size, tile, overlap):
    total = torch.zeros(size)
    for start, weights in axis_weights(size, tile, overlap):
        assert (weights > 0).all()
        total[start : start + len(weights)] += weights
    torch.testing.assert_close(total, torch.ones(size), rtol=0, atol=1e-6)


def test_weights_are_symmetric():
    tiles = axis_weights(100, 40, 10)
    mirrored = [(100 - start - len(weights), weights.flip(0)) for start, weights in reversed(tiles)]
    for (start, weights), (other_start, other_weights) in zip(tiles, mirrored, strict=True):
        assert start == other_start
        torch.testing.assert_close(weights, other_weights, rtol=0, atol=0)


@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (32, 0), (40, 39), (64, 16), (999, 16)])
def test_identity_network_gives_the_picture_back(tile, overlap):
    lr_up = picture(71, 133)
    torch.testing.assert_close(blended(lambda x: x, lr_up, tile, overlap), lr_up, rtol=0, atol=2e-5)


def test_a_network_that_looks_less_far_than_a_quarter_of_the_overlap_is_untouched_by_tiles():
    kernel = torch.randn(3, 3, 7, 7, generator=torch.Generator().manual_seed(1)) / 7

    def network(x):
        return functional.conv2d(x, kernel, padding=3)

    lr_up = picture(90, 133)
    torch.testing.assert_close(blended(network, lr_up, 48, 16), network(lr_up), rtol=0, atol=2e-5)
    hard = blended(network, lr_up, 48, 0)
    assert (hard - network(lr_up)).abs().max() > 0.1, "without an overlap the tiles' zero padding must show, or this test shows nothing"


@pytest.mark.parametrize("down", [False, True])
def test_no_seam_where_every_tile_has_its_own_brightness(down):
    calls = []

    def network(x):
        calls.append(x)
        return torch.full_like(x, len(calls) % 2)

    image = blended(network, picture(256, 64) if down else picture(64, 256), 64, 32)
    steps = image.diff(dim=-2 if down else -1).abs()
    assert image.min() < 0.01 and image.max() > 0.99
    assert steps.max() < 0.11, "a tile's step of 1 is spread over half of the overlap (sin^2 over 16 pixels: at most 0.1 a pixel)"


def test_every_tile_is_looked_at_once_and_sums_are_float32():
    whole = Whole(picture(50, 100))
    parts = [rows for _, rows in blend_rows(lambda x: x.bfloat16(), whole, 64, 16)]
    assert whole.windows == [(0, 50, 0, 58), (0, 50, 42, 100)]
    torch.testing.assert_close(torch.cat(parts, -2), whole.image.bfloat16().float(), rtol=0, atol=1e-6)


def test_rows_are_handed_out_as_soon_as_no_later_tile_touches_them():
    parts = [(top, rows.shape[-2]) for top, rows in blend_rows(lambda x: x, Whole(picture(101, 20)), 40, 10)]
    assert parts == [(0, 22), (22, 23), (45, 23), (68, 33)]


def test_other_channels_than_the_picture_has():
    assert blended(lambda x: x[:, :1], picture(71, 40), 32, 16).shape == (1, 1, 71, 40)
