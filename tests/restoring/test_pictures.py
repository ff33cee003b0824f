import numpy as np
import pytest
import torch

from restoring import pictures as module
from restoring.arrays import to_batch
from restoring.pictures import Restoration, as_rgb8, enlarge_array, restore_alpha, restore_array, restore_picture, restore_with_alpha
from tests.restoring.test_rows import blocks, vae

RNG = np.random.default_rng(0)


def photo(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Smooth, so that nothing is clipped."""
    rows, columns, layers = np.mgrid[:height, :width, :channels]
    return ((0.5 + 0.3 * np.sin(0.7 * rows + 0.4 * columns + layers)) * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("color_fix", ["none", "wavelet", "adain", "ycbcr"])
def test_grey_stays_grey_16_bit_stays_16_bit_and_a_network_that_does_nothing_is_bicubic(dtype, channels, color_fix):
    image = photo(13, 29, channels, dtype)
    for tile in (0, 32):
        result = restore_array(blocks(), image, Restoration(scale=2.7, tile=tile, color_fix=color_fix), pytest.fail)
        assert result.dtype == dtype and result.shape == (35, 78, channels)
        assert np.abs(result.astype(int) - enlarge_array(image, (35, 78))).max() <= (1 if dtype == np.uint8 else 3)


def test_enlarge_is_torchs_bicubic():
    image = photo(300, 10)
    expected = torch.nn.functional.interpolate(to_batch(image), (1200, 40), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0) * 255
    assert np.abs(enlarge_array(image, (1200, 40)) - expected.numpy()).max() <= 0.501


@pytest.mark.parametrize("color_fix", ["wavelet", "adain"])
@pytest.mark.parametrize("tile", [0, 64])
def test_a_colour_cast_of_the_network_returns_to_the_inputs_low_frequencies_within_a_level(color_fix, tile):
    generator = blocks()
    mean = generator.autoencoder.model.mean
    mean[16] += 0.6  # the constant red-minus-blue of every 4 x 4 block ...
    encode = generator.autoencoder.model.encode
    generator.autoencoder.model.encode = lambda images: encode(images) + mean.view(1, -1, 1, 1)  # ... in the decoder only
    image = photo(40, 33)
    how = {"scale": 4, "tile": tile}
    plain = restore_array(generator, image, Restoration(**how), pytest.fail).astype(int)
    assert abs((plain - enlarge_array(image, (160, 132))).mean((0, 1))[0]) > 10
    fixed = restore_array(generator, image, Restoration(**how, color_fix=color_fix), pytest.fail)
    assert np.abs(fixed.astype(int) - enlarge_array(image, (160, 132))).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_restored_apart_and_hidden_black_leaves_no_fringe(dtype):
    white = np.iinfo(dtype).max
    pixels, alpha = np.zeros((24, 24, 3), dtype), np.zeros((24, 24), dtype)
    pixels[6:18, 6:18], alpha[6:18, 6:18] = white // 2, white
    result, result_alpha = restore_with_alpha(blocks(), pixels, alpha, Restoration(scale=4), pytest.fail)
    assert result.shape == (96, 96, 3) and result_alpha.shape == (96, 96) and result_alpha.dtype == dtype
    seen = result[result_alpha > 0].astype(float) / white
    assert abs(seen - 0.5).max() < 0.02, "everything that shows has the visible colour, edges included"
    assert (result_alpha[32:64, 32:64] == white).all() and (result_alpha[:16] == 0).all()
    without, nothing = restore_with_alpha(blocks(), pixels, None, Restoration(scale=4), pytest.fail)
    assert nothing is None and (without[28:68, 28:68] >= white // 2 - 1).all() and without[48, 22:28].min() < white // 3


def test_constant_alpha_is_not_sent_through_the_network():
    generator = blocks()
    assert (restore_alpha(generator, np.full((5, 7), 255, np.uint8), Restoration(scale=2.7), pytest.fail) == 255).all()
    assert generator.unet.seen == []
    assert (restore_alpha(blocks(), np.full((5, 7), 9, np.uint16), Restoration(scale=1), pytest.fail) == 9).all()


def test_auto_tiles_shrink_until_the_memory_suffices(monkeypatch):
    generator, limit = blocks(), 80 * 80
    monkeypatch.setattr(module, "largest_tile", lambda generator, size: 0)

    def hungry(z):
        if z.shape[-2] * z.shape[-1] * 16 > limit * 16:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        return torch.zeros_like(z)

    generator.unet.function = hungry
    image, said = photo(150, 150), []
    result = restore_array(generator, image, Restoration(scale=4, tile="auto"), said.append)
    assert np.abs(result.astype(int) - enlarge_array(image, (600, 600))).max() <= 1
    assert said and said[-1] == "out of memory: trying tile: 256" and generator.unet.seen[-1] == (64, 64)
    with pytest.raises(RuntimeError, match="can't allocate"):
        restore_array(generator, image, Restoration(scale=4, tile=0), pytest.fail)


def test_restore_picture_gives_floats_for_validation():
    lr = to_batch(photo(9, 14))
    for tile, build in ((0, blocks), (32, blocks), (32, vae)):
        sr, lr_up = restore_picture(build(), lr, tile=tile, color_fix="wavelet")
        assert sr.shape == lr_up.shape == (1, 3, 36, 56) and sr.dtype == torch.float32
        assert sr.min() >= 0 and sr.max() <= 1
    torch.testing.assert_close(lr_up, torch.nn.functional.interpolate(lr, (36, 56), mode="bicubic"), rtol=0, atol=1e-5)


def test_rgb8_rounds_and_repeats():
    assert as_rgb8(np.array([[[0], [128], [129], [65535]]], np.uint16)).tolist() == [[[0] * 3, [0] * 3, [1] * 3, [255] * 3]]
    image = photo(4, 4)
    assert as_rgb8(image) is image
