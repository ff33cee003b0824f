"""Endless batches: which samples they hold, whatever the number of workers, and what is said of files that cannot be read."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from data.hr_crops import HRCrops
from data.loading import endless_batches
from data.paired import PairedCrops
from data.sampler import ShardedSampler
from degradations.stage import Degradation

CPU = torch.device("cpu")


def batches(
    dataset: HRCrops | PairedCrops, count: int, *, workers: int = 0, warn: Callable[[str], None] = pytest.fail, **place: int
) -> list[dict]:
    return list(islice(endless_batches(dataset, 3, ShardedSampler(**place), workers=workers, device=CPU, warn=warn), count))


def crops(folder: Path, degradation: Degradation | None = None) -> HRCrops:
    return HRCrops([(folder, 1.0)], gt_size=32, scale=4, seed=5, degradation=degradation)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_samples_of_the_sampler(folder: Path, workers: int) -> None:
    dataset = crops(folder, Degradation())
    found = batches(dataset, 4, workers=workers, rank=1, world_size=2, start=6)
    assert [batch["index"].tolist() for batch in found] == [[7, 9, 11], [13, 15, 17], [19, 21, 23], [25, 27, 29]]
    for batch in found:
        for position, n in enumerate(batch["index"].tolist()):
            item = dataset[n]
            assert torch.equal(batch["hr"][position], item["hr"]) and torch.equal(batch["lr"][position], item["lr"])
            assert batch["path"][position] == item["path"]
        assert batch["hr"].shape == (3, 3, 32, 32) and batch["lr"].shape == (3, 3, 8, 8)
        assert batch["hr"].device == CPU and batch["hr"].dtype == torch.float32


def test_a_restart_goes_on_where_the_run_stopped(folder: Path) -> None:
    whole = batches(crops(folder), 4)
    rest = batches(crops(folder), 2, start=6)
    for before, after in zip(whole[2:], rest, strict=True):
        assert torch.equal(before["hr"], after["hr"]) and torch.equal(before["index"], after["index"])
        assert "lr" not in after


def test_the_ranks_together_see_every_sample_once(folder: Path) -> None:
    seen = [n for rank in range(3) for batch in batches(crops(folder), 2, rank=rank, world_size=3) for n in batch["index"].tolist()]
    assert sorted(seen) == list(range(18))


def test_own_pairs_come_in_the_same_form(folder: Path) -> None:
    dataset = PairedCrops(folder, folder, gt_size=32, scale=1, seed=0)
    batch = batches(dataset, 1)[0]
    assert torch.equal(batch["hr"], batch["lr"]) and batch["hr"].shape == (3, 3, 32, 32)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_files_are_named_and_counted(folder: Path, workers: int) -> None:
    broken = folder / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])  # the header is whole, so that the scan at the start lets it pass
    dataset, told = crops(folder), []
    expected = [line for n in range(15) for line in dataset[n]["skipped"]]
    found = batches(dataset, 5, workers=workers, warn=told.append)
    assert told == [f"unreadable, another image taken ({number} so far): {line}" for number, line in enumerate(expected, start=1)]
    assert len(told) >= 3 and all(str(broken) in line for line in told), "15 samples are 3 rounds through 5 files"
    assert all(str(broken) not in batch["path"] for batch in found)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_goes_away_is_one_clear_error(folder: Path, workers: int) -> None:
    dataset = crops(folder)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"^sample \d: 10 files in a row could not be read; check the disk") as caught:
        batches(dataset, 1, workers=workers)
    assert "Traceback" not in str(caught.value) and str(folder) in str(caught.value)


HELD_AT_THE_END = """
import sys, torch
from data.hr_crops import HRCrops
from data.loading import endless_batches
from data.sampler import ShardedSampler

dataset = HRCrops([(sys.argv[1], 1.0)], gt_size=32, scale=4, seed=5)
held = endless_batches(dataset, 3, ShardedSampler(), workers=2, device=torch.device("cpu"), warn=print)
next(held)
print("begun", flush=True)
sys.stdin.read()
next(held)
"""


def runs(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and whose parent has not asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="loader processes tell signals apart where the system can")
def test_loader_processes_survive_a_groups_sigterm_but_not_their_parent(folder: Path) -> None:
    """The program still holds its batches when it ends, as it does after an error: it must not wait for its loader processes forever."""
    command = [sys.executable, "-c", HELD_AT_THE_END, str(folder)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **streams, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout.readline() == "begun\n"
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 2
    for child in children:
        os.kill(child, signal.SIGTERM)  # from us, who are not their parent
    time.sleep(0.5)
    assert all(runs(child) for child in children)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    until = time.monotonic() + 30
    while any(runs(child) for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(runs(child) for child in children)
