"""Stores in host memory and the statistics of what is written into them."""

import errno
import os
from pathlib import Path

import pytest
import torch

from restoring import tiled_maps
from restoring.tiled_autoencoder import decode_tiled
from restoring.tiled_maps import Statistics, Store
from tests.restoring.test_tiled_autoencoder import SMALL_VAE, autoencoder, latents
from tests.tiny_models import noise_like


def test_statistics_of_pieces_are_those_of_the_whole() -> None:
    """Channels of very different means and sizes, as wide as float32 has digits for."""
    whole = noise_like(1, 12, 30, 50).double() * torch.logspace(-2, 2, 12)[:, None, None] + torch.linspace(-50, 50, 12)[:, None, None]
    statistics = Statistics(12)
    for rows in whole.split((1, 13, 16), dim=2):
        for piece in rows.split((40, 3, 7), dim=3):
            statistics.add(piece)
    for groups in (1, 3, 12):
        variance, mean = torch.var_mean(whole.view(groups, -1), dim=1, correction=0)
        assert torch.allclose(torch.stack(statistics.of_groups(groups)), torch.stack((mean, variance)), rtol=1e-12, atol=0)


def test_statistics_of_half_precision_are_taken_in_float32() -> None:
    piece = (noise_like(1, 2, 64, 64) + 100).bfloat16()
    statistics = Statistics(2)
    statistics.add(piece)
    variance, mean = torch.var_mean(piece.double().flatten(2)[0], dim=1, correction=0)
    assert torch.allclose(torch.stack(statistics.of_groups(2)), torch.stack((mean, variance)), rtol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_remembered(value: float) -> None:
    statistics = Statistics(3)
    statistics.add(torch.zeros(1, 3, 4, 4))
    assert statistics.finite
    bad = torch.zeros(1, 3, 4, 4)
    bad[0, 1, 2, 3] = value
    statistics.add(bad)
    statistics.add(torch.zeros(1, 3, 4, 4))
    assert not statistics.finite


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Every store lies in a file below TMPDIR; the list of these files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tiled_maps, "available_memory", lambda: 0)
    mapped = []
    from_file = torch.from_file

    def noted(file: str, **options: object) -> torch.Tensor:
        assert Path(file).is_relative_to(tmp_path) and os.stat(file).st_blocks > 0, "the room on the disk is taken before it is used"
        mapped.append(file)
        return from_file(file, **options)

    monkeypatch.setattr(torch, "from_file", noted)
    return mapped


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_little_memory_the_maps_lie_in_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, little_memory: list[str], dtype: torch.dtype
) -> None:
    network = autoencoder(SMALL_VAE, dtype)
    z = latents(network, 40, 48)
    for _, rows in decode_tiled(network, z, 24):
        assert list(tmp_path.iterdir()) == [], "a file still has a name while it is in use"
        in_files = rows
        break
    assert len(little_memory) > 10
    monkeypatch.setattr(tiled_maps, "available_memory", lambda: 2**40)
    used = len(little_memory)
    _, in_ram = next(decode_tiled(network, z, 24))
    assert len(little_memory) == used and torch.equal(in_files, in_ram)


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, little_memory: list[str]) -> None:
    def full(descriptor: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=f"no room in {tmp_path} for 0.1 GiB .*No space left on device.*TMPDIR") as refused:
        Store(32, 1024, 1024, torch.float32, torch.device("cpu"))
    assert refused.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("available", "in_file"), [(4 * 4 * 8 * 8 * 4, False), (4 * 4 * 8 * 8 * 4 - 1, True)])
def test_a_quarter_of_the_memory_is_for_one_store(
    monkeypatch: pytest.MonkeyPatch, little_memory: list[str], available: int, in_file: bool
) -> None:
    monkeypatch.setattr(tiled_maps, "available_memory", lambda: available)
    Store(4, 8, 8, torch.float32, torch.device("cpu"))
    assert bool(little_memory) == in_file


def test_on_a_cpu_a_window_is_no_copy() -> None:
    store = Store(4, 8, 8, torch.float32, torch.device("cpu"))
    assert store.window(2, 5, 3, 4).data_ptr() == store.values[0, 0, 2, 3].data_ptr()
