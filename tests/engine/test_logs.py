"""Running means, log lines, the log file and TensorBoard; a process that is not the main one only warns."""

import errno
import io
import math
import os
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.distributed import World
from engine.logs import Forgiving, Means, RunLog, Speed, _without_tensorboards, describe_machine, log_line, peak_memory_gib
from tests.engine.test_distributed import in_processes

CPU = torch.device("cpu")
MAIN, OTHER = World(0, 1, CPU), World(1, 2, CPU)


def test_means_average_what_was_added_since_the_last_reading() -> None:
    means = Means()
    for value in (1.0, 2.0, 6.0):
        means.add(a=value, b=torch.tensor(value, requires_grad=True) * 2)
    means.add(a=3)
    assert means.read(MAIN) == {"a": 3.0, "b": 6.0}
    assert means.read(MAIN) == {}
    means.add(b=torch.tensor(7.0))
    assert means.read(MAIN) == {"b": 7.0}


def test_a_number_that_is_not_finite_shows_in_the_mean() -> None:
    means = Means()
    means.add(a=1.0)
    means.add(a=torch.tensor(math.nan))
    assert math.isnan(means.read(MAIN)["a"])


def test_means_keep_no_graph() -> None:
    means, weight = Means(), torch.ones((), requires_grad=True)
    means.add(a=weight * 2)
    assert not means._sums["a"].requires_grad


def _mean_over_two(world: World) -> dict[str, float]:
    means = Means()
    for value in ((1.0, 3.0), (10.0, 30.0))[world.rank]:
        means.add(loss=value, rank=world.rank)
    return means.read(world)


def test_means_are_averaged_over_processes() -> None:
    assert in_processes(2, _mean_over_two) == [{"loss": 11.0, "rank": 0.5}] * 2


def test_speed_counts_from_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 104.0, 105.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    speed = Speed()
    assert [speed.read(), speed.read()] == [4.0, 1.0]


def test_memory_is_this_process_peak() -> None:
    before = peak_memory_gib(CPU)
    block = torch.ones(2**26)  # a quarter of a GiB
    assert 0.01 < before <= peak_memory_gib(CPU) < 64
    if Path("/proc/self/status").exists():
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
        assert peak_memory_gib(CPU) == pytest.approx(peak / 2**20, rel=0.05)
    assert len(block) == 2**26


def test_a_line_is_short_and_says_all() -> None:
    line = log_line(7, 90, {"mse": 0.0123456, "learning_rate": 5e-5, "skipped_steps": 0})
    assert line == "iter 7/90  mse 0.01235  learning_rate 5e-05  skipped_steps 0"


def test_the_main_process_writes_file_and_console_and_appends(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for text in ("first", "second"):
        log = RunLog(tmp_path / "run", "run", None, MAIN)
        log.write_options(f"name: {text}\n")
        log.info(text)
        log.warning(f"{text} warning")
        log.scalars("train", 1, 2, {"mse": 0.5})
    lines = (tmp_path / "run/train_run.log").read_text().splitlines()
    kinds = ["INFO: first", "WARNING: first warning", "INFO: train  iter 1/2  mse 0.5"]
    assert [line[20:] for line in lines] == kinds + [kind.replace("first", "second") for kind in kinds]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert capsys.readouterr().err.splitlines() == lines
    assert (tmp_path / "run/options.yml").read_text() == "name: second\n"


def test_no_name_forges_a_line_of_the_log_or_acts_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = RunLog(tmp_path / "run", "run", None, MAIN)
    log.warning("left out:\n  a\n2026-01-01 00:00:00 INFO: saved\x1b[2J\udcff.png: broken")
    (first, second) = (tmp_path / "run/train_run.log").read_text(encoding="utf-8").splitlines()
    assert first.endswith(" WARNING: left out:") and second == "  a\\n2026-01-01 00:00:00 INFO: saved\\x1b[2J\\udcff.png: broken"
    assert capsys.readouterr().err.splitlines() == [first, second]


def test_other_processes_only_warn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = RunLog(tmp_path / "run", "run", tmp_path / "tb", OTHER)
    log.write_options("name: x\n")
    log.info("nothing")
    log.scalars("train", 1, 2, {"mse": 0.5})
    log.warning("a picture is broken")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.splitlines()[0][20:] == "WARNING: a picture is broken"


def test_tensorboard_reads_the_points_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path / "run", "run", tmp_path / "tb", MAIN)
    for iteration in (1, 2):
        log.scalars("train", iteration, 2, {"mse": 0.5 * iteration})
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/mse")] == [(1, 0.5), (2, 1.0)]


def test_the_machine_is_described_on_a_cpu() -> None:
    assert describe_machine(World(0, 1, torch.device("cpu")), per_process=8, accumulate=2) == [
        f"device: cpu (threads: {torch.get_num_threads()}); 1 process",
        f"torch {torch.__version__}",
        "batch 16 = 8 a process x 1 process x 2 accumulated",
    ]


def test_the_machine_is_described_on_four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="NVIDIA A100-SXM4-40GB", total_memory=40 * 2**30, major=8, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr("engine.logs.driver_version", lambda: "550.54.14")
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    assert describe_machine(World(0, 4, torch.device("cuda", 0)), per_process=4, accumulate=1) == [
        "device: cuda:0 (NVIDIA A100-SXM4-40GB, 40.0 GiB, compute capability 8.0); 4 processes over nccl",
        f"torch {torch.__version__}, CUDA 12.6, cuDNN 91002, NVIDIA driver 550.54.14",
        "batch 16 = 4 a process x 4 processes x 1 accumulated",
    ]


class FullDisk(io.StringIO):
    """A file on a full disk: as soon as it is to be flushed."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_under_the_log_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path / "run", "run", None, MAIN)
    handler = log._logger.handlers[1]
    file = handler.setStream(FullDisk())
    for number in range(3):
        log.info(f"line {number}")
    monkeypatch.setattr("engine.logs.write_text", lambda *_: FullDisk().flush())
    log.write_options("name: x\n")
    lines = [line[20:] for line in capsys.readouterr().err.splitlines()]
    said = f"WARNING: cannot write {tmp_path / 'run/train_run.log'}: the disk is full (No space left on device); the training goes on"
    assert sorted(lines[:2]) == ["INFO: line 0", said] and lines[2:4] == ["INFO: line 1", "INFO: line 2"] and len(lines) == 5
    assert lines[4] == said.replace("train_run.log", "options.yml")
    handler.stream = file
    log.info("there is room again")
    assert (tmp_path / "run/train_run.log").read_text().endswith("INFO: there is room again\n")


@pytest.mark.parametrize("where", ["start", "write"])
def test_a_full_disk_under_tensorboard_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The writer's own thread meets it, whose traceback nobody sees."""
    from tensorboard.summary.writer import record_writer

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    if where == "start":
        monkeypatch.setattr(record_writer.RecordWriter, "write", refuse)
    log = RunLog(tmp_path / "run", "run", tmp_path / "tb", MAIN)
    monkeypatch.setattr(record_writer.RecordWriter, "write", refuse)
    for iteration in (1, 2, 3):
        log.scalars("train", iteration, 3, {"mse": 0.5, "loss": 1.0})
        time.sleep(0.1)
    error = capfd.readouterr().err
    assert error.count("WARNING") == error.count("the disk is full (No space left on device); the training goes on") == 1
    assert error.count("INFO: train") == 3 and "Traceback" not in error


def test_another_threads_failure_is_still_shown(capfd: pytest.CaptureFixture) -> None:
    error = OSError("a fault")
    _without_tensorboards(threading.ExceptHookArgs((OSError, error, None, threading.current_thread())))
    assert "OSError: a fault" in capfd.readouterr().err


def test_a_terminal_that_refuses_loses_text_only() -> None:
    stream = Forgiving(FullDisk())
    assert stream.write("text") == 4 and stream.flush() is None and stream.getvalue() == "text" and not stream.isatty()
