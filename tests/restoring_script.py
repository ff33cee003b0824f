"""A generator that does nothing (its UNet says "no noise", so the result is the bicubic picture), and an option file for test_d3sr.py."""

import json
from pathlib import Path

import torch

from models.autoencoders import BlockAutoencoder
from models.backbones import new_unet, save_base
from models.block_transform import BlockTransform
from models.release import save_generator_tensors

UNET = {
    "sample_size": 8,
    "in_channels": 48,
    "out_channels": 48,
    "block_out_channels": (16, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}


def write_weights(folder: Path) -> Path:
    """A released folder: base beside the trained part, everything in the UNet trained, and its last convolution zero."""
    unet = new_unet(UNET)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    save_base(folder, unet, BlockAutoencoder(BlockTransform(4)))
    state = {f"unet.{name}": tensor for name, tensor in unet.state_dict().items()}
    save_generator_tensors(folder, state | {"prompt_embedding": torch.zeros(4, 16)})
    (folder / "config.json").write_text(json.dumps({"timestep": 0, "scale": 4, "train": "full", "base": "nowhere/nothing"}))
    return folder


def write_option_file(folder: Path, weights: Path) -> Path:
    metrics = "metrics: {psnr: {type: psnr}, ssim: {type: ssim}}\n"
    file = folder / "test.yml"
    file.write_text(
        f"name: run\ndevice: cpu\nnum_threads: 1\nnetwork_g: {{path: {weights}}}\npath: {{results_root: {folder / 'results'}}}\n{metrics}"
    )
    return file
