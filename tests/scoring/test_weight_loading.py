"""No file of weights runs code, wherever it lies; the same files with numbers in them still work."""

import os
import pickle
from pathlib import Path

import numpy as np
import pyiqa
import pytest
import torch
from pyiqa.archs import clip_model
from pyiqa.utils import download_util

from scoring.methods import find_metrics
from scoring.metrics import WeightsError, build_metric
from scoring.weight_loading import FORBID, FORCE, TORCHSCRIPT, npz_to_mat, only_numbers


class Evil:
    """Creates a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def plain(file: Path, thing: object) -> None:
    file.write_bytes(pickle.dumps(thing))


@pytest.mark.parametrize("save", [lambda file, thing: torch.save(thing, file), plain])
@pytest.mark.parametrize("type", ["brisque", "musiq", "niqe"])
def test_a_file_given_for_a_metric_runs_no_code(tmp_path: Path, type: str, save) -> None:
    file = tmp_path / "weights.pth"
    save(file, {"params": Evil(tmp_path / "executed")})
    with pytest.raises(ValueError, match=rf"metric mine: {file} holds no weights of pyiqa's {type}") as raised:
        build_metric("mine", type, pretrained_model_path=str(file))
    assert not (tmp_path / "executed").exists() and "\n" not in str(raised.value)


def test_numbers_given_for_a_metric_are_used(tmp_path: Path) -> None:
    """BRISQUE by hand on one support vector at no distance: exp(0) times its weight, minus rho."""
    torch.save((torch.zeros(1), torch.zeros(1, 36)), tmp_path / "svm.pth")
    brisque = build_metric("brisque", "brisque", pretrained_model_path=str(tmp_path / "svm.pth"))
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert brisque(picture) == pytest.approx(153.591, abs=1e-3)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pyiqa's own, which it fixes when it is imported."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(tmp_path / "hub/pyiqa"))
    (tmp_path / "hub/pyiqa").mkdir(parents=True)
    return tmp_path / "hub/pyiqa"


def test_a_file_in_the_cache_runs_no_code_and_the_other_metrics_are_built(cache: Path) -> None:
    torch.save((Evil(cache / "executed"), 0), cache / "brisque_svm_weights.pth")
    with pytest.raises(WeightsError, match="brisque cannot be built with the files in the caches: .*would run code.*--check"):
        build_metric("brisque", "brisque")
    available = find_metrics(["brisque", "psnr"], {}, "cpu")
    assert not (cache / "executed").exists()
    assert list(available.missing) == ["brisque"] and [metric.name for metric in available.columns] == ["PSNR-Y"]


def test_a_damaged_mat_file_in_the_cache_is_missing_weights(cache: Path) -> None:
    (cache / "niqe_modelparameters.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    assert list(find_metrics(["niqe"], {}, "cpu").missing) == ["NIQE"]


def test_numpy_s_files_run_no_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "niqe.npz", mu_pris_param=np.array([Evil(tmp_path / "executed")], object), cov_pris_param=np.eye(2))
    with pytest.raises(ValueError, match="not BasicSR's niqe_pris_params.npz"):
        npz_to_mat(tmp_path / "niqe.npz", tmp_path / "niqe.mat")
    assert not (tmp_path / "executed").exists()


def test_programs_of_strangers_are_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "archive.pt"
    torch.jit.save(torch.jit.trace(lambda x: x + 1, torch.zeros(1)), str(file))
    before = torch.jit.load
    with only_numbers():
        for source in (str(file), file.open("rb")):
            with pytest.raises(ValueError, match="archive.pt is a TorchScript archive, which is a program"):
                torch.jit.load(source)
        with pytest.raises((ValueError, RuntimeError), match="TorchScript"):
            torch.load(file, weights_only=False)
    assert torch.jit.load is before and before(file)(torch.ones(1)) == 2


def test_every_clip_of_pyiqa_is_known_by_its_whole_digest() -> None:
    assert set(TORCHSCRIPT) == {url.split("/")[-2] for url in clip_model._MODELS.values()}


def test_torch_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORBID, "1")
    monkeypatch.delenv(FORCE, raising=False)
    with pytest.raises(KeyError), only_numbers():
        assert FORBID not in os.environ and os.environ[FORCE] == "1"
        raise KeyError
    assert os.environ[FORBID] == "1" and FORCE not in os.environ


def test_pyiqa_would_run_it() -> None:
    """What all this is for: by itself pyiqa asks for whole pickles."""
    source = Path(pyiqa.__file__).parent.joinpath("archs", "arch_util.py").read_text(encoding="utf-8")
    assert "weights_only=False" in source
