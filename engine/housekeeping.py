"""What happens around the steps of the two players: log lines, validation and its best, saving, checks, and stopping on a signal."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed import is_torchelastic_launched

from data.whole_files import WriteError, why_refused
from engine.distributed import World, any_rank, by_main, from_main
from engine.folder_lock import FolderLock
from engine.health import DiscriminatorHealth, check_ranks
from engine.logs import Means, RunLog, Speed, peak_memory_gib
from engine.run import Run, save_best, save_metrics, save_run
from engine.validation import Validation, ValidationHistory
from models.lora import cast_inputs

SAME_SIGNAL_S, HANDED_ON_S = 0.2, 3.0
"""So long after the first Ctrl-C another one is the same delivered twice; the second number is torchrun's, which hands it on itself."""
PATIENCE, PATIENCE_S = 3, 600.0
"""So many saves that were due have failed in a row, over so many seconds, when the run ends for it."""


class StopRequest:
    """While entered, Ctrl-C (SIGINT) and SIGTERM, which batch systems and torchrun send, are noted instead of obeyed: `asked`.

    A second Ctrl-C ends the process at once, as a kill would. More SIGTERMs change nothing: some senders repeat themselves, and the one
    that cannot be ignored is theirs to send.
    """

    def __init__(self, speaks: bool) -> None:
        """speaks: whether this process tells the user."""
        self.asked = False
        self._speaks, self._owner, self._since = speaks, os.getpid(), 0.0
        self._same_s = HANDED_ON_S if is_torchelastic_launched() else SAME_SIGNAL_S

    def __enter__(self) -> "StopRequest":
        self._former = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a loader process, forked with this handler in place: whoever ends it is the training process
            return
        if not self.asked:
            self.asked, self._since = True, time.monotonic()
            if self._speaks:  # not through the log, which may be in the middle of a line
                os.write(2, b"\nstopping: this iteration is finished and saved first; Ctrl-C again ends at once\n")
        elif number == signal.SIGINT and time.monotonic() - self._since > self._same_s:  # sooner it is the first one delivered twice
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How many iterations lie between two occasions of each kind; validation, saving and the log line also come at the end of the run."""

    total_iter: int
    print_freq: int
    val_freq: int
    save_freq: int
    check_freq: int
    """0 = never."""
    first_save: int = 0
    """One more save; 0 = none."""
    early: tuple[int, ...] = ()
    """Validations of a few pictures."""
    early_pictures: int = 0

    def due(self, iteration: int, freq: int) -> bool:
        return iteration > 0 and iteration % freq == 0 or iteration == self.total_iter

    def save_due(self, iteration: int) -> bool:
        return self.due(iteration, self.save_freq) or iteration == self.first_save > 0

    def early_due(self, iteration: int) -> bool:
        return iteration in self.early and self.early_pictures > 0 and not self.due(iteration, self.val_freq)


class Housekeeping:
    """All of it for one run. Every process calls every method; files are written by the main one."""

    def __init__(
        self,
        run: Run,
        world: World,
        folder: Path,
        lock: FolderLock | None,
        log: RunLog,
        validation: Validation,
        schedule: Schedule,
        samples: int,
        keep_last: int,
        best: str | None,
    ) -> None:
        """
        Args:
            lock: of the folder, on the main process.
            samples: how many an iteration takes, over all processes.
            keep_last: how many states and releases stay on disk.
            best: SET/METRIC that models/NAME_best is chosen by; None for no best.
        """
        self.run, self.world, self.folder, self.lock, self.log, self.validation = run, world, folder, lock, log, validation
        self._refused, self._refused_since = 0, 0.0
        self.schedule, self.samples, self.keep_last, self.best = schedule, samples, keep_last, best
        self.stop, self.means = StopRequest(world.is_main), Means()
        self.health = DiscriminatorHealth(run.noising.low, run.noising.high, world.device) if run.noising is not None else None
        self.history = from_main(ValidationHistory(folder / "validations.json", run.iteration) if world.is_main else None, world)

    def begin(self) -> None:
        """Before the first iteration: are the processes equal, and did the run stop before a validation that was due?"""
        iteration = self.run.iteration
        if self.schedule.check_freq:
            check_ranks(self.run.trained(), iteration, self.world)
        if self.schedule.due(iteration, self.schedule.val_freq) and iteration not in self.history:
            self._validate()
        elif iteration == 0 and self.schedule.early_due(0):
            self._validate_early()
        self._speed, self._logged, self._waited = Speed(), iteration, 0.0

    def next_batches(self, loader: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
        """The batches of an iteration; how long they were waited for is logged as `data_share`."""
        began = time.perf_counter()
        batches = [next(loader) for _ in range(count)]
        self._waited += time.perf_counter() - began
        return batches

    def after_iteration(self, learning_rate: float) -> bool:
        """What is due after an iteration. Returns True where the run ends here because it was asked to; its state is saved then.

        Saved first, then validated: whatever a validation does to the process, it costs no training. Asked in its last iteration, the run
        ends as it would have. A validation that was due is made up for when the run goes on. A save that failed is tried again with every
        log line.
        """
        iteration, schedule = self.run.iteration, self.schedule
        if schedule.check_freq and iteration % schedule.check_freq == 0:
            check_ranks(self.run.trained(), iteration, self.world)
        if schedule.due(iteration, schedule.print_freq):
            self._write_log(learning_rate)
        stopping = any_rank(self.stop.asked, self.world) and iteration < schedule.total_iter
        if schedule.save_due(iteration) or stopping or self._refused and schedule.due(iteration, schedule.print_freq):
            self._save(last=stopping or iteration == schedule.total_iter)
        if stopping:
            any_rank(False, self.world)  # torchrun ends all processes once the first of them is gone: not before this is saved
            state = self.folder / "training_states" / str(iteration)
            self.log.info(f"stopped as asked: {state} is saved, and the same command goes on from there")
        elif schedule.due(iteration, schedule.val_freq):
            self._validate()
        elif schedule.early_due(iteration):
            self._validate_early()
        return stopping

    def _save(self, last: bool) -> None:
        """Saves; all processes agree on how it went. A disk that refuses is waited for, unless for long already or this is the last save.

        Raises:
            ValueError: it still refuses, or another training took the folder over.
        """
        run = self.run
        refused = self._refused + self.schedule.save_due(run.iteration)

        def save() -> None:
            self.lock.confirm()
            try:
                save_run(run, self.folder, self.keep_last)
            except (WriteError, OSError) as error:
                if last or refused >= PATIENCE and time.monotonic() - self._refused_since > PATIENCE_S:
                    not_saved = f"Iteration {run.iteration} is not saved: the same command goes on from the last state"
                    raise ValueError(f"{error}. {not_saved}") from error
                raise WriteError(str(error)) from error

        try:
            by_main(save, self.world)
        except WriteError as error:
            self.log.warning(f"{error}. The training goes on, and saves as soon as it can")
            self._refused_since = self._refused_since if self._refused else time.monotonic()
            self._refused = refused
        else:
            if self._refused:
                self.log.info(f"saved at last, at iteration {run.iteration}")
            self._refused = 0

    def _keep(self, write: Callable[[], object]) -> None:
        """Writes, on the main process, what a training can do without: a disk that refuses is only a warning."""
        try:
            if self.world.is_main:
                write()
        except WriteError as error:
            self.log.warning(f"{error}. The training goes on")
        except OSError as error:
            self.log.warning(f"cannot write the scores of iteration {self.run.iteration}: {why_refused(error)}; the training goes on")

    def _write_log(self, learning_rate: float) -> None:
        run, images = self.run, (self.run.iteration - self._logged) * self.samples
        values = self.means.read(self.world)
        if values.get("spatial_gradient") and "adversarial_gradient" in values:
            values["adversarial_ratio"] = values["adversarial_gradient"] / values["spatial_gradient"]
        seconds = self._speed.read()
        values |= {"learning_rate": learning_rate, "images_per_s": images / seconds, "data_share": self._waited / seconds}
        values |= {"memory_gib": peak_memory_gib(self.world.device), "skipped_steps": run.skipped_steps}
        self.log.scalars("train", run.iteration, self.schedule.total_iter, values)
        votes = self.health.read(self.world) if self.health is not None else {}
        if votes:
            self.log.scalars("health", run.iteration, self.schedule.total_iter, votes)
        self._logged, self._waited = run.iteration, 0.0

    def _score(self, first: int | None = None) -> tuple[dict[str, float], int]:
        with self.run.averaged() as generator:
            cast_inputs(generator.unet, True)
            try:
                return self.validation.score(generator, self.run.iteration, self.log.warning, first)
            finally:
                cast_inputs(generator.unet, False)

    def _validate_early(self) -> None:
        """A few pictures, to be seen long before the first whole validation; their scores are compared with nothing."""
        if self.validation.sets:
            scores, _ = self._score(self.schedule.early_pictures)
            self.log.info(f"validated {self.schedule.early_pictures} picture(s) of each set: {self.validation.folder}")
            if scores:
                self.log.scalars("val_early", self.run.iteration, self.schedule.total_iter, scores)

    def _validate(self) -> None:
        if not self.validation.sets:
            return
        run, iteration = self.run, self.run.iteration
        scores, failed = self._score()
        self.history.add(iteration, scores, failed)
        self._keep(self.history.write)
        if scores:
            self.log.scalars("val", iteration, self.schedule.total_iter, scores)
        self._keep(lambda: save_metrics(run, self.folder, scores))
        if self.best is None:
            return
        if self.best not in scores:
            self.log.warning(f"val.best: nothing was scored by {self.best} at iteration {iteration}, so it cannot be the best")
            return
        judge = next(metric for metric in self.validation.metrics if metric.name == self.best.partition("/")[2])
        if self.history.is_best(iteration, self.best, judge) and self.world.is_main:
            self.log.info(f"the best so far by {self.best}: {scores[self.best]:.6g}")
            self._keep(lambda: save_best(run, self.folder, scores, self.best))
