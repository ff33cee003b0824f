"""What a step is told, and the rows that it yields."""

import gc
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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


def attempt(what: str, measure: Callable[[], Row], lacking: str | None = None) -> Row:
    """measure(), or a row that says why it failed, so that the rest of the step goes on; skipped where something is lacking for it."""
    if lacking:
        return row(what, {}, lacking, "skipped")
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
