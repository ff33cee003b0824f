"""A whole training in the paper's setting, in small, from `random:` bases: nothing is downloaded, and what it leaves can be used."""

from pathlib import Path

import pytest
import torch

import train_d3sr
from data.image_io import write_image
from models.generator import load_generator
from tests.short_training import logged, photo

OPTIONS = str(Path(__file__).resolve().parents[1] / "options/train.yml")


@pytest.mark.slow
def test_the_papers_options_with_random_weights(tmp_path: Path, capsys) -> None:
    for index in range(2):
        write_image(tmp_path / f"HR/{index}.png", photo(64, index))
    changes = [
        "name=run", "num_gpu=auto", "device=cpu", f"path.experiments_root={tmp_path / 'experiments'}", f"path.tb_root={tmp_path / 'tb'}",
        f"datasets.train.dataroot_gt={tmp_path / 'HR'}", "datasets.train.gt_size=64", "datasets.train.batch_size_per_gpu=1",
        "datasets.train.num_worker_per_gpu=0", "datasets.val.realsr=null", "network_g.pretrained=random:small-sd",
        "network_g.vae=random:small-taesd", "network_d.pretrained=random:small-sdxl", "train.total_iter=2", "train.precision=fp32",
        "train.perceptual.backbone=squeezenet1_1", "train.perceptual.backbone_weights=random", "train.perceptual.dists_weights=uniform",
        "logger.print_freq=1", "logger.use_tb_logger=false",
    ]  # fmt: skip
    assert train_d3sr.main(["-opt", OPTIONS, "--force_yml", *changes, "--dry-run"]) == 0
    assert "nothing is missing" in capsys.readouterr().out
    assert train_d3sr.main(["-opt", OPTIONS, "--force_yml", *changes]) == 0
    lines = logged(tmp_path / "experiments/run")
    assert len(lines) == 2 and lines[1]["skipped_steps"] == 0
    assert all(0 < line[f"gradient_{player}"] < 1e6 for line in lines for player in "gd")
    generator = load_generator(tmp_path / "experiments/run/models/run_2")
    with torch.no_grad():
        assert torch.isfinite(generator.restore(torch.zeros(1, 3, 64, 64))).all()
