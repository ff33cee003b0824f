"""Scores a generator on whole pictures while it trains, each process a share of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.distributed import World, gather
from engine.failures import first_line
from models.generator import Generator
from restoring.pictures import restore_picture
from scoring.metrics import Metric
from scoring.report import HR, OURS, ImageScores, mean_scores, picture_sheet, score_image

BICUBIC = "bicubic"
SHEET_ROWS = 6


NAMED = 3


@dataclass(frozen=True)
class Validated:
    """A set's mean scores of our pictures, its first pictures, (name, {label: uint8 (H, W, 3)}), and what kept others from it."""

    means: dict[str, float]
    pictures: list[tuple[str, dict[str, np.ndarray]]]
    failures: list[str]


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
    first: int | None = None,
) -> Validated:
    """Restores and scores every item (`lr`, `name`, and `hr` where known); `keep(name, picture)` receives each restored one.

    first: only so many items; None for all. A picture that cannot be read, restored or kept (for lack of memory, say) is left out and
    reported: hours of training do not depend on it.
    """
    rows: list[ImageScores] = []
    shown: list[tuple[str, dict[str, np.ndarray]]] = []
    failures: list[str] = []

    def take(index: int) -> None:
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

    for index in range(world.rank, len(dataset) if first is None else min(first, len(dataset)), world.size):
        try:
            take(index)
        except (RuntimeError, ValueError, OSError) as error:  # the first: no memory, among others
            failures.append(f"picture {index + 1}: {first_line(error)}")
            if world.device.type == "cuda":
                torch.cuda.empty_cache()
    everyone = [row for part in gather(rows, world) for row in part]
    means = {name: value for name, value in mean_scores(everyone).get(OURS, {}).items() if value is not None}
    return Validated(means, shown, [failure for part in gather(failures, world) for failure in part])


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

    def score(
        self, generator: Generator, iteration: int, warn: Callable[[str], None], first: int | None = None
    ) -> tuple[dict[str, float], int]:
        """{SET/METRIC: mean over our pictures}, the same on every process, and how many pictures failed; every process must call it.

        first: only so many pictures of each set; None for all.
        """
        scores: dict[str, float] = {}
        failed = 0
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
                first=first,
            )
            scores |= {f"{name}/{metric}": value for metric, value in result.means.items()}
            failed += len(result.failures)
            if self.world.is_main:
                self._report(name, iteration, result, warn)
        return scores, failed

    def _report(self, name: str, iteration: int, result: Validated, warn: Callable[[str], None]) -> None:
        if result.failures:
            more = len(result.failures) - NAMED
            named = "; ".join(result.failures[:NAMED]) + (f"; and {more} more" if more > 0 else "")
            advice = "; val.tile needs less memory" if any("memory" in failure for failure in result.failures) else ""
            warn(f"validation of {name} at iteration {iteration}: {len(result.failures)} picture(s) left out ({named}){advice}")
        if result.pictures:
            rows = [list(pictures.values()) for _, pictures in result.pictures]
            sheet = picture_sheet(rows, list(result.pictures[0][1]), [image for image, _ in result.pictures])
            try:
                self.write_image(self.folder / f"{name}_{iteration}.png", sheet)
            except OSError as error:
                warn(f"the sheet of {name} at iteration {iteration} could not be written: {error}")

    def _keep(self, folder: Path, iteration: int, image: str, picture: np.ndarray) -> None:
        if self.save_img:
            self.write_image(folder / image / f"{Path(image).name}_{iteration}.png", picture)
