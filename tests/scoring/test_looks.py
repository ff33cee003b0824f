"""The five rulers on pictures whose answer is known by hand."""

import numpy as np
import pytest

from scoring.looks import LOOKS, acutance, flat_texture, fringe, overshoot, roughness
from scoring.metrics import build_metric

SIZE = 96


def grey(y: np.ndarray) -> np.ndarray:
    """(H, W) levels -> uint8 (H, W, 3)."""
    return np.repeat(np.clip(np.rint(y), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def ramp(width: float, low: float = 60, high: float = 180) -> np.ndarray:
    """Vertical edges, every 24 pixels one, that rise or fall over `width` pixels."""
    x = np.arange(SIZE) % 48
    rise = np.clip((x - 12) / width + 0.5, 0, 1) - np.clip((x - 36) / width + 0.5, 0, 1)
    return np.tile(low + (high - low) * rise, (SIZE, 1))


def noise(sigma: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, (SIZE, SIZE))


@pytest.mark.parametrize("name", LOOKS)
def test_hr_itself_is_as_good_as_hr(name: str) -> None:
    hr = grey(ramp(3))
    assert LOOKS[name](hr, hr) == pytest.approx({"acutance": 1.0}.get(name, 0.0), abs=1e-4)


def test_an_edge_twice_as_wide_is_half_as_sharp() -> None:
    assert acutance(grey(ramp(12)), grey(ramp(6))) == pytest.approx(0.5, abs=0.01)


def test_an_edge_two_pixels_away_is_as_sharp() -> None:
    assert acutance(np.roll(grey(ramp(3)), 2, axis=1), grey(ramp(3))) == pytest.approx(1.0, abs=0.01)


def test_noise_in_flat_places_is_what_the_blur_takes_of_it() -> None:
    """White noise of sigma loses 1 - 2 k_0 + sum k^2 of its variance to a binomial blur; rounding adds 1/12."""
    k = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    hr = ramp(1)
    expected = np.sqrt((4**2 + 1 / 12) * (1 - 2 * k[2, 2] + np.square(k).sum()))
    assert flat_texture(grey(hr + noise(4)), grey(hr)) == pytest.approx(expected, rel=0.03)
    assert flat_texture(grey(hr), grey(hr + noise(4))) < -0.8 * expected, "cleaner than HR"


def test_noise_beside_hrs_texture_does_not_count() -> None:
    hr = ramp(1)
    hr[:, 40:] += noise(15)[:, 40:]
    inside = hr.copy()
    inside[:, 48:] += noise(8, seed=1)[:, 48:]
    assert flat_texture(grey(inside), grey(hr)) == pytest.approx(0, abs=0.05)


def test_straight_edges_are_smooth_and_stairs_are_not() -> None:
    hr = ramp(2)
    stairs = np.stack([np.roll(row, 2 * (n // 4 % 2)) for n, row in enumerate(hr)])
    assert roughness(grey(hr), grey(hr)) < 1e-4 < 0.1 < roughness(grey(stairs), grey(hr))
    assert roughness(grey(hr.T), grey(hr.T)) < 1e-4, "in any direction"
    assert roughness(grey(np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE))), grey(hr)) > 0.6, "noise has no direction"


def test_overshoot_is_the_distance_from_hrs_range() -> None:
    hr = ramp(1)
    assert overshoot(grey(hr * 0.5 + 60), grey(hr)) == 0.0, "less contrast does not overshoot"
    assert overshoot(grey(np.where(hr > 120, hr + 10, hr)), grey(hr)) == pytest.approx(5.0, abs=1.0), "half of what lies beside edges"
    assert overshoot(np.roll(grey(hr), 4, axis=1), grey(hr)) == 0.0, "four pixels away is no halo"


def test_a_fringe_is_colour_that_hr_has_not() -> None:
    """BT.601: Cb = 0.564 (B - Y), Cr = 0.713 (R - Y); 20 levels more blue are 20 (0.564 * 0.886 + 0.713 * 0.114) / 2 levels of the two."""
    hr = grey(ramp(1))
    blue = hr.copy()
    blue[..., 2] += 20
    assert fringe(blue, hr) == pytest.approx(10 * (0.564 * 0.886 + 0.713 * 0.114), rel=0.01)
    assert fringe(np.roll(blue, 4, axis=1), blue) == 0.0
    assert fringe(grey(ramp(1) + noise(5)), hr) == pytest.approx(0, abs=1e-5), "what has no colour"
    tinted = hr.copy()
    tinted[:, 44:52, 2] += 20
    assert fringe(tinted, hr) == 0.0, "far from edges"


@pytest.mark.parametrize(("name", "reason"), [(name, "no flat places" if name == "flat_texture" else "no strong edges") for name in LOOKS])
def test_pictures_without_edges_or_flats_are_refused(name: str, reason: str) -> None:
    picture = grey(128 + noise(60)) if name == "flat_texture" else grey(np.full((SIZE, SIZE), 99.0))
    with pytest.raises(ValueError, match=reason):
        LOOKS[name](picture, picture)
    with pytest.raises(ValueError, match=f"mine: cannot score a picture of 96x96 pixels: HR has {reason}"):
        build_metric("mine", name)(picture, picture)


def test_they_are_metrics_like_pyiqas() -> None:
    hr, sr = grey(ramp(3)), grey(ramp(4) + noise(2))
    sr[..., 2] //= 2
    for name, look in LOOKS.items():
        metric = build_metric("mine", name)
        assert (metric.needs_hr, metric.lower_better) == (True, name != "acutance")
        assert metric.best_at is None or metric(hr, hr) == pytest.approx(metric.best_at, abs=1e-4), "HR itself is best"
        assert metric(sr, hr) == pytest.approx(look(sr, hr), rel=1e-6) and look(sr, hr) != look(hr, hr)
        with pytest.raises(ValueError, match=f"metric mine: {name} has no options"):
            build_metric("mine", name, crop_border=4)


def test_the_order_of_colours_is_rgb() -> None:
    """A green edge is 0.587 / 0.114 times as high as a blue one."""
    blue, green = (np.zeros((SIZE, SIZE, 3), np.uint8) for _ in range(2))
    blue[..., 2] = green[..., 1] = ramp(3, low=0, high=240)
    assert acutance(green, blue) == pytest.approx(0.587 / 0.114, rel=0.03)
