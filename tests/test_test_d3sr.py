"""test_d3sr.py from end to end, on a generator that does nothing: its UNet says "no noise", so the result is the bicubic picture."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.image_io import read_image, write_image
from models.backbones import new_unet
from models.fused import FusedGenerator
from models.generator import Generator
from options.d3sr import load_test_options
from restoring.run import load
from test_d3sr import main
from tests.restoring_script import UNET, write_option_file, write_weights
from tests.tiny_models import write_sd_base, write_taesd
from tests.tools.test_export import release

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "nothing")


@pytest.fixture
def option_file(weights, tmp_path) -> Path:
    return write_option_file(tmp_path, weights)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture without sharp edges, so that a bicubic filter hardly overshoots."""
    noise = np.random.default_rng(seed).uniform(60, 200, (3, 3, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR).round().astype(np.uint8)


def bicubic(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    enlarged = cv2.resize(picture.astype(np.float64), (width, height), interpolation=cv2.INTER_CUBIC)
    return enlarged.clip(0, 255)


def pair_folders(folder: Path) -> tuple[Path, Path]:
    for index, name in enumerate(("one", "sub/two")):
        hr = smooth(40, 48, seed=index)
        hr[::2, ::2] += 20
        write_image(folder / "HR" / f"{name}.png", hr)
        write_image(folder / "LR" / f"{name}.png", cv2.resize(hr, (12, 10), interpolation=cv2.INTER_AREA))
    return folder / "LR", folder / "HR"


def test_files_folders_and_lists_come_out_four_times_as_large(option_file, tmp_path):
    write_image(tmp_path / "in/sub/odd.png", smooth(13, 7))
    write_image(tmp_path / "in/tiny.png", smooth(1, 1))
    cv2.imwrite(str(tmp_path / "in/tiny.jpg"), smooth(2, 3))
    write_image(tmp_path / "single.png", smooth(20, 33))
    write_image(tmp_path / "lists/listed.png", smooth(5, 9))
    (tmp_path / "lists/list.txt").write_text("listed.png\n")
    inputs = [str(tmp_path / name) for name in ("in", "single.png", "lists/list.txt")]
    assert main(["-opt", str(option_file), "-i", *inputs, "-o", str(tmp_path / "out")]) == 0
    found = {path.relative_to(tmp_path / "out").as_posix(): read_image(path).shape for path in (tmp_path / "out").rglob("*.*")}
    assert {found.pop("tiny.png"), found.pop("tiny_png.png", None) or found.pop("tiny_jpg.png")} == {(4, 4, 3), (8, 12, 3)}
    assert found == {"sub/odd.png": (52, 28, 3), "single.png": (80, 132, 3), "listed.png": (20, 36, 3)}
    result = read_image(tmp_path / "out/single.png").astype(np.float64)
    assert np.abs(result - bicubic(smooth(20, 33), 80, 132)).max() < 1.01, (
        "1 level: rounding, and 1 / sqrt(alpha_bar) = 1.0004 at timestep 0"
    )


def test_any_scale_and_tiles_give_the_same_picture(option_file, tmp_path):
    write_image(tmp_path / "in.png", smooth(33, 50))
    outputs = []
    for name, *changes in (("whole",), ("tiled", "tile=32", "tile_overlap=16"), ("fixed", "color_fix=wavelet"), ("half", "precision=bf16")):
        out = tmp_path / name
        assert main(["-opt", str(option_file), "-i", str(tmp_path / "in.png"), "-o", str(out), "--force_yml", "scale=2.7", *changes]) == 0
        outputs.append(read_image(out / "in.png").astype(np.int64))
        assert outputs[-1].shape == (round(33 * 2.7), round(50 * 2.7), 3)
        assert np.abs(outputs[-1] - outputs[0]).max() <= 1


def test_the_same_command_gives_the_same_bytes(option_file, tmp_path):
    write_image(tmp_path / "in.png", smooth(9, 9))
    for name in ("first", "second"):
        assert main(["-opt", str(option_file), "-i", str(tmp_path / "in.png"), "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "first/in.png").read_bytes() == (tmp_path / "second/in.png").read_bytes()


@pytest.mark.parametrize("chosen", ["bf16", "fp32"])
def test_precision_auto_is_resolved_and_named_in_the_results(option_file, tmp_path, monkeypatch, chosen):
    lr, hr = pair_folders(tmp_path)
    monkeypatch.setattr("restoring.run.chosen_precision", lambda precision, device: chosen)
    changes = ["precision=auto", f"datasets.test.mine.dataroot_lq={lr}", f"datasets.test.mine.dataroot_gt={hr}"]
    assert main(["-opt", str(option_file), "-o", str(tmp_path / "auto"), "--force_yml", *changes]) == 0
    assert json.loads((tmp_path / "auto/metrics.json").read_text())["protocol"]["precision"] == chosen
    assert main(["-opt", str(option_file), "-o", str(tmp_path / "told"), "--force_yml", f"precision={chosen}", *changes[1:]]) == 0
    assert (tmp_path / "auto/one.png").read_bytes() == (tmp_path / "told/one.png").read_bytes()


def test_a_broken_file_is_named_and_the_rest_finishes(option_file, tmp_path, capsys):
    for name in ("a", "c"):
        write_image(tmp_path / "in" / f"{name}.png", smooth(6, 6))
    (tmp_path / "in/b.png").write_bytes(b"no picture")
    assert main(["-opt", str(option_file), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    summary = capsys.readouterr().err.splitlines()[-2:]
    assert summary[0] == "1 of 3 pictures failed:"
    assert summary[1].startswith(f"  {tmp_path / 'in/b.png'}: not an image")


def test_a_set_with_hr_is_scored_beside_bicubic(option_file, tmp_path, capsys):
    lr, hr = pair_folders(tmp_path)
    changes = [f"datasets.test.mine.dataroot_lq={lr}", f"datasets.test.mine.dataroot_gt={hr}"]
    assert main(["-opt", str(option_file), "--force_yml", *changes]) == 0
    out = tmp_path / "results/run/mine"
    document = json.loads((out / "metrics.json").read_text())
    assert [row["image"] for row in document["images"]] == ["one.png", "sub/two.png"]
    for row in document["images"]:
        difference = (read_image(out / row["image"]).astype(np.float64) - read_image(hr / row["image"])) @ [65.481, 128.553, 24.966] / 255
        psnr_y = 10 * np.log10(255**2 / np.mean(difference**2))
        assert row["scores"]["ours"]["psnr"] == pytest.approx(psnr_y, abs=1e-3)
        assert row["scores"]["bicubic"]["psnr"] == pytest.approx(psnr_y, abs=0.1)
    assert document["mean"]["ours"]["psnr"] == pytest.approx(np.mean([row["scores"]["ours"]["psnr"] for row in document["images"]]))
    assert document["protocol"]["set"] == "mine" and document["protocol"]["scale"] == 4
    with open(out / "metrics.csv", newline="") as file:
        assert [line[0] for line in csv.reader(file)] == ["image", "one.png", "sub/two.png", "mean"]
    assert "| mean of 2 |" in (out / "metrics.md").read_text() and "| mean of 2 |" in capsys.readouterr().out
    for sheet in ("comparison/one.png", "comparison/sub/two.png", "comparison_overview.png"):
        assert read_image(out / sheet).shape[1] > 3 * 48


def test_one_set_with_output_goes_straight_there_and_hr_of_another_size_is_a_failure(option_file, tmp_path, capsys):
    lr, hr = pair_folders(tmp_path)
    write_image(hr / "one.png", smooth(40, 47))
    changes = [f"datasets.test.mine.dataroot_lq={lr}", f"datasets.test.mine.dataroot_gt={hr}", "comparison_sheet=false"]
    assert main(["-opt", str(option_file), "-o", str(tmp_path / "out"), "--force_yml", *changes]) == 1
    assert "not scored: HR is 47x40, the result 48x40 (4 x LR)" in capsys.readouterr().err
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert files == ["metrics.csv", "metrics.json", "metrics.md", "one.png", "sub/two.png"]
    assert json.loads((tmp_path / "out/metrics.json").read_text())["images_scored"] == 1


def test_a_metric_that_cannot_score_leaves_a_gap(option_file, tmp_path, capsys):
    lr, hr = pair_folders(tmp_path)
    parameters = tmp_path / "niqe.npz"
    np.savez(parameters, mu_pris_param=np.zeros((1, 36)), cov_pris_param=np.eye(36))
    changes = [f"datasets.test.mine.dataroot_lq={lr}", f"datasets.test.mine.dataroot_gt={hr}"]
    changes += [f"metrics.niqe={{type: niqe, pretrained_model_path: {parameters}}}"]
    assert main(["-opt", str(option_file), "--force_yml", *changes]) == 0
    assert "niqe: cannot score a picture of 48x40 pixels" in capsys.readouterr().err
    document = json.loads((tmp_path / "results/run/mine/metrics.json").read_text())
    assert document["mean"]["ours"]["niqe"] is None and document["mean"]["ours"]["psnr"] > 10


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["-i", "absent.png"], "absent.png: no such file or folder"),
        (["--force_yml", "colour_fix=adain"], "color_fix"),
        (["--force_yml", "network_g.path=absent", "-i", "IN"], "'absent' holds no trained generator"),
        (["-i", "IN", "-o", "."], "would replace an input picture"),
        (["-i", "IN", "-o", "test.yml"], "the results need a folder"),
        (["-i", "IN", "-o", "in.png"], "would replace an input picture"),
        (["-i", "IN", "-o", "out.gif"], "pictures are written as png, jpg, webp"),
        (["-i", "IN", "IN", "-o", "out.png"], "out.png: that names one result, but 2 pictures"),
        (["-o", "out.png"], "out.png: that names one result, but 0 pictures"),
        (["--force_yml", "precision=fp16", "device=cpu", "-i", "IN"], "fp16"),
        ([], "nothing to restore"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(option_file, tmp_path, monkeypatch, capsys, changes, expected):
    monkeypatch.chdir(tmp_path)
    write_image(Path("in.png"), smooth(4, 4))
    assert main(["-opt", str(option_file), *("in.png" if change == "IN" else change for change in changes)]) == 2
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error
    assert len(error.splitlines()) == 1


def test_dry_run_says_what_there_is_and_what_is_missing(option_file, weights, tmp_path, capsys):
    lr, hr = pair_folders(tmp_path)
    changes = [f"datasets.test.mine.dataroot_lq={lr}", f"datasets.test.mine.dataroot_gt={hr}"]
    assert main(["-opt", str(option_file), "--dry-run", "--force_yml", *changes]) == 0
    output = capsys.readouterr().out
    unet = sum(parameter.numel() for parameter in new_unet(UNET).parameters())
    assert f"UNet {unet:,}" in output and f"{unet + 64:,} trained parameters (full)" in output
    assert f"mine: 2 pictures -> {tmp_path / 'results/run/mine'}, scored with psnr, ssim" in output
    assert "tile_overlap: 64" in output
    assert not (tmp_path / "results").exists()
    assert main(["-opt", str(option_file), "--dry-run", "--force_yml", "network_g.path=absent", "network_g.pretrained=some/base"]) == 0
    output = capsys.readouterr().out
    assert "generator: MISSING: 'absent'" in output and "base model: some/base (no such folder" in output
    assert "input: MISSING: nothing to restore" in output


def test_help_and_option_mistakes_come_before_heavy_imports():
    code = (
        "import sys, test_d3sr\n"
        "assert test_d3sr.main(['-opt', 'options/test.yml', '--force_yml', 'tiel=4']) == 2\n"
        "assert not {'torch', 'cv2', 'numpy', 'PIL', 'pyiqa', 'diffusers'} & set(sys.modules)\n"
        "test_d3sr.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "-opt FILE" in done.stdout and "tiel" in done.stderr


def test_the_generator_is_folded_unless_told_otherwise(option_file):
    kinds = {}
    for fuse in ("true", "false"):
        options = load_test_options(option_file, [f"network_g.fuse={fuse}"])
        kinds[fuse] = type(load(options, torch.device("cpu")))
    assert kinds == {"true": FusedGenerator, "false": Generator}


def test_a_fast_vae_of_another_latent_space_is_a_mistake(option_file, tmp_path, capsys):
    write_image(tmp_path / "a.png", smooth(4, 4))
    fast = f"network_g.fast_vae={{path: '{write_taesd(tmp_path / 'taesd')}', parts: both}}"
    arguments = ["-opt", str(option_file), "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--force_yml", fast]
    assert main(arguments) == 2
    assert "fast_vae needs one that was made for the generator's base" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fast_vae_restores_and_is_named_among_the_settings(tmp_path):
    run = release(tmp_path / "run", write_sd_base(tmp_path / "base"))
    taesd = write_taesd(tmp_path / "taesd")
    lr, hr = pair_folders(tmp_path)
    sets = [f"datasets.test.pairs.dataroot_lq={lr}", f"datasets.test.pairs.dataroot_gt={hr}", "metrics.psnr={type: psnr}"]
    arguments = ["-opt", str(run.with_suffix(".yml")), "--force_yml", *sets]
    assert main([*arguments, "-o", str(tmp_path / "own")]) == 0
    fast = f"network_g.fast_vae={{path: '{taesd}', parts: decoder}}"
    assert main([*arguments, fast, "-o", str(tmp_path / "fast")]) == 0
    own, quick = (read_image(tmp_path / folder / "one.png") for folder in ("own", "fast"))
    assert own.shape == quick.shape and (own != quick).any()
    assert json.loads((tmp_path / "fast/metrics.json").read_text())["protocol"]["fast_vae"] == f"{taesd} (decoder)"
