"""model.onnx computes what PyTorch does at sizes it was not traced with, and a file that does not is refused.

A trace takes seconds, so there is one of each kind of network.
"""

import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.backbones import new_autoencoder, new_unet, save_base
from models.configs import BLOCK_TRANSFORM
from models.generator import Generator
from models.release import save_release
from tests.tiny_models import SMALL_SD_UNET, SMALL_TINY_UNET, SMALL_VAE, generator_of, picture
from tools.export import main
from tools.exporting.onnx_export import BEYOND, CHECKED, TRACED, example_picture, save_program, trace, write_onnx

pytestmark = pytest.mark.slow

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -r requirements-onnx.txt")
pytest.importorskip("onnx", reason="pip install -r requirements-onnx.txt")
pytest.importorskip("onnxscript", reason="pip install -r requirements-onnx.txt")

SD_UNET = {
    **SMALL_SD_UNET,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "attention_head_dim": [2, 2],
}
SD_VAE = {
    **SMALL_VAE,
    "block_out_channels": [16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
TINY_UNET = {
    **SMALL_TINY_UNET,
    "block_out_channels": [32],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "attention_head_dim": [2],
}
NETWORKS = {"sd": (SD_UNET, SD_VAE), "tiny": (TINY_UNET, BLOCK_TRANSFORM)}
"""The first: two levels, so strides and enlarging, and attention at the upper one. The second: the block transform's convolutions."""


@pytest.fixture(scope="module", params=["sd", "tiny"])
def exported(request, tmp_path_factory):
    """(generator, its program, model.onnx beside the generator's release). Read-only."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp(request.param) / "run"
    unet, vae = NETWORKS[request.param]
    save_base(base, new_unet(unet, 1), new_autoencoder(vae, 2))
    generator = generator_of(str(base), train="full", prompt_tokens=5, timestep=100)
    save_release(folder, generator, {"timestep": 100, "scale": 4, "train": "full", "base": str(base)})
    program = trace(generator.requires_grad_(False).eval())
    save_program(program, folder / "model.onnx")
    return generator, program, folder / "model.onnx"


def run(file: Path, lr_up: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["sr"], {"lr_up": lr_up.numpy()})[0])


def cut_from_mirrored(generator: Generator, lr_up: torch.Tensor) -> torch.Tensor:
    """Extended by numpy, restored, cut: what the file must compute for a picture of any size."""
    height, width = lr_up.shape[-2:]
    beyond = ((0, 0), (0, 0), *((16, 24 + -(side + 40) % generator.size_multiple) for side in (height, width)))
    extended = torch.from_numpy(np.pad(lr_up.numpy(), beyond, mode="reflect"))
    return generator.restore(extended)[..., 16 : 16 + height, 16 : 16 + width]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (17, 15), (68, 92), (83, 125)])
def test_any_size(exported, size):
    generator, _, file = exported
    lr_up = picture(1, 3, *size, seed=4)
    sr = run(file, lr_up)
    assert sr.shape == lr_up.shape
    torch.testing.assert_close(sr, cut_from_mirrored(generator, lr_up), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (20, 12), TRACED])
def test_any_size_of_whole_multiples(exported, size):
    generator, _, file = exported
    height, width = (side * generator.size_multiple for side in size)
    lr_up = picture(1, 3, height, width, seed=3)
    sr, expected = run(file, lr_up), cut_from_mirrored(generator, lr_up)
    assert sr.shape == (1, 3, height, width) and sr.dtype == torch.float32
    torch.testing.assert_close(sr, expected, rtol=0, atol=1e-4)
    inside = expected.abs() < 1
    assert inside.float().mean() > 0.2 and (expected - lr_up)[inside].abs().mean() > 0.01, "the comparison would see nothing"


def test_the_result_is_clamped(exported):
    assert run(exported[2], 3 * picture(1, 3, *[4 * exported[0].size_multiple] * 2)).abs().max() == 1


def test_the_file_says_what_it_wants(exported):
    generator, _, file = exported
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    multiple = generator.size_multiple
    assert [(node.name, node.type) for node in session.get_inputs()] == [("lr_up", "tensor(float)")]
    assert session.get_inputs()[0].shape == session.get_outputs()[0].shape == [1, 3, "height", "width"]
    facts = {"d3sr.scale": "4", "d3sr.timestep": "100", "d3sr.size_multiple": str(multiple)}
    assert session.get_modelmeta().custom_metadata_map == facts
    assert not (file.parent / "model.onnx.data").exists()


def test_large_weights_lie_beside_the_graph(exported, tmp_path):
    generator, program, file = exported
    save_program(program, tmp_path / "model.onnx", external_from=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    sizes = [(tmp_path / name).stat().st_size for name in ("model.onnx", "model.onnx.data")]
    assert sizes[1] > 100_000 and sizes[0] < file.stat().st_size - 100_000
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "_moved"))
    lr_up = picture(1, 3, 4 * generator.size_multiple, 2 * generator.size_multiple)
    assert torch.equal(run(moved / "model.onnx", lr_up), run(file, lr_up))


@pytest.fixture
def traced(exported, monkeypatch) -> Generator:
    """The generator; whichever one is to be traced from here on, it is the program of this one that comes back."""
    monkeypatch.setattr("tools.exporting.onnx_export.trace", lambda generator: exported[1])
    return exported[0]


def test_the_differences_are_returned(traced, tmp_path):
    differences = write_onnx(traced, tmp_path / "model.onnx")
    multiple = traced.size_multiple
    assert list(differences) == [(rows * multiple - BEYOND[0], columns * multiple - BEYOND[1]) for rows, columns in CHECKED]
    assert not {TRACED} & set(CHECKED) and all(0 < difference < 1e-4 for difference in differences.values())


@pytest.mark.parametrize("value", [0.05, float("nan")])
def test_a_file_that_computes_something_else_is_refused(traced, tmp_path, value):
    """As if part of one weight had been lost on the way: a twentieth of a bias is seen."""
    other = copy.deepcopy(traced)
    other.unet.conv_out.bias[0] += value
    with pytest.raises(ValueError, match=r"model.onnx computes something else than PyTorch: at \d+x\d+ pixels it differs by [\dn]"):
        write_onnx(other, tmp_path / "model.onnx")


def test_the_tool_from_end_to_end(traced, exported, tmp_path, capsys):
    run_folder, folder = exported[2].parent, tmp_path / "merged"
    (tmp_path / "x.yml").write_text(f"name: x\nnetwork_g: {{path: '{run_folder}'}}\n")
    assert main(["-opt", str(tmp_path / "x.yml"), "-o", str(folder), "--onnx"]) == 0
    multiple, out = traced.size_multiple, capsys.readouterr().out
    sizes = [f"{columns * multiple - BEYOND[1]}x{rows * multiple - BEYOND[0]}" for rows, columns in CHECKED]
    number = r"\d\S+"
    assert re.search(rf"model.onnx against PyTorch, .+: {number} at {sizes[0]}, {number} at {sizes[1]} \(allowed: 0.001\)", out)
    assert f"python {folder.name}/restore_onnx.py photo.jpg" in (folder / "README.md").read_text(encoding="utf-8")
    lr_up = picture(1, 3, 3 * multiple, multiple - 1)
    torch.testing.assert_close(run(folder / "model.onnx", lr_up), cut_from_mirrored(traced, lr_up), rtol=0, atol=1e-4)
    lr = np.random.default_rng(0).integers(0, 256, (17, 23, 4), np.uint8)
    shown = {mode: Image.fromarray(lr, "RGBA").convert(mode) for mode in ("RGB", "RGBA", "L", "LA")}
    shown["P"] = shown["RGB"].convert("P")
    for mode, photo in shown.items():
        photo.save(tmp_path / "photo.png")
        result = run_example(folder, tmp_path)
        assert result.mode == {"P": "RGB"}.get(mode, mode) and result.size == (92, 68)
        rgb = torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1)[None] / 127.5 - 1
        expected = (cut_from_mirrored(traced, traced.upsample(rgb, (68, 92)))[0] + 1) * 127.5
        if mode != "L" and mode != "LA":
            assert np.abs(np.array(result.convert("RGB")) - expected.permute(1, 2, 0).numpy()).max() <= 0.51
    Image.fromarray(lr[..., 0].astype(np.uint16) * 256).save(tmp_path / "photo.png")
    assert "this example restores 8 bit pictures" in run_example(folder, tmp_path)


WITHOUT_US = """
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "diffusers", "peft", "cv2", "data", "models", "tools", "onnx", "onnxscript"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_example(folder: Path, where: Path) -> Image.Image | str:
    """What restore_onnx.py of an exported folder makes of photo.png, with nothing of ours, nor torch, at hand; or what it says."""
    command = [sys.executable, "-I", "-c", WITHOUT_US, str(folder / "restore_onnx.py"), "photo.png", "restored.png"]
    found = subprocess.run(command, cwd=where, capture_output=True, text=True)
    return found.stderr if found.returncode else Image.open(where / "restored.png")


def test_the_tool_leaves_nothing_of_a_file_that_computes_something_else(traced, exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tools.exporting.onnx_export.LARGEST_DIFFERENCE", 1e-9)
    option_file = exported[2].parent.with_suffix(".yml")
    option_file.write_text(f"name: x\nnetwork_g: {{path: '{exported[2].parent}'}}\n")
    assert main(["-opt", str(option_file), "-o", str(tmp_path / "merged"), "--onnx"]) == 2
    assert "computes something else" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_the_example_uses_the_range():
    shown = example_picture((64, 96))
    assert shown.shape == (1, 3, 64, 96) and shown.abs().max() <= 1 and 0.2 < shown.std() < 0.6
    assert torch.equal(shown, example_picture((64, 96)))


def test_what_onnx_cannot_express_is_one_line(exported, monkeypatch):
    class Bessel(torch.nn.Module):
        def __init__(self, generator: Generator):
            super().__init__()

        def forward(self, lr_up: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j1(lr_up)

    monkeypatch.setattr("tools.exporting.onnx_export.Restoring", Bessel)
    with pytest.raises(ValueError, match="torch cannot express this generator in ONNX: .*bessel_j1") as refusal:
        trace(exported[0])
    assert "\n" not in str(refusal.value)
