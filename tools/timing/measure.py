"""How long something takes and how much memory, measured so that it can be compared: side by side, in turn, on the machine at hand."""

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median, median_high
from time import perf_counter, process_time

import torch
import torch.nn.functional as F
from torch import nn

from restoring.tile_size import LiveStorages

MEBIBYTE = 2**20
CPUINFO = Path("/proc/cpuinfo")
CLOCKS = {"wall": perf_counter, "cpu": process_time}
"""What a second is: on a wall clock, or of the processor, summed over this process's threads, for a CPU that others use as well."""
PACKAGES = ("torch", "diffusers", "peft", "numpy")


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def interleaved(
    calls: Mapping[str, Callable[[], object]], device: torch.device, *, repeats: int = 5, warmup: int = 1, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds of every call, `repeats` times: one of each in turn, so that what else the machine does falls on all of them alike."""
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    now = CLOCKS[clock]
    for _ in range(repeats):
        for name, call in calls.items():
            synchronise(device)
            start = now()
            call()
            synchronise(device)
            seconds[name].append(now() - start)
    return seconds


def seconds_of(call: Callable[[], object], device: torch.device, *, repeats: int = 5, warmup: int = 1, clock: str = "wall") -> float:
    """The median of `repeats` calls, the slower of the middle two where their number is even."""
    return median_high(interleaved({"": call}, device, repeats=repeats, warmup=warmup, clock=clock)[""])


def ratios(seconds: Mapping[str, Sequence[float]], to: str) -> dict[str, float]:
    """How many times as fast as `to` each is: the median over the rounds, each with its neighbour of the same round."""
    return {name: median(base / own for base, own in zip(seconds[to], taken, strict=True)) for name, taken in seconds.items()}


def memory_of(call: Callable[[], object], device: torch.device) -> float:
    """MiB that a call needs at most beside what is there before: as CUDA counts it, elsewhere the tensors that operators make."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MEBIBYTE
    with LiveStorages() as storages:
        call()
    return storages.peak / MEBIBYTE


def weights_mib(module: nn.Module) -> float:
    """MiB of parameters and buffers."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / MEBIBYTE


@torch.inference_mode()
def device_limit(device: torch.device, dtype: torch.dtype, repeats: int = 5, clock: str = "wall") -> dict[str, float]:
    """GMACs per second of a large matrix product and of a large 3x3 convolution: what the device does at best, the fastest of a few."""
    side, channels, pixels = (8192, 512, 128) if device.type == "cuda" else (1536, 128, 64)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(1, channels, pixels, pixels, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    calls = {"matrix product": lambda: a @ b, "convolution": lambda: F.conv2d(x, weight, padding=1)}
    macs = {"matrix product": side**3, "convolution": 9 * channels**2 * pixels**2}
    seconds = interleaved(calls, device, repeats=repeats, warmup=2, clock=clock)
    return {name: macs[name] / min(taken) / 1e9 for name, taken in seconds.items()}


def fitted_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of value ~ size^p: the slope of a least-squares line through the logarithms. Needs two sizes."""
    x, y = ([math.log(number) for number in numbers] for numbers in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def machine(device: torch.device, packages: Sequence[str] = PACKAGES) -> dict[str, object]:
    """What was measured on, and with which versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    versions = {package: metadata.version(package) for package in packages}
    system = {"threads": torch.get_num_threads(), "system": platform.platform(), "python": platform.python_version()}
    return {"device": name, **system, **versions}


def _processor() -> str:
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} processors)" if names else platform.processor() or platform.machine()
