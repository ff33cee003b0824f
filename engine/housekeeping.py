"""What happens around the steps of the two players: log lines, validation and its best, saving, checks, and stopping on a signal."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from engine.distributed import World, any_rank
from engine.health import DiscriminatorHealth, check_ranks
from engine.logs import Means, RunLog, Speed, peak_memory_gib
from engine.run import Run, save_best, save_run
from engine.validation import Validation

SAME_SIGNAL_S = 0.2


class StopRequest:
    """While entered, Ctrl-C (SIGINT) and SIGTERM, which batch systems and torchrun send, are noted instead of obeyed: `asked`.

    A second Ctrl-C ends the process at once, as a kill would. More SIGTERMs change nothing: some senders repeat themselves, and the one
    that cannot be ignored is theirs to send.
    """

    def __init__(self, speaks: bool) -> None:
        """speaks: whether this process tells the user."""
        self.asked = False
        self._speaks, self._owner, self._since = speaks, os.getpid(), 0.0

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
        elif number == signal.SIGINT and time.monotonic() - self._since > SAME_SIGNAL_S:  # sooner it is the first one delivered twice
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@dataclass(frozen=True)
class Schedule:
    """How many iterations lie between two occasions of each kind; validation, saving and the log line also come at the end of the run."""

    total_iter: int
    print_freq: int
    val_freq: int
    save_freq: int
    check_freq: int
    """0 = never."""

    def due(self, iteration: int, freq: int) -> bool:
        return iteration % freq == 0 or iteration == self.total_iter


class Housekeeping:
    """All of it for one run. Every process calls every method; files are written by the main one."""

    def __init__(
        self,
        run: Run,
        world: World,
        folder: Path,
        log: RunLog,
        validation: Validation,
        schedule: Schedule,
        samples: int,
        keep_last: int,
        best: str | None,
    ) -> None:
        """
        Args:
            samples: how many an iteration takes, over all processes.
            keep_last: how many states and releases stay on disk.
            best: SET/METRIC that models/NAME_best is chosen by; None for no best.
        """
        self.run, self.world, self.folder, self.log, self.validation = run, world, folder, log, validation
        self.schedule, self.samples, self.keep_last, self.best = schedule, samples, keep_last, best
        self.stop, self.means = StopRequest(world.is_main), Means()
        self.health = DiscriminatorHealth(run.noising.low, run.noising.high, world.device) if run.noising is not None else None

    def begin(self) -> None:
        """Before the first iteration: are the processes equal, and did the run stop before a validation that was due?"""
        run = self.run
        if self.schedule.check_freq:
            check_ranks(run.trained(), run.iteration, self.world)
        if run.iteration and self.schedule.due(run.iteration, self.schedule.val_freq) and run.validated != run.iteration:
            self._validate()
        self._speed, self._logged = Speed(), run.iteration

    def after_iteration(self, learning_rate: float) -> bool:
        """What is due after an iteration. Returns True where the run ends here because it was asked to; its state is saved then.

        Asked in its last iteration, the run ends as it would have. A validation that was due is made up for when the run goes on.
        """
        iteration, schedule = self.run.iteration, self.schedule
        if schedule.check_freq and iteration % schedule.check_freq == 0:
            check_ranks(self.run.trained(), iteration, self.world)
        if schedule.due(iteration, schedule.print_freq):
            self._write_log(learning_rate)
        stopping = any_rank(self.stop.asked, self.world) and iteration < schedule.total_iter
        if schedule.due(iteration, schedule.val_freq) and not stopping:
            self._validate()
        if (schedule.due(iteration, schedule.save_freq) or stopping) and self.world.is_main:
            save_run(self.run, self.folder, self.keep_last)
        if stopping:
            any_rank(False, self.world)  # torchrun ends all processes once the first of them is gone: not before this is saved
            state = self.folder / "training_states" / str(iteration)
            self.log.info(f"stopped as asked: {state} is saved, and the same command goes on from there")
        return stopping

    def _write_log(self, learning_rate: float) -> None:
        run, images = self.run, (self.run.iteration - self._logged) * self.samples
        values = self.means.read(self.world)
        if values.get("spatial_gradient") and "adversarial_gradient" in values:
            values["adversarial_ratio"] = values["adversarial_gradient"] / values["spatial_gradient"]
        values |= {"learning_rate": learning_rate, "images_per_s": self._speed.read(images)}
        values |= {"memory_gib": peak_memory_gib(self.world.device), "skipped_steps": run.skipped_steps}
        self.log.scalars("train", run.iteration, self.schedule.total_iter, values)
        votes = self.health.read(self.world) if self.health is not None else {}
        if votes:
            self.log.scalars("health", run.iteration, self.schedule.total_iter, votes)
        self._logged = run.iteration

    def _validate(self) -> None:
        if not self.validation.sets:
            return
        run = self.run
        with run.averaged() as generator:
            run.metrics = self.validation.score(generator, run.iteration, self.log.warning)
        run.validated = run.iteration
        if run.metrics:
            self.log.scalars("val", run.iteration, self.schedule.total_iter, run.metrics)
        if self.best is None:
            return
        if self.best not in run.metrics:
            self.log.warning(f"val.best: nothing was scored by {self.best} at iteration {run.iteration}, so it cannot be the best")
            return
        lower_better = {metric.name: metric.lower_better for metric in self.validation.metrics}[self.best.partition("/")[2]]
        if run.note_best(self.best, lower_better) and self.world.is_main:
            save_best(run, self.folder)
            self.log.info(f"the best so far by {self.best}: {run.metrics[self.best]:.6g}")
