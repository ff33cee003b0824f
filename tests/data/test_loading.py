"""Endless batches: which samples they hold, whatever the number of workers; what is said of files that cannot be read and of processes
that die."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from data import hr_crops
from data.hr_crops import HRCrops, collate
from data.image_io import to_unit_range
from data.loading import LoaderProcessError, endless_batches
from data.paired import PairedCrops
from data.sampler import ShardedSampler
from degradations.stage import Degradation

CPU = torch.device("cpu")


@pytest.fixture
def spawned() -> Iterator[None]:
    """Processes start as they do on Windows and macOS."""
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(usual, force=True)


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
            assert all(torch.equal(batch[key][position], to_unit_range(item[key])) for key in ("hr", "lr"))
            assert batch["path"][position] == item["path"]
        assert batch["hr"].shape == (3, 3, 32, 32) and batch["lr"].shape == (3, 3, 8, 8)
        assert batch["hr"].device == CPU and batch["hr"].dtype == torch.float32 and batch["index"].dtype == torch.int64


@pytest.mark.slow
def test_spawned_loader_processes_give_the_samples_of_forked_ones(folder: Path, spawned: None) -> None:
    """As on Windows and macOS, where a loader process starts from nothing and is sent the data set."""
    pairs = PairedCrops(folder, folder, gt_size=32, scale=1, seed=0)
    for dataset, workers in ((crops(folder, Degradation()), 2), (pairs, 1)):
        expected = batches(dataset, 3, start=6)
        found = batches(dataset, 3, workers=workers, start=6)
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys() and one["path"] == other["path"]
            assert all(torch.equal(one[key], other[key]) for key in ("hr", "lr", "index"))


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


@pytest.mark.parametrize("usm", [False, True])
def test_pictures_arrive_as_the_floats_that_they_were_made_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usm: bool) -> None:
    """Items are bytes, batches floats: the very ones that LR was degraded from and that came out of it; a sharpened HR is rounded."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    made, degrade = [], hr_crops.degrade
    monkeypatch.setattr(hr_crops, "degrade", lambda hr, *rest: made.append((hr, degrade(hr, *rest))) or made[-1][1])
    dataset = HRCrops([(tmp_path, 1.0)], gt_size=32, scale=4, seed=5, degradation=Degradation(), usm=usm)
    for batch in batches(dataset, 3):
        for position in range(3):
            hr, lr = made.pop(0)
            assert hr.dtype == lr.dtype == np.float32
            assert torch.equal(batch["lr"][position], torch.from_numpy(lr.transpose(2, 0, 1)))
            expected = torch.from_numpy(hr.transpose(2, 0, 1).copy())
            if usm:
                assert (batch["hr"][position] - expected).abs().max() <= 0.501 / 255 and not torch.equal(batch["hr"][position], expected)
            else:
                assert torch.equal(batch["hr"][position], expected)


def test_a_loader_process_stacks_in_shared_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is full, torch raises in the loader process. Moved there later, by torch's own thread, the batch would never arrive."""
    items = [crops(folder, Degradation())[n] for n in range(2)]
    assert not any(collate(items)[key].is_shared() for key in ("hr", "lr", "index"))
    monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: "a loader process")
    assert all(collate(items)[key].is_shared() for key in ("hr", "lr", "index"))


class Deadly(Dataset):
    """Samples whose second one ends its own loader process, or raises, as soon as a file is there."""

    def __init__(self, end: Callable[[], None], go: Path) -> None:
        self.end, self.go = end, go

    def __getitem__(self, n: int) -> dict:
        if n == 1:
            while not self.go.exists():
                time.sleep(0.01)
            self.end()
        return {"hr": torch.zeros(3, 2, 2, dtype=torch.uint8), "index": n, "path": "", "skipped": []}


def killed_by(number: int) -> Callable[[], None]:
    def end() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)

    return end


def raises(text: str) -> Callable[[], None]:
    def end() -> None:
        raise RuntimeError(text)

    return end


NO_ROOM = r"no room for its batch in shared memory \(/dev/shm: (\d+ MiB|missing)\); in Docker .*--shm-size=8g .*num_worker_per_gpu: 0"
DEATHS = {
    "bus error": (killed_by(signal.SIGBUS), NO_ROOM),
    "full": (raises("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"), NO_ROOM),
    "killed": (killed_by(signal.SIGKILL), r"was killed \(SIGKILL\), most likely for want of memory; lower .*num_worker_per_gpu"),
    "other signal": (killed_by(signal.SIGUSR1), r"unexpected end \(.*signal: User defined signal 1.*num_worker_per_gpu: 0 to see"),
    "exit": (lambda: os._exit(3), r"unexpected end \(.*exit code 3"),
}


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="signals of Unix")
@pytest.mark.parametrize("name", DEATHS)
@pytest.mark.parametrize("waiting", [True, False])
def test_the_death_of_a_loader_process_is_explained(name: str, waiting: bool, tmp_path: Path) -> None:
    """Also where the program is not waiting for a batch when it happens."""
    (end, message), go = DEATHS[name], tmp_path / "go"
    loader = endless_batches(Deadly(end, go), 1, ShardedSampler(), workers=1, device=CPU, warn=pytest.fail)
    next(loader)
    with pytest.raises(LoaderProcessError, match=f"^a loader process .*{message}") as caught:
        go.touch()
        if not waiting:
            time.sleep(0 if name == "full" else 20)
        next(loader)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_of_samples_stay_what_they_are(workers: int, tmp_path: Path) -> None:
    dataset = Deadly(raises("a mistake of ours"), tmp_path)
    loader = endless_batches(dataset, 1, ShardedSampler(), workers=workers, device=CPU, warn=pytest.fail)
    next(loader)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        next(loader)


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


@pytest.mark.slow
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
