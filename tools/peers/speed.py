"""How fast degradations run on one thread: ours and BasicSR's on the same crops, batch after batch in turn."""

import cProfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from data.image_io import to_tensor
from degradations.second_order import degrade
from degradations.stage import Degradation
from tools.peers.basicsr import BasicSRPipeline, seed_all

BATCH = 16
STAGES = {"draw": "drawing", "build_kernel": "kernels", "blur": "blur", "resize": "resize", "add_noise": "noise", "jpeg_compress": "JPEG"}
"""Functions of degradations/, as the profile groups them; what is left is "rest"."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Samples per CPU second, medians over batches of 16 crops; ratios are medians over batches of ours / BasicSR's."""

    gt_size: int
    batches: int
    ours: float
    basicsr_one: float
    """BasicSR's on one picture at a time, as loaders call it."""
    basicsr_batch: float
    """BasicSR's on the 16 at once."""
    ratio_one: float
    ratio_batch: float
    loader: float
    """Our whole training sample, decoding and cropping of the photo included."""
    profile: dict[str, float]
    """Share of each stage in the time of ours; sums to 1."""


def measure(
    crops: Sequence[torch.Tensor], load: Callable[[int], object], pipeline: BasicSRPipeline, degradation: Degradation, scale: int, seed: int
) -> Speed:
    """Times `crops`, (3, H, W) in [0, 1], in batches of 16; `load(n)` makes the n-th training sample from its photo.

    The time is the process's CPU time, so that other programs on the machine count little. Raises: ValueError below 32 crops: the first
    batch is for warming up.
    """
    if len(crops) < 2 * BATCH:
        raise ValueError(f"--crops: speed is measured in batches of {BATCH}, the first for warming up: expected at least {2 * BATCH}")
    pictures = [np.ascontiguousarray(crop.permute(1, 2, 0).numpy()) for crop in crops]

    def ours(n: int) -> None:
        to_tensor(degrade(pictures[n], np.random.default_rng([seed, n]), degradation, scale))

    ways: dict[str, Callable[[range], object]] = {
        "ours": lambda numbers: [ours(n) for n in numbers],
        "one": lambda numbers: [pipeline(crops[n][None]) for n in numbers],
        "batch": lambda numbers: pipeline(torch.stack([crops[n] for n in numbers])),
        "loader": lambda numbers: [load(n) for n in numbers],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for start in range(0, len(crops) - BATCH + 1, BATCH):
        seed_all(seed, start)
        for name, work in ways.items():
            times[name].append(_seconds(partial(work, range(start, start + BATCH))))
    warm = {name: values[1:] for name, values in times.items()}
    rates = {name: BATCH / median(values) for name, values in warm.items()}
    return Speed(
        gt_size=crops[0].shape[-1],
        batches=len(warm["ours"]),
        ours=rates["ours"],
        basicsr_one=rates["one"],
        basicsr_batch=rates["batch"],
        ratio_one=median(theirs / mine for theirs, mine in zip(warm["one"], warm["ours"], strict=True)),
        ratio_batch=median(theirs / mine for theirs, mine in zip(warm["batch"], warm["ours"], strict=True)),
        loader=rates["loader"],
        profile=_profile(partial(ways["ours"], range(len(crops)))),
    )


def _seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _profile(work: Callable[[], object]) -> dict[str, float]:
    """Shares of STAGES by cProfile; none of these functions calls another."""
    profiler = cProfile.Profile(time.process_time)
    total = _seconds(lambda: profiler.runcall(work))
    seconds = dict.fromkeys(STAGES.values(), 0.0)
    for entry in profiler.getstats():
        code = entry.code
        if not isinstance(code, str) and code.co_name in STAGES and Path(code.co_filename).parent.name == "degradations":
            seconds[STAGES[code.co_name]] += entry.totaltime
    shares = {name: value / total for name, value in seconds.items()}
    return shares | {"rest": 1.0 - sum(shares.values())}
