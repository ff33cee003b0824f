"""Whole runs on small pictures: numbers against pyiqa itself, crops against crops made by hand, exit statuses, files."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pyiqa
import pytest
import torch

from data.image_io import read_image, write_image
from tests.scoring.test_metrics import niqe_parameters
from tools.score import main

NAMES = ("a", "sub/b", "c")


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    """HR 200 x 160 pictures, their LR, and two methods' outputs, the first better than the second."""
    generator = np.random.default_rng(0)
    for name in NAMES:
        hr = cv2.resize(generator.uniform(0, 255, (20, 25, 3)), (200, 160), interpolation=cv2.INTER_CUBIC).clip(0, 255)
        for root, noise in (("hr", 0), ("good", 5), ("bad", 30)):
            picture = (hr + generator.normal(0, noise, hr.shape)).clip(0, 255).round().astype(np.uint8)
            write_image(tmp_path / root / f"{name}.png", picture)
        write_image(tmp_path / "lr" / f"{name}.png", cv2.resize(hr, (50, 40), interpolation=cv2.INTER_AREA).round().astype(np.uint8))
    np.savez(tmp_path / "niqe.npz", **niqe_parameters())
    return {root: tmp_path / root for root in ("hr", "lr", "good", "bad", "scores", "niqe.npz")}


def score(roots: dict[str, Path], *more: str, hr: bool = True) -> int:
    methods = [f"{name}={roots[name]}" for name in ("good", "bad")]
    return main([*(["--hr", str(roots["hr"])] if hr else []), "--results", *methods, "-o", str(roots["scores"]), *more])


def document(roots: dict[str, Path]) -> dict:
    return json.loads((roots["scores"] / "scores.json").read_text(encoding="utf-8"))


def pyiqa_scores(type: str, sr: np.ndarray, hr: np.ndarray) -> float:
    pictures = [torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 for picture in (sr, hr)]
    return float(pyiqa.create_metric(type, device=torch.device("cpu"), test_y_channel=True, color_space="ycbcr")(*pictures))


def test_whole_pictures_are_scored_as_pyiqa_scores_them(roots: dict[str, Path]) -> None:
    assert score(roots, "--metrics", "psnr", "ssim", "--lr", str(roots["lr"])) == 0
    found = document(roots)
    assert [row["image"] for row in found["images"]] == ["a", "c", "sub/b"]
    for row in found["images"]:
        hr = read_image(roots["hr"] / f"{row['image']}.png")
        lr = read_image(roots["lr"] / f"{row['image']}.png")
        bicubic = cv2.resize(lr.astype(np.float32), (200, 160), interpolation=cv2.INTER_CUBIC).clip(0, 255).round().astype(np.uint8)
        for method, sr in (("good", read_image(roots["good"] / f"{row['image']}.png")), ("bicubic", bicubic)):
            for name, type in (("PSNR-Y", "psnr"), ("SSIM-Y", "ssim")):
                assert row["scores"][method][name] == pytest.approx(pyiqa_scores(type, sr, hr), abs=1e-3)
    of_good = [row["scores"]["good"]["PSNR-Y"] for row in found["images"]]
    assert found["mean"]["good"]["PSNR-Y"] == pytest.approx(np.mean(of_good))
    low, high = found["interval"]["bounds"]["good"]["PSNR-Y"]
    assert min(of_good) <= low <= np.mean(of_good) <= high <= max(of_good)
    assert {"pyiqa", "torch", "opencv-python"} <= set(found["libraries"]) and found["protocol"]["pictures"] == "whole, 8 bit RGB"
    assert found["metrics"]["PSNR-Y"] == {
        "type": "psnr",
        "lower_better": False,
        "options": {"test_y_channel": True, "color_space": "ycbcr"},
    }


def test_the_table_marks_the_best_method_and_no_baseline(roots: dict[str, Path]) -> None:
    score(roots, "--metrics", "psnr", "niqe", "--weights", f"niqe={roots['niqe.npz']}", "--lr", str(roots["lr"]))
    lines = (roots["scores"] / "scores.md").read_text(encoding="utf-8").splitlines()
    assert list(document(roots)["mean"]) == ["good", "bad", "bicubic", "HR"]
    psnr = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines[:6] if line.startswith("| ")}
    assert psnr["good"].startswith("**") and psnr["HR"] == "–"
    assert psnr["bicubic"] > psnr["good"].strip("*") > psnr["bad"], "bicubic is better than the best, but not marked"


def test_a_crop_is_the_crop_made_by_hand(roots: dict[str, Path]) -> None:
    score(roots, "--metrics", "psnr", "--crop_border", "8", "--crop_centre", "64")
    hr, sr = (read_image(roots[root] / "a.png")[48:112, 68:132] for root in ("hr", "good"))
    found = document(roots)
    assert found["images"][0]["scores"]["good"]["PSNR-Y"] == pytest.approx(pyiqa_scores("psnr", sr, hr), abs=1e-6)
    assert found["protocol"]["pictures"] == "without 8 pixels at each side, the centre of 64x64 pixels, 8 bit RGB"


def test_the_csv_has_every_image_and_the_mean(roots: dict[str, Path]) -> None:
    score(roots, "--metrics", "psnr")
    with open(roots["scores"] / "scores.csv", encoding="utf-8", newline="") as file:
        heading, *lines = csv.reader(file)
    assert heading == ["image", "good_PSNR-Y", "bad_PSNR-Y"] and [line[0] for line in lines] == ["a", "c", "sub/b", "mean"]
    assert float(lines[3][1]) == pytest.approx(np.mean([float(line[1]) for line in lines[:3]]))


def test_missing_weights_are_listed_the_rest_is_scored_and_the_status_says_so(roots: dict[str, Path], capsys) -> None:
    assert score(roots, "--metrics", "psnr", "lpips", "fid") == 1
    found = document(roots)
    assert list(found["missing"]) == ["LPIPS", "FID"] and list(found["mean"]["good"]) == ["PSNR-Y"]
    said = capsys.readouterr().out
    for part in ("alexnet-owt-7be5be79.pth from https://", "pt_inception-2015-12-05-6726825d.pth", str(roots["hr"].parent / "torch")):
        assert part in said and part in (roots["scores"] / "scores.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_hr_only_metrics_that_need_none_are_computed(roots: dict[str, Path], capsys) -> None:
    assert score(roots, "--weights", f"niqe={roots['niqe.npz']}", hr=False) == 1
    found = document(roots)
    assert list(found["metrics"]) == ["NIQE"] and list(found["missing"]) == ["MUSIQ", "MANIQA (maniqa-pipal)", "CLIPIQA"]
    assert set(found["weights"]["NIQE"]) == {"niqe.npz"} and len(found["weights"]["NIQE"]["niqe.npz"]) == 64
    for type in ("psnr", "ms_ssim"):
        assert score(roots, "--metrics", type, hr=False) == 2
        assert f"{type} compares with HR, so it needs --hr" in capsys.readouterr().err


def test_pictures_that_do_not_match_are_named(roots: dict[str, Path], capsys) -> None:
    (roots["bad"] / "a.png").unlink()
    assert score(roots, "--metrics", "psnr") == 2
    assert "bad: 1 missing:\n  a" in capsys.readouterr().err and not roots["scores"].exists()
    assert score(roots, "--metrics", "psnr", "--common") == 0
    assert "bad: 1 missing:\n  a" in capsys.readouterr().err
    assert [row["image"] for row in document(roots)["images"]] == ["c", "sub/b"] and document(roots)["protocol"]["left out of bad"] == ["a"]


def test_what_test_d3sr_writes_beside_its_results_is_no_result(roots: dict[str, Path], capsys) -> None:
    for name in ("comparison_overview", "comparison/a"):
        write_image(roots["good"] / f"{name}.png", np.zeros((5, 5, 3), np.uint8))
    assert score(roots, "--metrics", "psnr") == 0 and capsys.readouterr().err.count("extra") == 0


def test_a_picture_that_cannot_be_scored_is_told(roots: dict[str, Path], capsys) -> None:
    weights = f"niqe={roots['niqe.npz']}"
    assert score(roots, "--metrics", "psnr", "niqe", "--weights", weights, "--crop_centre", "64") == 1
    assert document(roots)["mean"]["good"]["NIQE"] is None
    assert "not scored: a (good): NIQE: cannot score a picture of 64x64 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--results", "nothing"], "--results: expected NAME=VALUE, got 'nothing'"),
        (["--results", "good=elsewhere"], "--results: good is named twice"),
        (["--results", "HR=elsewhere"], "HR is a label of its own"),
        (["--suffix", "other=_x"], "--suffix: other is none of HR, good, bad"),
        (["--crop_border", "-1"], "--crop_border must not be negative"),
        (["--crop_centre", "161"], "3 pictures cannot be compared:\n  a: 200x160 pixels leave less than 161 pixels"),
        (["--weights", "niqe=a.mat", "--metrics", "psnr"], "--weights: niqe is not computed"),
        (["--metrics", "dists"], "no metric can be computed: DISTS"),
        (["--metrics", "psnrr"], "no metric 'psnrr'"),
        (["--device", "cuda"], "device: cuda was asked for"),
    ],
)
def test_mistakes_are_explained(roots: dict[str, Path], capsys, arguments: list[str], said: str) -> None:
    if arguments == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert score(roots, *arguments) == 2
    assert said in capsys.readouterr().err and not roots["scores"].exists()
