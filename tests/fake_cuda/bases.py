"""A generator of SD 2.1's kind and a discriminator of SDXL's, with as few levels as still have every kind of layer."""

from pathlib import Path

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

from tests.tiny_models import SCHEDULE, SMALL_SD_UNET, SMALL_SDXL_UNET, SMALL_VAE, random_model

TWO_LEVELS = {"block_out_channels": [32, 64], "attention_head_dim": [2, 4]}
SD_UNET = {
    **SMALL_SD_UNET,
    **TWO_LEVELS,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
}
SDXL_UNET = {
    **SMALL_SDXL_UNET,
    **TWO_LEVELS,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 1],
}
VAE = {
    **SMALL_VAE,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


def write_bases(folder: Path) -> tuple[Path, Path]:
    """Two folders as diffusers writes them: the generator's base and the discriminator's."""
    sd, sdxl = folder / "sd", folder / "sdxl"
    random_model(UNet2DConditionModel, SD_UNET).save_pretrained(sd / "unet")
    random_model(AutoencoderKL, VAE, 1).save_pretrained(sd / "vae")
    random_model(UNet2DConditionModel, SDXL_UNET, 2).save_pretrained(sdxl / "unet")
    for base in (sd, sdxl):
        EulerDiscreteScheduler(**SCHEDULE).save_pretrained(base / "scheduler")
    return sd, sdxl
