"""ncnn's files compute what PyTorch does at sizes they were not made with, restore the same pictures, and files that do not are refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import test_d3sr
from models.backbones import new_autoencoder, new_unet, save_base
from models.configs import BLOCK_TRANSFORM
from models.fused import fuse
from models.generator import load_generator
from models.ncnn_unet import NCNN_FILES, NO_MEMORY, NcnnNet, use_ncnn
from models.release import save_release
from tests.tiny_models import SMALL_SD_UNET, SMALL_TINY_UNET, SMALL_VAE, generator_of, noise_like
from tools.export import main
from tools.exporting import ncnn_export

pytestmark = pytest.mark.slow
for name in ncnn_export.PACKAGES:
    pytest.importorskip(name, reason="pip install -r requirements-ncnn.txt")

NETWORKS = {"sd": (SMALL_SD_UNET, SMALL_VAE), "tiny": (SMALL_TINY_UNET, BLOCK_TRANSFORM)}


@pytest.fixture(scope="module", params=list(NETWORKS))
def folder(request, tmp_path_factory) -> Path:
    """A merged folder with ncnn's files, its option file beside it. Read-only."""
    place = tmp_path_factory.mktemp(request.param)
    unet, vae = NETWORKS[request.param]
    save_base(place / "base", new_unet(unet, 1), new_autoencoder(vae, 2))
    generator = generator_of(str(place / "base"), prompt_tokens=5, timestep=250, rank=4, alpha=4)
    facts = {"timestep": 250, "scale": 4, "train": "lora", "base": str(place / "base"), "rank": 4, "alpha": 4, "vae": None}
    save_release(place / "run", generator, {"name": "run", "iteration": 8, **facts})
    options = place / "x.yml"
    options.write_text(f"name: x\ndevice: cpu\nnetwork_g: {{path: '{place / 'run'}'}}\ncomparison_sheet: false\n")
    assert main(["-opt", str(options), "-o", str(place / "merged"), "--ncnn"]) == 0
    return place / "merged"


def test_the_same_latents_whatever_their_size(folder):
    generator = fuse(load_generator(folder))
    stride = generator.size_multiple // generator.autoencoder.factor
    channels, sizes = generator.autoencoder.latent_channels, ((1, 1), (2, 7), (5, 3))
    latents = [noise_like(2, channels, *(side * stride for side in size), seed=5) for size in sizes]
    expected = [generator.denoise(z) for z in latents]
    use_ncnn(generator, folder)
    for z, wanted in zip(latents, expected, strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(generator.denoise(z), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tile", ["0", "128"])
def test_the_same_pictures(folder, tmp_path, tile):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 53, 3), np.uint8)).save(tmp_path / "a.png")
    command = ["-opt", str(folder.parent / "x.yml"), "-i", str(tmp_path / "a.png")]
    results = []
    for runtime in ("torch", "ncnn"):
        changes = [f"network_g.path={folder}", f"network_g.runtime={runtime}", f"tile={tile}", "tile_overlap=32"]
        assert test_d3sr.main([*command, "-o", str(tmp_path / runtime), "--force_yml", *changes]) == 0
        results.append(np.array(Image.open(tmp_path / runtime / "a.png")).astype(int))
    assert results[0].shape == (164, 212, 3) and results[0].std() > 5
    assert np.abs(results[0] - results[1]).max() <= 1


def test_the_readme_says_how(folder):
    assert "network_g.path=merged network_g.runtime=ncnn" in (folder / "README.md").read_text()


def test_what_another_folder_lacks_or_what_is_damaged_is_said(folder, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command = ["-opt", str(folder.parent / "x.yml"), "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--force_yml"]
    assert test_d3sr.main([*command, "network_g.runtime=ncnn"]) == 2
    assert "unet.ncnn.param: write it with tools/export.py --ncnn, and set network_g.path to that folder" in capsys.readouterr().err
    (tmp_path / NCNN_FILES[0]).write_text("7767517\n1 1\nNoSuchLayer a 0 1 in0\n")
    (tmp_path / NCNN_FILES[1]).write_bytes(b"")
    with pytest.raises(ValueError, match="are damaged, or of another version of ncnn: export them again"):
        NcnnNet(*(tmp_path / name for name in NCNN_FILES))
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(ValueError, match=r"ncnn is not installed: pip install -r requirements-ncnn.txt"):
        use_ncnn(fuse(load_generator(folder)), folder)


def test_a_tile_too_large_for_the_memory_is_what_torch_would_say_too(folder, monkeypatch):
    net = NcnnNet(*(folder / name for name in NCNN_FILES))

    class Full:
        def create_extractor(self):
            return self

        def input(self, name, matrix):
            return 0

        def extract(self, name):
            return NO_MEMORY, None

    monkeypatch.setattr(net, "net", Full())
    with pytest.raises(MemoryError, match="ncnn: out of memory"):
        net(np.zeros((4, 8, 8), np.float32))


def test_files_that_compute_something_else_are_refused(tmp_path, monkeypatch):
    network, examples = nn.Conv2d(3, 4, 3, padding=1).eval(), [noise_like(1, 3, 8, 9), noise_like(1, 3, 5, 4)]
    files = (tmp_path / "a.param", tmp_path / "a.bin")
    assert ncnn_export.convert(network, examples, *files) < 1e-5
    honest = NcnnNet.__call__
    monkeypatch.setattr(NcnnNet, "__call__", lambda self, x: honest(self, x) * 1.01)
    with pytest.raises(ValueError, match=r"a.param computes something else than PyTorch: it differs by 0.01 of the largest value"):
        ncnn_export.convert(network, examples, *files)


class Odd(nn.Module):
    """A layer that ncnn does not have."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


class Untraceable(nn.Module):
    """What it gives is no tensor."""

    def forward(self, x):
        return object()


@pytest.mark.parametrize(("network", "message"), [(Odd, "pnnx cannot convert|damaged|ncnn cannot run"), (Untraceable, "cannot trace")])
def test_a_network_that_has_no_form_in_ncnn_is_refused(network, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ncnn_export.convert(network(), [noise_like(1, 3, 8, 9), noise_like(1, 3, 5, 4)], tmp_path / "a.param", tmp_path / "a.bin")


def test_a_network_that_ncnn_fails_to_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(NcnnNet, "__call__", lambda self, x: (_ for _ in ()).throw(RuntimeError("ncnn failed with status -1")))
    with pytest.raises(ValueError, match="ncnn cannot run a.param: ncnn failed with status -1"):
        ncnn_export.convert(
            nn.Conv2d(3, 4, 3).eval(), [noise_like(1, 3, 8, 9), noise_like(1, 3, 5, 4)], tmp_path / "a.param", tmp_path / "a.bin"
        )


def test_missing_packages_are_named_before_any_work(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ncnn_export, "find_spec", lambda name: None)
    assert main(["-opt", str(folder.parent / "x.yml"), "-o", str(tmp_path / "out"), "--ncnn"]) == 2
    assert "ncnn and pnnx not installed here: pip install -r requirements-ncnn.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
