"""The whitened block transform against scipy's DCT."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.fft import dctn

from models.block_transform import BlockTransform, dct_matrix, opponent_colours
from tests.tiny_models import noise_like, picture


@pytest.fixture
def whitened() -> BlockTransform:
    transform = BlockTransform()
    transform.mean.copy_(noise_like(48))
    transform.std.copy_(noise_like(48, seed=1).abs() + 0.01)
    return transform


@pytest.mark.parametrize("block_size", [2, 4, 8])
def test_transform_is_scipys_dct_of_opponent_colours(block_size):
    images = picture(2, 3, 16, 24)
    r, g, b = images.double().unbind(1)
    colours = torch.stack([(r + g + b) / 3**0.5, (r - b) / 2**0.5, (r - 2 * g + b) / 6**0.5], dim=1)
    height, width = 16 // block_size, 24 // block_size
    blocks = colours.reshape(2, 3, height, block_size, width, block_size).permute(0, 2, 4, 1, 3, 5)
    expected = dctn(blocks.numpy(), axes=(-2, -1), norm="ortho")  # (N, h, w, colour, vertical, horizontal)
    expected = expected.reshape(2, height, width, -1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(BlockTransform(block_size).transform(images).numpy(), expected, atol=1e-5)


def test_bases_are_orthonormal():
    for matrix in (dct_matrix(4), dct_matrix(8), opponent_colours()):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64))


def test_channel_order_is_colour_vertical_horizontal():
    rows = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1).expand(1, 3, 4, 4)
    z = BlockTransform().transform(rows).flatten()
    assert z.abs().argmax() == (0 * 4 + 3) * 4 + 0  # intensity, highest vertical frequency, no horizontal one
    assert z.reshape(3, 4, 4)[:, :, 1:].abs().max() < 1e-6 and z.reshape(3, 4, 4)[1:].abs().max() < 1e-6


def test_a_flat_grey_picture_is_one_number():
    z = BlockTransform().transform(torch.full((1, 3, 4, 4), 0.5)).flatten()
    assert z[0].item() == pytest.approx(0.5 * 3**0.5 * 4)
    assert z[1:].abs().max() < 1e-6


def test_energy_is_kept():
    images = picture(2, 3, 32, 32)
    assert BlockTransform().transform(images).square().sum().item() == pytest.approx(images.square().sum().item(), rel=1e-5)


def test_decode_inverts_encode(whitened):
    images = picture(2, 3, 32, 24)
    z = whitened.encode(images)
    assert z.shape == (2, 48, 8, 6) and z.dtype == torch.float32
    torch.testing.assert_close(whitened.decode(z), images, rtol=0, atol=1e-5)
    z = noise_like(1, 48, 5, 5)
    torch.testing.assert_close(whitened.encode(whitened.decode(z)), z, rtol=0, atol=2e-3)  # std down to 0.01 amplifies rounding


def test_nothing_is_lost_under_autocast(whitened):
    """Training in bf16 must not round the pictures to 8 bits of mantissa."""
    images = picture(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        restored = whitened.decode(whitened.encode(images))
    assert restored.dtype == torch.float32
    torch.testing.assert_close(restored, images, rtol=0, atol=1e-5)


def test_fit_whitens():
    images = picture(64, 3, 16, 16) * torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1) + 0.1
    transform = BlockTransform()
    transform.fit(images)
    z = transform.encode(images)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(48), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(48), rtol=1e-3, atol=0)


def test_fit_on_grey_pictures_stays_finite():
    """Two thirds of the channels of a grey picture do not vary at all."""
    grey = picture(8, 1, 16, 16).expand(-1, 3, -1, -1)
    transform = BlockTransform()
    transform.fit(grey)
    z = transform.encode(grey)
    assert torch.isfinite(z).all() and z.abs().max() < 100
    transform.fit(torch.zeros(1, 3, 8, 8))
    assert torch.isfinite(transform.encode(torch.zeros(1, 3, 8, 8))).all()


def test_saved_and_read_back(whitened, tmp_path):
    whitened.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"_class_name": "BlockTransform", "block_size": 4, "latent_channels": 48, "scaling_factor": 1.0}
    assert set(load_file(tmp_path / "diffusion_pytorch_model.safetensors")) == {"mean", "std"}
    images = picture(1, 3, 8, 8)
    assert torch.equal(BlockTransform.from_pretrained(tmp_path).encode(images), whitened.encode(images))


def test_gradient_reaches_the_latent(whitened):
    z = noise_like(1, 48, 2, 2).requires_grad_()
    whitened.decode(z)[0, 0, 0, 0].backward()
    expected = whitened.basis[:, 0, 0, 0] * whitened.std
    torch.testing.assert_close(z.grad[0, :, 0, 0], expected)
    assert z.grad[0, :, 1, 1].abs().max() == 0
