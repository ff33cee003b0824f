"""Trainings that meet a full disk, damaged states, another training in their folder, or lose a loader process."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

import engine.housekeeping
import engine.loop
import engine.run
import train_d3sr
from engine.folder_lock import LOCK
from tests.engine.test_folder_lock import write_lock
from tests.short_training import ROOT, assert_same_bits, logged, settings, train, write_lab
from tests.test_train_survival import before_update, exit_code, launched, two_processes

ALONE = ("network_d.type=none", "train.ema_decay=0")


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


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy disk takes seconds for it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def disk_full_in_saves(refused: Callable[[int], bool]) -> Callable[[int], None]:
    """For the saves that `refused` says yes to, counted from 1, every flush says that the disk is full."""

    def prepare(_: int = 0) -> None:
        save, calls = engine.run.save_run, []

        def save_on_a_full_disk(*arguments: object) -> None:
            calls.append(1)
            full = refused(len(calls))
            os.fsync = refuse if full else lambda _: None
            save(*arguments)

        def refuse(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        engine.housekeeping.save_run = save_on_a_full_disk

    return prepare


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], None]:
    """`disk_full_in_saves` in this process, until the test ends."""
    monkeypatch.setattr(engine.housekeeping, "save_run", engine.housekeeping.save_run)
    return lambda refused: disk_full_in_saves(refused)()


FULL = "the disk is full (No space left on device). Free some space or choose another path; what was there before is intact."


def test_a_full_disk_is_waited_for(lab: Path, tmp_path: Path, full_disk: Callable) -> None:
    """Saves are due at 2, 4 and 6; those at 4 and, with the next log line, 5 are refused."""
    whole = train(lab, tmp_path / "whole", *ALONE, "train.total_iter=7")
    full_disk(lambda save: save in (2, 3))
    run = train(lab, tmp_path, *ALONE, "train.total_iter=7", "logger.save_checkpoint_freq=2", "logger.keep_last=9")
    assert {path.name for path in (run / "training_states").iterdir()} == {"2", "6", "7"}
    assert_same_bits(run / "training_states/7", whole / "training_states/7")
    lines = (run / "train_run.log").read_text().splitlines()
    told = [line[20:] for line in lines if "WARNING" in line or "at last" in line]
    goes_on = f"{FULL} The training goes on, and saves as soon as it can"
    refused = [f"WARNING: cannot write {run / 'training_states' / n}: {goes_on}" for n in "45"]
    assert told == [*refused, "INFO: saved at last, at iteration 6"]


@pytest.mark.parametrize("patience", [0.0, 600.0])
def test_a_disk_that_stays_full_ends_the_run(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Callable, capsys: pytest.CaptureFixture, patience: float
) -> None:
    """At the third save that was due, or, where that comes too soon, at the last one; the state that is there stays."""
    monkeypatch.setattr(engine.housekeeping, "PATIENCE_S", patience)
    full_disk(lambda save: save > 1)
    assert train_d3sr.main(settings(lab, tmp_path, *ALONE, "train.total_iter=11", "logger.keep_last=1")) == 2
    run, last = tmp_path / "experiments/run", 11 if patience else 8
    assert logged(run)[-1]["iter"] == last
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"train_d3sr.py: cannot write {run / 'training_states' / str(last)}: {FULL} Iteration {last} is not saved: "
        "the same command goes on from the last state"
    )
    assert [path.name for path in (run / "training_states").iterdir()] == ["2"] and not (run / LOCK).exists()
    monkeypatch.undo()
    train(lab, tmp_path, *ALONE, "train.total_iter=3")
    assert f"INFO: resuming {run / 'training_states/2'}" in (run / "train_run.log").read_text()


@pytest.mark.slow
def test_two_processes_agree_on_a_full_disk(lab: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert two_processes(lab, tmp_path / "a", disk_full_in_saves(lambda save: save == 1), *ALONE) == [0, 0]
    assert {path.name for path in (tmp_path / "a/experiments/run/training_states").iterdir()} == {"3", "4"}
    assert two_processes(lab, tmp_path / "b", disk_full_in_saves(lambda save: save > 1), *ALONE) == [2, 2]
    assert "Iteration 4 is not saved" in capfd.readouterr().err


def test_scores_survive_a_full_disk(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures, the sheet, validations.json, the release's config.json and models/run_best are refused: one line each."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("engine.validation.write_image", refuse)
    monkeypatch.setattr("engine.validation.write_text", refuse)
    monkeypatch.setattr("models.release.write_text", refuse)
    monkeypatch.setattr("models.release.save_lora", refuse)
    monkeypatch.setattr("models.release.save_generator_tensors", refuse)
    monkeypatch.setattr(engine.housekeeping, "save_run", lambda *_: None)
    pairs = f"datasets.val.mine={{dataroot_lq: {lab / 'LR'}, dataroot_gt: {lab / 'HR'}}}"
    scored = [pairs, "val.metrics={psnr: {type: psnr}, ssim: null}", "val.best=mine/psnr", "val.early=[]", "train.total_iter=2"]
    run = train(lab, tmp_path, *ALONE, *scored)
    (scores,) = logged(run, "val")
    assert scores["iter"] == 2 and 5 < scores["mine/psnr"] < 60
    warnings = [line for line in (run / "train_run.log").read_text().splitlines() if "WARNING" in line]
    assert len(warnings) == 3 and all("the disk is full (No space left on device)" in line for line in warnings)
    assert "6 picture(s) not kept" in warnings[0] and "left out" not in "".join(warnings)


def test_states_that_are_all_damaged_stop_the_run_and_stay(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = train(lab, tmp_path, *ALONE)
    states = run / "training_states"
    for state in states.iterdir():
        (state / "optimizer_g.pt").write_bytes(b"")
    before = {path: path.stat().st_mtime_ns for path in states.rglob("*")}
    assert train_d3sr.main(settings(lab, tmp_path, *ALONE)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"train_d3sr.py: {states}: no state to go on from, every one is damaged: 5 (optimizer_g.pt is not what was")
    assert "path.resume: false" in said and "new `name`" in said
    assert {path: path.stat().st_mtime_ns for path in states.rglob("*")} == before and not (run / LOCK).exists()
    train(lab, tmp_path, *ALONE, "path.resume=false")
    assert len(list((tmp_path / "experiments").iterdir())) == 2


@pytest.fixture
def other() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("resume", ["true", "false"])
def test_a_folder_of_a_living_training_is_refused(
    lab: Path, tmp_path: Path, other: subprocess.Popen, capsys: pytest.CaptureFixture, resume: str
) -> None:
    """Nothing is moved or written; the same with `path.resume: false`. Once the other one is dead, its lock is taken over."""
    run = tmp_path / "experiments/run"
    write_lock(run, other.pid)
    assert train_d3sr.main(settings(lab, tmp_path, *ALONE, f"path.resume={resume}")) == 2
    said = f"train_d3sr.py: another training (process {other.pid} on {socket.gethostname()}, since 2026-01-02 03:04:05) writes to {run}"
    assert capsys.readouterr().err.startswith(said)
    assert [path.name for path in run.iterdir()] == [LOCK] and [path.name for path in tmp_path.iterdir()] == ["experiments"]
    other.kill()
    train(lab, tmp_path, *ALONE, "train.total_iter=1", "train.scheduler.warmup_iter=0", f"path.resume={resume}")
    assert f"INFO: took over {run / LOCK} of a training that is no more" in (run / "train_run.log").read_text()
    assert list((tmp_path / "experiments").rglob(LOCK)) == []


@pytest.mark.slow
def test_two_processes_are_refused_alike(lab: Path, tmp_path: Path, other: subprocess.Popen, capfd: pytest.CaptureFixture) -> None:
    write_lock(tmp_path / "experiments/run", other.pid)
    assert two_processes(lab, tmp_path, lambda _: None, *ALONE) == [2, 2]
    assert f"another training (process {other.pid} on " in capfd.readouterr().err


@pytest.mark.slow
def test_a_lock_is_held_while_it_trains_and_gone_after_any_end(lab: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """A signal, an error, and a kill, whose lock is taken over."""
    lock = tmp_path / "experiments/run" / LOCK
    held = tmp_path / "held"

    def stop() -> None:
        held.write_text(lock.read_text())
        os.kill(os.getpid(), signal.SIGTERM)

    def fail() -> None:
        raise KeyError("a bug")

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for action, status in ((stop, 130), (fail, 1), (kill, -signal.SIGKILL)):
        process = launched(settings(lab, tmp_path, *ALONE), lambda _, action=action: before_update(1, action))
        if action is stop:
            pid = process.pid
        assert exit_code(process) == (1 if action is fail else status)
        assert lock.exists() == (action is kill)
    assert json.loads(held.read_text())["pid"] == pid
    train(lab, tmp_path, *ALONE)
    assert (lock.parent / "train_run.log").read_text().count("took over") == 1 and not lock.exists()


def kill_a_loader() -> None:
    loaders = psutil.Process().children()
    loaders[0].kill()
    time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["step", "save", "validation"])
def test_a_loader_that_is_killed_is_one_line_and_status_1(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, when: str
) -> None:
    """Wherever the training just is."""

    def prepare(_: int) -> None:
        if when == "step":
            before_update(4, kill_a_loader)
            return
        module, name = (engine.run, "save_state") if when == "save" else (sys.modules["engine.validation"], "restore_picture")
        original = getattr(module, name)
        setattr(module, name, lambda *a, **k: (kill_a_loader(), original(*a, **k))[1])

    pairs = f"datasets.val.mine={{dataroot_lq: {lab / 'LR/0.png'}, dataroot_gt: {lab / 'HR/0.png'}}}"
    scored = [pairs, "val.metrics={psnr: {type: psnr}, ssim: null}", "val.early=[]", "val.val_freq=4", "val.save_img=false"]
    process = launched(settings(lab, tmp_path, *ALONE, *scored, "datasets.train.num_worker_per_gpu=2", "train.total_iter=9"), prepare)
    assert exit_code(process) == 1
    error = capfd.readouterr().err
    said = [line for line in error.splitlines() if line.startswith("train_d3sr.py: ")]
    assert len(said) == 1 and "a loader process was killed (SIGKILL), most likely for want of memory" in said[0], error
    assert said[0].endswith("The same command goes on from the last state") and "Traceback" not in error


@pytest.mark.slow
def test_ctrl_c_under_torchrun_saves_and_ends_every_process_with_130(lab: Path, tmp_path: Path) -> None:
    """As a terminal sends it, to torchrun and its processes alike. torchrun's own status is always 1 then, and the traceback its own."""
    (tmp_path / "driver.py").write_text(
        "import os, sys, torch, train_d3sr\n"
        "torch.set_num_threads(1)\n"
        "status = train_d3sr.main(sys.argv[1:])\n"
        "open(f'{os.environ[\"MARK\"]}.{os.environ[\"RANK\"]}', 'w').write(str(status))\n"
        "sys.exit(status)\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = settings(lab, tmp_path, *ALONE, "train.total_iter=4000", "logger.save_checkpoint_freq=5000")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MARK": str(tmp_path / "status")}
    command = [*torchrun, str(tmp_path / "driver.py"), *arguments]
    run = tmp_path / "experiments/run"
    with open(tmp_path / "err", "w") as err:
        process = subprocess.Popen(command, env=environment, stderr=err, start_new_session=True)
    while process.poll() is None and not ((run / "train_run.log").exists() and logged(run)):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(100)
    error = (tmp_path / "err").read_text()
    assert [(tmp_path / f"status.{rank}").read_text() for rank in (0, 1)] == ["130", "130"], error
    assert len(list((run / "training_states").iterdir())) == 1 and not (run / LOCK).exists()
    assert error.count("stopped as asked: ") == 1 and "train_d3sr.py" not in error.partition("Traceback")[2]


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal() -> Iterator[None]:
    """Who starts pytest in the background hands down an ignored Ctrl-C."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def test_ctrl_c_while_everything_is_loaded_is_one_sentence(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(engine.loop, "build_run", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert train_d3sr.main(settings(lab, tmp_path)) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; the same command starts again, or goes on from the last state"
    assert not (tmp_path / "experiments/run" / LOCK).exists()
    shutil.rmtree(tmp_path / "experiments")
