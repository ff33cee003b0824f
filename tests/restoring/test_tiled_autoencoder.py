"""Tiled against untiled: diffusers' own forward pass over the whole picture is the truth."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.autoencoders import Autoencoder
from models.backbones import cast, meta_autoencoder, new_autoencoder
from models.configs import BLOCK_TRANSFORM
from restoring import tiled_autoencoder, tiled_layers, tiled_maps
from restoring.tiled_autoencoder import decode_tiled, encode_tiled, halo
from restoring.tiled_layers import Norm
from restoring.tiled_maps import TensorMap
from tests.tiny_models import SMALL_TAESD, SMALL_VAE, noise_like, picture

# Stable Diffusion's proportions, so that the last enlargement is wider than what follows: it is never kept.
WIDE = {**SMALL_VAE, "block_out_channels": [16, 32, 64, 64], "layers_per_block": 2}
PLAIN = {**SMALL_VAE, "use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}
TAESD = {**SMALL_TAESD, "_class_name": "AutoencoderTiny", "scaling_factor": 0.7}
LEARNED = {"small": SMALL_VAE, "wide": WIDE, "plain": PLAIN, "taesd": TAESD}
SIZES = [((56, 72), 24), ((24, 40), 64), ((24, 32), 8), ((8, 136), 32)]
"""(height, width) and tile: neither a multiple of the other, smaller than the tile, tiles of one latent, a strip."""


def autoencoder(config: dict, dtype: torch.dtype = torch.float32) -> Autoencoder:
    """With norms that do something, an attention that is not nearly uniform, and factors that are not one."""
    network = new_autoencoder(config).requires_grad_(False).eval()
    for module in network.modules():
        if hasattr(module, "output_scale_factor"):
            module.output_scale_factor = 1.25
        if hasattr(module, "rescale_output_factor"):
            module.rescale_output_factor = 0.8
    for index, (name, parameter) in enumerate(network.named_parameters()):
        if parameter.ndim == 1:
            parameter += 0.3 * noise_like(*parameter.shape, seed=index)
        if "to_q.weight" in name:
            parameter *= 6
    return cast(network, dtype)


def latents(network: Autoencoder, height: int, width: int) -> Tensor:
    return noise_like(1, network.latent_channels, height // network.factor, width // network.factor)


def decoded(network: Autoencoder, z: Tensor, tile: int) -> Tensor:
    """All rows that `decode_tiled` gives, which must follow each other without a gap."""
    rows = list(decode_tiled(network, z, tile))
    heights = [part.shape[-2] for _, part in rows]
    assert [top for top, _ in rows] == [0, *itertools.accumulate(heights)][:-1]
    assert max(heights) <= tile
    return torch.cat([part for _, part in rows], dim=-2)


def error(result: Tensor, truth: Tensor) -> float:
    """Largest difference, relative to the truth's largest value."""
    assert result.shape == truth.shape
    return ((result.double() - truth.double()).abs().max() / truth.double().abs().max()).item()


def errors(network: Autoencoder, size: tuple[int, int], tile: int, dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """Of the encoder and of the decoder."""
    images, z = picture(1, 3, *size).to(dtype), latents(network, *size).to(dtype)
    with torch.inference_mode():
        encoder = error(encode_tiled(network, TensorMap(images), tile), network.encode(images))
        return encoder, error(decoded(network, z, tile), network.decode(z))


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize(("size", "tile"), SIZES)
def test_tiled_is_untiled_in_float64(kind: str, size: tuple[int, int], tile: int) -> None:
    assert max(errors(autoencoder(LEARNED[kind], torch.float64), size, tile, torch.float64)) < 1e-12


@pytest.mark.parametrize(("config", "largest"), [(SMALL_VAE, 1e-5), (WIDE, 1e-5), (TAESD, 1e-6), (BLOCK_TRANSFORM, 1e-6)])
def test_tiled_is_untiled_in_float32(config: dict, largest: float) -> None:
    network = autoencoder(config)
    if config is BLOCK_TRANSFORM:
        network.model.mean.copy_(torch.linspace(-0.5, 0.5, 48))
        network.model.std.copy_(torch.linspace(2.0, 0.1, 48))
    assert max(errors(network, (200, 72), 56)) < largest


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_tiled_is_as_close_to_the_truth_as_untiled(dtype: torch.dtype) -> None:
    exact, network = autoencoder(WIDE), autoencoder(WIDE, dtype)
    images, z = picture(1, 3, 48, 72), latents(exact, 48, 72)
    encoded, rows = encode_tiled(network, TensorMap(images), 32), decoded(network, z, 32)
    assert encoded.dtype == rows.dtype == torch.float32
    for tiled, untiled, truth in (
        (encoded, network.encode(images), exact.encode(images)),
        (rows, network.decode(z), exact.decode(z)),
    ):
        assert (tiled - truth).norm() < 1.2 * (untiled - truth).norm() < 0.05 * truth.norm()


def test_the_truth_is_not_met_by_diffusers_own_tiles() -> None:
    """Tiles with statistics of their own are far off: what the other tests find equal is not equal by itself."""
    network = autoencoder(SMALL_VAE)
    z = latents(network, 72, 104)
    truth = network.decode(z)
    network.model.enable_tiling()
    network.model.tile_latent_min_size, network.model.tile_sample_min_size = 8, 64
    assert error(network.model.decode(z / network.model.config.scaling_factor).sample, truth) > 0.05


def per_window(self: Norm, window: Tensor) -> Tensor:
    normalised = F.group_norm(window, 8, eps=1e-6)
    return normalised * self.scale / self.scale.abs().mean()


def own_box_only(layer: tiled_layers.Layer, source: Any, box: tiled_maps.Box) -> Tensor:
    """A convolution that sees zeros, not neighbours, around its window."""
    top, bottom, left, right = (side * layer.conv.stride[0] // layer.enlargement for side in box)
    patch = TensorMap(source.window(top, max(bottom, top + 1), left, max(right, left + 1)))
    return unharmed(layer, patch, (0, box[1] - box[0], 0, box[3] - box[2]))


unharmed = tiled_layers.Layer.__call__


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        (tiled_layers.Norm, "__call__", per_window),
        (tiled_layers.Layer, "__call__", own_box_only),
        (tiled_maps.Statistics, "of_groups", lambda self, groups: (torch.zeros(groups), torch.ones(groups))),
        (tiled_autoencoder, "_reach", lambda layers, beyond: 0),
    ],
)
def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, fault: Callable) -> None:
    network = autoencoder(TAESD if owner is tiled_autoencoder else SMALL_VAE)
    assert max(errors(network, (64, 80), 32)) < 1e-5
    monkeypatch.setattr(owner, name, fault)
    assert min(errors(network, (64, 80), 32)) > 1e-3


def positive_taesd() -> Autoencoder:
    """Every ReLU lets through, so that a result depends on all it can depend on."""
    network = new_autoencoder(TAESD).double().requires_grad_(False).eval()
    for parameter in network.parameters():
        parameter.abs_()
    return network


def looked_at(network: Callable[[Tensor], Tensor], x: Tensor, rows: slice) -> tuple[int, int]:
    """First and last row of the input that the result's rows depend on."""
    x = x.clone().requires_grad_(True)
    network(x)[..., rows, :].sum().backward()
    seen = x.grad.abs().amax(dim=(0, 1, 3)).nonzero()
    return int(seen.min()), int(seen.max())


def test_the_halo_is_exactly_how_far_the_network_looks() -> None:
    model = positive_taesd().model
    first, last = looked_at(lambda z: model.decode(z).sample, picture(1, 4, 25, 2).double().abs(), slice(12 * 8, 13 * 8))
    assert (12 - first, last - 12) == (halo(model.decoder.layers),) * 2
    first, last = looked_at(lambda x: model.encode(x).latents, picture(1, 3, 200, 16).double().abs(), slice(12, 13))
    assert 12 * 8 - first == halo(model.encoder.layers) and 0 < last - 12 * 8 - 7 <= halo(model.encoder.layers)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_smaller_halo_is_not_enough(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    network = positive_taesd()
    enough = halo(getattr(network.model, part).layers)
    smaller = 8 * (math.ceil(enough / 8) - 1) if part == "encoder" else enough - 1
    monkeypatch.setattr(tiled_autoencoder, "halo", lambda layers: smaller)
    assert errors(network, (200, 16), 40, torch.float64)[part == "decoder"] > 1e-9


def test_the_halo_of_taesd_itself() -> None:
    taesd = meta_autoencoder({"_class_name": "AutoencoderTiny"}).model
    assert (halo(taesd.encoder.layers), halo(taesd.decoder.layers)) == (145, 19)


@pytest.mark.parametrize("config", [SMALL_VAE, TAESD])
def test_an_overflow_is_an_error(config: dict) -> None:
    network = autoencoder(config, torch.float16)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter *= 500
    with pytest.raises(FloatingPointError, match="the VAE's encoder overflowed in float16"):
        encode_tiled(network, TensorMap(picture(1, 3, 32, 32)), 16)
    with pytest.raises(FloatingPointError, match="the VAE's decoder overflowed in float16"):
        next(decode_tiled(network, latents(network, 32, 32), 16))


def test_an_overflow_ends_the_work_where_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    network = autoencoder(SMALL_VAE, torch.float16)
    network.model.decoder.up_blocks[2].resnets[0].conv2.bias.fill_(math.inf)
    used: list[Tensor] = []
    convolve = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, weight, *others: used.append(weight) or convolve(x, weight, *others))
    with pytest.raises(FloatingPointError):
        next(decode_tiled(network, latents(network, 32, 32), 16))
    assert used[-1] is network.model.decoder.up_blocks[2].resnets[0].conv2.weight
    assert used[-2] is not used[-1], "the second tile was computed after the first had overflowed"


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that is computed; what is only reserved or looked at is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not function.is_view and "empty" not in str(function) and "copy_" not in str(function):
            self.elements = max(self.elements, result.numel())
        return result


class Windows(TensorMap):
    """A picture that notes the largest window that was asked for."""

    largest = 0

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        type(self).largest = max(self.largest, (bottom - top) * (right - left))
        return super().window(top, bottom, left, right)


def largest_tensors(network: Autoencoder, height: int, width: int, tile: int) -> Tensor:
    """Elements, in the encoder and in the decoder."""
    images, z = Windows(picture(1, 3, height, width)), latents(network, height, width)
    with torch.inference_mode():
        with Largest() as encoder:
            encode_tiled(network, images, tile, attention_tokens=36)
        with Largest() as decoder:
            for _ in decode_tiled(network, z, tile, attention_tokens=36):
                pass
    return torch.tensor([encoder.elements, decoder.elements])


@pytest.mark.slow
def test_what_is_on_the_device_grows_with_the_tile_not_with_the_picture() -> None:
    network = autoencoder({**WIDE, "layers_per_block": 1})
    small, large = largest_tensors(network, 48, 48, 16), largest_tensors(network, 48, 144, 16)
    assert (large <= 1.15 * small).all() and (large <= 2 * 16 * 18**2).all()
    assert Windows.largest <= 18**2
    assert (largest_tensors(network, 48, 144, 48) > 4 * large).all()


def test_host_memory_is_what_the_docstrings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 2 (encoder) and 2.5 (decoder) maps of the first level's width and the picture's size; in the end none."""
    alive: dict[int, int] = {}
    most = [0]

    class Counted(tiled_maps.Store):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            alive[id(self)] = self.values.numel()
            most[0] = max(most[0], sum(alive.values()))

        def free(self) -> None:
            del alive[id(self)]
            super().free()

    monkeypatch.setattr(tiled_layers, "Store", Counted)
    network, full = autoencoder(WIDE), 16 * 64 * 96
    encode_tiled(network, TensorMap(picture(1, 3, 64, 96)), 32)
    assert most[0] == 2 * full and not alive
    most[0] = 0
    decoded(network, latents(network, 64, 96), 32)
    assert most[0] == 2.5 * full and not alive


def test_a_tile_is_at_least_one_latent() -> None:
    with pytest.raises(ValueError, match="tile: expected at least 8 pixels, got 7"):
        next(decode_tiled(autoencoder(SMALL_VAE), latents(autoencoder(SMALL_VAE), 16, 16), 7))


def test_what_tiling_does_not_know_is_refused() -> None:
    network = autoencoder(SMALL_VAE)
    network.model.decoder.mid_block.resnets[0].time_emb_proj = torch.nn.Identity()
    with pytest.raises(AssertionError, match="tiling knows no time embedding"):
        next(decode_tiled(network, latents(network, 16, 16), 8))
