"""Small stand-ins with the structure of the real models, written as diffusers itself writes them, with random weights."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel

from models.backbones import new_autoencoder, new_unet, save_base
from models.configs import BLOCK_TRANSFORM, SMALL_SD_UNET, SMALL_SDXL_UNET, SMALL_TAESD, SMALL_VAE, TINY_UNET
from models.discriminator import Discriminator, build_discriminator
from models.generator import Generator, build_generator
from models.settings import DiscriminatorSettings, GeneratorSettings, LoraSettings

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}

SMALL_TINY_UNET = {**TINY_UNET, "block_out_channels": [16, 32, 32], "cross_attention_dim": 12, "attention_head_dim": [2, 2, 2]}


def random_model(kind: type, config: dict, seed: int = 0) -> torch.nn.Module:
    """A diffusers model with seeded weights in eval mode; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.from_config(config).eval()


def write_sd_base(folder: Path, prediction_type: str = "epsilon") -> Path:
    """unet/, vae/ and scheduler/ of a small SD 2.1-base, scaling factor absent from the VAE's config as in the real one."""
    random_model(UNet2DConditionModel, SMALL_SD_UNET).save_pretrained(folder / "unet")
    random_model(AutoencoderKL, {name: value for name, value in SMALL_VAE.items() if name != "scaling_factor"}, 1).save_pretrained(
        folder / "vae"
    )
    PNDMScheduler(**SCHEDULE, prediction_type=prediction_type, skip_prk_steps=True, steps_offset=1).save_pretrained(folder / "scheduler")
    return folder


def write_sdxl_base(folder: Path) -> Path:
    """unet/ and scheduler/ of a small SDXL."""
    random_model(UNet2DConditionModel, SMALL_SDXL_UNET, 2).save_pretrained(folder / "unet")
    EulerDiscreteScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    return folder


def write_tiny_base(folder: Path) -> Path:
    """A base of this project's own kind: block transform latents, cross attention in the middle only."""
    autoencoder = new_autoencoder(BLOCK_TRANSFORM)
    autoencoder.model.mean.copy_(torch.linspace(-0.5, 0.5, 48))
    autoencoder.model.std.copy_(torch.linspace(2.0, 0.1, 48))
    save_base(folder, new_unet(SMALL_TINY_UNET, 3), autoencoder)
    return folder


def write_taesd(folder: Path) -> Path:
    """A small AutoencoderTiny with its config.json at the top of the folder, as madebyollin/taesd has it."""
    random_model(AutoencoderTiny, SMALL_TAESD, 4).save_pretrained(folder)
    return folder


def generator_settings(source: str, **flat: Any) -> GeneratorSettings:
    """Settings with the LoRA's rank, alpha and targets among the others."""
    return GeneratorSettings(pretrained=source, **_nested(flat))


def discriminator_settings(source: str, **flat: Any) -> DiscriminatorSettings:
    """Settings with the LoRA's rank, alpha and targets among the others."""
    return DiscriminatorSettings(pretrained=source, **_nested(flat))


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    lora = {name: flat.pop(name) for name in ("rank", "alpha", "targets") if name in flat}
    return flat | {"lora": LoraSettings(**lora)}


def generator_of(source: str, *, scale: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0, **flat: Any) -> Generator:
    """`build_generator` of `generator_settings`."""
    return build_generator(generator_settings(source, **flat), scale=scale, dtype=dtype, seed=seed)


def discriminator_of(
    source: str, *, image_size: int = 512, dtype: torch.dtype = torch.float32, seed: int = 0, **flat: Any
) -> Discriminator:
    """`build_discriminator` of `discriminator_settings`."""
    return build_discriminator(discriminator_settings(source, **flat), image_size=image_size, dtype=dtype, seed=seed)


def disturb_lora(unet: torch.nn.Module, seed: int = 0) -> None:
    """Fills the B matrices, which are zero before training, so that the adapters do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def noise_like(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform numbers in [-1, 1], the same for the same seed."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
