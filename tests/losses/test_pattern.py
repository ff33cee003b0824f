import numpy as np
import pytest
import torch

from losses.pattern import repeated_pattern


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(error: np.ndarray, period: int, blocks: int) -> float:
    """The definition, neighbourhood by neighbourhood."""
    values = []
    for picture in error:
        for plane in picture:
            side, step = period * blocks, period * max(1, blocks // 2)
            for top in range(0, plane.shape[0] - side + 1, step):
                for left in range(0, plane.shape[1] - side + 1, step):
                    window = plane[top : top + side, left : left + side]
                    mean_block = window.reshape(blocks, period, blocks, period).mean((0, 2))
                    values.append(((mean_block - mean_block.mean()) ** 2).mean())
    return float(np.mean(values))


@pytest.mark.parametrize(("period", "blocks"), [(4, 8), (4, 2), (8, 3), (2, 1)])
def test_equals_its_definition(period, blocks):
    sr, hr = noise(0, 2, 3, 48, 64), noise(1, 2, 3, 48, 64)
    assert repeated_pattern(sr, hr, period, blocks).item() == pytest.approx(by_hand((sr - hr).double().numpy(), period, blocks), rel=1e-4)


def test_a_grid_counts_in_full_and_noise_and_brightness_hardly():
    hr = noise(0, 1, 3, 128, 128)
    grid = 0.02 * (torch.arange(128) % 4 == 0) - 0.005
    assert repeated_pattern(hr + grid, hr, 4).item() == pytest.approx(grid.square().mean().item(), rel=1e-4)
    checkers = 0.01 * ((torch.arange(128)[:, None] + torch.arange(128)) % 2 * 2.0 - 1)
    assert repeated_pattern(hr + checkers, hr, 4).item() == pytest.approx(1e-4, rel=1e-3), "period 2 divides 4"
    other = 0.02 * (torch.arange(128) % 5 == 0) - 0.004
    assert repeated_pattern(hr + other, hr, 4, 8).item() < 0.05 * other.square().mean()
    texture = 0.02 * (noise(1, 1, 3, 128, 128) - 0.5)
    assert repeated_pattern(hr + texture, hr, 4, 8).item() < 0.03 * texture.square().mean()
    assert repeated_pattern(hr + 0.1, hr, 4).item() < 1e-9


def test_gradient_takes_the_grid_away():
    hr = noise(0, 1, 3, 64, 64)
    grid = 0.02 * (torch.arange(64) % 4 == 0).expand(1, 3, 64, 64)
    sr = (hr + grid).requires_grad_()
    before = repeated_pattern(sr, hr, 4)
    before.backward()
    assert repeated_pattern(sr - 64 * 64 * 3 * 0.2 * sr.grad, hr, 4) < 0.6 * before


def test_float32_and_errors():
    assert repeated_pattern(noise(0, 1, 3, 32, 32).bfloat16(), noise(1, 1, 3, 32, 32), 4).dtype == torch.float32
    for size, period in ((30, 4), (12, 4), (16, 8)):
        with pytest.raises(ValueError, match="blocks"):
            repeated_pattern(noise(0, 1, 3, size, size), noise(1, 1, 3, size, size), period)
    with pytest.raises(ValueError, match="shape|and"):
        repeated_pattern(noise(0, 1, 3, 32, 32), noise(1, 2, 3, 32, 32), 4)
