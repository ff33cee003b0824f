"""The folder of a trained generator, read and written: experiments/NAME/models/NAME_ITER, a released one, or one of tools/export.py.

pytorch_lora_weights.safetensors (adapters), generator.safetensors (prompt embedding, and the UNet where all of it trains), config.json.
`models.generator.load_generator` and diffusers read it back.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.whole_files import write_folder, write_text
from models.config_checks import GENERATOR, check_config
from models.json_files import read_json
from models.lora import LORA_FILE, lora_parameters, save_lora
from models.pretrained_files import ROOT, WEIGHTS_NAMES, find_file, is_local, looked_in, reading_tensors
from models.random_source import DESCRIPTION, is_random

CODE_VERSION = "0.1.0"
CONFIG_FILE = "config.json"
GENERATOR_FILE = "generator.safetensors"
MERGED = "merged"
"""`train` in the config.json of a folder that tools/export.py wrote: whole in itself, adapters in the weights of its unet/."""


def save_release(folder: Path, generator: nn.Module, config: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Writes what was trained, as the generator carries it now; nothing frozen is saved.

    generator: a `models.generator.Generator`. config: what config.json says of it, beside the version of this code.
    """

    def write(temporary: Path) -> None:
        save_generator_tensors(temporary, full_state(generator), dtype)
        if lora_parameters(generator.unet):
            save_lora(temporary / LORA_FILE, generator.unet)
        (temporary / CONFIG_FILE).write_text(json.dumps({"code_version": CODE_VERSION, **config}, indent=2) + "\n", encoding="utf-8")

    write_folder(Path(folder), write)


def note_metrics(folder: Path, metrics: dict[str, float]) -> None:
    """Puts the scores of a validation into the config.json of a release that is there already; whole or not at all."""
    file = folder / CONFIG_FILE
    write_text(file, json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"metrics": metrics}, indent=2) + "\n")


def full_state(generator: nn.Module) -> dict[str, Tensor]:
    """What generator.safetensors holds: the prompt embedding, and the UNet where all of it is trained."""
    adapters = set(map(id, lora_parameters(generator.unet)))
    return {name: p.detach() for name, p in generator.trainable().items() if id(p) not in adapters}


def save_generator_tensors(folder: Path, state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Writes generator.safetensors."""
    save_file({name: tensor.to("cpu", dtype).contiguous() for name, tensor in state.items()}, Path(folder) / GENERATOR_FILE)


def read_generator_tensors(path: str | Path) -> dict[str, Tensor]:
    """generator.safetensors, by name."""
    file = Path(path) / GENERATOR_FILE
    with reading_tensors(file):
        return load_file(file)


def read_generator_config(path: str | Path) -> dict:
    """config.json of a released or experiment folder.

    Raises:
        ValueError: there is none, it is damaged, or it says what no generator can be.
    """
    file = Path(path) / CONFIG_FILE
    if not file.is_file():
        raise ValueError(
            f"'{path}' holds no trained generator (no {CONFIG_FILE}){looked_in(path)}. Give a released folder such as weights/d3sr-tiny, "
            "or experiments/NAME/models/NAME_ITER of a training run"
        )
    config = read_json(file)
    missing = [key for key in ("timestep", "scale", "train", "base") if key not in config]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}: it does not describe a D3SR generator")
    check_config(config, GENERATOR, str(file))
    return config


def base_of(path: str | Path, config: dict, base: str | None = None) -> str:
    """Where the base model of a trained generator lies: as told, else beside it, else where it was trained from, be that a folder that came
    with this code.

    A merged folder is its own base, whatever is told: what it was trained on is no longer needed and would undo the training.
    """
    if config.get("train") == MERGED:
        return str(path)
    if base or (Path(path) / "unet" / "config.json").is_file():
        return base or str(path)
    named = config["base"]
    return str(ROOT / named) if not is_local(named) and (ROOT / named / "unet").is_dir() else named


def revision_of(config: dict, source: str, revision: str | None = None) -> str | None:
    """Of the base model on the hub: as told, else the one it was trained from, if `source` is that base."""
    return config.get("revision") if revision is None and source == config["base"] else revision


def describe_generator(path: str, base: str | None = None) -> str:
    """Lines that say where the trained part and the base model lie, whether they are there, and how many parameters they store.

    path, base: as for models.generator.load_generator. What is missing is said, not raised.
    """
    try:
        config = read_generator_config(path)
    except ValueError as error:
        return f"generator: MISSING: {error}" + (f"\nbase model: {_shown(base)}" if base else "")
    source = base_of(path, config, base)
    vae = config.get("vae")
    counts = {"UNet": _stored_at(source, "unet"), "autoencoder": _stored_at(vae, "") if vae else _stored_at(source, "vae")}
    trained = sum(stored_parameters(file) for file in Path(path).glob("*.safetensors"))
    what = f"{trained:,} trained parameters ({config['train']})"
    origin = f"base model: {_shown(source)}"
    if config["train"] == MERGED:
        what = "merged, whole in itself" + (f"; network_g.pretrained ({base}) is not used" if base else "")
        origin = f"merged from: {_merged_from(config)}, trained on {config['base']}"
    lines = [
        f"generator: {path}, T_L = {config['timestep']}, x{config['scale']}, {what}",
        origin,
        *([f"autoencoder: {_shown(vae)}"] if vae else []),
        "parameters: " + ", ".join(f"{name} {'unknown' if count is None else f'{count:,}'}" for name, count in counts.items()),
    ]
    return "\n".join(lines)


def _merged_from(config: dict) -> str:
    origin = config.get("merged_from")
    return str(origin.get("name", "unknown")) if isinstance(origin, dict) else "unknown"


def stored_parameters(file: Path) -> int:
    """How many numbers a .safetensors file holds, from its header. Raises ValueError for a damaged one."""
    with reading_tensors(file), safe_open(file, framework="pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  safe_open is no mapping


def _stored_at(source: str, subfolder: str) -> int | None:
    """Parameters of one component of a local base model; None where that cannot be told without a download."""
    if not is_local(source):
        return None
    try:
        file = find_file(source, WEIGHTS_NAMES, subfolder)
    except ValueError:
        return None
    return stored_parameters(file) if file.suffix == ".safetensors" else None


def _shown(source: str) -> str:
    if is_random(source):
        return f"{source} ({DESCRIPTION})"
    return f"{source} (folder)" if is_local(source) else f"{source} (no such folder here: taken from the hub's cache, or downloaded)"
