"""How fast the device restores with a model of Stable Diffusion 2.1's size, and what of its own limit that is."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from engine.distributed import dtype_of
from models.generator import Generator, base_fingerprint, build_generator
from models.release import save_release
from models.settings import GeneratorSettings
from options.d3sr import TestOptions, load_test_options
from tools.checks import ROOT
from tools.checks.step import Row, Setting, attempt, free_memory, row
from tools.exporting.onnx_export import example_picture
from tools.timing.measure import device_limit
from tools.timing.parts import scaling
from tools.timing.variants import build_all, measure_variants

OPTIONS = str(ROOT / "options/test_sd21.yml")
NOTES = {
    "naive": "adapters beside the weights, as it trains",
    "channels_last": "folded, as test_d3sr.py runs it",
    "graphs": "folded, CUDA graphs (mode reduce-overhead), whose memory lies in a pool that is not counted",
    "fast_decoder": "TAESD decodes",
    "fast_both": "TAESD encodes and decodes",
}


def naive_and_fused(setting: Setting) -> Iterator[Row]:
    """As it trains, beside folded, at 512, 1024 and 2048 pixels of output."""
    yield from variants(setting, setting.precision, ("naive", "channels_last"), (512, 1024, 2048))


def precisions(setting: Setting) -> Iterator[Row]:
    """fp16, and fp32 as its TF32 is set, folded; which of them stays finite."""
    for precision in ("fp16", "fp32"):
        yield from variants(setting, precision, ("channels_last",), (512, 1024))


def fast_vae(setting: Setting) -> Iterator[Row]:
    """TAESD in the place of the decoder, and of both halves."""
    yield from variants(setting, setting.precision, ("channels_last", "fast_decoder", "fast_both"), (512, 1024))


def compiled(setting: Setting) -> Iterator[Row]:
    """torch.compile into CUDA graphs, beside folded only."""
    yield from variants(setting, setting.precision, ("channels_last", "graphs"), (512,))


def tiles(setting: Setting) -> Iterator[Row]:
    """Large pictures in tiles of 1024, as test_d3sr.py restores them: memory does not follow the picture's size."""
    precision = setting.precision
    if lacking := setting.lacks(precision):
        yield row(precision, {}, lacking, "skipped")
        return
    generators, tile = build(setting, precision, ("channels_last",)), 1024 if setting.full else 128
    for side in (2048, 4096) if setting.full else (256,):
        what = f"{precision}, {side} x {side}"
        yield attempt(what, partial(in_tiles, what, generators["channels_last"], side, tile))


def in_tiles(what: str, generator: Generator, side: int, tile: int) -> Row:
    """One picture of side x side pixels."""
    (found,) = scaling(generator, [side], tile, overlap=64, repeats=1)["rows"]
    return row(what, {"ms per image": found["seconds"] * 1e3, "MiB at work": found["memory_mib"]})


def variants(setting: Setting, precision: str, names: Sequence[str], sizes: Sequence[int]) -> Iterator[Row]:
    """Rows of the variants at each size, ratios to the first of them; before them the device's own limit in this precision."""
    if lacking := setting.lacks(precision):
        yield row(precision, {}, lacking, "skipped")
        return
    limit = device_limit(setting.device, dtype_of(precision))
    for what, rate in limit.items():
        yield row(f"{precision}, the device's limit: {what}", {"TFLOP/s": 2 * rate / 1e3})
    generators, repeats = build(setting, precision, names), 5 if setting.full else 1
    for size in sizes if setting.full else (64,):
        what = f"{precision}, {size} x {size}"
        found = attempt(what, lambda size=size: {"rows": measure_variants(generators, size, repeats, limit, setting.device, warmup=2)})
        if "rows" not in found:
            yield found
            continue
        for result in found["rows"]:
            yield shown(f"{what}, {result['variant']}", result, generators[result["variant"]])
        free_memory()


def shown(what: str, result: Mapping, generator: Generator) -> Row:
    """A result of tools/benchmark.py as a row; and whether the picture is finite before it is clamped."""
    lr_up = example_picture((result["size"],) * 2).to(generator.prompt_embedding.device)
    with torch.inference_mode():
        if result["variant"] == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        finite = generator.autoencoder.decode(generator.denoise(generator.encode(lr_up))).isfinite().all().item()
    values = {
        "ms per image": result["seconds"] * 1e3,
        "times the first": result["ratio"],
        "TFLOP/s": 2 * result["gmacs"] / result["seconds"] / 1e3,
        "share of the limit": result["share"],
        "MiB at work": result["memory_mib"],
        "MiB of weights": result["weights_mib"],
        "grey levels from the first": result["difference"] * 127.5,
        "finite": "yes" if finite else "no",
    }
    return row(what, values, NOTES.get(result["variant"], ""))


def build(setting: Setting, precision: str, names: Sequence[str]) -> dict[str, Generator]:
    """The variants of a generator with adapters on random weights, on the device."""
    fast = "random:taesd" if setting.full else "random:small-taesd"
    generators = build_all(names, options(setting, precision), fast, setting.device)
    gc.collect()
    return generators


def options(setting: Setting, precision: str) -> TestOptions:
    """options/test_sd21.yml on a release of random weights."""
    changes = [f"network_g.path={release(setting)}", f"network_g.pretrained={setting.bases()[0]}", f"precision={precision}"]
    return load_test_options(OPTIONS, changes)


def release(setting: Setting) -> Path:
    """What a training leaves, before it has learned anything; written once."""
    folder, base = setting.folder / "release", setting.bases()[0]
    if not folder.is_dir():
        generator = build_generator(GeneratorSettings(pretrained=base), dtype=torch.float16)
        facts = {"timestep": 399, "scale": 4, "train": "lora", "rank": 16, "alpha": 16, "base": base}
        save_release(folder, generator, {**facts, "base_fingerprint": base_fingerprint(base)})
    return folder
