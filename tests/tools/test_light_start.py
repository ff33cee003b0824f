"""A mistake in the arguments is answered before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "cv2", "matplotlib", "huggingface_hub")
PROGRAM = f"""
import importlib, sys
status = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
print(status, *(name for name in {HEAVY} if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("score", "--results word -o out", "--results: expected NAME=VALUE, got 'word'"),
        ("score", "--results a=b --crop_border -1 -o out", "--crop_border must not be negative, got -1"),
        ("compare_crops", "--results a=b --boxes 1,2 -o out", "--boxes: expected left,top,width,height"),
        ("ablate", "options/ablations/loss_mse.yml --score a b -o out --force_yml train.x=1", "train.x: unknown key"),
        ("ablate", "options/ablations/loss_mse.yml --score a b -o out --iterations 0", "--iterations: expected at least 1, got 0"),
    ],
)
def test_a_mistake_needs_nothing_heavy(script: str, arguments: str, said: str) -> None:
    command = [sys.executable, "-c", PROGRAM, f"tools.{script}", *arguments.split()]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said in ran.stderr and ran.stdout.split() == ["2"], ran.stderr + ran.stdout
