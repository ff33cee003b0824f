"""Filtering against scipy.ndimage; the unsharp mask against its formula written with scipy's filters."""

import numpy as np
import pytest
from scipy.ndimage import convolve, correlate1d

from degradations.blur import blur, usm_sharpen
from degradations.kernels import DrawnKernel, build_kernel


@pytest.mark.parametrize("size", [7, 21])  # OpenCV filters directly below 12, through Fourier space above
@pytest.mark.parametrize("shape", [(40, 33, 3), (5, 9, 3), (2, 3, 3), (1, 1, 3), (1, 30, 3)])
def test_equals_convolution_with_mirrored_borders(size, shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    kernel = build_kernel(DrawnKernel(family="aniso", size=size, sigma_x=2.5, sigma_y=0.8, theta=0.7))
    expected = np.stack([convolve(image[..., c].astype(np.float64), kernel, mode="mirror") for c in range(3)], axis=-1)
    blurred = blur(image, kernel)
    assert blurred.dtype == np.float32
    assert np.allclose(blurred, expected, atol=2e-6)


def test_flat_stays_flat():
    image = np.full((30, 30, 3), 0.37, np.float32)
    assert np.allclose(blur(image, build_kernel(DrawnKernel(family="sinc", size=21, omega=1.0))), image, atol=1e-6)


def mirror_gaussian(image: np.ndarray) -> np.ndarray:
    """51 taps; OpenCV's sigma for them is 0.3 (25 - 1) + 0.8 = 8."""
    taps = np.exp(-0.5 * (np.arange(-25, 26) / 8.0) ** 2)
    taps /= taps.sum()
    return correlate1d(correlate1d(image, taps, axis=0, mode="mirror"), taps, axis=1, mode="mirror")


def test_usm_is_its_formula():
    generator = np.random.default_rng(1)
    hr = np.where(np.arange(80)[None, :, None] < 40, 0.1, 0.95) * np.ones((70, 1, 3))
    hr = np.clip(hr + 0.02 * generator.standard_normal(hr.shape), 0, 1).astype(np.float32)
    residual = hr - mirror_gaussian(hr.astype(np.float64))
    # Away from the threshold itself, where float32 may decide otherwise:
    assert np.abs(np.abs(residual) * 255 - 10).min() > 1e-5
    soft = mirror_gaussian((np.abs(residual) * 255 > 10).astype(np.float64))
    expected = soft * np.clip(hr + 0.5 * residual, 0, 1) + (1 - soft) * hr
    sharpened = usm_sharpen(hr)
    assert sharpened.dtype == np.float32
    assert np.allclose(sharpened, expected, atol=1e-5)
    assert np.abs(sharpened - hr).max() > 0.05
    assert sharpened.min() >= 0 and sharpened.max() <= 1


def test_usm_leaves_weak_detail_alone():
    weak = np.where(np.arange(80)[None, :, None] < 40, 0.5, 0.53) * np.ones((60, 1, 3))  # residual below 10 / 255
    assert np.array_equal(usm_sharpen(weak.astype(np.float32)), weak.astype(np.float32))
