"""A process that fails, and the others, which have to leave with it: in real processes, under torchrun, and against a store in memory."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from engine import failures
from engine.distributed import World, any_rank, start
from engine.failures import FailureWatch, first_line, print_traceback
from tests.engine.test_distributed import free_port
from tests.short_training import ROOT

FORK = multiprocessing.get_context("fork")


def report(error: BaseException) -> int:
    """As the scripts do."""
    if not isinstance(error, ValueError):
        return print_traceback(error)
    sys.stderr.write(f"program: {error}\n")
    return 2


def together(folder: Path, work: Callable[[World], object]) -> tuple[list[int | None], list[str], float]:
    """Two processes that run `work`, process 0 with the store. Exit codes, what each wrote to stderr, seconds until both were gone."""
    numbers = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def main(rank: int) -> None:
        torch.set_num_threads(1)
        os.dup2(os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr = os.fdopen(2, "w")  # pytest has its own in place
        os.environ |= numbers | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with start("cpu", report=report) as world:
            work(world)

    processes, since = [FORK.Process(target=main, args=(rank,)) for rank in (0, 1)], time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    return [process.exitcode for process in processes], [(folder / f"{rank}.err").read_text() for rank in (0, 1)], time.monotonic() - since


def fails_in_process_1(error: BaseException, wait: Callable[[World], object]) -> Callable[[World], None]:
    def work(world: World) -> None:
        any_rank(True, world)
        if world.rank == 1:
            raise error
        wait(world)

    return work


def in_a_collective(world: World) -> None:
    any_rank(True, world)


def in_c_and_deaf(_: World) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    time.sleep(50)


@pytest.mark.parametrize("wait", [in_a_collective, in_c_and_deaf])
def test_who_waits_for_one_that_failed_leaves_and_says_why(tmp_path: Path, wait: Callable[[World], object]) -> None:
    codes, (waiting, culprit), seconds = together(tmp_path, fails_in_process_1(RuntimeError("a fault"), wait))
    assert codes == [1, 1] and seconds < 40
    assert waiting == "process 1 failed: RuntimeError: a fault; leaving\n"
    assert culprit.count("Traceback") == 1 and culprit.endswith("RuntimeError: a fault\n")


def test_a_mistake_is_one_line_without_traceback(tmp_path: Path) -> None:
    codes, errors, _ = together(tmp_path, fails_in_process_1(ValueError("no such folder"), in_a_collective))
    assert codes == [1, 2] and errors == ["process 1 failed: no such folder; leaving\n", "program: no such folder\n"]


def test_both_may_fail_by_themselves(tmp_path: Path) -> None:
    def work(world: World) -> None:
        any_rank(True, world)
        raise ValueError(f"mistake of {world.rank}")

    codes, errors, _ = together(tmp_path, work)
    said = [error.splitlines()[-1] for error in errors]  # before it torch itself may warn that process 0 took the store with it
    assert codes == [2, 2] and said == ["program: mistake of 0", "program: mistake of 1"] and "Traceback" not in "".join(errors)


def test_who_is_done_waits_for_the_other_and_leaves_if_that_fails(tmp_path: Path) -> None:
    assert together(tmp_path, lambda world: time.sleep(3 * world.rank))[:2] == ([0, 0], ["", ""])
    codes, errors, _ = together(tmp_path, fails_in_process_1(KeyError("late"), lambda _: None))
    assert codes == [1, 1] and errors[0] == "process 1 failed: KeyError: 'late'; leaving\n" and errors[1].endswith("KeyError: 'late'\n")


PROGRAM = """
import signal, sys, time
from pathlib import Path
from engine.distributed import barrier, start

with start("cpu") as world:
    signal.signal(signal.SIGTERM, lambda *_: None)
    again = Path(sys.argv[1]).exists()
    barrier(world)
    if world.rank == 0 and not again:
        Path(sys.argv[1]).touch()
        raise RuntimeError("a fault of one")
    time.sleep(0 if again else 50)
"""


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_torchrun_ends_or_starts_again(tmp_path: Path, restarts: int) -> None:
    """Process 1 is deaf to its SIGTERM; it waits 30 s before the SIGKILL, and this process 50."""
    (tmp_path / "program.py").write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max-restarts", str(restarts)]
    command = [*torchrun, str(tmp_path / "program.py"), str(tmp_path / "mark")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode == 0) == bool(restarts), done.stderr
    errors = done.stderr.split('Traceback (most recent call last):\n  File "<frozen runpy>"')[0]  # torchrun's own
    assert len(re.findall("^RuntimeError: a fault of one$", errors, re.MULTILINE)) == errors.count("Traceback (most recent") == 1
    assert (errors.count("process 0 failed: RuntimeError: a fault of one; leaving") == 1) and "SIGKILL" not in done.stderr


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """What the watches of this process would have ended it with."""
    found: list[tuple[int, str]] = []
    monkeypatch.setattr(failures, "leave", lambda *how: found.append(how))
    monkeypatch.setattr(failures, "POLL_S", 0.01)
    monkeypatch.setattr(failures, "GRACE_S", 0.3)
    return found


def wait_for(found: list) -> None:
    until = time.monotonic() + 20
    while not found and time.monotonic() < until:
        time.sleep(0.01)


def test_the_first_failure_is_told_to_the_others(left: list) -> None:
    store = dist.HashStore()
    watches = [FailureWatch(store, rank) for rank in range(3)]
    assert watches[1].announce(ValueError("first\nsecond")) is None
    assert watches[0].announce(OSError("later")) == "process 1 failed: first", "a failure of its own keeps the watch from ending it"
    wait_for(left)
    assert left == [(1, "process 1 failed: first; leaving")], "the third, after its grace"


def test_a_store_that_is_gone_is_a_failure_but_not_after_the_end(left: list) -> None:
    class Gone:
        def check(self, _: list[str]) -> bool:
            raise dist.DistNetworkError("Connection reset by peer\nframes")

        def compare_set(self, *_: str) -> bytes:
            raise dist.DistNetworkError("Broken pipe")

    ended = FailureWatch(Gone(), 0)
    time.sleep(0.1)  # it has seen it, and waits
    ended.stop()
    FailureWatch(Gone(), 1)
    wait_for(left)
    time.sleep(0.5)
    assert left == [(1, "the other processes are gone (DistNetworkError: Connection reset by peer); leaving")]
    assert FailureWatch(Gone(), 2).announce(ValueError("mine")) is None


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such folder\nmore"), "no such folder"),
        (ValueError(), "ValueError"),
        (KeyError("name"), "KeyError: 'name'"),
        (RuntimeError("CUDA error\nat"), "RuntimeError: CUDA error"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_an_error_in_one_line(error: BaseException, line: str) -> None:
    assert first_line(error) == line
