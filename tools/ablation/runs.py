"""Runs the two scripts for an ablation as processes of their own, watches them, and reads what they leave."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from data.whole_files import write_text
from scoring.looks import BEST_AT
from scoring.tables import BICUBIC, OURS
from tools.ablation.tables import CheckpointScores

POLL = 0.5
PATIENCE = 120
"""Seconds: between two looks at a process, and for it to save and end after Ctrl-C."""


def launch(command: Sequence[str], log: Path, title: str, total: int = 0, progress: Callable[[], int] = lambda: 0) -> None:
    """Runs a command to its end, everything it prints to the end of `log`; on a terminal a bar shows `progress()` of `total`.

    Raises ValueError with the command's last line where it fails. Whatever ends us ends it, too; after Ctrl-C it may save first.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream, tqdm(desc=title, total=total or None, disable=None, leave=False, dynamic_ncols=True) as bar:
        process = subprocess.Popen(list(command), stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
                if not bar.disable:
                    bar.update(max(0, progress() - bar.n))
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            raise
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        raise ValueError(f"{last_line(log)} (exit status {process.returncode}; {log})")


def last_line(log: Path) -> str:
    """The last line of a log that says something; bars that were drawn over each other count as lines."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")]
    return next((line for line in reversed(lines) if line), "it printed nothing")


def read_metrics(file: Path) -> CheckpointScores:
    """The means of a metrics.json.

    Raises ValueError where there is none, since the options name no metric that could score the pictures.
    """
    if not file.is_file():
        raise ValueError(f"{file}: nothing was scored; name a metric in the options")
    document = json.loads(file.read_text(encoding="utf-8"))
    mean = document["mean"]
    lower = {name: metric["lower_better"] for name, metric in document["metrics"].items()}
    best_at = {name: BEST_AT[metric["type"]] for name, metric in document["metrics"].items() if metric["type"] in BEST_AT}
    known = {"lower_better": lower, "best_at": best_at, "images": document["images_scored"]}
    return CheckpointScores(mean=mean[OURS], bicubic=mean.get(BICUBIC, {}), **known)


def read_scores(file: Path) -> CheckpointScores | None:
    """What `write_scores` wrote; None where it did not."""
    return CheckpointScores(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def write_scores(file: Path, scores: CheckpointScores) -> None:
    """Whole or not at all."""
    write_text(file, json.dumps(asdict(scores), indent=2) + "\n")


def minutes(seconds: float) -> str:
    """`1:05:09`, or `5:09` below an hour."""
    whole = round(seconds)
    hours = f"{whole // 3600}:{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
    return f"{hours}:{whole % 60:02d}"


class Clock:
    """How long the runs that are left will take, judged by those that were really done."""

    def __init__(self, runs: int) -> None:
        self._left, self._took, self._since = runs, [], time.monotonic()

    def lap(self, counts: bool) -> float:
        """One more is finished; `counts` says whether it was done now. Returns its seconds."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        self._left -= 1
        if counts:
            self._took.append(seconds)
        return seconds

    def left(self) -> str:
        """`; 3 left, about 12:30`."""
        if not self._left:
            return ""
        guess = f", about {minutes(self._left * sum(self._took) / len(self._took))}" if self._took else ""
        return f"; {self._left} left{guess}"
