"""Scores a generator on whole pictures while it trains, each process a share of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.distributed import World, gather
from engine.metrics import Metric
from engine.report import HR, OURS, ImageScores, mean_scores, picture_sheet, score_image
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


@dataclass(frozen=True)
class Validation:
    """Named sets, their metrics, and what is kept of them.

    folder: gets SET/IMAGE/IMAGE_ITER.png for every picture, where save_img says so, and a sheet SET_ITER.png of the first ones.
    to_uint8, write_image: tensor (3, H, W) in [0, 1] -> uint8 (H, W, 3); path and picture -> file.
    """

    sets: Mapping[str, Sequence[dict[str, Any]]]
    metrics: Sequence[Metric]
    world: World
    folder: Path
    tile: int
    color_fix: str
    save_img: bool
    to_uint8: Callable[[torch.Tensor], np.ndarray]
    write_image: Callable[[Path, np.ndarray], None]

    def score(self, generator: Generator, iteration: int, warn: Callable[[str], None]) -> dict[str, float]:
        """Mean scores by "set/metric"; every process must call it."""
        scores: dict[str, float] = {}
        for name, dataset in self.sets.items():
            result = validate(
                generator,
                dataset,
                self.metrics,
                self.world,
                tile=self.tile,
                color_fix=self.color_fix,
                to_uint8=self.to_uint8,
                keep=partial(self._keep, self.folder / name, iteration),
                warn=warn,
            )
            scores |= {f"{name}/{metric}": value for metric, value in result.means.items()}
            if self.world.is_main and result.pictures:
                rows = [list(pictures.values()) for _, pictures in result.pictures]
                sheet = picture_sheet(rows, list(result.pictures[0][1]), [image for image, _ in result.pictures])
                self.write_image(self.folder / f"{name}_{iteration}.png", sheet)
        return scores

    def _keep(self, folder: Path, iteration: int, image: str, picture: np.ndarray) -> None:
        if self.save_img:
            self.write_image(folder / image / f"{Path(image).name}_{iteration}.png", picture)
