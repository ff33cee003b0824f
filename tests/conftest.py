"""What holds for every test: no hub, one thread, so that sums are taken in the same order on every machine, and base models that all
read, written once: nobody may change these folders (copy them first)."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in the processes that tests start

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from tests.tiny_models import write_sd_base, write_sdxl_base, write_taesd, write_tiny_base  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sd_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sd_base(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def sdxl_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sdxl_base(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_taesd(tmp_path_factory.mktemp("taesd"))


@pytest.fixture
def empty_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing has been downloaded yet, and a download fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
