"""Each number against pictures of which it is known: formulas by hand, scipy, Pillow's JPEG."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, laplace
from skimage import data

from engine.lr_statistics import STATISTICS, blockiness, lr_statistics, noise_level, psnr, sharpness


@pytest.fixture(scope="module")
def luma() -> np.ndarray:
    return data.camera()[100:228, 180:308].astype(np.float32)  # 128 x 128


def jpeg(luma: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(luma.astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).astype(np.float32)


def test_sharpness_is_the_laplacians_variance(luma):
    assert sharpness(luma) == pytest.approx(np.log10(1 + laplace(luma.astype(np.float64), mode="mirror").var()), abs=1e-5)
    assert sharpness(gaussian_filter(luma, 1.5)) < sharpness(luma) - 0.5
    assert sharpness(np.full((9, 9), 100, np.float32)) == 0


@pytest.mark.parametrize("sigma", [2.0, 8.0, 25.0])
def test_noise_level_recovers_sigma(luma, sigma):
    noise = sigma * np.random.default_rng(0).standard_normal(luma.shape)
    assert noise_level((gaussian_filter(luma, 2.0) + noise).astype(np.float32)) == pytest.approx(sigma, rel=0.05)
    spikes = noise.copy()
    spikes[::16, ::16] += 200  # 1 coefficient in 64: a median hardly sees them, a standard deviation would
    assert noise_level(spikes.astype(np.float32)) == pytest.approx(sigma, rel=0.1)
    assert noise_level(noise[:-1, :-1].astype(np.float32)) == pytest.approx(sigma, rel=0.05)  # odd sides lose a row and a column


def test_blockiness_sees_jpegs_grid_where_it_is(luma):
    plain = blockiness(luma)
    assert plain < blockiness(jpeg(luma, 30)) - 0.1 < blockiness(jpeg(luma, 8)) - 0.5
    moved = jpeg(luma, 8)[3:, 3:]
    assert blockiness(moved) < plain + 0.3  # the grid is elsewhere now


def test_blockiness_in_closed_form():
    assert blockiness(np.random.default_rng(0).normal(100, 9, (400, 400))) == pytest.approx(0, abs=0.02)
    steps = np.where(np.arange(1, 32) % 8 == 0, 6.0, 1.5)  # 4 times as high across borders
    ramp = np.concatenate([[0.0], np.cumsum(steps)])
    assert blockiness(ramp[:, None] + ramp[None, :]) == pytest.approx(2.0, abs=0.01)
    assert blockiness(np.full((16, 16), 7.0)) == 0


def test_psnr_by_hand():
    black = np.zeros((4, 4, 3), np.float32)
    assert psnr(black + np.float32(0.1), black) == pytest.approx(20, abs=1e-4)
    assert psnr(black, black) == 100


def test_all_of_them_by_name():
    lr = np.zeros((16, 16, 3), np.float32)
    lr[..., 0], lr[:8, :, 1] = 200 / 255, 100 / 255
    found = lr_statistics(lr, lr)
    assert list(found) == list(STATISTICS)
    assert [found[f"mean {channel}"] for channel in ("red", "green", "blue")] == pytest.approx([200, 50, 0], abs=1e-3)
    assert [found[f"std {channel}"] for channel in ("red", "green", "blue")] == pytest.approx([0, 50, 0], abs=1e-3)
    assert found["distance"] == 100 and found["noise"] == 0
    assert found["blockiness"] > 5  # the only step, from row 8 to 9, is one across blocks
