"""PSNR and SSIM against formulas written here, the rest against pyiqa itself; no weights are downloaded."""

import urllib.error

import cv2
import numpy as np
import pyiqa
import pytest
import torch

from scoring.metrics import build_metric
from scoring.weight_loading import npz_to_mat


def pair(height: int = 96, width: int = 130, noise: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    hr = cv2.resize(generator.uniform(0, 255, (12, 16, 3)), (width, height), interpolation=cv2.INTER_LINEAR)
    sr = hr + generator.normal(0, noise, hr.shape)
    return sr.clip(0, 255).round().astype(np.uint8), hr.round().astype(np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    """Y of ITU-R BT.601 in [16, 235], float64, not rounded."""
    return 16 + rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def psnr_y(sr: np.ndarray, hr: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((luma(sr) - luma(hr)) ** 2)))


def ssim_y(sr: np.ndarray, hr: np.ndarray) -> float:
    """Wang et al. 2004 on rounded luma: Gaussian window 11, sigma 1.5, valid part only."""
    x, y = luma(sr).round(), luma(hr).round()
    line = cv2.getGaussianKernel(11, 1.5)

    def blur(image):
        return cv2.sepFilter2D(image, -1, line, line)[5:-5, 5:-5]

    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y, covariance = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    contrast = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float(np.mean((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * contrast))


def niqe_parameters() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    factor = generator.normal(0, 1, (36, 36))
    return {"mu_pris_param": generator.normal(0, 1, (1, 36)), "cov_pris_param": factor @ factor.T + np.eye(36)}


def test_psnr_and_ssim_follow_the_papers_protocol_by_default():
    sr, hr = pair()
    psnr, ssim = build_metric("psnr_y", "psnr"), build_metric("ssim", "ssim")
    assert psnr(sr, hr) == pytest.approx(psnr_y(sr, hr), abs=1e-3)
    assert ssim(sr, hr) == pytest.approx(ssim_y(sr, hr), abs=1e-5)
    assert (psnr.name, psnr.type, psnr.needs_hr, psnr.lower_better) == ("psnr_y", "psnr", True, False)
    assert psnr.options == {"test_y_channel": True, "color_space": "ycbcr"}


def test_options_override_the_protocol():
    sr, hr = pair()
    rgb = build_metric("psnr", "psnr", test_y_channel=False, crop_border=4)
    difference = sr[4:-4, 4:-4].astype(np.float64) - hr[4:-4, 4:-4]
    assert rgb(sr, hr) == pytest.approx(10 * np.log10(255**2 / np.mean(difference**2)), abs=1e-3)
    full_range = build_metric("psnr", "psnr", color_space="yiq")
    assert full_range(sr, hr) == pytest.approx(psnr_y(sr, hr) - 20 * np.log10(255 / 219), abs=0.02)


def test_niqe_reads_basicsrs_npz_as_matlabs_mat(tmp_path):
    np.savez(tmp_path / "niqe.npz", **niqe_parameters())
    mat = npz_to_mat(tmp_path / "niqe.npz", tmp_path / "niqe.mat")
    sr, _ = pair(200, 300)
    direct = pyiqa.create_metric("niqe", device=torch.device("cpu"), pretrained_model_path=mat)
    expected = float(direct(torch.from_numpy(sr).permute(2, 0, 1)[None].float() / 255))
    for path in (tmp_path / "niqe.npz", tmp_path / "niqe.mat"):
        niqe = build_metric("niqe", "niqe", pretrained_model_path=str(path))
        assert niqe(sr) == pytest.approx(expected, rel=1e-6)
    assert (niqe.needs_hr, niqe.lower_better) == (False, True)
    assert niqe.options == {"pretrained_model_path": str(path)}, "NIQE's colour space stays pyiqa's own"


def test_a_picture_that_niqe_cannot_score_is_named(tmp_path):
    np.savez(tmp_path / "niqe.npz", **niqe_parameters())
    niqe = build_metric("my niqe", "niqe", pretrained_model_path=str(tmp_path / "niqe.npz"))
    with pytest.raises(ValueError, match="my niqe: cannot score a picture of 50x40 pixels"):
        niqe(np.zeros((40, 50, 3), np.uint8))


def test_files_that_are_no_niqe_parameters_are_named(tmp_path):
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    (tmp_path / "text.npz").write_text("not a zip file")
    for name, expected in (("other.npz", "mu_pris_param"), ("text.npz", "text.npz"), ("absent.npz", "no file")):
        with pytest.raises(ValueError, match=expected):
            build_metric("niqe", "niqe", pretrained_model_path=str(tmp_path / name))


def test_sizes_must_agree_and_hr_must_be_there():
    sr, hr = pair()
    psnr = build_metric("psnr", "psnr")
    with pytest.raises(ValueError, match="psnr: needs an HR picture of 130x96 pixels, got 130x95"):
        psnr(sr, hr[:-1])
    with pytest.raises(ValueError, match="got none"):
        psnr(sr)


def test_an_unknown_metric_names_its_neighbours():
    with pytest.raises(ValueError, match="calculate_ssim.*near: .*ssim"):
        build_metric("ssim", "calculate_ssim")
    with pytest.raises(ValueError, match="fid compares folders"):
        build_metric("fid", "fid")


def test_an_option_the_metric_does_not_have_is_refused():
    with pytest.raises(ValueError, match="ms_ssim does not accept.*crop_border"):
        build_metric("ms_ssim", "ms_ssim", crop_border=4)


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), ModuleNotFoundError("No module named 'pkg_resources'")])
def test_missing_weights_say_which_file_and_what_to_do(monkeypatch, error):
    def offline(*args, **kwargs):
        raise error

    monkeypatch.setattr(pyiqa, "create_metric", offline)
    with pytest.raises(ValueError, match="metric mine: .*musiq_koniq_ckpt-e95806b9.pth.*take the metric out"):
        build_metric("mine", "musiq")
