"""The one-step generator against a pipeline made by hand from diffusers' own parts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel

from models.autoencoders import Autoencoder
from models.backbones import new_autoencoder
from models.configs import BLOCK_TRANSFORM
from models.generator import Generator
from tests.tiny_models import SCHEDULE, disturb_lora, generator_of, noise_like, picture

SMALL = {"rank": 4, "alpha": 4, "prompt_tokens": 5}
ALPHAS_CUMPROD = DDPMScheduler(**SCHEDULE).alphas_cumprod
BASES = pytest.mark.parametrize(("base", "side"), [("sd_base", 16), ("tiny_base", 16)])


@pytest.fixture
def generator(sd_base) -> Generator:
    return generator_of(str(sd_base), **SMALL)


def hand_made(images: torch.Tensor, encode, decode, unet: UNet2DConditionModel, prompt: torch.Tensor, timestep: int) -> torch.Tensor:
    """Sec. 3.1 in four lines, in float64 where it is arithmetic of ours."""
    z = encode(images)
    noise_pred = unet(z, timestep, prompt.expand(len(images), -1, -1)).sample
    alpha_bar = ALPHAS_CUMPROD[timestep].double().item()
    return decode((z - (1 - alpha_bar) ** 0.5 * noise_pred) / alpha_bar**0.5)


@pytest.mark.parametrize("timestep", [0, 399, 999])
def test_output_is_the_hand_made_pipelines(sd_base, timestep):
    generator = generator_of(str(sd_base), timestep=timestep, **SMALL)
    vae, unet = AutoencoderKL.from_pretrained(sd_base / "vae"), UNet2DConditionModel.from_pretrained(sd_base / "unet")
    lr = picture(2, 3, 16, 32)
    lr_up = F.interpolate(lr, scale_factor=4, mode="bicubic").clamp(-1, 1)
    with torch.no_grad():
        sr, z_hat = generator(lr)
        expected = hand_made(
            lr_up,
            lambda x: vae.encode(x).latent_dist.mode() * 0.18215,
            lambda z: vae.decode(z / 0.18215).sample,
            unet,
            generator.prompt_embedding,
            timestep,
        )
    assert sr.shape == (2, 3, 64, 128) and z_hat.shape == (2, 4, 8, 16)
    torch.testing.assert_close(sr, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(generator.restore(lr_up), expected.clamp(-1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_output_with_another_autoencoder_is_the_hand_made_pipelines(sd_base, taesd):
    generator = generator_of(str(sd_base), vae=str(taesd), **SMALL)
    tiny, unet = AutoencoderTiny.from_pretrained(taesd), UNet2DConditionModel.from_pretrained(sd_base / "unet")
    lr_up = picture(1, 3, 64, 64)
    with torch.no_grad():
        expected = hand_made(
            lr_up, lambda x: tiny.encode(x).latents, lambda z: tiny.decode(z).sample, unet, generator.prompt_embedding, 399
        )
        torch.testing.assert_close(generator.restore(lr_up), expected.clamp(-1, 1), rtol=1e-4, atol=1e-4)


def test_output_on_block_transform_latents_is_the_hand_made_pipelines(tiny_base):
    generator = generator_of(str(tiny_base), timestep=100, **SMALL)
    transform, unet = generator.autoencoder.model, UNet2DConditionModel.from_pretrained(tiny_base / "unet")
    lr_up = picture(1, 3, 32, 32)
    with torch.no_grad():
        expected = hand_made(lr_up, transform.encode, transform.decode, unet, generator.prompt_embedding, 100)
        torch.testing.assert_close(generator.restore(lr_up), expected.clamp(-1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@BASES
def test_same_input_gives_the_same_bits(base, side, request):
    generator, lr = generator_of(str(request.getfixturevalue(base)), **SMALL), picture(2, 3, side, side)
    with torch.no_grad():
        first, second = generator(lr), generator(lr)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("scale", [2, 4])
def test_output_is_scale_times_the_input(tiny_base, scale):
    generator = generator_of(str(tiny_base), scale=scale, **SMALL)
    with torch.no_grad():
        sr, _ = generator(picture(1, 3, 8, 16))
    assert sr.shape == (1, 3, 8 * scale, 16 * scale) and sr.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(("base", "multiple"), [("sd_base", 8 * 2**3), ("tiny_base", 4 * 2**2)])
def test_size_multiple_is_the_autoencoders_factor_times_the_unets(base, multiple, request):
    generator = generator_of(str(request.getfixturevalue(base)), **SMALL)
    assert generator.size_multiple == multiple
    assert generator.restore(picture(1, 3, multiple, 2 * multiple)).shape == (1, 3, multiple, 2 * multiple)


def test_upsampling_is_bicubic_and_clamped(generator):
    step = torch.full((1, 3, 8, 8), -1.0)
    step[..., 4:] = 1.0
    upsampled = generator.upsample(step, (32, 32))
    assert upsampled.min() == -1 and upsampled.max() == 1  # bicubic overshoots at a step
    # Keys' kernel with a = -0.75 at 1/8 from the centre: between -1 and +1, four taps.
    kernel = [
        lambda t: ((-0.75 + 2) * t - (-0.75 + 3)) * t * t + 1,
        lambda t: ((-0.75 * t - 5 * -0.75) * t + 8 * -0.75) * t - 4 * -0.75,
    ]
    weights = np.array([kernel[1](1.125), kernel[0](0.125), kernel[0](0.875), kernel[1](1.875)])
    assert weights.sum() == pytest.approx(1)
    expected = (weights * [-1, -1, 1, 1]).sum()  # output column 14 lies at 3.125 in the input: taps 2, 3, 4, 5
    assert upsampled[0, 0, 16, 14].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_eq_1_stays_float32_under_half_precision_weights(sd_base):
    generator = generator_of(str(sd_base), dtype=torch.bfloat16, timestep=999, **SMALL)
    lr, seen = picture(1, 3, 16, 16), []
    generator.unet.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0], output[0])))
    with torch.no_grad():
        sr, z_hat = generator(lr)
    (given, noise_pred), z_lr = seen[0], generator.encode(generator.upsample(lr, (64, 64)))
    assert (given.dtype, noise_pred.dtype) == (torch.bfloat16, torch.bfloat16) and torch.equal(given, z_lr.bfloat16())
    assert {z_lr.dtype, z_hat.dtype, sr.dtype} == {torch.float32}
    alpha_bar = ALPHAS_CUMPROD[999].double()
    expected = (z_lr.double() - (1 - alpha_bar).sqrt() * noise_pred.double()) / alpha_bar.sqrt()
    torch.testing.assert_close(z_hat.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_only_adapters_and_the_prompt_train(generator):
    names = set(generator.trainable())
    assert "prompt_embedding" in names
    assert all(".lora_A." in name or ".lora_B." in name for name in names - {"prompt_embedding"})
    assert generator.prompt_embedding.shape == (5, 24)
    sr, z_hat = generator(picture(1, 3, 16, 16))
    (sr.square().mean() + z_hat.square().mean()).backward()
    for name, parameter in generator.named_parameters():
        if name in names:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        else:
            assert parameter.grad is None and not parameter.requires_grad, name
    assert generator.prompt_embedding.grad.abs().sum() > 0
    moved = [name for name in names if ".lora_B." in name and generator.trainable()[name].grad.abs().sum() > 0]
    assert len(moved) == sum(".lora_B." in name for name in names)  # A moves only once B is no longer zero


@pytest.mark.slow
def test_adapters_start_as_the_frozen_base(sd_base, generator):
    lr_up = picture(1, 3, 64, 64)
    frozen = generator_of(str(sd_base), rank=1, alpha=1, targets=("conv_shortcut",), prompt_tokens=5)
    assert torch.equal(generator.restore(lr_up), frozen.restore(lr_up))
    disturb_lora(generator.unet)
    assert not torch.allclose(generator.restore(lr_up), frozen.restore(lr_up), atol=1e-3)


@pytest.mark.slow
@BASES
def test_full_training_frees_the_unet_and_nothing_else(base, side, request):
    generator = generator_of(str(request.getfixturevalue(base)), train="full", dtype=torch.bfloat16, prompt_tokens=5)
    assert set(generator.trainable()) == {"prompt_embedding"} | {f"unet.{name}" for name, _ in generator.unet.named_parameters()}
    assert {p.dtype for p in generator.trainable().values()} == {torch.float32}
    generator(picture(1, 3, side, side))[0].square().mean().backward()
    assert all(p.grad is not None for p in generator.trainable().values())
    assert all(p.grad is None for p in generator.autoencoder.parameters())


def test_no_gradient_goes_back_through_the_encoder(generator):
    assert not generator.encode(picture(1, 3, 64, 64).requires_grad_()).requires_grad


def test_everything_initial_depends_on_the_seed_only(tiny_base):
    states = [{name: p.clone() for name, p in generator_of(str(tiny_base), seed=seed, **SMALL).trainable().items()} for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["prompt_embedding"], states[2]["prompt_embedding"])


@pytest.mark.slow
def test_checkpointing_the_unet_changes_no_gradient(sd_base):
    gradients = []
    for checkpointed in (False, True):
        generator = generator_of(str(sd_base), **SMALL)
        disturb_lora(generator.unet)
        if checkpointed:
            generator.unet.enable_gradient_checkpointing()
            generator.autoencoder.enable_gradient_checkpointing()
        sr, z_hat = generator(picture(1, 3, 16, 16))
        # As in training: the pixel loss is taken back to z_hat, and from there on to the weights.
        z_hat.backward(torch.autograd.grad(sr.square().mean(), z_hat)[0])
        gradients.append({name: p.grad for name, p in generator.trainable().items()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0].values())


@pytest.mark.slow
def test_training_under_autocast_gives_finite_float32_gradients(sd_base):
    generator = generator_of(str(sd_base), dtype=torch.bfloat16, **SMALL)
    disturb_lora(generator.unet)
    with torch.autocast("cpu", torch.bfloat16):
        sr, z_hat = generator(picture(1, 3, 16, 16))
    assert sr.dtype == z_hat.dtype == torch.float32
    sr.square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in generator.trainable().values())


@pytest.mark.slow
def test_an_autoencoder_of_another_latent_space_is_refused(generator):
    with pytest.raises(ValueError, match="the autoencoder's latents have 48 channels, the UNet takes 4"):
        Generator(generator.unet, new_autoencoder(BLOCK_TRANSFORM), ALPHAS_CUMPROD, noise_like(5, 24), 399)


def test_the_schedule_is_no_weight(generator):
    """It belongs to the base: never saved, and never cast with the weights."""
    assert "alphas_cumprod" not in generator.state_dict()
    assert torch.equal(generator.alphas_cumprod, ALPHAS_CUMPROD) and isinstance(generator.autoencoder, Autoencoder)


def test_a_timestep_beyond_the_noise_schedule_is_refused(tiny_base):
    generator = generator_of(str(tiny_base), timestep=250, prompt_tokens=5)
    parts = generator.unet, generator.autoencoder, generator.alphas_cumprod[:250], generator.prompt_embedding
    with pytest.raises(ValueError, match="timestep 250 lies beyond the 250"):
        Generator(*parts, timestep=250)
    assert Generator(*parts, timestep=249).timestep == 249
