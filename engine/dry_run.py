"""What a training would load, hold and need, in words: for --dry-run, without weights, network or GPU.

What is missing is said, not raised, so that one look shows all of it.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.distributed import dtype_of
from engine.memory import GIB, Memory, estimate_memory, with_perceptual
from engine.places import places
from models.sizes import DiscriminatorPlan, GeneratorPlan, UnknownSizesError, meta_discriminator, meta_generator, parameter_summary
from options.d3sr import TrainOptions

UNKNOWN = "unknown until the base model is here"


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


def plans(options: TrainOptions) -> tuple[GeneratorPlan, DiscriminatorPlan | None, BatchPlan]:
    """What the options want built, and how much is computed at a time."""
    g, d, t, data = options.network_g, options.network_d, options.train, options.datasets.train
    generator = GeneratorPlan(
        source=g.pretrained, revision=g.revision, vae=g.vae, train=g.train, prompt_tokens=g.prompt_tokens, **dataclasses.asdict(g.lora)
    )
    discriminator = None
    if d.type != "none":
        sizes = {"head_channels": d.head_channels, "prompt_tokens": d.prompt_tokens, **dataclasses.asdict(d.lora)}
        parts = {"train": d.train, "train_conv_in": d.train_conv_in, "features": d.features}
        discriminator = DiscriminatorPlan(source=d.pretrained, revision=d.revision, **parts, **sizes)
    batch = BatchPlan(
        gt_size=data.gt_size, per_process=data.batch_size_per_gpu, accumulate=t.accumulate, precision=t.precision,
        processes=None if options.num_gpu == "auto" else options.num_gpu, checkpointing=t.gradient_checkpointing, ema=t.ema_decay > 0,
        shard=d.shard and d.type != "none",
    )  # fmt: skip
    return generator, discriminator, batch


def describe_training(options: TrainOptions) -> str:
    """Lines that say what would be loaded from where and whether it is there, how large the networks are, and what memory a process needs.

    Raises:
        ValueError: a config.json that is damaged or does not fit the options.
    """
    found = places(options, count_images=True)
    missing = sum(place.problem is not None for place in found)
    verdict = f"{missing} of {len(found)} are missing: the training would stop there" if missing else "nothing is missing"
    p = options.train.perceptual
    networks = describe_networks(*plans(options), perceptual=p.type, backbone=p.backbone)
    return "\n".join(["What would be loaded", *_columns([(place.what, place.text) for place in found]), f"  {verdict}", "", *networks])


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows) + 2
    return [f"  {name:<{width}}{text}" for name, text in rows]


def describe_networks(
    generator: GeneratorPlan, discriminator: DiscriminatorPlan | None, batch: BatchPlan, *, perceptual: str, backbone: str
) -> list[str]:
    """Parameters, effective batch and memory, as far as the sizes of the networks are known.

    perceptual, backbone: train.perceptual.type and .backbone.
    """
    summaries, memory = measure(generator, discriminator, batch)
    size, processes = batch.gt_size, batch.processes
    crops = batch.per_process * batch.accumulate * (processes or 1)
    counted = f"{processes} process(es)" if processes else "1 process (any number may be started)"
    lines = ["Parameters", *_columns([*summaries.items()]), ""]
    lines += [f"Batch: {crops} crops of {size}x{size} pixels = {batch.per_process} x {counted} x {batch.accumulate} accumulated", ""]
    if memory is None:
        return [*lines, f"Memory: {UNKNOWN}"]
    memory = with_perceptual(memory, perceptual, backbone, batch=batch.per_process, gt_size=size)
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
