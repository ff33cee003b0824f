"""A training that is stopped, killed or broken in every way there is, and the same command afterwards."""

import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import engine.housekeeping
import engine.loop
import engine.run
import train_d3sr
from engine.steps import Steps
from tests.engine.test_distributed import free_port
from tests.short_training import assert_same_bits, logged, settings, train, write_lab

pytestmark = pytest.mark.slow

FORK = multiprocessing.get_context("fork")
EXACT = ("train.accumulate=2", "datasets.train.batch_size_per_gpu=1", "logger.keep_last=2", "network_d.type=diffusion_gan")
ITERATIONS = 6


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A forked process cannot use its parent's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `write_lab`."""
    return write_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module", autouse=True)
def no_fsync() -> Iterator[None]:
    """A busy disk takes seconds for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal() -> Iterator[None]:
    """Who starts pytest in the background hands down an ignored Ctrl-C."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def with_validation(lab: Path) -> list[str]:
    """EXACT, and every third iteration a validation that models/run_best is chosen by."""
    pairs = f"datasets.val.mine={{dataroot_lq: {lab / 'LR/0.png'}, dataroot_gt: {lab / 'HR/0.png'}}}"
    lasting = [*EXACT, f"train.total_iter={ITERATIONS}", "val.val_freq=3"]
    return [*lasting, pairs, "val.metrics={psnr: {type: psnr}, ssim: null}", "val.best=mine/psnr", "val.save_img=false"]


@pytest.fixture(scope="module")
def uninterrupted(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(lab, tmp_path_factory.mktemp("whole"), *with_validation(lab))


def assert_same_end(run: Path, other: Path, iteration: int = ITERATIONS) -> None:
    """The last state, its releases and, where there is one, the best agree to the bit."""
    assert_same_bits(run / f"training_states/{iteration}", other / f"training_states/{iteration}")
    assert (run / "models/run_best").exists() == (other / "models/run_best").exists()
    for name in (f"run_{iteration}", f"run_{iteration}_ema", "run_best"):
        if name != "run_best" or (other / "models/run_best").exists():
            ours, theirs = (load_file(folder / "models" / name / "generator.safetensors") for folder in (run, other))
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
            configs = [(folder / "models" / name / "config.json").read_text() for folder in (run, other)]
            assert configs[0] == configs[1]


def before_update(number: int, action: Callable[[], None], patch: Callable[..., None] = setattr) -> None:
    """Does something before this process's number-th update, counted from 1: the generator's come first."""
    update, calls = engine.run.update, []

    def update_with_action(*arguments: object) -> bool:
        calls.append(1)
        if len(calls) == number:
            action()
        return update(*arguments)

    patch(engine.run, "update", update_with_action)


def states(run: Path) -> set[str]:
    return {path.name for path in (run / "training_states").iterdir()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_saved_and_goes_on_to_the_same_bits(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Path, capfd: pytest.CaptureFixture, number: int
) -> None:
    """The signal comes in iteration 3, which is neither saved nor, since it was asked to stop, validated before the run goes on."""
    arguments, run = with_validation(lab), tmp_path / "experiments/run"
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        before_update(6, lambda: os.kill(os.getpid(), number), patch.setattr)
        assert train_d3sr.main(settings(lab, tmp_path, *arguments)) == 130
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert states(run) == {"2", "3"} and {path.name for path in (run / "models").iterdir()} == {"run_2", "run_2_ema", "run_3", "run_3_ema"}
    assert [line["iter"] for line in logged(run)] == [1, 2, 3] and logged(run, "val") == []
    error = capfd.readouterr().err
    assert "stopping: this iteration is finished and saved first" in error and "Traceback" not in error
    (said,) = re.findall("INFO: (stopped.*)", (run / "train_run.log").read_text())
    assert said == f"stopped as asked: {run / 'training_states/3'} is saved, and the same command goes on from there"
    train(lab, tmp_path, *arguments)
    assert [line["iter"] for line in logged(run, "val")] == [3, 6] == [line["iter"] for line in logged(uninterrupted, "val")]
    assert_same_end(run, uninterrupted)


def test_a_signal_in_the_last_iteration_lets_the_run_end(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_update(4, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch.setattr)
    run = train(lab, tmp_path, "train.total_iter=2")
    assert states(run) == {"2"} and "INFO: finished" in (run / "train_run.log").read_text()


def test_ctrl_c_while_everything_is_loaded_is_no_traceback(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(engine.loop, "build_run", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert train_d3sr.main(settings(lab, tmp_path)) == 130
    assert "Traceback" not in capsys.readouterr().err


def launched(arguments: list[str], prepare: Callable[[int], None], rank: int = 0, port: int | None = None) -> multiprocessing.Process:
    """A process that trains, as one of two where a port is given; `prepare(rank)` breaks something in it first."""

    def main() -> None:
        torch.set_num_threads(1)
        if port is not None:
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(number) for name, number in numbers.items()})
        prepare(rank)
        code = train_d3sr.main(arguments)
        sys.stderr.flush()
        os._exit(code)

    process = FORK.Process(target=main)
    process.start()
    return process


def exit_code(process: multiprocessing.Process) -> int:
    """Waits for the process itself: `join` would also wait for the loader processes that it left behind."""
    until = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.join()
    return process.exitcode


@pytest.mark.parametrize(("pause", "ended"), [(0.0, 130), (0.3, -signal.SIGINT)], ids=["delivered twice", "pressed twice"])
def test_a_second_ctrl_c_ends_at_once(lab: Path, tmp_path: Path, pause: float, ended: int) -> None:
    def press_twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGINT)

    assert exit_code(launched(settings(lab, tmp_path), lambda _: before_update(5, press_twice))) == ended
    assert states(tmp_path / "experiments/run") == ({"2", "3"} if ended == 130 else {"2"})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_leaves_the_loader_processes_at_work(lab: Path, tmp_path: Path, number: int) -> None:
    """As a terminal, torchrun and batch systems send it."""
    begun = tmp_path / "begun"

    def prepare(_: int) -> None:
        os.setsid()
        before_update(5, lambda: (begun.touch(), time.sleep(0.5)))

    process = launched(settings(lab, tmp_path, "datasets.train.num_worker_per_gpu=2", "train.total_iter=40"), prepare)
    while process.is_alive() and not begun.exists():
        time.sleep(0.01)
    os.killpg(process.pid, number)
    assert exit_code(process) == 130
    assert states(tmp_path / "experiments/run") == {"2", "3"}


COUNTED = {
    "anywhere": (Steps, "generator_step", 700_000),
    "step": (Steps, "generator_step", 150_000),
    "save": (engine.housekeeping, "save_run", 300_000),
}
"""Where a kill is to happen -> the function from which, or in which, events are counted, and how many there are at most: two iterations
and most of a save, three steps, a save."""


def kill_at(place: str, number: int) -> None:
    """Ends this process by SIGKILL at the number-th event of Python's profiler: a call or a return of any function, in Python or in C."""
    module, name, _ = COUNTED[place]
    original, left = getattr(module, name), [number]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(*arguments: object) -> object:
        sys.setprofile(count)
        result = original(*arguments)
        if place != "anywhere":
            sys.setprofile(None)
        return result

    setattr(module, name, counted)


def kill_by_the_clock(process: multiprocessing.Process, first_step: Path, seconds: float) -> None:
    """SIGKILL from outside, some time after the first step began."""
    while process.is_alive() and not first_step.exists():
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()


def launch_and_kill(lab: Path, out: Path, place: str, draw: random.Random, *changes: str) -> int:
    """Starts the command and kills it at a random instant of a place. Its exit code, 0 where it came to its end before."""
    arguments = settings(lab, out, *with_validation(lab), *changes)
    if place == "clock":
        begun = out / "begun"
        begun.unlink(missing_ok=True)
        process = launched(arguments, lambda _: before_update(1, begun.touch))
        kill_by_the_clock(process, begun, draw.uniform(0.0, 0.5))
    else:
        number = draw.randint(1, COUNTED[place][2])
        process = launched(arguments, lambda _: kill_at(place, number))
    return exit_code(process)


def test_a_run_killed_ten_times_ends_with_the_same_bits(lab: Path, tmp_path: Path, uninterrupted: Path) -> None:
    """Killed again whenever it goes on; should it come to its end in between, it starts over."""
    draw, run, resumed = random.Random(4), tmp_path / "experiments/run", 0
    places = draw.sample(["anywhere"] * 2 + ["step"] * 3 + ["save"] * 3 + ["clock"] * 2, 10)
    while places:
        if launch_and_kill(lab, tmp_path, places[-1], draw, "logger.save_checkpoint_freq=1") == -signal.SIGKILL:
            places.pop()
        else:
            assert_same_end(run, uninterrupted)
            resumed += (run / "train_run.log").read_text().count("INFO: resuming")
            shutil.rmtree(run)
    train(lab, tmp_path, *with_validation(lab))
    assert resumed + (run / "train_run.log").read_text().count("INFO: resuming") >= 5
    assert_same_end(run, uninterrupted)


def test_killed_with_loader_processes_it_ends_with_the_same_bits(lab: Path, tmp_path: Path, uninterrupted: Path) -> None:
    draw, run = random.Random(5), tmp_path / "experiments/run"
    for place in ("anywhere", "save"):
        assert launch_and_kill(lab, tmp_path, place, draw, "datasets.train.num_worker_per_gpu=2") == -signal.SIGKILL
    train(lab, tmp_path, *with_validation(lab), "datasets.train.num_worker_per_gpu=2")
    assert_same_end(run, uninterrupted)


def two_processes(lab: Path, out: Path, prepare: Callable[[int], None], *changes: str) -> list[int]:
    """Exit codes of two processes that train together; the other is killed when one was, as torchrun does."""
    arguments, port = settings(lab, out, *EXACT, "train.total_iter=4", *changes), free_port()
    processes = [launched(arguments, prepare, rank, port) for rank in (0, 1)]
    while all(process.is_alive() for process in processes):
        time.sleep(0.02)
    if any(process.exitcode == -signal.SIGKILL for process in processes):
        for process in processes:
            process.kill()
    return [exit_code(process) for process in processes]


def in_rank(wanted: int, number: int, action: Callable[[], None]) -> Callable[[int], None]:
    return lambda rank: before_update(number, action) if rank == wanted else None


@pytest.fixture(scope="module")
def two_uninterrupted(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    assert two_processes(lab, out, lambda _: None, "train.check_ranks=1") == [0, 0]
    return out / "experiments/run"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_asked_of_one_process_stops_both_at_the_same_iteration(
    lab: Path, tmp_path: Path, two_uninterrupted: Path, rank: int
) -> None:
    stop = in_rank(rank, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert two_processes(lab, tmp_path, stop) == [130, 130]
    run = tmp_path / "experiments/run"
    assert states(run) == {"2", "3"} and [line["iter"] for line in logged(run)] == [1, 2, 3]
    assert two_processes(lab, tmp_path, lambda _: None) == [0, 0]
    assert_same_end(run, two_uninterrupted, 4)


def test_two_killed_processes_end_with_the_same_bits(lab: Path, tmp_path: Path, two_uninterrupted: Path) -> None:
    kill = in_rank(0, 8, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert set(two_processes(lab, tmp_path, kill)) == {-signal.SIGKILL}
    run = tmp_path / "experiments/run"
    assert states(run) == {"2"}
    assert two_processes(lab, tmp_path, lambda _: None) == [0, 0]
    assert_same_end(run, two_uninterrupted, 4)


def test_a_process_whose_weights_drift_ends_the_run(lab: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    def drift(rank: int) -> None:
        step = engine.run.Run.step

        def step_and_drift(run: engine.run.Run, players: Sequence[str], grad_clip: float | None) -> dict[str, float]:
            norms = step(run, players, grad_clip)
            if rank == 1 and run.iteration == 2:
                with torch.no_grad():
                    run.discriminator.heads[0][2].bias.mul_(1 + 2**-22)
            return norms

        engine.run.Run.step = step_and_drift

    assert two_processes(lab, tmp_path, drift, "train.check_ranks=2") == [2, 2]
    error = capfd.readouterr().err
    told = "train_d3sr.py: the processes have drifted apart: at iteration 4 process 1 differs from process 0 in "
    assert error.count(told) == 2 and "first in network_d's " in error and "Traceback" not in error
    assert states(tmp_path / "experiments/run") == {"2"}
