"""Kernels against scipy's densities and Bessel function, and against points computed by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.special import j1
from scipy.stats import multivariate_normal

from degradations.kernels import DrawnKernel, build_kernel, draw_kernel, draw_sinc, pick
from degradations.stage import KERNEL_FAMILIES, DegradationStage


def kernel(family: str, size: int = 15, **numbers: float) -> np.ndarray:
    return build_kernel(DrawnKernel(family=family, size=size, **numbers))


@pytest.mark.parametrize("family", [*KERNEL_FAMILIES, "sinc"])
@pytest.mark.parametrize("size", [3, 7, 13, 21])
def test_sums_to_one_and_is_point_symmetric(family, size):
    built = kernel(family, size, sigma_x=2.5, sigma_y=0.7, theta=0.6, beta=1.7, omega=1.3)
    assert built.shape == (size, size)
    assert built.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.allclose(built, built[::-1, ::-1], rtol=0, atol=1e-15)


@pytest.mark.parametrize("family", ["aniso", "generalized_aniso", "plateau_aniso"])
def test_rotation(family):
    numbers = {"sigma_x": 2.5, "sigma_y": 0.7, "beta": 1.7}
    reference = kernel(family, theta=0.4, **numbers)
    assert np.allclose(kernel(family, theta=0.4 + math.pi, **numbers), reference)
    assert np.allclose(kernel(family, theta=-0.4, **numbers), reference[::-1])
    assert np.allclose(kernel(family, theta=0.4 + math.pi / 2, **numbers), np.rot90(reference, -1))
    swapped = kernel(family, theta=0.4 + math.pi / 2, sigma_x=0.7, sigma_y=2.5, beta=1.7)
    assert np.allclose(swapped, reference)
    assert not np.allclose(kernel(family, theta=0.5, **numbers), reference)


@pytest.mark.parametrize("family", ["iso", "generalized_iso", "plateau_iso", "sinc"])
def test_isotropic_families_ignore_rotation(family):
    numbers = {"sigma_x": 1.5, "sigma_y": 1.5, "beta": 0.8, "omega": 1.1}
    reference = kernel(family, **numbers)
    assert np.allclose(kernel(family, theta=0.7, **numbers), reference)
    assert np.allclose(reference, reference.T)
    assert np.allclose(reference, reference[::-1])


@pytest.mark.parametrize(("sigma_x", "sigma_y", "theta"), [(1.5, 1.5, 0.0), (2.9, 0.4, 0.0), (2.0, 0.8, 0.9), (0.5, 1.4, -2.5)])
def test_gaussian_is_the_normal_density(sigma_x, sigma_y, theta):
    rotation = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    covariance = rotation @ np.diag([sigma_x**2, sigma_y**2]) @ rotation.T
    axis = np.arange(-7, 8)
    density = multivariate_normal(cov=covariance).pdf(np.dstack(np.meshgrid(axis, axis)))
    built = kernel("aniso", sigma_x=sigma_x, sigma_y=sigma_y, theta=theta)
    assert np.allclose(built, density / density.sum(), rtol=1e-9, atol=1e-15)


def test_isotropic_gaussian_in_closed_form():
    built = kernel("iso", 21, sigma_x=2.0, sigma_y=2.0)
    assert built[10, 13] / built[10, 10] == pytest.approx(math.exp(-9 / 8))
    assert built[6, 7] / built[10, 10] == pytest.approx(math.exp(-25 / 8))


def test_generalized_gaussian_by_hand():
    built = kernel("generalized_aniso", sigma_x=2.0, sigma_y=0.5, theta=math.pi / 2, beta=1.5)
    centre = built[7, 7]  # theta = 90 degrees: sigma_x = 2 lies along y, sigma_y = 0.5 along x
    assert built[11, 7] / centre == pytest.approx(math.exp(-0.5 * 4**1.5))  # q = (4 / 2)^2 = 4
    assert built[7, 8] / centre == pytest.approx(math.exp(-0.5 * 4**1.5))  # q = (1 / 0.5)^2 = 4
    assert built[9, 8] / centre == pytest.approx(math.exp(-0.5 * 5**1.5))  # q = 1 + 4
    assert np.allclose(kernel("generalized_iso", sigma_x=1.2, sigma_y=1.2, beta=1.0), kernel("iso", sigma_x=1.2, sigma_y=1.2))


def test_plateau_by_hand():
    built = kernel("plateau_iso", sigma_x=2.0, sigma_y=2.0, beta=2.0)
    centre = built[7, 7]
    assert built[7, 9] / centre == pytest.approx(1 / 2)  # q = 1
    assert built[7, 8] / centre == pytest.approx(1 / (1 + 0.25**2))
    assert built[11, 10] / centre == pytest.approx(1 / (1 + 6.25**2))  # q = (16 + 9) / 4


@pytest.mark.parametrize(("size", "omega"), [(7, math.pi / 3), (13, math.pi / 5), (21, math.pi), (201, math.pi)])
def test_sinc_is_the_bessel_formula(size, omega):
    axis = np.arange(size) - size // 2
    radius = np.hypot(*np.meshgrid(axis, axis))
    radius[size // 2, size // 2] = 1e-9  # scipy's J1 gives the limit omega^2 / (4 pi) here
    expected = omega * j1(omega * radius) / (2 * math.pi * radius)
    assert np.allclose(kernel("sinc", size, omega=omega), expected / expected.sum(), rtol=0, atol=1e-12)


def test_sinc_passes_below_its_cut_off_and_stops_above():
    response = np.abs(np.fft.fft2(kernel("sinc", 101, omega=math.pi / 2), (512, 512)))
    assert response[0, 64] == pytest.approx(1.0, abs=0.05)  # pi / 4
    assert response[0, 192] < 0.05  # 3 pi / 4
    assert response[128 + 32, 128 + 32] < 0.05  # circular: outside the circle, on the diagonal


def test_draw_follows_the_probabilities():
    stage, generator = DegradationStage(), np.random.default_rng(0)
    draws = [draw_kernel(generator, stage) for _ in range(8000)]
    families = Counter(drawn.family for drawn in draws)
    assert families["sinc"] / 8000 == pytest.approx(0.1, abs=0.015)
    for family, probability in zip(stage.kernel_list, stage.kernel_prob, strict=True):
        assert families[family] / 8000 == pytest.approx(0.9 * probability, abs=0.02)
    sizes = Counter(drawn.size for drawn in draws)
    assert sorted(sizes) == [7, 9, 11, 13, 15, 17, 19, 21]
    assert all(count / 8000 == pytest.approx(1 / 8, abs=0.02) for count in sizes.values())
    generalized = [drawn.beta for drawn in draws if drawn.family.startswith("generalized")]
    assert np.mean(np.array(generalized) < 1) == pytest.approx(0.5, abs=0.06)
    assert min(generalized) < 0.52 and max(generalized) > 3.9
    assert all(0.5 <= beta <= 4.0 for beta in generalized)
    assert all(1.0 <= drawn.beta <= 2.0 for drawn in draws if drawn.family.startswith("plateau"))
    assert all(0.2 <= sigma <= 3.0 for drawn in draws for sigma in (drawn.sigma_x, drawn.sigma_y) if drawn.family != "sinc")


def test_draw_shapes_of_the_families():
    generator = np.random.default_rng(1)
    for family in KERNEL_FAMILIES:
        stage = DegradationStage(sinc_prob=0, kernel_list=(family,), kernel_prob=(1.0,))
        draws = [draw_kernel(generator, stage) for _ in range(300)]
        angles = np.array([drawn.theta for drawn in draws])
        if family.endswith("aniso"):
            assert all(drawn.sigma_x != drawn.sigma_y for drawn in draws)
            assert angles.min() < -2.9 and angles.max() > 2.9 and np.abs(angles).max() <= math.pi
        else:
            assert all(drawn.sigma_x == drawn.sigma_y for drawn in draws)
            assert not angles.any()
        assert all(drawn.beta == 1.0 for drawn in draws) == (family in ("iso", "aniso"))


def test_sinc_cut_off_ranges():
    generator = np.random.default_rng(2)
    blurs = [draw_sinc(generator, (7, 21)) for _ in range(3000)]
    small, large = ([drawn.omega for drawn in blurs if (drawn.size < 13) == below] for below in (True, False))
    assert math.pi / 3 <= min(small) < math.pi / 3 + 0.02
    assert math.pi / 5 <= min(large) < math.pi / 5 + 0.02
    assert min(draw_sinc(generator, (11, 11)).omega for _ in range(300)) >= math.pi / 3
    assert min(draw_sinc(generator, (13, 13)).omega for _ in range(300)) < math.pi / 3
    finals = [draw_sinc(generator, (7, 21), narrow_below=math.pi / 3).omega for _ in range(3000)]
    assert math.pi / 3 <= min(finals) and math.pi - 0.02 < max(finals) <= math.pi


def test_pick_never_returns_an_impossible_outcome():
    generator = np.random.default_rng(3)
    counts = Counter(pick(generator, ("a", "b", "c", "d"), (0.0, 0.3, 0.7, 0.0)) for _ in range(4000))
    assert set(counts) == {"b", "c"}
    assert counts["b"] / 4000 == pytest.approx(0.3, abs=0.03)


def test_texts():
    assert str(DrawnKernel(family="iso", size=7, sigma_x=1.5, sigma_y=1.5)) == "iso 7px sigma 1.50"
    aniso = DrawnKernel(family="generalized_aniso", size=9, sigma_x=1.5, sigma_y=0.5, theta=math.pi / 2, beta=2.0)
    assert str(aniso) == "generalized_aniso 9px sigma 1.50/0.50 90 deg beta 2.00"
    assert str(DrawnKernel(family="sinc", size=13, omega=math.pi / 2)) == "sinc 13px cut-off 0.50 pi"
