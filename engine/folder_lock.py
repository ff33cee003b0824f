"""One training at a time in a run's folder: `training.lock` says whose it is.

No lock of the operating system's, which network disks and Windows have in their own ways or not at all: a file that is created
exclusively, names its owner, and is touched every BEAT_S seconds for as long as that lives.
"""

import json
import os
import secrets
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from data.whole_files import WriteError, why_refused

LOCK = "training.lock"
BEAT_S = 20.0
STALE_S = 180.0
"""A lock of another machine that was not touched for so long is a dead run's: nine beats, and more than a network disk may lag behind."""
SAME_START_S = 2.0
"""Two readings of a process's start differ by less."""


class FolderLock:
    """The lock of a folder, from its creation on; a context manager, at whose end it is removed."""

    def __init__(self, folder: Path, info: Callable[[str], None] = lambda _: None) -> None:
        """Creates the folder where it is missing. info: told where a dead run's lock is taken over.

        Raises:
            ValueError: another training writes to this folder; it is named.
            WriteError: the disk refuses.
        """
        self.file, self._over = folder / LOCK, threading.Event()
        self._own = {"host": socket.gethostname(), "pid": os.getpid(), "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        self._own |= {"process_started": psutil.Process().create_time(), "pid_namespace": _pid_namespace(), "key": secrets.token_hex(8)}
        while not self._create():
            if (dead := self._dead_owner()) is not None and self._remove(dead):
                info(f"took over {self.file} of a training that is no more ({_named(dead)})")
        threading.Thread(target=self._beat, name="folder lock", daemon=True).start()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._read(self.file) == self._own:
            with suppress(OSError):
                self.file.unlink(missing_ok=True)

    def confirm(self) -> None:
        """Before something is written. A lock that was removed is created again.

        Raises:
            ValueError: another training has taken the folder over, as it does from one that was halted for minutes.
        """
        owner = self._read(self.file)
        if owner is None:
            self._create()
        elif owner not in ({}, self._own):
            raise ValueError(f"{self.file.parent} was taken over by another training ({_named(owner)}): this one ends and writes no more")

    def _create(self) -> bool:
        """Whether the file could be created; False where it is there already."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            file = open(self.file, "x", encoding="utf-8")  # noqa: SIM115 (closed below)
        except FileExistsError as error:
            if self.file.is_dir():
                raise WriteError(f"cannot write {self.file}: a folder of that name is there; remove it") from error
            return False
        except OSError as error:
            raise WriteError(f"cannot write {self.file}: {why_refused(error)}") from error
        try:
            with file:
                json.dump(self._own, file)
        except OSError as error:
            self.file.unlink(missing_ok=True)
            raise WriteError(f"cannot write {self.file}: {why_refused(error)}") from error
        return True

    @staticmethod
    def _read(file: Path) -> dict[str, Any] | None:
        """Whom a lock names: {} where it does not say (yet), None where there is none. Nothing but a file is opened: a pipe would hang."""
        try:
            owner = json.loads(file.read_text(encoding="utf-8")) if stat.S_ISREG(file.lstat().st_mode) else {}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _dead_owner(self) -> dict[str, Any] | None:
        """The owner found, if it is dead; None if the lock went meanwhile. Raises ValueError if the owner lives or may do so."""
        owner = self._read(self.file)
        if owner is None:
            return None
        here = (owner.get("host"), owner.get("pid_namespace")) == (self._own["host"], self._own["pid_namespace"])
        if here and not _lives(owner.get("pid"), owner.get("process_started")):
            return owner
        with suppress(FileNotFoundError):
            if not here and self._now() - self.file.stat().st_mtime > STALE_S:
                return owner
        unsure = "" if here else f". If that one is no more, wait {STALE_S / 60:g} minutes or remove {self.file}"
        raise ValueError(
            f"another training ({_named(owner)}) writes to {self.file.parent}: use another `name`, or wait for its end{unsure}"
        )

    def _remove(self, dead: dict[str, Any]) -> bool:
        """Whether this process removed the dead lock, and not another one, which is put back."""
        aside = self.file.with_name(f".{LOCK}.{self._own['key']}")
        with suppress(FileNotFoundError):
            os.replace(self.file, aside)
            if self._read(aside) == dead:
                aside.unlink()
                return True
            os.replace(aside, self.file)
        return False

    def _now(self) -> float:
        """The time by the clock of the disk, which may be another machine's."""
        probe = self.file.with_name(f".{LOCK}.{self._own['key']}")
        try:
            probe.touch(exist_ok=False)
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(OSError):
                os.utime(self.file)


def _lives(pid: object, process_started: object) -> bool:
    """Whether a process of this machine still runs, and is not another one with its number."""
    if not isinstance(pid, int) or not isinstance(process_started, (int, float)):
        return False
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - process_started) < SAME_START_S
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False


def _pid_namespace() -> int:
    """Two containers may have the name of a machine in common, but not their processes; 0 where the system has no such thing."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _named(owner: dict[str, Any] | None) -> str:
    owner = owner or {}
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('started', '?')}"
