"""The folder of a trained generator: experiments/NAME/models/NAME_ITER, and what `load_generator` and diffusers read back."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.whole_files import write_folder, write_text
from models.generator import CONFIG_FILE, Generator, full_state, save_generator_tensors
from models.lora import LORA_FILE, lora_parameters, save_lora

CODE_VERSION = "0.1.0"


def save_release(folder: Path, generator: Generator, config: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Writes what was trained, as the generator carries it now; nothing frozen is saved.

    pytorch_lora_weights.safetensors (adapters), generator.safetensors (prompt embedding, and the UNet where all of it trains), config.json.
    """

    def write(temporary: Path) -> None:
        save_generator_tensors(temporary, full_state(generator), dtype)
        if lora_parameters(generator.unet):
            save_lora(temporary / LORA_FILE, generator.unet)
        (temporary / CONFIG_FILE).write_text(json.dumps({"code_version": CODE_VERSION, **config}, indent=2) + "\n")

    write_folder(Path(folder), write)


def note_metrics(folder: Path, metrics: dict[str, float]) -> None:
    """Puts the scores of a validation into the config.json of a release that is there already; whole or not at all."""
    file = folder / CONFIG_FILE
    write_text(file, json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"metrics": metrics}, indent=2) + "\n")


def parameter_summary(module: nn.Module) -> str:
    """`16.94 M trained in 557 tensors, 949.56 M frozen`."""
    trained = [p.numel() for p in module.parameters() if p.requires_grad]
    frozen = sum(p.numel() for p in module.parameters()) - sum(trained)
    return f"{sum(trained) / 1e6:.2f} M trained in {len(trained)} tensors, {frozen / 1e6:.2f} M frozen"
