"""Every tool answers `--help`, and a mistake in its arguments, before it imports torch."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("[!_]*.py"))
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    heavy = {"torch", "diffusers", "peft", "cv2", "matplotlib", "huggingface_hub"} & set(sys.modules)
    assert not heavy, heavy
"""


def run(script: str | Path, *arguments: str) -> subprocess.CompletedProcess:
    """A script in a process that fails if anything heavy was imported."""
    return subprocess.run([sys.executable, "-c", RUN, script, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("tool", TOOLS)
def test_help_imports_nothing_heavy(tool: str) -> None:
    found = run(f"tools/{tool}", "--help")
    assert found.returncode == 0 and found.stdout.startswith("usage: "), found.stderr


def test_something_heavy_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import cv2\n")
    assert "AssertionError: {'cv2'}" in run(tmp_path / "slow.py").stderr


VARIANT = ["options/ablations/loss_mse.yml", "--score", "a", "b", "-o", "out"]
MISTAKES = [
    ("ablate.py", [*VARIANT, "--force_yml", "train.x=1"], "train.x: unknown key"),
    ("ablate.py", [*VARIANT, "--iterations", "0"], "--iterations: expected at least 1, got 0"),
    ("benchmark.py", ["-opt", "no.yml", "-o", "x"], "no.yml"),
    ("benchmark.py", ["-opt", "options/test.yml", "-o", "x", "--force_yml", "tyle=1"], "tyle"),
    ("choose_timestep.py", ["-opt", "options/train_tiny.yml", "--pictures", "0"], "--pictures must be at least 1, got 0"),
    ("compare_crops.py", ["--results", "a=b", "--boxes", "1,2", "-o", "out"], "--boxes: expected left,top,width,height"),
    ("export.py", ["-opt", "options/test.yml", "-o", "x", "--force_yml", "network_g.pth=x"], "network_g.pth"),
    ("feature_maps.py", ["a.png", "-o", "x", "--width", "0"], "--width must be above 0"),
    ("gpu_check.py", ["-o", "x", "--only", "y"], "--only y: no such step"),
    ("plot_features.py", ["-opt", "no.yml", "--lr", "a", "--hr", "b", "-o", "x"], "no.yml"),
    ("plot_features.py", ["-opt", "options/train_tiny.yml", "--lr", "a", "--hr", "b", "-o", "x", "--timesteps", "1000"], "got 1000"),
    ("pretrain_tiny.py", ["--data", "a"], "--out"),
    ("random_base.py", ["sd3", "x"], "sd21-base"),
    ("score.py", ["--results", "word", "-o", "out"], "--results: expected NAME=VALUE, got 'word'"),
    ("score.py", ["--results", "a=b", "--crop_border", "-1", "-o", "out"], "--crop_border must not be negative, got -1"),
]


@pytest.mark.parametrize(("tool", "arguments", "problem"), MISTAKES)
def test_a_mistake_is_explained_as_fast(tool: str, arguments: list[str], problem: str) -> None:
    found = run(f"tools/{tool}", *arguments)
    assert found.returncode == 2 and problem in found.stderr and "Traceback" not in found.stderr, found.stderr
