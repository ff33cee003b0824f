"""Noise statistics against what was asked for."""

import numpy as np
import pytest

from degradations.noise import DrawnNoise, add_noise, draw_noise
from degradations.stage import DegradationStage


def noise(kind: str, level: float, *, grey: bool = False, seed: int = 0) -> DrawnNoise:
    return DrawnNoise(kind=kind, level=level, grey=grey, seed=seed)


def flat(value: float, side: int = 200) -> np.ndarray:
    return np.full((side, side, 3), value, np.float32)


@pytest.mark.parametrize("sigma", [1.0, 12.5, 30.0])
def test_gaussian_sigma_is_in_8_bit_levels(sigma):
    added = (add_noise(flat(0.5), noise("gaussian", sigma)) - 0.5) * 255
    assert added.mean() == pytest.approx(0, abs=4 * sigma / 200)
    assert added.std() == pytest.approx(sigma, rel=0.02)
    correlation = np.corrcoef(added.reshape(-1, 3).T) - np.eye(3)
    assert np.abs(correlation).max() < 0.03  # channels are independent, pixels too:
    assert abs(np.corrcoef(added[:, :-1, 0].ravel(), added[:, 1:, 0].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_grey_noise_is_the_same_in_all_channels(kind):
    image = np.random.default_rng(5).uniform(0.4, 0.6, (60, 50, 3)).astype(np.float32)
    grey = add_noise(image, noise(kind, 1.0, grey=True)) - image
    assert np.abs(grey).max() > 0.002
    assert np.allclose(grey[..., 0], grey[..., 1], atol=1e-6) and np.allclose(grey[..., 0], grey[..., 2], atol=1e-6)
    colour = add_noise(image, noise(kind, 1.0)) - image
    assert np.abs(colour[..., 0] - colour[..., 1]).max() > 0.002


def ramp(num_values: int, side: int = 256) -> np.ndarray:
    """Grey picture of `num_values` 8-bit levels from 51 to 51 + num_values - 1, each in many pixels."""
    levels = 51 + np.arange(side * side) % num_values
    return np.repeat(levels.reshape(side, side, 1), 3, axis=2).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize(("num_values", "photons"), [(100, 128), (128, 128), (33, 64), (2, 2), (3, 4)])
@pytest.mark.parametrize("grey", [True, False])
def test_poisson_variance_is_value_over_photons(num_values, photons, grey):
    image, level = ramp(num_values), 0.25
    noisy = add_noise(image, noise("poisson", level, grey=grey))
    standardised = (noisy - image) / np.sqrt(level**2 * image / photons)
    channel = standardised[..., 0] if grey else standardised
    assert (noisy < 1).mean() > 0.99  # nearly nothing was clipped
    assert channel.mean() == pytest.approx(0, abs=0.04)
    assert channel.std() == pytest.approx(1, rel=0.03)
    dark, bright = (channel[image[..., 0] < image.mean()], channel[image[..., 0] >= image.mean()])
    assert dark.std() == pytest.approx(bright.std(), rel=0.05)  # the variance grows with the value


def test_poisson_of_one_value_and_of_black():
    assert np.array_equal(add_noise(flat(0.0), noise("poisson", 3.0)), flat(0.0))
    white = add_noise(flat(1.0), noise("poisson", 0.1))  # one value: N = 1 photon, whole steps of 0.1
    steps = (white - 1.0) / 0.1
    assert np.allclose(steps, np.rint(steps), atol=1e-5)
    assert (white == 1.0).mean() == pytest.approx(1 - np.exp(-1), abs=0.01)  # P(0 photons) = 1 / e; more than 1 is clipped to white


def test_poisson_counts_the_luma_for_grey_noise():
    """Two colours of different luma: N = 2. As colour the picture has 4 distinct channel values: N = 4."""
    image = flat(0.0)
    image[..., :] = np.array([60, 100, 140], np.float32) / 255
    image[::2] = np.array([60, 100, 200], np.float32) / 255
    luma = image @ np.array([0.299, 0.587, 0.114])
    grey = add_noise(image, noise("poisson", 0.1, grey=True))[..., 0] - image[..., 0]
    assert (grey / np.sqrt(0.01 * luma / 2)).std() == pytest.approx(1, rel=0.03)
    colour = add_noise(image, noise("poisson", 0.1)) - image
    assert (colour / np.sqrt(0.01 * image / 4)).std() == pytest.approx(1, rel=0.03)


def test_clipped_and_deterministic():
    for kind in ("gaussian", "poisson"):
        image = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
        before = image.copy()
        noisy = add_noise(image, noise(kind, 30.0, seed=3))
        assert noisy.dtype == np.float32 and noisy.min() == 0.0 and noisy.max() == 1.0
        assert np.array_equal(image, before)
        assert np.array_equal(noisy, add_noise(image, noise(kind, 30.0, seed=3)))
        assert not np.array_equal(noisy, add_noise(image, noise(kind, 30.0, seed=4)))


def test_draw_follows_the_probabilities():
    stage = DegradationStage(gaussian_noise_prob=0.3, gray_noise_prob=0.4)
    generator = np.random.default_rng(0)
    draws = [draw_noise(generator, stage) for _ in range(5000)]
    gaussian = [drawn.level for drawn in draws if drawn.kind == "gaussian"]
    poisson = [drawn.level for drawn in draws if drawn.kind == "poisson"]
    assert len(gaussian) / 5000 == pytest.approx(0.3, abs=0.025) and len(gaussian) + len(poisson) == 5000
    assert np.mean([drawn.grey for drawn in draws]) == pytest.approx(0.4, abs=0.025)
    assert min(gaussian) >= 1 and max(gaussian) <= 30 and np.mean(gaussian) == pytest.approx(15.5, abs=0.8)
    assert min(poisson) >= 0.05 and max(poisson) <= 3 and np.mean(poisson) == pytest.approx(1.525, abs=0.06)
    assert len({drawn.seed for drawn in draws}) == 5000


def test_texts():
    assert str(noise("gaussian", 12.25, grey=True)) == "gaussian sigma 12.25 grey"
    assert str(noise("poisson", 0.5)) == "poisson scale 0.50 colour"
