"""Whose a run's folder is: owners that live, died, wait on another machine, or were halted; and that a lock leaves nothing behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data.whole_files import WriteError
from engine import folder_lock
from engine.folder_lock import LOCK, STALE_S, FolderLock
from tests.engine.test_checkpoint import refuse


@pytest.fixture
def other() -> Iterator[subprocess.Popen]:
    """Another process of this machine, which does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def write_lock(folder: Path, pid: int, **changes: object) -> dict[str, object]:
    """As a process of this machine would have it, but for the changes."""
    (folder / LOCK).unlink(missing_ok=True)
    with FolderLock(folder) as lock:
        owner = json.loads(lock.file.read_text())
    owner |= {"pid": pid, "started": "2026-01-02 03:04:05", "key": "other"} | changes
    if "process_started" not in changes and psutil.pid_exists(pid):
        owner["process_started"] = psutil.Process(pid).create_time()
    (folder / LOCK).write_text(json.dumps(owner))
    return owner


def made_older(file: Path, seconds: float) -> None:
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime - seconds))


def test_a_lock_names_its_owner_and_goes_with_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), FolderLock(tmp_path / "a/run") as lock:
        owner = json.loads((tmp_path / "a/run" / LOCK).read_text())
        assert owner["pid"] == os.getpid() and owner["host"] == os.uname().nodename
        assert owner["process_started"] == pytest.approx(psutil.Process().create_time())
        lock.confirm()
        raise KeyError("whatever ends a training")
    assert list((tmp_path / "a/run").iterdir()) == []


def test_a_living_owner_is_named_and_keeps_the_folder(tmp_path: Path, other: subprocess.Popen) -> None:
    write_lock(tmp_path, other.pid)
    before = (tmp_path / LOCK).read_text()
    named = rf"another training \(process {other.pid} on {os.uname().nodename}, since 2026-01-02 03:04:05\) writes to {tmp_path}"
    with pytest.raises(ValueError, match=f"{named}: use another `name`, or wait for its end$"):
        FolderLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("how", ["gone", "zombie", "another process has its number", "never was"])
def test_a_dead_owner_loses_the_folder_with_a_word(tmp_path: Path, other: subprocess.Popen, how: str) -> None:
    write_lock(tmp_path, other.pid)
    if how == "another process has its number":
        write_lock(tmp_path, other.pid, process_started=psutil.Process(other.pid).create_time() - 60)
    elif how == "never was":
        write_lock(tmp_path, -5, process_started="soon")
    else:
        other.kill()
        while how == "zombie" and psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        if how == "gone":
            other.wait()
    said: list[str] = []
    with FolderLock(tmp_path, said.append) as lock:
        lock.confirm()
    (line,) = said
    assert line.startswith(f"took over {tmp_path / LOCK} of a training that is no more (process ") and "2026-01-02" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("odd", ["", "null", "[1]", "{", "[" * 100_000, '{"host": 3, "pid": "x"}'], ids=range(6))
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_lock_that_cannot_be_judged_holds_until_it_is_old(tmp_path: Path, odd: str, elsewhere: bool) -> None:
    """Of another machine or container; or one whose writer was killed in the middle of it."""
    if elsewhere:
        write_lock(tmp_path, os.getpid(), **({"host": "node7"} if "host" in odd else {"pid_namespace": 1}))
    else:
        (tmp_path / LOCK).write_text(odd)
    made_older(tmp_path / LOCK, STALE_S - 60)
    with pytest.raises(ValueError, match=f"wait 3 minutes or remove {tmp_path / LOCK}$"):
        FolderLock(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    made_older(tmp_path / LOCK, 120)
    said: list[str] = []
    with FolderLock(tmp_path, said.append):
        assert len(said) == 1 and json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_living_training_touches_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "BEAT_S", 0.01)
    with FolderLock(tmp_path) as lock:
        made_older(lock.file, 1000)
        old = lock.file.stat().st_mtime
        while lock.file.stat().st_mtime < old + 900:
            pass


def test_who_was_halted_meanwhile_writes_no_more_and_leaves_the_others_lock(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        successor = json.loads(lock.file.read_text()) | {"host": "node7", "pid": 7, "key": "other"}
        lock.file.write_text(json.dumps(successor))
        with pytest.raises(ValueError, match=r"was taken over by another training \(process 7 on node7, since "):
            lock.confirm()
    assert json.loads((tmp_path / LOCK).read_text()) == successor


def test_a_lock_that_was_removed_is_made_again(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run") as lock:
        lock.file.unlink()
        lock.file.parent.rmdir()
        lock.confirm()
        assert json.loads(lock.file.read_text())["pid"] == os.getpid()


def test_a_dead_lock_is_not_mixed_up_with_one_that_came_after_it(tmp_path: Path) -> None:
    """Two starts see the same dead lock; the first is done with it before the second acts."""
    with FolderLock(tmp_path) as first:
        owner = first.file.read_text()
        assert not first._remove({"pid": 1})
        assert first.file.read_text() == owner and len(list(tmp_path.iterdir())) == 1
        assert first._remove(json.loads(owner)) and list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="writes to|cannot write"):
        FolderLock(tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_hangs_nobody_and_goes_when_it_is_old(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(ValueError, match=f"wait 3 minutes or remove {tmp_path / LOCK}$"):
        FolderLock(tmp_path)
    made_older(tmp_path / LOCK, STALE_S + 60)
    with FolderLock(tmp_path):
        assert (tmp_path / LOCK).is_file()


def test_a_folder_in_the_locks_place_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / LOCK / "kept").mkdir(parents=True)
    made_older(tmp_path / LOCK, STALE_S + 60)
    with pytest.raises(WriteError, match=f"cannot write {tmp_path / LOCK}: a folder of that name is there; remove it"):
        FolderLock(tmp_path)
    assert (tmp_path / LOCK / "kept").is_dir()


def test_a_full_disk_is_called_so_and_keeps_no_empty_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.dump", refuse)
    with pytest.raises(WriteError, match=rf"cannot write {tmp_path / LOCK}: the disk is full \(No space left on device\)"):
        FolderLock(tmp_path)
    assert list(tmp_path.iterdir()) == []
