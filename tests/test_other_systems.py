"""Windows and macOS, where these tests do not run: what they lack is taken away in a process of its own, and everything still imports,
restores and trains."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.restoring_script import write_option_file, write_weights
from tests.short_training import settings, write_lab

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data", "degradations", "engine", "losses", "models", "options", "restoring", "scoring", "tools")

START = "import sys\nfrom tests.other_system import become\nbecome()\n"


def elsewhere(code: str, *arguments: str) -> str:
    """Runs code on that system; what it printed. Fails where it fails."""
    process = subprocess.run([sys.executable, "-c", START + code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_other_system_is_another_one(tmp_path: Path) -> None:
    code = """
import os, signal
from pathlib import Path
for take in (lambda: __import__("resource"), lambda: __import__("fcntl"), lambda: os.fork(), lambda: signal.SIGKILL,
             lambda: Path("/proc/meminfo").read_text(), lambda: os.listdir("/sys"), lambda: os.open(sys.argv[1], os.O_RDONLY)):
    try:
        print("there:", take())
    except (ImportError, AttributeError, FileNotFoundError, PermissionError) as error:
        print(type(error).__name__)
print(Path("/proc/self").exists(), Path(sys.argv[1]).is_dir())
"""
    said = elsewhere(code, str(tmp_path)).split("\n")
    names = ["ModuleNotFoundError"] * 2 + ["AttributeError"] * 2 + ["FileNotFoundError"] * 2 + ["PermissionError"]
    assert said[:8] == [*names, "False True"]


@pytest.mark.slow
def test_every_module_imports() -> None:
    files = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files] + ["test_d3sr", "train_d3sr"]
    assert len(names) > 100
    code = """
import importlib
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
print(failed)
"""
    assert elsewhere(code, *names) == "{}\n"


@pytest.mark.slow
def test_pictures_are_restored_there(tmp_path: Path) -> None:
    options = write_option_file(tmp_path, write_weights(tmp_path / "weights"))
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)).save(tmp_path / "in" / name)
    code = "from test_d3sr import main\nassert main(sys.argv[1:]) == 0\n"
    command = ["-opt", str(options), "-i", str(tmp_path / "in"), "--force_yml", "num_threads=auto", "tile=auto", "report=true"]
    sets = [f"datasets.test.mine.dataroot_lq={tmp_path / 'in'}", f"datasets.test.mine.dataroot_gt={tmp_path / 'in'}"]
    elsewhere(code, *command[:4], "-o", str(tmp_path / "out"), *command[4:])
    scored = ["-opt", str(options), "-o", str(tmp_path / "scored"), "--force_yml", *sets, "scale=1"]
    elsewhere(code, *scored)
    for folder, size in (("out", (56, 36)), ("scored", (14, 9))):
        for name in ("a.png", "sub/b.png"):
            with Image.open(tmp_path / folder / name) as result:
                assert result.size == size
    assert (tmp_path / "out/index.html").is_file() and (tmp_path / "scored/metrics.json").is_file()


@pytest.mark.slow
def test_a_training_starts_saves_and_goes_on_there(tmp_path: Path) -> None:
    lab = write_lab(tmp_path)
    code = "from train_d3sr import main\nassert main(sys.argv[1:]) == 0\n"
    for last in (2, 3):
        changes = [f"train.total_iter={last}", f"datasets.val.set={{dataroot_lq: {lab / 'LR'}, dataroot_gt: {lab / 'HR'}}}"]
        elsewhere(code, *settings(lab, tmp_path, *changes))
    log = (tmp_path / "experiments/run/train_run.log").read_text(encoding="utf-8")
    assert "iter 3/3" in log and "iter 1/3" not in log, "the second went on where the first stopped"
