"""Loading the parts of a base model, against diffusers' own loading and its own full forward."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from models.backbones import (
    load_alphas_cumprod,
    load_autoencoder,
    load_unet,
    new_autoencoder,
    new_unet,
    predict_noise,
)
from models.block_transform import BlockTransform
from models.configs import BLOCK_TRANSFORM
from tests.tiny_models import SCHEDULE, SMALL_TAESD, SMALL_TINY_UNET, SMALL_VAE, noise_like, picture, write_sd_base

WEIGHTS = "diffusion_pytorch_model.safetensors"


def copy(base: Path, to: Path) -> Path:
    shutil.copytree(base, to)
    return to


def edit_config(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def is_frozen(module: torch.nn.Module) -> bool:
    return not module.training and not any(p.requires_grad for p in module.parameters())


# UNet


def test_unet_is_what_diffusers_loads(sd_base):
    unet, expected = load_unet(str(sd_base)), UNet2DConditionModel.from_pretrained(sd_base / "unet").requires_grad_(False)
    assert is_frozen(unet)
    z, prompt, timesteps = noise_like(2, 4, 16, 16), noise_like(2, 5, 24, seed=1), torch.tensor([3, 700])
    assert torch.equal(predict_noise(unet, z, timesteps, prompt), expected(z, timesteps, prompt).sample)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_get_the_wished_precision_whatever_the_files(sd_base, tmp_path, stored, dtype):
    base = copy(sd_base, tmp_path / "base")
    weights = {name: tensor.to(stored) for name, tensor in load_file(base / "unet" / WEIGHTS).items()}
    save_file(weights, base / "unet" / WEIGHTS)
    unet = load_unet(str(base), dtype=dtype)
    assert {p.dtype for p in unet.parameters()} == {dtype}
    assert torch.equal(unet.mid_block.resnets[0].conv1.weight, weights["mid_block.resnets.0.conv1.weight"].to(dtype))
    z = noise_like(1, 4, 16, 16)
    assert predict_noise(unet, z, torch.tensor([5]), noise_like(1, 5, 24).to(dtype)).dtype == dtype


def test_weights_that_do_not_fit_the_config_are_refused(sd_base, tmp_path):
    base = copy(sd_base, tmp_path / "base")
    edit_config(base / "unet" / "config.json", cross_attention_dim=32)
    with pytest.raises(ValueError, match=r"weights file in .*unet does not fit its config.json .*: \(32, 24\), expected \(32, 32\)"):
        load_unet(str(base))


def test_new_models_depend_on_the_seed_only():
    first, same, other = (new_unet(SMALL_TINY_UNET, seed).conv_in.weight for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


# Autoencoders


def test_autoencoder_kl_is_diffusers_mode_times_its_factor(sd_base):
    autoencoder, vae = load_autoencoder(str(sd_base)), AutoencoderKL.from_pretrained(sd_base / "vae").requires_grad_(False)
    assert is_frozen(autoencoder)
    assert (autoencoder.factor, autoencoder.latent_channels) == (8, 4)
    images = picture(2, 3, 64, 32)
    z = vae.encode(images).latent_dist.mode() * 0.18215
    assert torch.equal(autoencoder.encode(images), z)
    assert torch.equal(autoencoder.decode(z), vae.decode(z / 0.18215).sample)


def test_scaling_factor_comes_from_the_config(sd_base, tmp_path):
    base = copy(sd_base, tmp_path / "base")
    edit_config(base / "vae" / "config.json", scaling_factor=0.5)
    images = picture(1, 3, 32, 32)
    torch.testing.assert_close(load_autoencoder(str(base)).encode(images), load_autoencoder(str(sd_base)).encode(images) * (0.5 / 0.18215))


def test_autoencoder_tiny_is_not_scaled_again(taesd):
    """TAESD reads and gives latents that are already times 0.18215; its config says 1.0."""
    autoencoder, tiny = load_autoencoder(str(taesd), subfolder=""), AutoencoderTiny.from_pretrained(taesd).requires_grad_(False)
    assert (autoencoder.factor, autoencoder.latent_channels, tiny.config.scaling_factor) == (8, 4, 1.0)
    images = picture(2, 3, 64, 32)
    z = tiny.encode(images).latents
    assert torch.equal(autoencoder.encode(images), z)
    assert torch.equal(autoencoder.decode(z), tiny.decode(z).sample)


def test_block_transform_is_loaded_with_its_whitening_in_float32(tiny_base):
    autoencoder = load_autoencoder(str(tiny_base), dtype=torch.bfloat16)
    assert (autoencoder.factor, autoencoder.latent_channels) == (4, 48)
    expected = BlockTransform.from_pretrained(tiny_base / "vae")
    images = picture(1, 3, 16, 8)
    assert torch.equal(autoencoder.encode(images), expected.encode(images))
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), images, rtol=0, atol=1e-5)


def test_channel_gain_is_what_a_unit_of_the_channel_does_to_the_intensity(tiny_base):
    autoencoder = load_autoencoder(str(tiny_base))
    empty = autoencoder.decode(torch.zeros(1, 48, 1, 1))
    moved = torch.stack([(autoencoder.decode(unit.view(1, 48, 1, 1)) - empty).mean(dim=1).norm() for unit in torch.eye(48)])
    torch.testing.assert_close(autoencoder.channel_gain, moved / moved.square().mean().sqrt(), rtol=1e-4, atol=1e-5)
    assert autoencoder.channel_gain[:16].std() > 0.1 and not autoencoder.channel_gain[16:].any()


@pytest.mark.parametrize("base", ["sd_base", "taesd"])
def test_channels_of_a_learned_vae_weigh_the_same(base, request):
    base = request.getfixturevalue(base)
    autoencoder = load_autoencoder(str(base), subfolder="vae" if (base / "vae").is_dir() else "")
    assert torch.equal(autoencoder.channel_gain, torch.ones(4))


def test_block_transform_is_fetched_from_the_hub_with_its_weights(tiny_base, monkeypatch):
    fetched = []

    def download(source, name, subfolder, revision):
        fetched.append(name)
        return str(tiny_base / subfolder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("models.hub.answers", lambda: True)
    assert load_autoencoder("owner/name").model.std[0].item() == 2.0
    assert fetched == ["config.json", WEIGHTS]


def test_attention_names_of_old_files_are_understood(sd_base, tmp_path):
    """Stable Diffusion's own VAE files call them query, key, value and proj_attn."""
    base = copy(sd_base, tmp_path / "base")
    weights = load_file(base / "vae" / WEIGHTS)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        weights = {name.replace(f".attentions.0.{new}.", f".attentions.0.{old}."): tensor for name, tensor in weights.items()}
    assert sum(".query." in name for name in weights) == 4 and not any(".to_q." in name for name in weights)
    save_file(weights, base / "vae" / WEIGHTS)
    images = picture(1, 3, 32, 32)
    assert torch.equal(load_autoencoder(str(base)).encode(images), load_autoencoder(str(sd_base)).encode(images))


def test_unknown_autoencoders_are_refused(sd_base, tmp_path):
    base = copy(sd_base, tmp_path / "base")
    edit_config(base / "vae" / "config.json", _class_name="VQModel")
    with pytest.raises(
        ValueError, match=r"vae/config.json' describes a VQModel; known autoencoders: AutoencoderKL, AutoencoderTiny, Block"
    ):
        load_autoencoder(str(base))


def test_half_precision_autoencoder_takes_float_pictures(sd_base):
    autoencoder = load_autoencoder(str(sd_base), dtype=torch.bfloat16)
    z = autoencoder.encode(picture(1, 3, 32, 32))
    assert z.dtype == torch.float32 and autoencoder.decode(z).dtype == torch.bfloat16


@pytest.mark.slow
def test_latents_keep_more_than_half_precision(sd_base):
    """Of a half-precision VAE, and under autocast: a discriminator that meets float32 latents must not tell these by their rounding."""
    images = picture(1, 3, 64, 64)
    for dtype, autocast in ((torch.bfloat16, False), (torch.float32, True)):
        autoencoder = load_autoencoder(str(sd_base), dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            z = autoencoder.encode(images)
        moments = autoencoder.model.encoder(images.to(dtype)) if not autocast else None
        assert z.dtype == torch.float32
        unscaled = z / autoencoder.model.config.scaling_factor
        assert unscaled.bfloat16().float().ne(unscaled).float().mean() > 0.9
        if moments is not None:
            conv = autoencoder.model.quant_conv.double()
            expected = conv(moments.double()).chunk(2, dim=1)[0] * autoencoder.model.config.scaling_factor
            torch.testing.assert_close(z.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [{**SMALL_VAE}, {**SMALL_TAESD, "_class_name": "AutoencoderTiny"}])
def test_checkpointing_the_decoder_changes_no_gradient(config):
    """Through torch.autograd.grad too, which is how the training loop asks; and nothing is recomputed in the encoder."""
    z, images = noise_like(1, 4, 8, 8).requires_grad_(), picture(1, 3, 32, 32)
    plain, checkpointed = (new_autoencoder(config, 0).requires_grad_(False).eval() for _ in range(2))
    checkpointed.enable_gradient_checkpointing()
    gradients, saved = [], []
    for autoencoder in (plain, checkpointed):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            decoded = autoencoder.decode(z)
        saved.append(sum(kept))
        gradients.append(torch.autograd.grad(decoded.square().mean(), z)[0])
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0
    assert saved[1] < 0.7 * saved[0]
    assert torch.equal(plain.encode(images), checkpointed.encode(images))


def test_checkpointing_a_block_transform_is_nothing_to_do():
    new_autoencoder(BLOCK_TRANSFORM).enable_gradient_checkpointing()


# Schedule


@pytest.mark.parametrize("base", ["sd_base", "sdxl_base", "tiny_base"])
def test_schedule_is_the_bases_own(base, request):
    assert torch.equal(load_alphas_cumprod(str(request.getfixturevalue(base))), DDPMScheduler(**SCHEDULE).alphas_cumprod)


def test_schedule_follows_the_config(sd_base, tmp_path):
    base = copy(sd_base, tmp_path / "base")
    edit_config(base / "scheduler" / "scheduler_config.json", beta_end=0.02, num_train_timesteps=500)
    expected = DDPMScheduler(**SCHEDULE | {"beta_end": 0.02, "num_train_timesteps": 500}).alphas_cumprod
    assert torch.equal(load_alphas_cumprod(str(base)), expected)


def test_a_base_that_predicts_velocity_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"predicts v_prediction, but Eq. 1 needs a model that predicts noise"):
        load_alphas_cumprod(str(write_sd_base(tmp_path, "v_prediction")))


def test_another_kind_of_schedule_is_refused(sd_base, tmp_path):
    base = copy(sd_base, tmp_path / "base")
    edit_config(base / "scheduler" / "scheduler_config.json", beta_schedule="squaredcos_cap_v2")
    with pytest.raises(ValueError, match="noise schedule 'squaredcos_cap_v2'"):
        load_alphas_cumprod(str(base))


# Start-up


@pytest.mark.slow
def test_what_inference_does_not_need_is_not_imported_and_training_still_finds_peft():
    program = """
import sys
import models.generator
from models.backbones import new_unet
assert "diffusers" not in sys.modules, "what only restores needs none: see tests/restoring/test_start_up.py"
from models.configs import TINY_UNET
from models.lora import add_lora, lora_parameters
unet = new_unet({**TINY_UNET, "block_out_channels": [16, 32, 32], "attention_head_dim": [2, 2, 2]})
assert not {"peft", "bitsandbytes", "transformers.modeling_utils"} & set(sys.modules), "half of the start-up"
add_lora(unet, 2, 2)
assert "peft" in sys.modules and len(lora_parameters(unet)) > 10
from diffusers.loaders import lora_base
assert lora_base.BaseTunerLayer, "what a pipeline of diffusers needs in the same program"
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
