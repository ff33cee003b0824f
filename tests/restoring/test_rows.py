from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.autoencoders import Autoencoder, BlockAutoencoder
from models.backbones import new_autoencoder
from models.block_transform import BlockTransform
from models.generator import Generator, load_generator
from restoring.enlarged import Enlarged
from restoring.rows import output_size, restore_rows
from tests.tiny_models import SMALL_VAE

SHIPPED = Path(__file__).parents[2] / "weights/d3sr-tiny"


class Noise(nn.Module):
    """In the place of a UNet: noise_pred = function(z), and a note of every size it saw."""

    def __init__(self, channels: int, function=torch.zeros_like) -> None:
        super().__init__()
        self.config = type("Config", (), {"in_channels": channels, "block_out_channels": [1, 1]})
        self.conv_in = nn.Module()
        self.conv_in.weight = nn.Parameter(torch.zeros(1))
        self.function, self.seen = function, []

    def forward(self, z, timesteps, encoder_hidden_states, return_dict):
        self.seen.append(tuple(z.shape[-2:]))
        return (self.function(z),)


def stub(autoencoder: Autoencoder, function=torch.zeros_like, alpha_bar: float = 1.0) -> Generator:
    """With alpha_bar 1 the generator is its autoencoder; the UNet's stride is 2."""
    unet = Noise(autoencoder.latent_channels, function)
    return Generator(unet, autoencoder.eval(), torch.full((10,), alpha_bar), torch.zeros(1, 4), timestep=5).requires_grad_(False)


def blocks(**kwargs) -> Generator:
    return stub(BlockAutoencoder(BlockTransform(4)), **kwargs)


def vae(**kwargs) -> Generator:
    return stub(new_autoencoder(SMALL_VAE), **kwargs)


def lr_picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def restored(
    generator: Generator, lr: torch.Tensor, size: tuple[int, int], tile: int = 0, overlap: int = 16, warn=pytest.fail
) -> torch.Tensor:
    parts, bottom = [], 0
    for top, rows in restore_rows(generator, lr, size, tile=tile, overlap=overlap, warn=warn):
        assert top == bottom and rows.dtype == torch.float32
        bottom += rows.shape[-2]
        parts.append(rows)
    whole = torch.cat(parts, dim=-2)
    assert tuple(whole.shape) == (1, 3, *size)
    return whole


@pytest.mark.parametrize(("height", "width", "scale"), [(1, 1, 4), (5, 3, 4), (13, 29, 2.7), (30, 17, 1), (40, 31, 0.5), (1, 50, 3.3)])
@pytest.mark.parametrize("tile", [0, 32])
def test_every_size_and_scale_comes_out_exact(height, width, scale, tile):
    lr, size = lr_picture(height, width), output_size(height, width, scale)
    assert size == (round(scale * height), round(scale * width))
    expected = Enlarged(lr, size).window(0, size[0], 0, size[1])
    torch.testing.assert_close(restored(blocks(), lr, size, tile), expected, rtol=0, atol=2e-6)


def test_output_size_is_at_least_one_pixel():
    assert output_size(1, 10, 0.1) == (1, 1)


def test_tiles_are_rounded_up_to_the_grid():
    generator = blocks()
    restored(generator, lr_picture(33, 50), (132, 200), tile=60, overlap=10)
    assert set(generator.unet.seen) == {(14, 16)}, "60 pixels become 64, which are 16 blocks; 14 suffice for 4 tiles over 176 pixels"
    assert len(generator.unet.seen) == 4 * 5, "tiles of at most 64 with overlaps of 16 over 176 x 240, the picture and its frame"


@pytest.mark.parametrize(("build", "alpha_bar"), [(blocks, 0.5), (vae, 0.9)])
def test_a_network_that_looks_at_single_positions_gives_the_same_with_and_without_tiles(build, alpha_bar):
    generator = build(function=lambda z: torch.tanh(z), alpha_bar=alpha_bar)
    lr = lr_picture(20, 33)
    whole = restored(generator, lr, (80, 132))
    tiled = restored(generator, lr, (80, 132), tile=48)
    assert len(generator.unet.seen) > 4
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("tile", [0, 256])
def test_flat_and_smooth_pictures_have_no_strips_along_their_edges(tile):
    """The shipped model itself: what it makes of the middle of a flat picture, it makes of the edges, whatever rest the grid leaves."""
    generator = load_generator(SHIPPED)
    for colour, (height, width) in {(130, 170, 210): (75, 100), (250, 250, 250): (64, 77), (192, 0, 128): (81, 64)}.items():
        flat = np.full((height, width, 3), colour, np.uint8)
        sr = generator.upscale(flat, tile=tile).astype(float)
        middle = sr[100:-100, 100:-100].mean((0, 1))
        strips = {"top": sr[:8], "left": sr[:, :8], "right": sr[:, -8:], "bottom": sr[-8:]}
        for edge, strip in strips.items():
            assert np.abs(strip.mean((0, 1)) - middle).max() < 0.75, (colour, edge)
    ramp = np.linspace(40, 220, 96).astype(np.uint8)[None, :, None].repeat(72, 0).repeat(3, 2)
    sr = generator.upscale(ramp, tile=tile).astype(float)
    for strip in (sr[:8], sr[-8:]):
        assert np.abs(strip.mean(0) - sr[100:-100].mean(0)).max() < 1.5


def test_flat_colours_stay_what_they_are():
    """The shipped model: no 8 x 8 pixels of flat pictures, no 16 x 16 of smooth ones, are a level from the input's."""
    generator = load_generator(SHIPPED)
    colours = [(0, 0, 0), (255, 255, 255), (240, 240, 240), (128, 128, 128), (192, 0, 128), (255, 0, 0), (255, 255, 0), (130, 170, 210)]
    pictures = [(np.full((24, 32, 3), colour, np.uint8), 8) for colour in colours]
    pictures.append((np.linspace(40, 200, 64).astype(np.uint8)[None, :, None].repeat(40, 0).repeat(3, 2), 16))
    for lr, block in pictures:
        sr, bicubic = generator.upscale(lr), cv2.resize(lr, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        means = [cv2.resize(image.astype(float), None, fx=1 / block, fy=1 / block, interpolation=cv2.INTER_AREA) for image in (sr, bicubic)]
        assert np.abs(means[0] - means[1]).max() < 1.0, lr[0, 0]


def test_the_result_is_clamped():
    generator = blocks(function=lambda z: -9 * torch.ones_like(z), alpha_bar=0.5)
    image = restored(generator, lr_picture(9, 9), (36, 36))
    assert image.min() >= -1 and image.max() == 1


@pytest.mark.parametrize("tile", [0, 32])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_result_that_is_not_finite_is_refused(tile, bad):
    with pytest.raises(ValueError, match="not finite, even in float32"):
        restored(blocks(function=lambda z: torch.full_like(z, bad), alpha_bar=0.5), lr_picture(20, 20), (80, 80), tile)


def test_a_tile_that_overflows_in_half_precision_is_computed_again_in_float32():
    calls = []

    def overflows_once(z):
        calls.append(z.dtype)
        bad = z.dtype == torch.bfloat16 and calls.count(torch.bfloat16) == 2
        return torch.full_like(z, float("inf") if bad else 0)

    generator = blocks(function=overflows_once)
    generator.unet.bfloat16()
    warnings = []
    lr = lr_picture(20, 20)
    image = restored(generator, lr, (80, 80), 32, warn=warnings.append)
    assert calls.count(torch.float32) == 1, "one tile only"
    assert len(warnings) == 1 and "bfloat16 overflowed" in warnings[0]
    torch.testing.assert_close(image, Enlarged(lr, (80, 80)).window(0, 80, 0, 80), rtol=0, atol=1e-5)
    assert generator.in_float32() is generator.in_float32() and generator.dtype == torch.bfloat16


def test_an_autoencoder_that_overflows_is_computed_again_in_float32():
    generator = vae()
    generator.autoencoder.model.decoder.conv_norm_out.weight.mul_(4e4)  # float16 ends at 65504
    expected = restored(generator, lr_picture(16, 12), (64, 48), tile=32)
    generator.unet.half()
    generator.autoencoder.half()
    warnings = []
    image = restored(generator, lr_picture(16, 12), (64, 48), tile=32, warn=warnings.append)
    assert any("float16" in warning for warning in warnings)
    assert torch.isfinite(image).all()
    assert (image - expected).abs().median() < 0.1


@pytest.mark.slow
def test_an_autoencoder_that_overflows_in_its_last_layer_goes_on_in_float32():
    """Rows that came out before stay; the others follow from the float32 copy."""
    generator = vae()
    lr = lr_picture(24, 12)
    expected = restored(generator, lr, (96, 48), tile=32)
    generator.unet.half()
    generator.autoencoder.half()
    weight, calls = generator.autoencoder.model.decoder.conv_out.weight, []

    class Fails(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function is torch.nn.functional.conv2d and args[1] is weight:
                calls.append(1)
                result = result * float("inf") if len(calls) == 4 else result
            return result

    warnings = []
    with Fails():
        image = restored(generator, lr, (96, 48), tile=32, warn=warnings.append)
    assert len(calls) == 2 * 3 and len(warnings) == 1 and "float16" in warnings[0], "the second of two rows of three"
    assert (image - expected).abs().max() < 0.1


def test_an_autoencoder_that_overflows_even_in_float32_is_refused():
    generator = vae()
    generator.autoencoder.model.decoder.conv_norm_out.weight.fill_(float("inf"))
    with pytest.raises(ValueError, match="damaged"):
        restored(generator, lr_picture(16, 12), (64, 48), tile=32)


def test_upscale_takes_and_gives_arrays():
    generator = blocks()
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    result = generator.upscale(image, scale=2.5, tile=32)
    assert result.shape == (22, 32, 3) and result.dtype == np.uint8
    size = (22, 32)
    expected = Enlarged(torch.from_numpy(image.transpose(2, 0, 1) / 127.5 - 1)[None].float(), size).window(0, 22, 0, 32)
    assert np.abs((expected[0].permute(1, 2, 0).numpy() + 1) * 127.5 - result).max() <= 0.51
    assert generator.upscale(torch.full((1, 5, 5), 0.25)).shape == (1, 20, 20)
    with pytest.raises(ValueError, match="picture"):
        generator.upscale(np.zeros((4, 4, 2), np.uint8))
