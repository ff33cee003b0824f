"""Scores a generator on whole pictures while it trains, each process a share of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.distributed import World, gather
from engine.metrics import Metric
from engine.report import HR, OURS, ImageScores, mean_scores, score_image
from engine.restore import restore_picture
from models.generator import Generator

BICUBIC = "bicubic"
SHEET_ROWS = 6


@dataclass(frozen=True)
class Validated:
    """A set's mean scores of our pictures, and its first pictures: (name, {label: uint8 (H, W, 3)})."""

    means: dict[str, float]
    pictures: list[tuple[str, dict[str, np.ndarray]]]


def validate(
    generator: Generator,
    dataset: Sequence[dict[str, Any]],
    metrics: Sequence[Metric],
    world: World,
    *,
    tile: int,
    color_fix: str,
    to_uint8: Callable[[torch.Tensor], np.ndarray],
    keep: Callable[[str, np.ndarray], None],
    warn: Callable[[str], None],
) -> Validated:
    """Restores and scores every item (`lr`, `name`, and `hr` where known); `keep(name, picture)` receives each restored one."""
    rows: list[ImageScores] = []
    shown: list[tuple[str, dict[str, np.ndarray]]] = []
    for index in range(world.rank, len(dataset), world.size):
        item = dataset[index]
        sr, lr_up = restore_picture(generator, item["lr"][None].to(world.device), tile=tile, color_fix=color_fix)
        pictures = {BICUBIC: to_uint8(lr_up[0].cpu()), OURS: to_uint8(sr[0].cpu())}
        if "hr" in item:
            pictures[HR] = to_uint8(item["hr"])
        keep(item["name"], pictures[OURS])
        usable = [metric for metric in metrics if HR in pictures or not metric.needs_hr]
        rows.append(score_image(item["name"], {label: p for label, p in pictures.items() if label != BICUBIC}, usable, warn))
        if len(shown) < SHEET_ROWS:
            shown.append((item["name"], pictures))
    everyone = [row for part in gather(rows, world) for row in part]
    means = {name: value for name, value in mean_scores(everyone).get(OURS, {}).items() if value is not None}
    return Validated(means, shown)
