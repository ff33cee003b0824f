import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from restoring.color_fix import adain, fix_color, fix_rows, low_frequencies, wavelet, ycbcr
from restoring.enlarged import Enlarged


def picture(seed: int, height: int = 80, width: int = 97) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def low_by_scipy(image: np.ndarray) -> np.ndarray:
    """Five levels of the dilated 3x3 kernel, written as full sparse kernels; borders as scipy's `nearest`."""
    base = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    for level in range(5):
        kernel = np.zeros((2 ** (level + 1) + 1,) * 2)
        kernel[:: 2**level, :: 2**level] = base
        image = convolve(image, kernel, mode="nearest")
    return image


def test_low_band_equals_scipy():
    image = picture(0).double()
    expected = np.stack([low_by_scipy(channel) for channel in image[0].numpy()])
    np.testing.assert_allclose(low_frequencies(image)[0].numpy(), expected, rtol=0, atol=1e-12)


def test_wavelet_is_high_of_sr_plus_low_of_reference():
    sr, reference = picture(1), picture(2)
    expected = (sr - low_frequencies(sr)) + low_frequencies(reference)
    torch.testing.assert_close(wavelet(sr, reference), expected, rtol=0, atol=1e-6)


def test_a_smooth_colour_cast_is_gone_within_half_a_grey_level():
    reference = picture(3)
    rows = torch.linspace(0, 1, 80)[None, None, :, None]
    cast = torch.tensor([0.2, -0.1, 0.05])[None, :, None, None] + 0.05 * rows
    fixed = wavelet(reference + cast, reference)
    assert (fixed - reference).abs().mean() < 0.5 / 255
    assert (low_frequencies(fixed) - low_frequencies(reference)).abs().max() < 1 / 255


def test_wavelet_keeps_the_detail_of_sr():
    reference = picture(3)
    detail = 0.1 * (torch.arange(97) % 2 * 2 - 1.0).expand(1, 3, 80, 97)
    fixed = wavelet(reference + detail, reference)
    middle = (..., slice(31, 66))  # beyond 31 pixels from the border an alternating detail has no low frequencies at all
    torch.testing.assert_close((fixed - reference)[middle], detail[middle], rtol=0, atol=1e-6)


def test_ycbcr_takes_luma_from_one_and_chroma_from_the_other():
    to_ycbcr = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])  # JPEG (JFIF 1.02)
    sr, reference = picture(1), picture(2)
    expected = torch.einsum("ij,njhw->nihw", to_ycbcr, reference)
    expected[:, 0] = torch.einsum("j,njhw->nhw", to_ycbcr[0], sr)
    torch.testing.assert_close(torch.einsum("ij,njhw->nihw", to_ycbcr, ycbcr(sr, reference)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["none", "wavelet", "adain", "ycbcr"])
@pytest.mark.parametrize("strips", [[80], [1] * 80, [31, 1, 48], [5, 40, 30, 5], [70, 10]])
def test_rows_are_fixed_as_the_whole_is(kind, strips):
    sr, reference = picture(1), picture(2)
    ends = np.cumsum(strips)
    rows = ((int(end) - size, sr[..., end - size : end, :]) for size, end in zip(strips, ends, strict=True))
    parts, bottom = [], 0
    for top, part in fix_rows(rows, Enlarged(reference, (80, 97)), kind):
        assert top == bottom
        bottom += part.shape[-2]
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, -2), fix_color(sr, reference, kind), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["wavelet", "adain", "ycbcr"])
def test_the_reference_itself_is_left_alone(kind):
    torch.testing.assert_close(fix_color(picture(4), picture(4), kind), picture(4), rtol=0, atol=1e-5)


def test_adain_gives_mean_and_deviation_of_the_reference():
    sr, reference = picture(5) * 0.3 + 0.4, picture(6)
    fixed = adain(sr, reference)
    torch.testing.assert_close(fixed.mean((2, 3)), reference.mean((2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(fixed.std((2, 3)), reference.std((2, 3)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2)])
def test_tiny_and_flat_pictures_stay_finite(kind, size):
    fixed = fix_color(torch.zeros(1, 3, *size), torch.full((1, 3, *size), 0.5), kind)
    assert torch.isfinite(fixed).all()
    torch.testing.assert_close(fixed, torch.full((1, 3, *size), 0.5))


def test_none_changes_nothing_and_mistakes_are_named():
    assert fix_color(picture(7), picture(8), "none").equal(picture(7))
    with pytest.raises(ValueError, match="wavelet, adain.*'lab'"):
        fix_color(picture(7), picture(8), "lab")
    with pytest.raises(ValueError, match="unpadded"):
        fix_color(picture(7), picture(8, 96, 128), "wavelet")
