"""Scores a generator on whole pictures while it trains, each process a share of them, and remembers what each validation found."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.image_io import to_uint8, write_image
from data.loading import LoaderProcessError
from data.whole_files import why_refused, write_text
from engine.distributed import World, gather
from engine.failures import first_line
from models.generator import Generator
from restoring.pictures import restore_picture
from scoring.metrics import Metric
from scoring.report import ImageScores, mean_scores, picture_sheet, score_image
from scoring.tables import BICUBIC, HR, OURS, shortfall

SHEET_ROWS = 6
NAMED = 3


@dataclass(frozen=True)
class Validated:
    """A set's mean scores of our pictures, its first pictures, (name, {label: uint8 (H, W, 3)}), and what kept others from it.

    not_kept: why restored pictures were scored, but not written.
    """

    means: dict[str, float]
    pictures: list[tuple[str, dict[str, np.ndarray]]]
    failures: list[str]
    not_kept: list[str]


@dataclass(frozen=True)
class Validation:
    """Named sets of pictures (`lr`, `name`, and `hr` where known), their metrics, and what is kept of them.

    folder: gets SET/IMAGE/IMAGE_ITER.png for every picture, where save_img says so, and a sheet SET_ITER.png of the first ones.
    """

    sets: Mapping[str, Sequence[dict[str, Any]]]
    metrics: Sequence[Metric]
    world: World
    folder: Path
    tile: int
    color_fix: str
    save_img: bool

    def score(
        self, generator: Generator, iteration: int, warn: Callable[[str], None], first: int | None = None
    ) -> tuple[dict[str, float], int]:
        """{SET/METRIC: mean over our pictures}, the same on every process, and how many pictures failed; every process must call it.

        first: only so many pictures of each set; None for all.
        """
        scores: dict[str, float] = {}
        failed = 0
        for name in self.sets:
            result = self.score_set(name, generator, iteration, warn, first)
            scores |= {f"{name}/{metric}": value for metric, value in result.means.items()}
            failed += len(result.failures)
            if self.world.is_main:
                self._report(name, iteration, result, warn)
        return scores, failed

    def score_set(
        self, name: str, generator: Generator, iteration: int, warn: Callable[[str], None], first: int | None = None
    ) -> Validated:
        """Restores, keeps and scores the pictures of one set; see `score`.

        A picture that cannot be read or restored (for lack of memory, say) is left out and reported: hours of training do not depend on it.
        One that the disk refuses to keep is scored.
        """
        dataset, world = self.sets[name], self.world
        rows: list[ImageScores] = []
        shown: list[tuple[str, dict[str, np.ndarray]]] = []
        failures: list[str] = []
        not_kept: list[str] = []
        for index in range(world.rank, len(dataset) if first is None else min(first, len(dataset)), world.size):
            try:
                item = dataset[index]
                pictures = self._restore(generator, item)
                image = item["name"]
                if self.save_img:
                    not_kept += self._keep(self.folder / name / image / f"{Path(image).name}_{iteration}.png", pictures[OURS])
                usable = [metric for metric in self.metrics if HR in pictures or not metric.needs_hr]
                rows.append(score_image(image, {label: p for label, p in pictures.items() if label != BICUBIC}, usable, warn))
                if len(shown) < SHEET_ROWS:
                    shown.append((image, pictures))
            except LoaderProcessError:  # the training's, which may be told of it here
                raise
            except (RuntimeError, ValueError, OSError) as error:  # the first: no memory, among others
                failures.append(f"picture {index + 1}: {first_line(error)}")
                if world.device.type == "cuda":
                    torch.cuda.empty_cache()
        everyone = [row for part in gather(rows, world) for row in part]
        means = {metric: value for metric, value in mean_scores(everyone).get(OURS, {}).items() if value is not None}
        of_all = [[line for part in gather(lines, world) for line in part] for lines in (failures, not_kept)]
        return Validated(means, shown, *of_all)

    def _keep(self, file: Path, picture: np.ndarray) -> list[str]:
        """Writes a picture, uint8 (H, W, 3). Returns why not, where the disk refuses."""
        try:
            write_image(file, picture)
        except OSError as error:
            return [f"cannot write {file}: {why_refused(error)}"]
        return []

    def _restore(self, generator: Generator, item: dict[str, Any]) -> dict[str, np.ndarray]:
        """Bicubic, ours and, where it is known, HR: uint8 (H, W, 3)."""
        sr, lr_up = restore_picture(generator, item["lr"][None].to(self.world.device), tile=self.tile, color_fix=self.color_fix)
        pictures = {BICUBIC: to_uint8(lr_up[0]), OURS: to_uint8(sr[0])}
        return pictures | ({HR: to_uint8(item["hr"])} if "hr" in item else {})

    def _report(self, name: str, iteration: int, result: Validated, warn: Callable[[str], None]) -> None:
        if result.failures:
            more = len(result.failures) - NAMED
            named = "; ".join(result.failures[:NAMED]) + (f"; and {more} more" if more > 0 else "")
            advice = "; val.tile needs less memory" if any("memory" in failure for failure in result.failures) else ""
            warn(f"validation of {name} at iteration {iteration}: {len(result.failures)} picture(s) left out ({named}){advice}")
        not_kept = result.not_kept
        if result.pictures:
            rows = [list(pictures.values()) for _, pictures in result.pictures]
            sheet = picture_sheet(rows, list(result.pictures[0][1]), [image for image, _ in result.pictures])
            not_kept = [*not_kept, *self._keep(self.folder / f"{name}_{iteration}.png", sheet)]
        if not_kept:
            warn(f"validation of {name} at iteration {iteration}: {len(not_kept)} picture(s) not kept, first: {not_kept[0]}")


class ValidationHistory:
    """What the validations of a run found, up to an iteration; later ones, of a state that was since found damaged, are forgotten.

    The file is {iteration: {"scores": {SET/METRIC: mean}, "failed": pictures}}.

    Kept apart from the training states, so that a state can be saved before its validation begins.
    """

    def __init__(self, file: Path, until: int) -> None:
        """file: written by `write`; read now if it is there. Raises ValueError where it is damaged."""
        self.file = file
        try:
            found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            known = {int(number): {"scores": dict(one["scores"]), "failed": int(one["failed"])} for number, one in found.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # no text, no JSON, or of another shape
            raise ValueError(f"{file} is damaged ({error}): remove it, and the best is chosen among the validations to come") from error
        self._of = {number: one for number, one in known.items() if number <= until}

    def __contains__(self, iteration: int) -> bool:
        return iteration in self._of

    def add(self, iteration: int, scores: dict[str, float], failed: int) -> None:
        """failed: pictures that could not be restored or scored, so that the means are those of the others."""
        self._of[iteration] = {"scores": scores, "failed": failed}

    def write(self) -> None:
        """All of it to the file. Raises OSError when the disk refuses."""
        write_text(self.file, json.dumps({str(number): one for number, one in sorted(self._of.items())}, indent=2) + "\n")

    def is_best(self, iteration: int, name: str, metric: Metric) -> bool:
        """Whether the scores of `iteration` are better by `name` ("SET/METRIC") than all before; never where a picture failed."""

        def rank(one: int) -> float | None:
            value = self._value(one, name)
            return None if value is None else shortfall(value, metric.lower_better, metric.best_at)

        own, before = rank(iteration), [rank(other) for other in self._of if other < iteration]
        return own is not None and all(other is None or own < other for other in before)

    def _value(self, iteration: int, metric: str) -> float | None:
        one = self._of[iteration]
        return None if one["failed"] else one["scores"].get(metric)
