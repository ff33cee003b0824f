"""engine.driver: what is said where torch finds no CUDA device."""

from pathlib import Path

import pytest
import torch

from engine import driver
from engine.driver import driver_version, why_no_cuda

PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Feb 22 01:44:30 UTC 2024\nGCC version:  gcc version 12.2.0\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U22)\nGCC version:  gcc version 11.4.0\n"


@pytest.mark.parametrize("text", [PROPRIETARY, OPEN])
@pytest.mark.parametrize("version", ["550.54.14", "535.104"])
def test_the_drivers_version(tmp_path: Path, text: str, version: str) -> None:
    file = tmp_path / "version"
    file.write_text(text.format(version))
    assert driver_version(file) == version
    assert driver_version(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("cuda", "version", "said", "not_said"),
    [
        ("13.2", "550.54.14", ["CUDA 13.2", "580.65.06 or newer", "has NVIDIA driver 550.54.14", "update the driver", "whl/cu126"], []),
        ("12.6", "470.57.02", ["525.60.13 or newer", "update the driver", "whl/cu118"], []),
        ("11.8", "440.33.01", ["450.80.02 or newer", "update the driver"], ["pip install"]),
        ("13.0", "580.65.06", ["nvidia-smi", "--gpus all"], ["pip install", "update the driver"]),
        ("13.0", None, ["580.65.06 or newer", "has no NVIDIA driver", "install the driver", "--gpus all"], ["pip install"]),
        (None, "550.54.14", ["built for the CPU only", "has NVIDIA driver 550.54.14", "whl/cu126"], ["update the driver"]),
        (None, None, ["built for the CPU only", "no NVIDIA driver", "whl/cu126"], ["update the driver"]),
        ("14.0", "600.10.01", ["CUDA 14.0, which needs an NVIDIA driver;"], ["None"]),
    ],
)
def test_why_there_is_no_cuda(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, version: str | None, said: list[str], not_said: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(driver, "driver_version", lambda: version)
    text = why_no_cuda()
    assert [words for words in said if words not in text] == [] == [words for words in not_said if words in text], text
    assert text.endswith("or say device: cpu")


@pytest.mark.parametrize("value", ["", "-1"])
def test_gpus_hidden_on_purpose(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert why_no_cuda() == f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU. Either unset it, or say device: cpu"
