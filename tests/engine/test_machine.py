"""The first lines of a training's log."""

from types import SimpleNamespace

import pytest
import torch

from engine import machine
from engine.distributed import World
from engine.machine import describe_machine


def test_on_a_cpu() -> None:
    assert describe_machine(World(0, 1, torch.device("cpu")), per_process=8, accumulate=2) == [
        f"device: cpu (threads: {torch.get_num_threads()}); 1 process",
        f"torch {torch.__version__}",
        "batch 16 = 8 a process x 1 process x 2 accumulated",
    ]


def test_on_four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="NVIDIA A100-SXM4-40GB", total_memory=40 * 2**30, major=8, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(machine, "driver_version", lambda: "550.54.14")
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    assert describe_machine(World(0, 4, torch.device("cuda", 0)), per_process=4, accumulate=1) == [
        "device: cuda:0 (NVIDIA A100-SXM4-40GB, 40.0 GiB, compute capability 8.0); 4 processes over nccl",
        f"torch {torch.__version__}, CUDA 12.6, cuDNN 91002, NVIDIA driver 550.54.14",
        "batch 16 = 4 a process x 4 processes x 1 accumulated",
    ]
