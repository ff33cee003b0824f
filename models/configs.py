"""The published configurations of the base models, as facts: sizes can be counted, and random weights made, without a download.

Sources: unet/config.json and vae/config.json of stable-diffusion-v1-5, stable-diffusion-2-1-base and stable-diffusion-xl-base-1.0;
config.json of taesd. The `small-` kinds have the structure of the real ones and few channels, for tests.
Models that are trained or run are built from the config.json beside their weights; from here only those with random weights.
"""

SD21_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SD15_UNET = {**SD21_UNET, "attention_head_dim": 8, "cross_attention_dim": 768, "use_linear_projection": False}
SDXL_UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD_VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 512,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.18215,
}
SDXL_VAE = {**SD_VAE, "sample_size": 1024, "scaling_factor": 0.13025}
TAESD = {
    "_class_name": "AutoencoderTiny",
    "latent_channels": 4,
    "encoder_block_out_channels": [64, 64, 64, 64],
    "decoder_block_out_channels": [64, 64, 64, 64],
    "num_encoder_blocks": [1, 3, 3, 3],
    "num_decoder_blocks": [3, 3, 3, 1],
    "scaling_factor": 1.0,
}
TINY_UNET = {
    "sample_size": 32,
    "in_channels": 48,
    "out_channels": 48,
    "block_out_channels": [96, 112, 112],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 64,
    "attention_head_dim": [3, 4, 4],
    "norm_num_groups": 16,
    "use_linear_projection": True,
}
SMALL_SD_UNET = {
    **SD21_UNET,
    "sample_size": 16,
    "block_out_channels": [32, 64, 64, 64],
    "layers_per_block": 1,
    "attention_head_dim": [2, 4, 4, 4],
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
}
"""Four levels, cross attention in the first three, linear projections: SD 2.1-base in small."""

SMALL_SDXL_UNET = {
    **SDXL_UNET,
    "sample_size": 16,
    "block_out_channels": [32, 64, 64],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 1, 2],
    "attention_head_dim": [2, 4, 4],
    "cross_attention_dim": 40,
    "norm_num_groups": 8,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
}
"""Three levels, a pooled text condition of width 20 and size conditions: SDXL in small."""

SMALL_VAE = {**SD_VAE, "sample_size": 64, "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1, "norm_num_groups": 8}
SMALL_TAESD = {
    **TAESD,
    "encoder_block_out_channels": [8, 8, 8, 8],
    "decoder_block_out_channels": [8, 8, 8, 8],
    "num_encoder_blocks": [1, 1, 1, 1],
    "num_decoder_blocks": [1, 1, 1, 1],
}
BLOCK_TRANSFORM = {"_class_name": "BlockTransform", "block_size": 4, "latent_channels": 48, "scaling_factor": 1.0}

KNOWN = {
    "sd15": {"unet": SD15_UNET, "vae": SD_VAE},
    "sd21-base": {"unet": SD21_UNET, "vae": SD_VAE},
    "sdxl-base": {"unet": SDXL_UNET, "vae": SDXL_VAE},
    "taesd": {"": TAESD},
    "tiny": {"unet": TINY_UNET, "vae": BLOCK_TRANSFORM},
    "small-sd": {"unet": SMALL_SD_UNET, "vae": SMALL_VAE},
    "small-sdxl": {"unet": SMALL_SDXL_UNET, "vae": SMALL_VAE},
    "small-taesd": {"": SMALL_TAESD},
}
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Of the noise that all of them were trained with, and predict."""


def known_model(source: str) -> str | None:
    """Which of `KNOWN` a hub id stands for, judged by its name; None if none."""
    name = source.split("/")[-1].lower()
    if "stable-diffusion-v1-5" in name:
        return "sd15"
    if "stable-diffusion-2-1-base" in name:
        return "sd21-base"
    if "stable-diffusion-xl-base" in name:
        return "sdxl-base"
    if name.startswith("taesd"):
        return "taesd"
    return None
