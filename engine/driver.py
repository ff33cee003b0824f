"""Why torch finds no CUDA device, and what to do about it."""

import os
import re
from pathlib import Path

import torch

DRIVER_FILE = Path("/proc/driver/nvidia/version")
OLDEST_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""CUDA's major version -> the oldest Linux driver for all of its minor ones (NVIDIA: CUDA Compatibility, Minor Version Compatibility)."""
INDEXES = {12: "cu126", 11: "cu118"}
"""Of torch's own package index, for drivers that are too old for what the registry has."""


def driver_version(file: Path = DRIVER_FILE) -> str | None:
    """The version of this machine's NVIDIA driver, such as 550.54.14; None where there is none (or no Linux)."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def hidden_by_the_user() -> bool:
    """Whether CUDA_VISIBLE_DEVICES leaves no GPU to see."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")


def why_no_cuda() -> str:
    """What torch was built for, which driver that needs, which one this machine has, and what to do."""
    if hidden_by_the_user():
        return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every GPU. Either unset it, or say device: cpu"
    driver = driver_version()
    built, needed = f"torch {torch.__version__} is built for the CPU only", None
    if torch.version.cuda is not None:
        needed = OLDEST_DRIVERS.get(int(torch.version.cuda.split(".")[0]))
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, which needs an NVIDIA driver"
        built += f" of {needed} or newer" if needed else ""
    machine = f"this machine has NVIDIA driver {driver}" if driver else f"this machine has no NVIDIA driver (there is no {DRIVER_FILE})"
    remedies = [*_remedies(driver, needed), "say device: cpu"]
    return f"{built}; {machine}. Either {', or '.join(remedies)}"


def _remedies(driver: str | None, needed: str | None) -> list[str]:
    """What helps; needed: None where torch is built for the CPU only."""
    new_enough = driver is not None and needed is not None and _numbers(driver) >= _numbers(needed)
    if new_enough or driver is None and torch.version.cuda is not None:
        first = "see what `nvidia-smi` says and restart the machine if the driver was updated" if driver else "install the driver"
        return [first, "start the container with its GPUs (docker run --gpus all)"]
    fitting = [index for cuda, index in INDEXES.items() if driver is None or _numbers(driver) >= _numbers(OLDEST_DRIVERS[cuda])]
    remedies = ["update the driver"] if driver is not None and (needed or not fitting) else []
    if fitting:
        command = f"pip install torch torchvision --index-url https://download.pytorch.org/whl/{fitting[0]}"
        remedies.append(f"install a torch that fits, together with its torchvision (`{command}`)")
    return remedies


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
