"""The ways to run a model that tools/benchmark.py compares: how each is built, and what each costs."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from engine.distributed import dtype_of
from models.fused import compile_networks, fuse
from models.generator import Generator, build_generator, cast_weights, load_generator, load_trained, use_fast_vae
from models.ncnn_unet import use_ncnn
from models.release import MERGED, read_generator_config
from models.sizes import trained_settings
from options.d3sr import TestOptions
from tools.exporting.ncnn_export import write_ncnn
from tools.exporting.onnx_export import example_picture
from tools.timing.complexity import generator_macs, total
from tools.timing.measure import interleaved, memory_of, ratios, weights_mib

FAST = ("fast_decoder", "fast_both")
GRAPHS = "graphs"
NCNN = "ncnn"
SHIPPED = "channels_last"
"""What test_d3sr.py runs by default."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of something else than our variants: one picture through it, multiply-accumulates of that, MiB of weights, and whether
    `memory_of` sees what it needs."""

    call: Callable[[], object]
    macs: int
    weights_mib: float
    seen: bool = True


def unmerged(options: TestOptions) -> Generator:
    """As it trains: timestep and text embedding go through the network with every picture, and so do adapters, where it has some."""
    network = options.network_g
    config = read_generator_config(network.path)
    if config["train"] == MERGED:
        return load_generator(network.path)
    settings = trained_settings(network.path, base=network.pretrained, revision=network.revision)
    generator = build_generator(settings, scale=config["scale"])
    load_trained(generator, network.path)
    return generator.requires_grad_(False).eval()


def build(name: str, options: TestOptions, fast_vae: str | None) -> Generator:
    """One variant, float32 on the CPU."""
    if name == "naive":
        return unmerged(options)
    network = options.network_g
    generator = load_generator(network.path, base=network.pretrained, revision=network.revision)
    if name in FAST:
        use_fast_vae(generator, fast_vae, name.removeprefix("fast_"))
    if name == "loaded":
        return generator
    layout = torch.channels_last if name in ("channels_last", "bf16", GRAPHS) else torch.contiguous_format
    if name == NCNN:
        return through_ncnn(generator)
    generator = fuse(generator, phase_upsampling=name == "phase", memory_format=layout)
    if name in ("compiled", GRAPHS):
        compile_networks(generator, mode="reduce-overhead" if name == GRAPHS else None)
    return generator


def through_ncnn(generator: Generator) -> Generator:
    """The generator as network_g.runtime: ncnn runs it, without its files."""
    with TemporaryDirectory(prefix="d3sr-") as folder:
        write_ncnn(generator, Path(folder))
        generator = fuse(generator)
        use_ncnn(generator, folder)
    return generator


def build_all(names: Sequence[str], options: TestOptions, fast_vae: str | None, device: torch.device) -> dict[str, Generator]:
    """Every variant in the asked precision (bf16 in its own, ncnn in float32), on the device. Raises ValueError for ncnn beside a GPU."""
    if NCNN in names and device.type != "cpu":
        raise ValueError(f"--variants: ncnn computes on the CPU, and this is {device.type}: set device: cpu")
    own = {"bf16": "bf16", NCNN: "fp32"}
    dtypes = {name: dtype_of(own.get(name, options.precision)) for name in names}
    return {name: cast_weights(build(name, options, fast_vae), dtype).to(device) for name, dtype in dtypes.items()}


def restoring(name: str, generator: Generator, lr_up: Tensor) -> Callable[[], Tensor]:
    """One picture through a variant: what is timed."""

    def graphs() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # encoder, UNet and decoder are one step, or each would overwrite the one before
        return generator.restore(lr_up)

    return graphs if name == GRAPHS else lambda: generator.restore(lr_up)


def shipped(options: TestOptions, device: torch.device) -> Generator:
    """The variant that test_d3sr.py runs by default."""
    return build_all([SHIPPED], options, None, device)[SHIPPED]


def measure_variants(
    generators: Mapping[str, Generator],
    size: int,
    repeats: int,
    limit: Mapping[str, float],
    device: torch.device,
    clock: str = "wall",
    warmup: int = 0,
    others: Mapping[str, Entry] | None = None,
) -> list[dict[str, Any]]:
    """A row for every variant at one size, each warmed up by `warmup` pictures and one more; the first variant is what the others are
    compared with. `others` have their turns in the same rounds; with them every row says how many times as long as `SHIPPED` it takes,
    which must be among the variants. Raises ValueError for a size that the network does not take."""
    lr_up = example_picture((size, size)).to(device)
    counted = {name: generators[SHIPPED] if name == NCNN else generator for name, generator in generators.items()}
    entries = {name: as_entry(name, generator, counted[name], lr_up) for name, generator in generators.items()} | dict(others or {})
    calls = {name: entry.call for name, entry in entries.items()}
    rows, first = [], next(iter(generators))
    with torch.inference_mode():
        results = {name: call() for name, call in calls.items()}  # also the warm-up
        seconds = interleaved(calls, device, repeats=repeats, warmup=warmup, clock=clock)
        speed = ratios(seconds, first)
        for name, taken in seconds.items():
            entry, middle = entries[name], median_high(taken)
            gmacs = entry.macs / 1e9
            rows.append({
                "variant": name, "size": size, "seconds": middle, "all_seconds": taken, "ratio": speed[name], "gmacs": gmacs,
                "share": gmacs / middle / max(limit.values()), "memory_mib": memory_of(entry.call, device) if entry.seen else None,
                "weights_mib": entry.weights_mib,
                "difference": (results[name] - results[first]).abs().max().item() if name in generators else None,
            })  # fmt: skip
    if others:
        for row, faster in zip(rows, ratios(seconds, SHIPPED).values(), strict=True):
            row["times_ours"] = 1 / faster
    return rows


def as_entry(name: str, generator: Generator, counted: Generator, lr_up: Tensor) -> Entry:
    """A variant's row. `counted`: one of PyTorch's operators that computes the same. Raises ValueError for a size that it does not take."""
    macs = total(generator_macs(copy.deepcopy(counted).to("meta"), lr_up.shape[-1]).values())
    seen = lr_up.device.type == "cuda" or name not in ("compiled", GRAPHS, NCNN)  # what these allocate on a CPU shows nowhere
    return Entry(call=restoring(name, generator, lr_up), macs=macs.everything, weights_mib=weights_mib(counted), seen=seen)
