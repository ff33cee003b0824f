import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image_io import write_image
from tests.tiny_models import write_sd_base, write_tiny_base
from tools.plot_features import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Four pairs, HR 72 x 64, and a tiny base with random weights for both players."""
    generator = np.random.default_rng(0)
    for name in "abcd":
        hr = generator.integers(0, 256, (64, 72, 3), dtype=np.uint8)
        write_image(tmp_path / "hr" / f"{name}.png", hr)
        write_image(tmp_path / "lr" / f"{name}.png", hr[::4, ::4])
    base = write_tiny_base(tmp_path / "base")
    options = [f"network_{player}.pretrained={base}" for player in "gd"] + ["device=cpu", "train.precision=fp32"]
    folders = ["--lr", str(tmp_path / "lr"), "--hr", str(tmp_path / "hr"), "-o", str(tmp_path / "out/two")]
    return ["-opt", str(ROOT / "options/train_tiny.yml"), *folders, "--size", "64", "--force_yml", *options]


@pytest.mark.slow
def test_the_figure_and_its_numbers(arguments: list[str], tmp_path: Path, capsys) -> None:
    assert main([*arguments, "--timesteps", "0", "300", "--number", "3"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"out/two.{ending}") for ending in ("pdf", "svg", "png", "csv")]
    with open(tmp_path / "out/two.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seen = {(row["timestep"], row["reduction"], row["kind"], row["image"]) for row in rows}
    kinds = {(t, r, k, i) for t in ("0", "300") for r in ("PCA", "LLE") for k in ("real", "generated") for i in "abc"}
    assert seen == kinds and len(rows) == len(kinds)
    assert np.isfinite([[float(row["x"]), float(row["y"])] for row in rows]).all()
    svg = (tmp_path / "out/two.svg").read_text(encoding="utf-8")
    for text in ("PCA", "LLE", "latents of real pictures", "latents of generated pictures"):
        assert f">{text}</text>" in svg
    assert svg.count("separated ") == 2
    with Image.open(tmp_path / "out/two.png") as picture:
        assert picture.width == 1650


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(arguments: list[str], tmp_path: Path) -> None:
    texts = []
    for seed in ("0", "0", "1"):
        main([*arguments, "--timesteps", "500", "--seed", seed])
        texts.append((tmp_path / "out/two.csv").read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--number", "2"], "three pictures at least are needed, found 2"),
        (["--timesteps", "1000"], "--timesteps: expected 0 to 999, got 1000"),
        (["--size", "65"], "--size must be a multiple of 16, got 65"),
        (["--size", "128"], "is smaller than --size 128"),
        (["--channels", "0"], "--channels must be above 0"),
        (["--force_yml", "network_d.type=none"], "network_d.type: none has no features"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], tmp_path: Path, capsys, more: list[str], said: str) -> None:
    assert main([*arguments, *more]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_players_of_different_latents_are_refused(arguments: list[str], tmp_path: Path, capsys) -> None:
    other = write_sd_base(tmp_path / "sd")
    assert main([*arguments, "--force_yml", f"network_d.pretrained={other}"]) == 2
    assert "judges latents of 4 channels, the generator makes 48" in capsys.readouterr().err
