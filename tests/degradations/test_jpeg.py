"""The JPEG step against Pillow: an independent encoder call and decoder."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from degradations.jpeg import jpeg_compress


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return data.astronaut()[:120, 130:261].astype(np.float32) / 255  # odd width on purpose: RGB with strong colours


def pillow(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("quality", [30, 62, 95])
def test_equals_pillow_at_this_quality_only(photo, quality):
    ours = jpeg_compress(photo, quality)
    assert ours.dtype == np.float32 and ours.shape == photo.shape
    levels = np.rint(ours * 255).astype(int)
    assert np.abs(ours * 255 - levels).max() < 1e-4
    distances = {other: np.abs(levels - pillow(photo, other)).mean() for other in (quality - 5, quality, quality + 5)}
    assert min(distances, key=distances.get) == quality
    assert distances[quality] < 0.05  # the same libjpeg arithmetic but for the odd rounding


def test_lower_quality_is_worse_and_channels_stay_in_order(photo):
    errors = [np.abs(jpeg_compress(photo, quality) - photo).mean() for quality in (95, 60, 30, 5)]
    assert errors == sorted(errors) and errors[0] < errors[-1] / 3
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 1.0
    assert np.allclose(jpeg_compress(red, 95), red, atol=3 / 255)


def test_input_is_rounded_not_truncated():
    assert np.allclose(jpeg_compress(np.full((8, 8, 3), 100.7 / 255, np.float32), 100) * 255, 101)
    assert np.allclose(jpeg_compress(np.full((8, 8, 3), 100.3 / 255, np.float32), 100) * 255, 100)


def test_out_of_range_input_is_clipped_and_tiny_pictures_work():
    assert np.allclose(jpeg_compress(np.full((8, 8, 3), 1.7, np.float32), 95), 1.0)
    assert np.allclose(jpeg_compress(np.full((8, 8, 3), -0.7, np.float32), 95), 0.0)
    assert jpeg_compress(np.full((1, 1, 3), 0.5, np.float32), 30).shape == (1, 1, 3)
