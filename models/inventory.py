"""What a generator folder consists of, read from headers only: for --dry-run, without weights, network or GPU."""

import math
from pathlib import Path

from safetensors import safe_open

from models.generator import MERGED, base_of, read_generator_config
from models.pretrained_files import WEIGHTS_NAMES, find_file, is_local
from models.random_source import DESCRIPTION, is_random


def describe_generator(path: str, base: str | None = None) -> str:
    """Lines that say where the trained part and the base model lie, whether they are there, and how many parameters they store.

    path, base: as for models.generator.load_generator. What is missing is said, not raised.
    """
    try:
        config = read_generator_config(path)
    except ValueError as error:
        return f"generator: MISSING: {error}" + (f"\nbase model: {_place(base)}" if base else "")
    source = base_of(path, config, base)
    vae = config.get("vae")
    parts = {"UNet": (source, "unet"), "autoencoder": (vae, "") if vae else (source, "vae")}
    counts = {name: _stored_at(*place) for name, place in parts.items()}
    trained = sum(stored_parameters(file) for file in Path(path).glob("*.safetensors"))
    what = f"{trained:,} trained parameters ({config['train']})"
    place = f"base model: {_place(source)}"
    if config["train"] == MERGED:
        what = "merged, whole in itself" + (f"; network_g.pretrained ({base}) is not used" if base else "")
        place = f"merged from: {config.get('merged_from', {}).get('name', 'unknown')}, trained on {config['base']}"
    lines = [
        f"generator: {path}, T_L = {config['timestep']}, x{config['scale']}, {what}",
        place,
        *([f"autoencoder: {_place(vae)}"] if vae else []),
        "parameters: " + ", ".join(f"{name} {'unknown' if count is None else f'{count:,}'}" for name, count in counts.items()),
    ]
    return "\n".join(lines)


def stored_parameters(file: Path) -> int:
    """How many numbers a .safetensors file holds, from its header."""
    with safe_open(file, framework="pt") as tensors:
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


def _place(source: str) -> str:
    if is_random(source):
        return f"{source} ({DESCRIPTION})"
    return f"{source} (folder)" if is_local(source) else f"{source} (no such folder here: taken from the hub's cache, or downloaded)"
