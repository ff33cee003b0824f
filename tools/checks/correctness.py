"""Whether the device restores as the CPU does: the small model's pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import torch
from torch import Tensor

from data.image_io import read_image, to_tensor
from engine.distributed import dtype_of
from models.fused import compile_networks, fuse
from models.generator import Generator, cast_weights, load_generator
from restoring.rows import restore_rows
from tools.checks.common import ROOT, Row, Setting, attempt, row, skipped

MODEL = "weights/d3sr-tiny"
ROUNDING = {"fp32": 0.5, "bf16": 4.0, "fp16": 0.5}
"""Largest difference from float32 on a CPU that a precision explains, in grey levels: five times what it makes on a CPU, where it is
0.0002, 0.9 and 0.09; fp32 has room for TF32, which rounds as fp16 does."""
WITHOUT_TF32 = 0.02


def small_model(setting: Setting) -> Iterator[Row]:
    """The small model on the pictures of assets/: precisions, folded, in tiles, each beside the plain model in float32 on the CPU."""
    pictures = load_pictures(setting)
    plain = load_generator(MODEL)
    truth = [restored(plain, picture)[0] for picture in pictures]
    for precision in ("fp32", "bf16", "fp16"):
        for fused in (False, True):
            what = f"{precision}, {'fused' if fused else 'plain'}"
            reason = setting.lacks(precision)

            def measure(what: str = what, precision: str = precision, fused: bool = fused) -> Row:
                generator = build(setting, precision, fused=fused)
                return compared(what, generator, pictures, truth, ROUNDING[precision])

            yield skipped(what, reason) if reason else attempt(what, measure)

    def exact() -> Row:
        with without_tf32():
            return compared("fp32, fused, TF32 off", build(setting, "fp32"), pictures, truth, WITHOUT_TF32)

    yield attempt("fp32, fused, TF32 off", exact)
    tile = 256 if setting.full else 64

    def tiled() -> Row:
        truth = [restored(plain, picture, tile)[0] for picture in pictures]
        return compared("fp32, fused, in tiles", build(setting, "fp32"), pictures, truth, ROUNDING["fp32"], tile)

    yield attempt("fp32, fused, in tiles", tiled)
    yield seams(setting, pictures, truth, tile)


def seams(setting: Setting, pictures: list[Tensor], truth: list[Tensor], tile: int) -> Row:
    """What tiles change: not rounding, since a tile's context ends with its margin. Nothing is expected of it."""
    found = compared("in tiles beside whole", build(setting, "fp32"), pictures, truth, float("inf"), tile)
    del found["values"]["at most"]
    return found


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, float32 is float32 in convolutions and matrix products."""
    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def compiled(setting: Setting) -> Iterator[Row]:
    """The small model through torch.compile, beside the same without, on the device."""
    pictures = load_pictures(setting)[:1]
    for precision in dict.fromkeys(("fp32", setting.precision)):
        what = f"{precision}, compiled beside eager"

        def measure(what: str = what, precision: str = precision) -> Row:
            eager, generator = build(setting, precision), build(setting, precision)
            truth = [restored(eager, picture)[0] for picture in pictures]
            compile_networks(generator)
            started = monotonic()
            restored(generator, pictures[0])
            found = compared(what, generator, pictures, truth, ROUNDING[precision])
            found["values"]["s to compile"] = monotonic() - started
            return found

        reason = setting.lacks(precision)
        yield skipped(what, reason) if reason else attempt(what, measure)


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
    said: list[str] = []
    size = (picture.shape[-2] * generator.scale, picture.shape[-1] * generator.scale)
    lr = picture.to(generator.prompt_embedding.device)
    rows = [rows.cpu() for _, rows in restore_rows(generator, lr, size, tile=tile, overlap=min(64, tile // 2), warn=said.append)]
    return torch.cat(rows, dim=-2), said


def compared(what: str, generator: Generator, pictures: list[Tensor], truth: list[Tensor], most: float, tile: int = 0) -> Row:
    """Differences in grey levels over all pictures; more than `most` is a failure."""
    found = [restored(generator, picture, tile) for picture in pictures]
    differences = [(sr.double() - wanted.double()).abs() * 127.5 for (sr, _), wanted in zip(found, truth, strict=True)]
    largest = max(difference.max().item() for difference in differences)
    values = {
        "largest (grey levels)": largest,
        "mean (grey levels)": sum(difference.mean().item() for difference in differences) / len(differences),
        "at most": most,
    }
    warnings = sorted({line for _, said in found for line in said})
    note = "; ".join([f"{len(pictures)} picture(s)", *warnings])
    return row(what, values, note) if largest <= most else row(what, values, f"more than rounding explains; {note}", "failed")
