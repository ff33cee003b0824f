"""The ways to run a model that tools/benchmark.py compares."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from models.generator import Generator
    from options.d3sr import TestOptions

VARIANTS = ("naive", "loaded", "fused", "channels_last", "phase", "compiled", "bf16")
FAST = ("fast_decoder", "fast_both")
GRAPHS = "graphs"


def unmerged(options: "TestOptions") -> "Generator":
    """As it trains: timestep and text embedding go through the network with every picture, and so do adapters, where it has some."""
    from models.generator import build_generator, load_generator, load_trained
    from models.release import MERGED, read_generator_config
    from models.sizes import trained_settings

    network = options.network_g
    config = read_generator_config(network.path)
    if config["train"] == MERGED:
        return load_generator(network.path)
    settings = trained_settings(network.path, base=network.pretrained, revision=network.revision)
    generator = build_generator(settings, scale=config["scale"])
    load_trained(generator, network.path)
    return generator.requires_grad_(False).eval()


def build(name: str, options: "TestOptions", fast_vae: str | None) -> "Generator":
    """One variant, float32 on the CPU."""
    import torch

    from models.fused import compile_networks, fuse
    from models.generator import load_generator, use_fast_vae

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


def build_all(names: Sequence[str], options: "TestOptions", fast_vae: str | None, device: "torch.device") -> "dict[str, Generator]":
    """Every variant in the asked precision (bf16 in its own), on the device."""
    from engine.distributed import dtype_of
    from models.generator import cast_weights

    dtypes = {name: dtype_of("bf16" if name == "bf16" else options.precision) for name in names}
    return {name: cast_weights(build(name, options, fast_vae), dtype).to(device) for name, dtype in dtypes.items()}


def restoring(name: str, generator: "Generator", lr_up: "torch.Tensor") -> "Callable[[], torch.Tensor]":
    """One picture through a variant: what is timed."""
    import torch

    def graphs() -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # encoder, UNet and decoder are one step, or each would overwrite the one before
        return generator.restore(lr_up)

    return graphs if name == GRAPHS else lambda: generator.restore(lr_up)


def shipped(options: "TestOptions", device: "torch.device") -> "Generator":
    """The variant that test_d3sr.py runs by default."""
    return build_all(["channels_last"], options, None, device)["channels_last"]
