"""Whether the device trains as the CPU does: the first iteration of both players."""

import math
from collections.abc import Iterator
from functools import partial

import torch

from engine.distributed import World
from engine.logs import Means
from options.d3sr import load_train_options
from tools.checks import ROOT
from tools.checks.step import Row, Setting, attempt, row
from tools.timing.training import training_step

PAIRS = (
    ("d3sr-tiny against itself", "train_tiny.yml", ()),
    ("SD against SDXL, in small", "train.yml", ("network_g.pretrained=random:small-sd", "network_d.pretrained=random:small-sdxl")),
)
CHANGES = (
    "device=auto", "train.adversarial_start=0", "train.discriminator_start=0", "train.perceptual.backbone_weights=random",
    "train.adversarial_ratio=null", "train.adversarial_weight=0.1", "train.scheduler.warmup_iter=0", "train.cudnn_benchmark=false",
    "datasets.train.batch_size_per_gpu=2", "datasets.train.gt_size=64",
)  # fmt: skip
LOSSES, NORMS = ("mse", "perceptual", "loss_g", "loss_d"), ("spatial_gradient", "adversarial_gradient", "gradient_g", "gradient_d")
AT_MOST = {("fp32", False): 1e-3, ("fp32", True): 0.05}
"""Largest relative difference from the CPU's float32, by precision and TF32; half precision must be finite only."""
FITTING_STEPS = 9


def both_players(setting: Setting) -> Iterator[Row]:
    """Losses and gradients' norms of the first iteration, device beside CPU, for two pairs of players on made-up crops."""
    for name, file, changes in PAIRS:
        truth: dict[str, float] = {}
        what = f"{name}: CPU, fp32"
        yield attempt(what, partial(on_cpu, what, file, changes, truth))
        for precision, tf32 in (("fp32", False), ("fp32", True), ("bf16", True), ("fp16", True)):
            what = f"{name}: {precision}" + ("" if tf32 else ", TF32 off")
            measure = partial(beside_cpu, setting, what, file, changes, truth, precision, tf32=tf32)
            yield attempt(what, measure, setting.lacks(precision) if truth else "nothing to compare with")


def on_cpu(what: str, file: str, changes: tuple[str, ...], truth: dict[str, float]) -> Row:
    """The CPU's numbers, which are also put into `truth`."""
    truth |= numbers(torch.device("cpu"), file, changes, "fp32", tf32=False)[0]
    return row(what, truth)


def beside_cpu(
    setting: Setting, what: str, file: str, changes: tuple[str, ...], truth: dict[str, float], precision: str, *, tf32: bool
) -> Row:
    """The device's numbers beside those of the CPU."""
    found, skips = numbers(setting.device, file, changes, precision, tf32=tf32)
    return judged(what, found, truth, AT_MOST.get((precision, tf32)), skips)


def numbers(device: torch.device, file: str, changes: tuple[str, ...], precision: str, *, tf32: bool) -> tuple[dict[str, float], int]:
    """Losses and norms of the first iteration whose update is taken, and how many were skipped before: fp16's loss scale must fit first."""
    asked = [*CHANGES, *changes, f"train.precision={precision}", f"train.tf32={str(tf32).lower()}"]
    options = load_train_options(ROOT / "options" / file, asked)
    world, means = World(0, 1, device), Means()
    step, skips, norms = training_step(options, world, means), 0, {"g": math.nan}
    while not all(map(math.isfinite, norms.values())) and skips < (FITTING_STEPS if precision == "fp16" else 1):
        norms, skips = step(), skips + 1
        found = means.read(world) | {f"gradient_{player}": norm for player, norm in norms.items()}
    return {name: found[name] for name in (*LOSSES, *NORMS)}, skips - 1


def judged(what: str, found: dict[str, float], truth: dict[str, float], at_most: float | None, skips: int) -> Row:
    """A failure where something is not finite, or farther from the CPU's than `at_most`, relative."""
    finite = all(math.isfinite(value) for value in found.values())
    values, notes = dict(found), [f"{skips} steps skipped before, until the loss scale fitted"] if skips else []
    good = finite
    if not finite:
        notes.append("not finite")
    else:
        differences = {name: abs(value - truth[name]) / max(abs(truth[name]), 1e-12) for name, value in found.items()}
        farthest = max(differences, key=differences.__getitem__)
        values["largest difference"] = differences[farthest]
        if at_most is not None:
            values["at most"] = at_most
            good = differences[farthest] <= at_most
            notes.append(f"farthest from the CPU: {farthest}")
    return row(what, values, "; ".join(notes), "ok" if good else "failed")
