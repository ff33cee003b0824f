"""Validation against scores computed here, in one process and shared by two."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from data.image_io import read_image, to_uint8
from engine.distributed import World
from engine.validation import SHEET_ROWS, Validated, Validation, ValidationHistory
from models.autoencoders import BlockAutoencoder
from models.block_transform import BlockTransform
from models.generator import Generator
from tests.engine.test_distributed import in_processes
from tests.restoring.test_rows import stub

MAIN = World(0, 1, torch.device("cpu"))


class Brighter(BlockTransform):
    """An autoencoder that adds 0.1 (of [-1, 1])."""

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z) + 0.1


def brighter() -> Generator:
    """Enlarges by two and adds 0.1: its UNet does nothing."""
    generator = stub(BlockAutoencoder(Brighter(4)))
    generator.scale = 2
    return generator


@dataclass
class MeanDifference:
    """Mean of |sr - hr| in levels, or of sr alone."""

    name: str
    needs_hr: bool = True
    lower_better: bool = True
    best_at: float | None = None

    def __call__(self, sr: np.ndarray, hr: np.ndarray | None = None) -> float:
        if self.name == "picky" and sr.shape[0] < 12:
            raise ValueError("too small")
        return float(np.abs(sr.astype(float) - (hr.astype(float) if self.needs_hr else 0)).mean())


def pictures(count: int, hr: bool = True) -> list[dict[str, Any]]:
    """Pairs of 5x7 and 10x14, then larger ones, all their own shade."""
    items = []
    for index in range(count):
        shade = torch.rand(3, 5 + index, 7, generator=torch.Generator().manual_seed(index)) * 0.8
        item = {"lr": shade, "name": f"sub/{index}"}
        items.append(item | ({"hr": torch.rand(3, 10 + 2 * index, 14, generator=torch.Generator().manual_seed(50 + index))} if hr else {}))
    return items


def run(
    world: World, dataset: list[dict[str, Any]], metrics: list[MeanDifference], first: int | None = None
) -> tuple[Validated, dict[str, np.ndarray], list[str]]:
    """What was found, the pictures that were kept, and the warnings."""
    told: list[str] = []
    with TemporaryDirectory() as folder:
        validation = Validation({"set": dataset}, metrics, world, Path(folder), tile=0, color_fix="none", save_img=True)
        result = validation.score_set("set", brighter(), 3, told.append, first)
        files = sorted(Path(folder, "set").rglob("*_3.png"))
        kept = {file.parent.relative_to(Path(folder, "set")).as_posix(): read_image(file) for file in files}
    return result, kept, told


class Broken(list):
    """A set whose second picture cannot be read, whose third needs too much memory, and whose fifth fails without a word."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 1:
            raise ValueError("sub/1.png: broken or truncated image")
        if index == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nmore")
        if index == 4:
            raise RuntimeError
        return super().__getitem__(index)


def by_hand(dataset: list[dict[str, Any]]) -> list[np.ndarray]:
    """OpenCV's bicubic of LR, + 0.05 in [0, 1], to the nearest level."""
    lrs = [item["lr"].permute(1, 2, 0).numpy() for item in dataset]
    enlarged = [cv2.resize(lr, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC).clip(0, 1) for lr in lrs]
    return [((image + 0.05).clip(0, 1) * 255 + 0.5).astype(np.uint8) for image in enlarged]


def test_every_picture_is_restored_kept_and_scored() -> None:
    dataset = pictures(SHEET_ROWS + 2)
    result, kept, told = run(MAIN, dataset, [MeanDifference("distance"), MeanDifference("level", needs_hr=False)])
    assert told == [] and list(kept) == [item["name"] for item in dataset]
    distances, levels = [], []
    for item, expected in zip(dataset, by_hand(dataset), strict=True):
        found = kept[item["name"]]
        assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 1
        distances.append(np.abs(found.astype(float) - to_uint8(item["hr"])).mean())
        levels.append(found.mean())
    assert result.means == pytest.approx({"distance": np.mean(distances), "level": np.mean(levels)})
    assert [name for name, _ in result.pictures] == [item["name"] for item in dataset[:SHEET_ROWS]]
    for (name, shown), item in zip(result.pictures, dataset, strict=False):
        assert list(shown) == ["bicubic", "ours", "HR"] and np.array_equal(shown["ours"], kept[name])
        assert np.array_equal(shown["HR"], to_uint8(item["hr"]))
        assert shown["bicubic"].astype(int).mean() < shown["ours"].mean() - 10, "0.05 is 12.75 levels"


def test_without_hr_only_metrics_that_need_none_score() -> None:
    result, kept, _ = run(MAIN, pictures(2, hr=False), [MeanDifference("distance"), MeanDifference("level", needs_hr=False)])
    assert list(result.means) == ["level"] and len(kept) == 2
    assert list(result.pictures[0][1]) == ["bicubic", "ours"]


def test_a_picture_that_a_metric_cannot_score_is_named_and_left_out_of_the_mean() -> None:
    result, kept, told = run(MAIN, pictures(2), [MeanDifference("picky")])
    assert len(told) == 1 and "sub/0" in told[0] and "too small" in told[0]
    assert result.means == pytest.approx({"picky": np.abs(kept["sub/1"].astype(float) - to_uint8(pictures(2)[1]["hr"])).mean()})
    assert run(MAIN, pictures(1), [MeanDifference("picky")])[0].means == {}


def _share(world: World) -> tuple[dict[str, float], list[str], list[str]]:
    result, kept, _ = run(world, pictures(3), [MeanDifference("distance")])
    return result.means, list(kept), [name for name, _ in result.pictures]


def test_processes_share_the_pictures_and_know_the_mean_of_all() -> None:
    alone = run(MAIN, pictures(3), [MeanDifference("distance")])[0].means
    assert in_processes(2, _share) == [
        (pytest.approx(alone), ["sub/0", "sub/2"], ["sub/0", "sub/2"]),
        (pytest.approx(alone), ["sub/1"], ["sub/1"]),
    ]


def test_a_picture_that_fails_is_reported_and_the_others_are_scored() -> None:
    whole, broken = pictures(4), Broken(pictures(4))
    result, kept, _ = run(MAIN, broken, [MeanDifference("distance")])
    assert list(kept) == ["sub/0", "sub/3"]
    memory = "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"
    assert result.failures == ["picture 2: sub/1.png: broken or truncated image", f"picture 3: {memory}"]
    assert result.means == pytest.approx(run(MAIN, [whole[0], whole[3]], [MeanDifference("distance")])[0].means)
    assert run(MAIN, Broken(pictures(5)), [])[0].failures[-1] == "picture 5: RuntimeError"


def test_only_the_first_pictures_are_validated_where_so_many_are_wanted() -> None:
    result, kept, _ = run(MAIN, pictures(3), [MeanDifference("distance")], first=2)
    assert list(kept) == ["sub/0", "sub/1"]
    assert run(MAIN, pictures(1), [MeanDifference("distance")], first=2)[1].keys() == {"sub/0"}


def _share_of_broken(world: World) -> tuple[dict[str, float], list[str]]:
    result, *_ = run(world, Broken(pictures(4)), [MeanDifference("distance")])
    return result.means, result.failures


def test_a_failure_in_one_process_is_known_to_all_and_none_waits_for_it() -> None:
    alone = run(MAIN, Broken(pictures(4)), [MeanDifference("distance")])[0]
    for means, failures in in_processes(2, _share_of_broken):
        assert means == pytest.approx(alone.means) and sorted(failures) == sorted(alone.failures)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), None])
def test_a_validation_of_sets_warns_of_what_failed_and_goes_on(
    tmp_path: Path, error: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or pictures that fail."""

    def write(path: Path, picture: np.ndarray) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr("engine.validation.write_image", write)
    sets = {"good": pictures(2), "bad": Broken(pictures(3))}
    told: list[str] = []
    validation = Validation(sets, [MeanDifference("distance")], MAIN, tmp_path, 0, "none", True)
    scores, failed = validation.score(brighter(), 7, told.append)
    if error is None:
        assert failed == 2 and set(scores) == {"good/distance", "bad/distance"} and len(told) == 1
        assert told[0].startswith("validation of bad at iteration 7: 2 picture(s) left out (picture 2: sub/1.png") and "val.tile" in told[0]
    else:
        assert failed == 2 and set(scores) == {"good/distance", "bad/distance"}, "scored, though not kept"
        assert len(told) == 3 and told[0].startswith("validation of good at iteration 7: 3 picture(s) not kept, first: cannot write ")
        assert told[0].endswith("the disk is full (No space left on device)") and "left out" in told[1] and "not kept" in told[2]


HIGHER, LOWER = (MeanDifference("score", lower_better=lower) for lower in (False, True))


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        (HIGHER, (3.0, 2.0, 3.0, 4.0), [10, 40]),
        (LOWER, (3.0, 3.0, 2.0, 4.0), [10, 30]),
        (MeanDifference("score", best_at=1.0), (0.7, 1.2, 1.3, 0.9), [10, 20, 40]),
    ],
)
def test_the_best_is_the_first_of_the_best_also_after_a_restart(
    tmp_path: Path, metric: MeanDifference, values: tuple, best: list[int]
) -> None:
    found, file = [], tmp_path / "validations.json"
    for iteration, value in zip((10, 20, 30, 40), values, strict=True):
        validations = ValidationHistory(file, until=iteration)
        validations.add(iteration, {"set/score": value, "set/other": -value}, 0)
        validations.write()
        if validations.is_best(iteration, "set/score", metric):
            found.append(iteration)
    assert found == best
    assert json.loads(file.read_text())["20"] == {"scores": {"set/score": values[1], "set/other": -values[1]}, "failed": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["validations.json"]


def test_a_run_that_goes_back_forgets_what_came_later(tmp_path: Path) -> None:
    file = tmp_path / "validations.json"
    for iteration, value in ((10, 1.0), (20, 9.0)):
        validations = ValidationHistory(file, until=iteration)
        validations.add(iteration, {"set/score": value}, 0)
        validations.write()
    earlier = ValidationHistory(file, until=15)
    assert 10 in earlier and 20 not in earlier
    earlier.add(20, {"set/score": 2.0}, 0)
    assert earlier.is_best(20, "set/score", HIGHER)


def test_means_over_what_was_left_are_neither_the_best_nor_to_be_beaten(tmp_path: Path) -> None:
    validations = ValidationHistory(tmp_path / "none.json", until=0)
    validations.add(1, {"set/score": 5.0}, 0)
    validations.add(2, {"set/score": 99.0}, 1)
    validations.add(3, {"set/score": 6.0}, 0)
    assert [validations.is_best(n, "set/score", HIGHER) for n in (1, 2, 3)] == [True, False, True]
    assert not validations.is_best(3, "set/absent", HIGHER) and not (tmp_path / "none.json").exists()


NOT_SCORES = '{"5": {"scores": 3, "failed": 0}}'


@pytest.mark.parametrize("damage", ["null", "[1]", "7", "{", '{"5": null}', '{"five": {"scores": {}, "failed": 0}}', NOT_SCORES])
def test_a_damaged_history_is_named(tmp_path, damage):
    (tmp_path / "validations.json").write_text(damage)
    with pytest.raises(ValueError, match=r"validations.json is damaged .*: remove it"):
        ValidationHistory(tmp_path / "validations.json", 10)
