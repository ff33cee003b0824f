"""What the steps have in common: what they are told, their rows, made-up photographs, and running a script as a user does."""

import gc
import math
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]
"""what, values (heading -> number or word), note, status: ok, failed or skipped."""


@dataclass(frozen=True)
class Setting:
    """What a step is told."""

    device: torch.device
    full: bool
    """Published sizes; else everything in small, which a CPU does in seconds."""
    folder: Path
    """For temporary files. All steps of a report share it."""
    deadline: float
    """When the step will be ended, on the clock of time.time."""

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.time()

    @property
    def precision(self) -> str:
        """The usual one: bf16; fp32 on a CPU, which may take a hundred times as long for bf16."""
        return "fp32" if self.device.type == "cpu" else "bf16"

    def bases(self) -> tuple[str, str]:
        """Stand-ins for Stable Diffusion 2.1-base and SDXL."""
        return ("random:sd21-base", "random:sdxl-base") if self.full else ("random:small-sd", "random:small-sdxl")

    def lacks(self, precision: str) -> str | None:
        """Why the device does without a precision; None where it does not."""
        if precision == "fp16" and self.device.type == "cpu":
            return "fp16 is for GPUs"
        if precision == "bf16" and self.device.type == "cuda" and torch.cuda.get_device_capability(self.device) < (8, 0):
            major, minor = torch.cuda.get_device_capability(self.device)
            return f"bf16 needs compute capability 8.0, this device has {major}.{minor}"
        return None


def row(what: str, values: Mapping[str, Any], note: str = "", status: str = "ok") -> Row:
    """One line of a step's table; numbers that JSON does not know become words."""
    odd = {name: str(value) for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)}
    return {"what": what, "values": {**values, **odd}, "note": note, "status": status}


def skipped(what: str, reason: str) -> Row:
    """A line for what was left out."""
    return row(what, {}, reason, "skipped")


def attempt(what: str, measure: Callable[[], Row]) -> Row:
    """measure(), or a line that says why it failed, so that the rest of the step goes on."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        reason = f"out of memory, peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        traceback.print_exc()  # into the log
    free_memory()
    return row(what, {}, reason, "failed")


def free_memory() -> None:
    """Gives back what nothing holds any more, and counts the peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def make_photos(setting: Setting) -> Path:
    """A folder of JPEG files as large as photographs in training sets are: the pictures of assets/, enlarged, with noise; made once."""
    folder, unfinished, side = setting.folder / "photos", setting.folder / "photos.part", 1024 if setting.full else 160
    if not folder.is_dir():
        unfinished.mkdir(exist_ok=True)
        random = np.random.default_rng(0)
        for path in sorted((ROOT / "assets").glob("*.png")):
            picture = cv2.resize(cv2.imread(str(path)), (side, side), interpolation=cv2.INTER_CUBIC).astype(float)
            for number in range(4 if setting.full else 1):
                noisy = np.clip(picture + random.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
                cv2.imwrite(str(unfinished / f"{path.stem}{number}.jpg"), noisy)
        unfinished.rename(folder)
    return folder


def run_script(setting: Setting, *arguments: str) -> tuple[str, bool]:
    """What a script of this project prints, run from its root as a user runs it, and whether it came to its end in time.

    Raises:
        RuntimeError: it failed.
    """
    command, seconds = [sys.executable, *arguments], max(1.0, setting.seconds_left - 5)
    print(f"$ {' '.join(command)}", flush=True)
    file = setting.folder / "script.txt"  # no pipe: loader processes would keep it open after their parent is gone
    with file.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = None
    text = file.read_text(encoding="utf-8", errors="replace")
    print(text, flush=True)
    if status:
        raise RuntimeError(last_line(text) or f"exit status {status}")
    return text, status is not None


def last_line(text: str) -> str:
    """The last line that is not empty; of a traceback that is what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
