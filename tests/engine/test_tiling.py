import pytest
import torch
from torch.nn import functional

from engine.tiling import WEIGHT_FLOOR, axis_weights, edge_ramp, restore_tiled, tile_starts


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_tiles_advance_by_tile_minus_overlap_and_the_last_ends_with_the_picture():
    assert tile_starts(100, 40, 10) == [0, 30, 60]
    assert tile_starts(101, 40, 10) == [0, 30, 60, 61]
    assert tile_starts(40, 40, 10) == [0]
    assert tile_starts(7, 40, 10) == [0]


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-8, 0), (16, 16), (16, -1)])
def test_impossible_tiles_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="tile"):
        tile_starts(100, tile, overlap)


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


@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (32, 0), (40, 39), (64, 16)])
def test_identity_network_gives_the_picture_back(tile, overlap):
    lr_up = picture(71, 133)
    torch.testing.assert_close(restore_tiled(lambda x: x, lr_up, tile, overlap), lr_up, rtol=0, atol=2e-5)


def test_a_network_that_looks_less_far_than_a_quarter_of_the_overlap_is_untouched_by_tiles():
    kernel = torch.randn(3, 3, 7, 7, generator=torch.Generator().manual_seed(1)) / 7

    def network(x):
        return functional.conv2d(x, kernel, padding=3)

    lr_up = picture(90, 133)
    tiled = restore_tiled(network, lr_up, 48, 16)
    torch.testing.assert_close(tiled, network(lr_up), rtol=0, atol=2e-5)
    hard = restore_tiled(network, lr_up, 48, 0)
    assert (hard - network(lr_up)).abs().max() > 0.1, "without an overlap the tiles' zero padding must show, or this test shows nothing"


def test_no_seam_where_every_tile_has_its_own_brightness():
    calls = []

    def network(x):
        calls.append(x)
        return torch.full_like(x, len(calls) % 2)

    blended = restore_tiled(network, picture(64, 256), 64, 32)
    steps = blended.diff(dim=-1).abs()
    assert blended.min() < 0.01 and blended.max() > 0.99
    assert steps.max() < 0.11, "a tile's step of 1 is spread over half of the overlap (sin^2 over 16 pixels: at most 0.1 a pixel)"


@pytest.mark.parametrize("tile", [0, 40, 999])
def test_one_call_when_the_tile_covers_the_picture(tile):
    lr_up, shapes = picture(40, 32), []

    def network(x):
        shapes.append(x.shape)
        return x.bfloat16()

    restored = restore_tiled(network, lr_up, tile, 8)
    assert shapes == [lr_up.shape]
    assert restored.dtype == torch.float32


def test_tiles_have_the_asked_size_and_sums_are_float32():
    shapes = set()

    def network(x):
        shapes.add(tuple(x.shape[-2:]))
        return x.bfloat16()

    lr_up = picture(50, 100)
    restored = restore_tiled(network, lr_up, 64, 16)
    assert shapes == {(50, 64)}
    assert restored.dtype == torch.float32
    expected = lr_up.bfloat16().float()
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-6)
