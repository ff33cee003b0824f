"""Rivals of the benchmark: small compact networks, saved as people share them, against the same layers by hand; what is refused."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny_models import noise_like
from tools.benchmark import main
from tools.exporting import ncnn_export
from tools.timing import rivals
from tools.timing.rivals import load_rivals, lr_picture, through_ncnn

spandrel = pytest.mark.skipif(find_spec("spandrel") is None, reason="pip install -r requirements-peers.txt")
PEERS = ("spandrel", *ncnn_export.PACKAGES)
ncnn = pytest.mark.skipif(not all(map(find_spec, PEERS)), reason="pip install -r requirements-peers.txt and -ncnn.txt")


def compact(scale: int = 4, channels: int = 3) -> dict[str, Tensor]:
    """Weights of Real-ESRGAN's compact network, 8 features, one layer between the first and the last."""
    widths = [(8, channels), (8, 8), (channels * scale**2, 8)]
    weights = {}
    for index, shape in zip((0, 2, 4), widths, strict=True):
        weights |= {f"body.{index}.weight": 0.1 * noise_like(*shape, 3, 3, seed=index), f"body.{index}.bias": 0.1 * noise_like(shape[0])}
    return weights | {f"body.{index}.weight": torch.full((8,), 0.2) for index in (1, 3)}


def write_compact(file: Path, scale: int = 4, channels: int = 3) -> Path:
    """The same in a file: float16 in .safetensors, and in .pth as Real-ESRGAN's training leaves it."""
    if file.suffix == ".safetensors":
        save_file({name: tensor.half() for name, tensor in compact(scale, channels).items()}, file)
    else:
        torch.save({"params_ema": compact(scale, channels)}, file)
    return file


def by_hand(weights: dict[str, Tensor], x: Tensor, scale: int) -> Tensor:
    """Convolutions with leaky rectifiers between them, shuffled, on top of the nearest neighbour's picture."""
    y = x
    for index in (0, 2, 4):
        y = F.conv2d(y, weights[f"body.{index}.weight"].float(), weights[f"body.{index}.bias"].float(), padding=1)
        y = F.leaky_relu(y, 0.2) if index < 4 else y
    return F.pixel_shuffle(y, scale) + F.interpolate(x, scale_factor=scale)


@spandrel
@pytest.mark.parametrize(("ending", "scale", "bound"), [("pth", 2, 1e-6), ("safetensors", 4, 1e-3)])
def test_weights_are_found_their_network(tmp_path, ending, scale, bound):
    (rival,) = load_rivals([str(write_compact(tmp_path / f"net.{ending}", scale))], [64])
    x = lr_picture(64, scale)
    assert x.shape == (1, 3, 64 // scale, 64 // scale) and 0 <= x.min() < x.max() <= 1
    assert (rival.name, rival.scale) == ("net", scale) and {p.dtype for p in rival.network.parameters()} == {torch.float32}
    torch.testing.assert_close(rival.network(x), by_hand(compact(scale), x, scale), atol=bound, rtol=0)


@ncnn
def test_ncnn_restores_pictures_of_any_size_with_as_many_threads_as_torch(tmp_path):
    (rival,) = load_rivals([str(write_compact(tmp_path / "net.pth"))], [64])
    x = torch.rand(1, 3, 45, 37, generator=torch.Generator().manual_seed(0))
    call, note = through_ncnn(rival, x)
    np.testing.assert_allclose(call(), by_hand(compact(), x, 4)[0].numpy(), atol=1e-5)
    assert note.startswith("net: ncnn differs from PyTorch by ")
    option = call.func.net.opt
    assert option.num_threads == torch.get_num_threads() and not option.use_fp16_storage and not option.use_bf16_storage


class Bessel(torch.nn.Module):
    """A layer that ncnn does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0(x)


@ncnn
def test_what_ncnn_cannot_compute_has_no_row(monkeypatch):
    call, note = through_ncnn(rivals.Rival("odd", Bessel(), 1), lr_picture(64, 1))
    assert call is None and note.startswith("odd: no row for ncnn: ")
    plain = rivals.Rival("odd", torch.nn.Conv2d(3, 3, 1).requires_grad_(False), 1)
    assert through_ncnn(plain, lr_picture(64, 1))[0] is not None
    monkeypatch.setattr(ncnn_export, "available_memory", lambda: 64 * 2**20)
    call, note = through_ncnn(plain, lr_picture(64, 1))
    assert call is None and "or not with the memory that is free" in note


def refusal(tmp_path: Path, *files: Path, sizes: tuple[str, ...] = ("64",)) -> list[str]:
    options = tmp_path / "test.yml"
    options.write_text("name: x\ndevice: cpu\nnetwork_g: {path: weights/d3sr-tiny}\n")
    rivals_of = ["--rivals", *map(str, files)]
    assert main(["-opt", str(options), "-o", str(tmp_path / "out"), "--variants", "naive", "--sizes", *sizes, *rivals_of]) == 2
    assert not (tmp_path / "out").exists()


@spandrel
def test_files_that_are_no_rivals(tmp_path, capsys):
    damaged, other = tmp_path / "damaged.safetensors", tmp_path / "other.safetensors"
    damaged.write_bytes(b"x" * 100)
    save_file({"a": torch.zeros(1)}, other)
    four, grey = write_compact(tmp_path / "four.safetensors"), write_compact(tmp_path / "grey.safetensors", channels=1)
    (tmp_path / "more").mkdir()
    again = write_compact(tmp_path / "more/four.pth")
    mistakes = {
        (tmp_path / "none.pth",): "none.pth is missing",
        (damaged,): "damaged.safetensors is damaged or incomplete",
        (other,): "other.safetensors: spandrel finds no network for these weights (UnsupportedModelError: ",
        (grey,): "grey.safetensors: expected super-resolution of RGB pictures, got SR of 1 to 1 channels",
        (four, again): "--rivals: two files have one name: four, four; rename one of them",
    }
    for files, message in mistakes.items():
        refusal(tmp_path, *files)
        assert message in capsys.readouterr().err
    refusal(tmp_path, write_compact(tmp_path / "three.pth", 3))
    assert "three.pth: enlarges 3 times and cannot make 64 x 64 pixels; choose other --sizes" in capsys.readouterr().err
    refusal(tmp_path, four, sizes=())
    assert "--rivals: they are timed at --sizes, and there are none" in capsys.readouterr().err


def test_without_spandrel_it_is_said_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    refusal(tmp_path, tmp_path / "net.pth")
    assert "not installed here: pip install -r requirements-peers.txt -c constraints.txt" in capsys.readouterr().err
