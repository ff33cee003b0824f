"""The ways to run a model that tools/benchmark.py compares: how each is built, and what each costs."""

import copy
from collections.abc import Callable, Mapping, Sequence
from statistics import median_high
from typing import Any

import torch
from torch import Tensor

from engine.distributed import dtype_of
from models.fused import compile_networks, fuse
from models.generator import Generator, build_generator, cast_weights, load_generator, load_trained, use_fast_vae
from models.release import MERGED, read_generator_config
from models.sizes import trained_settings
from options.d3sr import TestOptions
from tools.exporting.onnx_export import example_picture
from tools.timing.complexity import generator_macs, total
from tools.timing.measure import interleaved, memory_of, ratios, weights_mib

FAST = ("fast_decoder", "fast_both")
GRAPHS = "graphs"


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
    generator = fuse(generator, phase_upsampling=name == "phase", memory_format=layout)
    if name in ("compiled", GRAPHS):
        compile_networks(generator, mode="reduce-overhead" if name == GRAPHS else None)
    return generator


def build_all(names: Sequence[str], options: TestOptions, fast_vae: str | None, device: torch.device) -> dict[str, Generator]:
    """Every variant in the asked precision (bf16 in its own), on the device."""
    dtypes = {name: dtype_of("bf16" if name == "bf16" else options.precision) for name in names}
    return {name: cast_weights(build(name, options, fast_vae), dtype).to(device) for name, dtype in dtypes.items()}


def restoring(name: str, generator: Generator, lr_up: Tensor) -> Callable[[], Tensor]:
    """One picture through a variant: what is timed."""

    def graphs() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # encoder, UNet and decoder are one step, or each would overwrite the one before
        return generator.restore(lr_up)

    return graphs if name == GRAPHS else lambda: generator.restore(lr_up)


def shipped(options: TestOptions, device: torch.device) -> Generator:
    """The variant that test_d3sr.py runs by default."""
    return build_all(["channels_last"], options, None, device)["channels_last"]


def measure_variants(
    generators: Mapping[str, Generator],
    size: int,
    repeats: int,
    limit: Mapping[str, float],
    device: torch.device,
    clock: str = "wall",
    warmup: int = 0,
) -> list[dict[str, Any]]:
    """A row for every variant at one size, each warmed up by `warmup` pictures and one more; the first variant is what the others are
    compared with. Raises ValueError for a size that the network does not take."""
    macs = {name: total(generator_macs(copy.deepcopy(generator).to("meta"), size).values()) for name, generator in generators.items()}
    lr_up = example_picture((size, size)).to(device)
    calls = {name: restoring(name, generator, lr_up) for name, generator in generators.items()}
    rows, first = [], next(iter(generators))
    with torch.inference_mode():
        results = {name: call() for name, call in calls.items()}  # also the warm-up
        seconds = interleaved(calls, device, repeats=repeats, warmup=warmup, clock=clock)
        speed = ratios(seconds, first)
        for name, taken in seconds.items():
            difference = (results[name] - results[first]).abs().max().item()
            middle, gmacs = median_high(taken), macs[name].everything / 1e9
            seen = device.type == "cuda" or name not in ("compiled", GRAPHS)  # what compiled code makes on a CPU shows nowhere
            rows.append({
                "variant": name, "size": size, "seconds": middle, "all_seconds": taken, "ratio": speed[name], "gmacs": gmacs,
                "share": gmacs / middle / max(limit.values()), "memory_mib": memory_of(calls[name], device) if seen else None,
                "weights_mib": weights_mib(generators[name]), "difference": difference,
            })  # fmt: skip
    return rows
