"""The project's scripts, run by a step as a user runs them: on made-up photographs, and what a training's log says."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data.console import say
from tools.checks import ROOT
from tools.checks.limited import last_line
from tools.checks.step import Setting


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
    say(f"$ {' '.join(command)}")
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
    say(*text.split("\n"))
    if status:
        raise RuntimeError(last_line(text) or f"exit status {status}")
    return text, status is not None


def training_changes(setting: Setting, name: str) -> list[str]:
    """What every training changes in its option file: made-up photographs, random weights, both players at full work from the start."""
    return [
        f"name={name}", f"device={setting.device.type}", f"path.experiments_root={setting.folder / 'experiments'}",
        f"path.tb_root={setting.folder / 'tb'}", f"datasets.train.dataroot_gt={make_photos(setting)}",
        "train.adversarial_start=0", "train.discriminator_start=0", "train.perceptual.backbone_weights=random",
        "logger.save_checkpoint_freq=1000000", "logger.use_tb_logger=false",
    ]  # fmt: skip


def logged(setting: Setting, name: str) -> list[dict[str, float]]:
    """The values of every log line of a run, the iteration as `iter` among them."""
    file = setting.folder / "experiments" / name / f"train_{name}.log"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = re.findall(r"INFO: train  iter (\d+)/\d+  (.*)", text)
    return [{"iter": int(number)} | {k: float(v) for k, v in (pair.split(" ") for pair in pairs.split("  "))} for number, pairs in lines]


def summary(lines: Sequence[dict[str, float]], batch: int) -> dict[str, float]:
    """Speed over all log lines but the first, which holds the warm-up (all there is, where that is one)."""
    measured = range(1, len(lines)) if len(lines) > 1 else range(1)
    counts = [lines[n]["iter"] - (lines[n - 1]["iter"] if n else 0) for n in measured]
    seconds = [count * batch / lines[n]["images_per_s"] for n, count in zip(measured, counts, strict=True)]
    waited = sum(lines[n]["data_share"] * taken for n, taken in zip(measured, seconds, strict=True))
    return {
        "iterations/s": sum(counts) / sum(seconds),
        "images/s": sum(counts) * batch / sum(seconds),
        "waiting for data": waited / sum(seconds),
        "peak (GiB)": lines[-1]["memory_gib"],
        "skipped steps": int(lines[-1]["skipped_steps"]),
        "iterations": int(sum(counts)),
    }
