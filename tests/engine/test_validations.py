"""validations.json: what was found, which is the best, and what is forgotten when a run goes back."""

import json
from pathlib import Path

import pytest

from engine.validations import Validations


@pytest.mark.parametrize(
    ("lower_better", "values", "best"), [(False, (3.0, 2.0, 3.0, 4.0), [10, 40]), (True, (3.0, 3.0, 2.0, 4.0), [10, 30])]
)
def test_the_best_is_the_first_of_the_best_also_after_a_restart(tmp_path: Path, lower_better: bool, values: tuple, best: list[int]) -> None:
    found, file = [], tmp_path / "validations.json"
    for iteration, value in zip((10, 20, 30, 40), values, strict=True):
        validations = Validations(file, until=iteration)
        validations.add(iteration, {"set/score": value, "set/other": -value}, 0, write=True)
        if validations.is_best(iteration, "set/score", lower_better):
            found.append(iteration)
    assert found == best
    assert json.loads(file.read_text())["20"] == {"scores": {"set/score": values[1], "set/other": -values[1]}, "failed": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["validations.json"]


def test_a_run_that_goes_back_forgets_what_came_later(tmp_path: Path) -> None:
    file = tmp_path / "validations.json"
    for iteration, value in ((10, 1.0), (20, 9.0)):
        validations = Validations(file, until=iteration)
        validations.add(iteration, {"set/score": value}, 0, write=True)
    earlier = Validations(file, until=15)
    assert 10 in earlier and 20 not in earlier
    earlier.add(20, {"set/score": 2.0}, 0, write=True)
    assert earlier.is_best(20, "set/score", lower_better=False)


def test_means_over_what_was_left_are_neither_the_best_nor_to_be_beaten(tmp_path: Path) -> None:
    validations = Validations(tmp_path / "none.json", until=0)
    validations.add(1, {"set/score": 5.0}, 0, write=False)
    validations.add(2, {"set/score": 99.0}, 1, write=False)
    validations.add(3, {"set/score": 6.0}, 0, write=False)
    assert [validations.is_best(n, "set/score", False) for n in (1, 2, 3)] == [True, False, True]
    assert not validations.is_best(3, "set/absent", False) and not (tmp_path / "none.json").exists()
