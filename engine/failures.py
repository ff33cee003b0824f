"""When one of several processes fails, all of them leave: none may wait for ever in a collective that the others never join."""

import os
import sys
import threading
from typing import NoReturn

import torch.distributed as dist

from data.console import say_traceback, shown

KEY = "failed"
POLL_S = 1.0
GRACE_S = 2.0
"""So long a process may still come to an end of its own, once it knows of a failure: often it is about to fail of the same cause."""


def print_traceback(error: BaseException) -> int:
    """Says all of an error; returns the exit status for it."""
    say_traceback(error)
    return 1


def first_line(error: BaseException) -> str:
    """An error in one line; its type is named unless it is a user's mistake, whose message says all."""
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def leave(status: int, line: str = "") -> NoReturn:
    """Ends this process at once, whatever any thread of it waits for: no handler, no destructor, nothing collective."""
    if line:
        sys.stderr.write(f"{shown(line)}\n")  # not `say`: another thread may hold the lock of the bars
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


class FailureWatch:
    """Tells the other processes that this one fails, and ends this one when another does.

    The second is the work of a thread, since a process inside a collective runs no signal handler and raises no exception. torchrun's
    SIGTERM would not end it, and only 30 s later its SIGKILL does.
    """

    def __init__(self, store: dist.Store, rank: int) -> None:
        """store: this watch's own connection (a store's client answers one thread at a time), below a name that only this start has."""
        self._store, self._rank, self._over = store, rank, threading.Event()
        threading.Thread(target=self._watch, name="failure watch", daemon=True).start()

    def stop(self) -> None:
        """From here on the others may be gone."""
        self._over.set()

    def announce(self, error: BaseException) -> str | None:
        """Tells the others of this process's failure. Returns what another one had told before; None where this is the first."""
        self.stop()
        mine = f"process {self._rank} failed: {first_line(error)}"
        try:
            told = self._store.compare_set(KEY, "", mine).decode()
        except RuntimeError:  # the store went with the process that held it, and nobody is left to be told
            return None
        return told if told != mine else None

    def _watch(self) -> None:
        told = None
        while told is None and not self._over.wait(POLL_S):
            try:
                told = self._store.get(KEY).decode() if self._store.check([KEY]) else None
            except RuntimeError as error:
                told = f"the other processes are gone ({first_line(error)})"
        if told is not None and not self._over.wait(GRACE_S):
            leave(1, f"{told}; leaving")
