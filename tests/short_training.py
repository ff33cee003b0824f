"""A training of seconds on a very small base, for the tests of train_d3sr.py: its pictures, its options, and what it leaves behind."""

import re
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file

import train_d3sr
from data.image_io import write_image
from options.d3sr import load_train_options
from tests.tiny_models import write_tiny_base

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = str(ROOT / "options/train_tiny.yml")


def photo(side: int, seed: int) -> np.ndarray:
    """Noise and shapes: uint8 (side, side, 3)."""
    generator = np.random.default_rng(seed)
    image = generator.integers(60, 200, (side // 8, side // 8, 3)).astype(np.uint8)
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    cv2.circle(image, tuple(generator.integers(0, side, 2).tolist()), side // 4, generator.integers(0, 255, 3).tolist(), -1)
    cv2.rectangle(image, (2, 2), (side // 2, side // 3), generator.integers(0, 255, 3).tolist(), 2)
    return image


def write_lab(folder: Path) -> Path:
    """base/, HR/ (five pictures of 64 pixels) and LR/ (16 pixels)."""
    write_tiny_base(folder / "base")
    for index in range(5):
        hr = photo(64, index)
        write_image(folder / f"HR/{index}.png", hr)
        write_image(folder / f"LR/{index}.png", cv2.resize(hr, (16, 16), interpolation=cv2.INTER_AREA))
    return folder


def settings(lab: Path, out: Path, *changes: str) -> list[str]:
    """Arguments of a short run of everything in fp32 below `out`, without validation; later changes win."""
    small = [
        "name=run", "num_gpu=auto", f"path.experiments_root={out / 'experiments'}", f"path.tb_root={out / 'tb'}",
        f"datasets.train.dataroot_gt={lab / 'HR'}", "datasets.train.gt_size=32", "datasets.train.batch_size_per_gpu=2",
        "datasets.train.num_worker_per_gpu=0", "datasets.val.samples=null", f"network_g.pretrained={lab / 'base'}",
        f"network_d.pretrained={lab / 'base'}", "network_d.head_channels=8", "network_d.timestep_max=999",
        "network_d.train=lora", "network_d.features=mid", "train.discriminator_start=null", "train.adversarial_ratio=null",
        "train.pattern_weight=0", "train.repetition_weight=0", "train.coherence_weight=0", "train.overshoot_weight=0",
        "train.mse_weight=10",
        "train.perceptual.type=ea_dists", "train.perceptual.weight=0.02",
        "network_d.lora.rank=2", "network_d.lora.alpha=2",
        "network_g.lora.rank=2", "network_g.lora.alpha=2", "train.total_iter=5", "train.precision=fp32", "train.ema_decay=0.9",
        "train.scheduler.warmup_iter=2", "train.adversarial_start=0", "train.adversarial_weight=0.1",
        "train.perceptual.backbone_weights=random", "logger.print_freq=1", "logger.save_checkpoint_freq=2", "logger.use_tb_logger=false",
    ]  # fmt: skip
    return ["-opt", OPTIONS, "--force_yml", *small, *changes]


def train(lab: Path, out: Path, *changes: str) -> Path:
    """Runs to the end; the run's folder."""
    assert train_d3sr.main(settings(lab, out, *changes)) == 0
    return out / "experiments/run"


def options_of(lab: Path, out: Path, *changes: str) -> object:
    return load_train_options(OPTIONS, settings(lab, out, *changes)[3:])


def logged(run: Path, kind: str = "train") -> list[dict[str, float]]:
    """The values of every log line of a kind, `iter` among them."""
    lines = re.findall(rf"INFO: {kind}  iter (\d+)/\d+  (.*)", (run / "train_run.log").read_text())
    return [{"iter": int(number)} | {k: float(v) for k, v in (pair.split(" ") for pair in text.split("  "))} for number, text in lines]


def tensors_of(state: Path) -> dict[str, torch.Tensor]:
    """Everything in a training state: weights of both players, average, moments."""
    found = {f"{file.stem}.{name}": tensor for file in state.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for file in state.glob("*.pt"):
        for number, moments in torch.load(file, weights_only=True)["state"].items():
            found |= {f"{file.stem}.{number}.{name}": tensor for name, tensor in moments.items()}
    return found


def assert_same_bits(one: Path, other: Path) -> None:
    mine, yours = tensors_of(one), tensors_of(other)
    assert mine.keys() == yours.keys() and {name.split(".")[0] for name in mine} >= {"generator", "optimizer_g"}
    assert [name for name in mine if not torch.equal(mine[name], yours[name])] == []
    assert (one / "values.json").read_text() == (other / "values.json").read_text()
