"""A process with a limit of time, that is ended with all that it has started."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

MARK = "D3SR_STEP"
PROCESSES = Path("/proc")


def run_limited(command: Sequence[str], rows: Path, log: Path, limit: float) -> dict[str, Any]:
    """Runs a command that writes rows, one line of JSON each; what it prints goes to the end of `log`.

    Returns:
        status (ok or failed), reason, seconds, and the rows that it came to write. A row that failed makes the whole a failure.
    """
    mark, started = uuid4().hex, monotonic()
    with log.open("ab") as output:
        output.write(f"\n=== {' '.join(command)}\n".encode())
        output.flush()
        before = output.tell()
        environment = {**os.environ, MARK: mark, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            ended: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            ended = None
        finally:
            end_all(process, mark)
    seconds, found = monotonic() - started, read_rows(rows)
    reason = f"over its limit of {limit:.0f} s" if ended is None else why(ended, log, before)
    failed = [row["what"] for row in found if row["status"] == "failed"]
    if not reason and failed:
        reason = f"failed: {', '.join(failed)}"
    return {"status": "failed" if reason else "ok", "reason": reason, "seconds": seconds, "rows": found}


def why(status: int, log: Path, before: int) -> str:
    """Why a process ended badly: its last line; nothing where it did not."""
    if status == 0:
        return ""
    with log.open("rb") as file:
        file.seek(before)
        line = last_line(file.read().decode(errors="replace"))
    ending = f"ended by signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"{line[:300]} ({ending})" if line else ending


def last_line(text: str) -> str:
    """The last line that is not empty; of a traceback that is what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows that were written whole."""
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []
    return [json.loads(line) for line in lines]


def end_all(process: subprocess.Popen, mark: str) -> None:
    """Ends what is left of the process' group, and whatever else carries the mark: torchrun's workers are sessions of their own."""
    if hasattr(os, "killpg"):
        with suppress(OSError):  # none is left
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    for environment in PROCESSES.glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)
        except OSError:  # gone meanwhile, or somebody else's
            continue
    process.wait()
