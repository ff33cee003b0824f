"""Whether the device restores as the CPU does: the small model's pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic

import torch
from torch import Tensor

from data.image_io import read_image, to_tensor
from engine.distributed import dtype_of
from models.fused import compile_networks, fuse
from models.generator import Generator, cast_weights, load_generator
from restoring.rows import restore_rows
from tools.checks import ROOT
from tools.checks.step import Row, Setting, attempt, row

MODEL = "weights/d3sr-tiny"
ROUNDING = {"fp32": 0.5, "bf16": 4.0, "fp16": 0.5}
"""Largest difference from float32 on a CPU that a precision explains, in grey levels: five times what it makes on a CPU, where it is
0.0002, 0.9 and 0.09; fp32 has room for TF32, which rounds as fp16 does."""
WITHOUT_TF32 = 0.02


def small_model(setting: Setting) -> Iterator[Row]:
    """The small model on the pictures of assets/: precisions, folded, in tiles, each beside the plain model in float32 on the CPU."""
    pictures, tile = load_pictures(setting), 256 if setting.full else 64
    plain = load_generator(MODEL)
    truth = [restored(plain, picture)[0] for picture in pictures]
    in_tiles = [restored(plain, picture, tile)[0] for picture in pictures]
    for precision in ("fp32", "bf16", "fp16"):
        for fused in (False, True):
            what = f"{precision}, {'fused' if fused else 'plain'}"
            measure = partial(on_device, setting, what, precision, pictures, truth, ROUNDING[precision], fused=fused)
            yield attempt(what, measure, setting.lacks(precision))
    with without_tf32():
        what = "fp32, fused, TF32 off"
        exact = attempt(what, partial(on_device, setting, what, "fp32", pictures, truth, WITHOUT_TF32))
    yield exact
    what = "fp32, fused, in tiles"
    yield attempt(what, partial(on_device, setting, what, "fp32", pictures, in_tiles, ROUNDING["fp32"], tile=tile))
    # What tiles change is not rounding, since a tile's context ends with its margin: nothing is expected of it.
    what = "in tiles beside whole"
    yield attempt(what, partial(on_device, setting, what, "fp32", pictures, truth, None, tile=tile))


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, float32 is float32 in convolutions and matrix products."""
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def compiled(setting: Setting) -> Iterator[Row]:
    """The small model through torch.compile, beside the same without, on the device."""
    pictures = load_pictures(setting)[:1]
    for precision in dict.fromkeys(("fp32", setting.precision)):
        what = f"{precision}, compiled beside eager"
        yield attempt(what, partial(compiled_beside_eager, setting, what, precision, pictures), setting.lacks(precision))


def compiled_beside_eager(setting: Setting, what: str, precision: str, pictures: list[Tensor]) -> Row:
    """Differences in grey levels, and how long compiling takes."""
    eager, generator = build(setting, precision), build(setting, precision)
    truth = [restored(eager, picture)[0] for picture in pictures]
    compile_networks(generator)
    started = monotonic()
    restored(generator, pictures[0])
    found = compared(what, generator, pictures, truth, ROUNDING[precision])
    found["values"]["s to compile"] = monotonic() - started
    return found


def on_device(
    setting: Setting, what: str, precision: str, pictures: list[Tensor], truth: list[Tensor], most: float | None, *, fused: bool = True,
    tile: int = 0,
) -> Row:  # fmt: skip
    """Differences in grey levels of the small model on the device."""
    return compared(what, build(setting, precision, fused=fused), pictures, truth, most, tile)


def load_pictures(setting: Setting) -> list[Tensor]:
    """(1, 3, h, w) in [-1, 1], of assets/; in small, a part of one."""
    pictures = [to_tensor(read_image(path))[None] * 2 - 1 for path in sorted((ROOT / "assets").glob("*.png"))]
    return pictures if setting.full else [picture[..., 32:64, 32:64].contiguous() for picture in pictures[:1]]


def build(setting: Setting, precision: str, *, fused: bool = True) -> Generator:
    """The small model on the device."""
    generator = load_generator(MODEL)
    generator = fuse(generator) if fused else generator
    return cast_weights(generator, dtype_of(precision)).to(setting.device)


def restored(generator: Generator, picture: Tensor, tile: int = 0) -> tuple[Tensor, list[str]]:
    """The picture four times as large, as test_d3sr.py restores it, on the CPU; and what the user would be warned of."""
    warnings: list[str] = []
    size = (picture.shape[-2] * generator.scale, picture.shape[-1] * generator.scale)
    lr = picture.to(generator.prompt_embedding.device)
    rows = [rows.cpu() for _, rows in restore_rows(generator, lr, size, tile=tile, overlap=min(64, tile // 2), warn=warnings.append)]
    return torch.cat(rows, dim=-2), warnings


def compared(what: str, generator: Generator, pictures: list[Tensor], truth: list[Tensor], most: float | None, tile: int = 0) -> Row:
    """Differences in grey levels over all pictures; more than `most` is a failure."""
    found = [restored(generator, picture, tile) for picture in pictures]
    differences = [(sr.double() - wanted.double()).abs() * 127.5 for (sr, _), wanted in zip(found, truth, strict=True)]
    largest = max(difference.max().item() for difference in differences)
    mean = sum(difference.mean().item() for difference in differences) / len(differences)
    values = {"largest (grey levels)": largest, "mean (grey levels)": mean}
    note = "; ".join([f"{len(pictures)} picture(s)", *sorted({line for _, warnings in found for line in warnings})])
    if most is None:
        return row(what, values, note)
    values["at most"] = most
    return row(what, values, note) if largest <= most else row(what, values, f"more than rounding explains; {note}", "failed")
