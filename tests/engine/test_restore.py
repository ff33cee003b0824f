import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.restore import output_size, pad_to_multiple, restore_picture


class Stub(nn.Module):
    """A network with a stride of 8 that adds `shift` and notes what it saw."""

    scale, size_multiple = 4, 8

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift, self.seen = shift, []

    def upsample(self, lr, size):
        return functional.interpolate(lr, size, mode="bicubic", antialias=False).clamp(-1, 1)

    def restore(self, lr_up):
        assert lr_up.shape[-2] % 8 == 0 and lr_up.shape[-1] % 8 == 0
        self.seen.append(tuple(lr_up.shape[-2:]))
        return lr_up + self.shift


def lr_picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width", "scale"), [(1, 1, 4), (5, 3, 4), (13, 29, 2.7), (30, 17, 1), (40, 31, 0.5), (1, 50, 3.3)])
def test_every_size_and_scale_comes_out_exact(height, width, scale):
    lr = lr_picture(height, width)
    sr, lr_up = restore_picture(Stub(), lr, scale=scale)
    assert tuple(sr.shape[-2:]) == (round(scale * height), round(scale * width))
    expected = functional.interpolate(lr * 2 - 1, sr.shape[-2:], mode="bicubic").clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(sr, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(lr_up, expected, rtol=0, atol=1e-6)


def test_output_size_is_at_least_one_pixel():
    assert output_size(1, 10, 0.1) == (1, 1)


def test_padding_reflects_where_it_can_and_replicates_where_it_cannot():
    row = torch.arange(5.0).expand(1, 1, 1, 5)
    assert pad_to_multiple(row, 8)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(row, 8)[0, 0, 7].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(row[..., :3], 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    assert pad_to_multiple(row, 1).equal(row)


def test_tiles_are_rounded_up_to_the_grid_and_change_nothing():
    network = Stub()
    sr, _ = restore_picture(network, lr_picture(33, 50), tile=60, tile_overlap=10)
    assert set(network.seen) == {(64, 64)}
    assert len(network.seen) > 4
    whole, _ = restore_picture(Stub(), lr_picture(33, 50))
    torch.testing.assert_close(sr, whole, rtol=0, atol=1e-6)


def test_tiles_are_cut_on_the_grid_that_the_whole_picture_has():
    network = Stub()
    network.restore = lambda lr_up: functional.interpolate(functional.avg_pool2d(lr_up, 8), scale_factor=8)
    lr = lr_picture(33, 50)
    tiled, _ = restore_picture(network, lr, tile=60, tile_overlap=10)
    whole, _ = restore_picture(network, lr)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_colour_fix_takes_the_networks_cast_away():
    lr = lr_picture(20, 20) / 2 + 0.25
    plain, lr_up = restore_picture(Stub(shift=0.2), lr)
    assert ((plain - lr_up).mean() - 0.1).abs() < 1e-4
    for kind in ("wavelet", "adain"):
        fixed, _ = restore_picture(Stub(shift=0.2), lr, color_fix=kind)
        torch.testing.assert_close(fixed, lr_up, rtol=0, atol=1e-5)


def test_result_is_float32_in_range_whatever_the_network_gives():
    network = Stub()
    network.restore = lambda lr_up: (lr_up + 5).bfloat16()
    sr, _ = restore_picture(network, lr_picture(9, 9))
    assert sr.dtype == torch.float32
    assert sr.min() == sr.max() == 1


def test_a_result_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        restore_picture(Stub(shift=float("nan")), lr_picture(9, 9))
