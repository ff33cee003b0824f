"""What a training would load, hold and need, in words: for --dry-run, without weights, network or GPU.

What is missing is said, not raised, so that one look shows all of it.
"""

from collections.abc import Sequence

import torch
from torch import nn

from engine.distributed import dtype_of
from engine.memory import GIB, Memory, estimate_memory, with_perceptual
from engine.needs import needs
from models.sizes import UnknownSizesError, meta_discriminator, meta_generator, parameter_summary
from options.d3sr import TrainOptions

UNKNOWN = "unknown until the base model is here"


def describe_training(options: TrainOptions) -> str:
    """Lines that say what would be loaded from where and whether it is there, how large the networks are, and what memory a process needs.

    Raises:
        ValueError: a config.json that is damaged or does not fit the options.
    """
    found = needs(options, count_images=True)
    missing = sum(need.problem is not None for need in found)
    verdict = f"{missing} of {len(found)} are missing: the training would stop there" if missing else "nothing is missing"
    loaded = _columns([(need.what, need.text) for need in found])
    return "\n".join(["What would be loaded", *loaded, f"  {verdict}", "", *describe_networks(options)])


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows) + 2
    return [f"  {name:<{width}}{text}" for name, text in rows]


def describe_networks(options: TrainOptions) -> list[str]:
    """Parameters, effective batch and memory, as far as the sizes of the networks are known."""
    summaries, memory = measure(options)
    data, accumulated = options.datasets.train, options.train.accumulate
    processes = 1 if options.num_gpu == "auto" else options.num_gpu
    crops = data.batch_size_per_gpu * accumulated * processes
    counted = "1 process (any number may be started)" if options.num_gpu == "auto" else f"{processes} process(es)"
    each = f"{data.batch_size_per_gpu} x {counted} x {accumulated} accumulated"
    lines = ["Parameters", *_columns([*summaries.items()]), ""]
    lines += [f"Batch: {crops} crops of {data.gt_size}x{data.gt_size} pixels = {each}", ""]
    return lines + ([f"Memory: {UNKNOWN}"] if memory is None else describe_memory(memory, options))


def describe_memory(memory: Memory, options: TrainOptions) -> list[str]:
    """The estimate as a small table, in GiB."""
    rows = [("frozen weights", memory.frozen), ("trained weights, gradients, AdamW", memory.trained)]
    rows += [(f"activations: {phase}", size) for phase, size in memory.phases.items()]
    rows += [("peak: weights and the largest phase", memory.peak)]
    saved, shares = ", ".join(options.train.gradient_checkpointing) or "none", _shares(options)
    spread = f"; the discriminator's frozen weights spread over {shares} process(es)" if shares else ""
    return [
        f"Memory of one process, estimated (GiB; {options.train.precision}, gradient checkpointing: {saved}{spread})",
        *_columns([(name, f"{size / GIB:6.2f}") for name, size in rows]),
        "  On top: CUDA context, work space of the kernels, fragmentation; 10 to 20 %.",
    ]


def _shares(options: TrainOptions) -> int:
    """How many processes share the discriminator's frozen weights, 1 where their number is open; 0 where nothing is shared."""
    if not options.network_d.shard or options.network_d.type == "none":
        return 0
    return 1 if options.num_gpu == "auto" else options.num_gpu


def measure(options: TrainOptions) -> tuple[dict[str, str], Memory | None]:
    """Parameters of each player in words, and the memory of a process; None where a base's sizes are unknown."""
    t, data, dtype = options.train, options.datasets.train, dtype_of(options.train.precision)
    settings = {"generator": (meta_generator, options.network_g)}
    if options.network_d.type != "none":
        settings["discriminator"] = (meta_discriminator, options.network_d)
    players: dict[str, nn.Module] = {}
    summaries = {"generator": "none", "discriminator": "none"}
    for name, (build, of_player) in settings.items():
        try:
            players[name] = build(of_player, dtype=dtype)
            summaries[name] = parameter_summary(players[name])
        except UnknownSizesError:
            summaries[name] = UNKNOWN
    if UNKNOWN in summaries.values():
        return summaries, None
    generator, discriminator = players["generator"], players.get("discriminator")
    checkpointed = {"vae": generator.autoencoder, "unet": generator.unet}
    if discriminator is not None:
        checkpointed["discriminator"] = discriminator.trunk
    for part in set(t.gradient_checkpointing) & checkpointed.keys():
        checkpointed[part].enable_gradient_checkpointing()
    sizes = {"batch": data.batch_size_per_gpu, "gt_size": data.gt_size}
    low = None if dtype == torch.float32 else dtype
    memory = estimate_memory(generator, discriminator, **sizes, shares=_shares(options) or 1, low=low, ema=t.ema_decay > 0)
    return summaries, with_perceptual(memory, t.perceptual.type, t.perceptual.backbone, **sizes)
