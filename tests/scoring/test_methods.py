"""What is built and what is missing, and the pictures that a metric of folders gets to see."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyiqa
import pytest

from data.image_io import read_image, write_image
from scoring.folder_metric import FolderMetric, build_folder_metric
from scoring.methods import AvailableMetrics, find_metrics, score_folders, score_pictures
from scoring.report import ImageScores
from scoring.score_report import all_intervals, all_means, interval_table, write_scores


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_what_lacks_weights_is_missing_and_the_others_are_built() -> None:
    available = find_metrics(["dists", "psnr", "fid", "ssim", "maniqa-pipal"], {}, "cpu")
    assert [metric.name for metric in available.columns] == ["PSNR-Y", "SSIM-Y"]
    assert list(available.missing) == ["DISTS", "FID", "MANIQA (maniqa-pipal)"]
    trunk = available.missing["DISTS"][1]
    assert trunk.startswith("vgg16-397923af.pth from https://download.pytorch.org") and trunk.endswith("checkpoints (missing)")


def test_a_wrong_file_in_the_cache_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "torch/hub/pyiqa/musiq_koniq_ckpt-e95806b9.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not these weights")
    assert "its SHA-256 begins with" in find_metrics(["musiq"], {}, "cpu").missing["MUSIQ"][0]


def test_a_metric_that_cannot_import_what_it_needs_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'pkg_resources'")

    monkeypatch.setattr(pyiqa, "create_metric", broken)
    assert "pkg_resources' (openai-clip needs setuptools < 81)" in find_metrics(["ssim"], {}, "cpu").missing["SSIM-Y"][0]


def test_mistakes_are_no_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no metric 'sim'"):
        find_metrics(["sim"], {}, "cpu")
    with pytest.raises(ValueError, match="no file"):
        find_metrics(["niqe"], {"niqe": str(tmp_path / "absent.mat")}, "cpu")


def grey(level: int) -> np.ndarray:
    return np.full((4, 4, 3), level, np.uint8)


def test_hr_is_scored_by_metrics_that_need_none() -> None:
    level, difference = lambda sr, hr: float(sr.mean()), lambda sr, hr: float(sr.mean() - hr.mean())
    metrics = []
    for name, score in (("level", level), ("difference", difference)):
        metric = SimpleNamespace(name=name, needs_hr=name == "difference")
        metrics.append(type("Scorer", (), {"__call__": staticmethod(score), **vars(metric)})())
    rows = score_pictures(iter([("a", {"HR": grey(10), "mine": grey(13)})]), metrics, print)
    assert rows == [ImageScores(image="a", scores={"mine": {"level": 13.0, "difference": 3.0}, "HR": {"level": 10.0}})]


def test_a_folder_metric_sees_the_scored_pictures_and_nothing_else() -> None:
    def network(hr: str, sr: str, **how) -> float:
        pictures = [[read_image(path) for path in sorted(Path(folder).iterdir())] for folder in (hr, sr)]
        assert [len(several) for several in pictures] == [2, 2]
        return float(np.mean(pictures[1]) - np.mean(pictures[0]))

    pictures = [("a", {"HR": grey(1), "x": grey(3), "y": grey(9)}), ("sub/b", {"HR": grey(3), "x": grey(5), "y": grey(9)})]
    metric = FolderMetric(name="FID", type="fid", options={}, network=network)
    assert score_folders(iter(pictures), [metric], print) == {"x": {"FID": 2.0}, "y": {"FID": 7.0}}
    assert score_folders(iter(pictures), [], print) == {}


def test_fid_is_the_frechet_distance_of_inception_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network of two features in Inception's place: the distance of two Gaussians, by hand."""
    import torch

    class InceptionStub(torch.nn.Module):
        """(mean of red, mean of green), of pictures that pyiqa brings to [-1, 1]."""

        BLOCK_INDEX_BY_DIM = {2048: 3}

        def __init__(self, output_blocks):
            super().__init__()

        def forward(self, batch, resize, normalize):
            return [batch[:, :2].mean((2, 3), keepdim=True)]

    monkeypatch.setattr("pyiqa.archs.fid_arch.InceptionV3", InceptionStub)
    levels = {"hr": [(10, 20), (30, 60), (50, 10), (90, 90)], "sr": [(12, 10), (80, 60), (50, 40), (70, 90)]}
    for name, colours in levels.items():
        for index, (red, green) in enumerate(colours):
            write_image(tmp_path / name / f"{index}.png", np.full((16, 16, 3), (red, green, 0), np.uint8))
    metric = build_folder_metric("FID")
    (mean_x, cov_x), (mean_y, cov_y) = [
        (features.mean(0), np.cov(features, rowvar=False)) for features in ((np.array(levels[name]) - 128) / 128 for name in ("sr", "hr"))
    ]
    # tr sqrt(A) of a 2 x 2 matrix with positive eigenvalues is sqrt(tr A + 2 sqrt(det A)).
    product = cov_x @ cov_y
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x) + np.trace(cov_y) - 2 * root
    assert metric(tmp_path / "sr", tmp_path / "hr") == pytest.approx(expected, rel=1e-4)
    assert (metric.lower_better, metric.needs_hr, metric.options) == (True, True, {"mode": "clean"})


ROWS = [ImageScores(image=str(i), scores={"x": {"P": float(i), "N": None}, "y": {"P": 2.0 * i, "N": 1.0}}) for i in range(4)]


def test_folders_scores_stand_beside_the_means() -> None:
    means = all_means(ROWS, {"y": {"FID": 5.0}, "x": {"FID": None}})
    assert means == {"x": {"P": 1.5, "N": None, "FID": None}, "y": {"P": 3.0, "N": 1.0, "FID": 5.0}}
    intervals = all_intervals(ROWS)
    assert intervals["x"]["N"] is None and intervals["y"]["N"] == (1.0, 1.0)
    assert intervals["y"]["P"] == pytest.approx([2 * bound for bound in intervals["x"]["P"]])
    table = interval_table(intervals, [SimpleNamespace(name="N"), SimpleNamespace(name="P")])
    assert "[1.0000, 1.0000]" in table and table.splitlines()[2].split("|")[2].strip() == "–"


def test_missing_metrics_are_told_with_the_table(tmp_path: Path) -> None:
    available = AvailableMetrics(metrics=[], missing={"LPIPS": ["head.pth from A", "trunk.pth from B"]})
    text = write_scores(tmp_path, ROWS, {}, available, {}, unmarked=[], command=["python", "tools/score.py"])
    assert "- LPIPS: head.pth from A; and trunk.pth from B" in text and "tools/metrics_weights.py" in text
