"""What a report was made on."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata

import torch
import torch.distributed

from tools.checks import ROOT
from tools.checks.step import Row, Setting, row
from tools.timing.measure import machine

EXTRA_PACKAGES = ("torchvision", "triton", "safetensors", "opencv-python", "opencv-python-headless")


def facts(setting: Setting) -> Iterator[Row]:
    """Device, driver, versions and settings, as one row."""
    device = setting.device
    found: dict[str, object] = {"kind of device": device.type, **machine(device), **_versions()}
    if device.type == "cuda":
        found |= {**_gpu(device), "bf16": setting.lacks("bf16") or "yes"}
    found |= {
        "TF32": f"convolutions {_on(torch.backends.cudnn.allow_tf32)}, matrix products {_on(torch.backends.cuda.matmul.allow_tf32)}",
        "processors": os.cpu_count(),
        "NCCL": _nccl(),
        "C compiler (torch.compile)": shutil.which("cc") or shutil.which("gcc") or "none",
        "commit": _output_of("git", "rev-parse", "HEAD"),
        "changed files": len(_output_of("git", "status", "--porcelain").splitlines()),
    }
    yield row("machine", {name: value for name, value in found.items() if value is not None})


def _gpu(device: torch.device) -> dict[str, object]:
    properties = torch.cuda.get_device_properties(device)
    wanted = "--query-gpu=driver_version,power.limit,clocks.max.sm"
    query = _output_of("nvidia-smi", f"--id={device.index or 0}", wanted, "--format=csv,noheader")
    return {
        "memory (GiB)": round(properties.total_memory / 2**30, 1),
        "free (GiB)": round(torch.cuda.mem_get_info(device)[0] / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "compute capability": f"{properties.major}.{properties.minor}",
        "CUDA": torch.version.cuda or torch.version.hip,
        "cuDNN": torch.backends.cudnn.version(),
        "driver, power limit, highest clock": query or "unknown",
    }


def _versions() -> dict[str, str | None]:
    found = {}
    for package in EXTRA_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _nccl() -> str:
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return "not in this torch"
    return ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else "in this torch"


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def _output_of(*command: str) -> str:
    """What a program prints; nothing where it is not there or fails."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
