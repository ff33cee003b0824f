"""Base models that all tests read, written once: nobody may change these folders (copy them first)."""

from pathlib import Path

import pytest
import torch

from tests.tiny_models import write_sd_base, write_sdxl_base, write_taesd, write_tiny_base


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


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach the network, whatever it gets wrong."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def global_random_state_is_left_alone():
    """No function of models/ may draw from, or seed, the global random state."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global random state was changed"
