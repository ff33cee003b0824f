"""What the validations of a run found: validations.json beside its log, {iteration: {"scores": {SET/METRIC: mean}, "failed": pictures}}."""

import json
from pathlib import Path

from data.whole_files import write_text


class Validations:
    """The validations of a run up to an iteration; later ones, of a state that was since found damaged, are forgotten.

    Kept apart from the training states, so that a state can be saved before its validation begins.
    """

    def __init__(self, file: Path, until: int) -> None:
        """file: written by `add`; read now if it is there."""
        self.file = file
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self._of = {int(number): one for number, one in found.items() if int(number) <= until}

    def __contains__(self, iteration: int) -> bool:
        return iteration in self._of

    def add(self, iteration: int, scores: dict[str, float], failed: int, write: bool) -> None:
        """failed: pictures that could not be restored or scored, so that the means are those of the others. write: to the file, too."""
        self._of[iteration] = {"scores": scores, "failed": failed}
        if write:
            write_text(self.file, json.dumps({str(number): one for number, one in sorted(self._of.items())}, indent=2) + "\n")

    def is_best(self, iteration: int, metric: str, lower_better: bool) -> bool:
        """Whether the scores of `iteration` are better by `metric` ("SET/METRIC") than all before; never where a picture failed."""
        value = self._value(iteration, metric)
        before = [self._value(other, metric) for other in self._of if other < iteration]
        sign = -1 if lower_better else 1
        return value is not None and all(other is None or sign * value > sign * other for other in before)

    def _value(self, iteration: int, metric: str) -> float | None:
        one = self._of[iteration]
        return None if one["failed"] else one["scores"].get(metric)
