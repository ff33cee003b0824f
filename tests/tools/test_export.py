"""The merged folder restores as what it was exported from does, and needs neither peft nor base; no mistake destroys anything."""

import json
import re
import resource
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

import test_d3sr
from models.generator import Generator, base_fingerprint, load_generator, load_trained
from models.release import describe_generator, save_release
from tests.tiny_models import disturb_lora, generator_of, noise_like, picture, write_sd_base, write_taesd, write_tiny_base
from tools.export import main
from tools.exporting.onnx_export import PACKAGES

pytestmark = pytest.mark.slow

WEIGHTS = "diffusion_pytorch_model.safetensors"
LAYER = "down_blocks.0.resnets.0.conv1"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def release(run: Path, base: Path, train: str = "lora", vae: Path | None = None) -> Path:
    """A trained generator's folder as a training leaves it, with an option file for it beside it."""
    sizes = {"rank": 4, "alpha": 8}
    generator = generator_of(str(base), train=train, vae=vae and str(vae), prompt_tokens=5, timestep=250, **sizes)
    disturb_lora(generator.unet)
    with torch.no_grad():
        generator.prompt_embedding.add_(noise_like(*generator.prompt_embedding.shape))
        generator.unet.conv_out.weight.mul_(1.1 if train == "full" else 1.0)
    facts = {"timestep": 250, "scale": 4, "train": train, "base": str(base), "base_fingerprint": base_fingerprint(str(base))}
    save_release(run, generator, {"name": run.name, "iteration": 8, "vae": vae and str(vae), **sizes, **facts})
    file = run.with_suffix(".yml")
    file.write_text(f"name: x\ndevice: cpu\nnetwork_g: {{path: '{run}'}}\ncomparison_sheet: false\n")
    return run


@pytest.fixture(scope="module")
def sd_base(tmp_path_factory) -> Path:
    return write_sd_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def sd_run(sd_base) -> Path:
    """LoRA on Stable Diffusion in small. Read-only, as the folders below."""
    return release(sd_base.parent / "sd_run", sd_base)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> Path:
    """All of a small UNet on a block transform, as weights/d3sr-tiny was trained."""
    folder = tmp_path_factory.mktemp("base")
    return release(folder / "tiny_run", write_tiny_base(folder / "tiny"), "full")


@pytest.fixture(scope="module")
def half_run(tmp_path_factory) -> Path:
    """The same on a base stored in float16, as weights/d3sr-tiny is: its float32 weights lie elsewhere in memory than a file's do."""
    folder = tmp_path_factory.mktemp("base")
    file = write_tiny_base(folder / "tiny") / "unet" / WEIGHTS
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    return release(folder / "half_run", folder / "tiny", "full")


@pytest.fixture(scope="module")
def taesd_run(sd_base) -> Path:
    vae = write_taesd(sd_base.parent / "taesd")
    weights = load_file(vae / WEIGHTS)
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("decoder."))
    weights[f"decoder.layers.{last}.weight"] *= 20  # as they are drawn, all pictures come out black
    weights[f"decoder.layers.{last}.bias"] += 0.5
    save_file(weights, vae / WEIGHTS)
    return release(sd_base.parent / "taesd_run", sd_base, vae=vae)


@pytest.fixture(scope="module")
def sd_merged(sd_run) -> Path:
    return export(sd_run, sd_run.parent / "sd_merged")


def export(run: Path, folder: Path, *more: str) -> Path:
    assert main(["-opt", str(run.with_suffix(".yml")), "-o", str(folder), *more]) == 0
    return folder


def refused(capsys: pytest.CaptureFixture[str], run: Path, folder: Path, *more: str) -> str:
    """The message of an export that must fail."""
    capsys.readouterr()
    assert main(["-opt", str(run.with_suffix(".yml")), "-o", str(folder), *more]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leave_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes peft away, and the hub."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


# What is written


def test_the_folder_is_laid_out_as_diffusers_does(sd_base, sd_run, sd_merged):
    assert set(files(sd_merged)) == {
        "README.md", "config.json", "generator.safetensors", "scheduler/scheduler_config.json",
        "unet/config.json", f"unet/{WEIGHTS}", "vae/config.json", f"vae/{WEIGHTS}",
    }  # fmt: skip
    config = json.loads((sd_merged / "config.json").read_text())
    assert (config["train"], config["timestep"], config["scale"], config["dtype"]) == ("merged", 250, 4, "fp32")
    assert config["merged_from"] == json.loads((sd_run / "config.json").read_text())
    scheduler = "scheduler/scheduler_config.json"
    assert json.loads((sd_merged / scheduler).read_text()) == json.loads((sd_base / scheduler).read_text())
    assert all(path.stat().st_mode == (sd_merged / "config.json").stat().st_mode for path in sd_merged.rglob("*") if path.is_file())


def test_the_lora_is_in_the_weights(sd_base, sd_run, sd_merged):
    before, after = (load_file(folder / "unet" / WEIGHTS) for folder in (sd_base, sd_merged))
    lora = load_file(sd_run / "pytorch_lora_weights.safetensors")
    up, down = (lora[f"unet.{LAYER}.lora_{part}.weight"].double() for part in ("B", "A"))
    delta = (up.flatten(1) @ down.flatten(1)).reshape(before[f"{LAYER}.weight"].shape) * 8 / 4  # alpha / r
    torch.testing.assert_close(after[f"{LAYER}.weight"].double(), before[f"{LAYER}.weight"] + delta, rtol=1e-6, atol=1e-6)
    assert set(before) == set(after) and torch.equal(before["conv_in.weight"], after["conv_in.weight"])
    assert load_file(sd_merged / "generator.safetensors").keys() == {"prompt_embedding"}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_merged_in_float32_then_rounded_once(sd_run, sd_merged, tmp_path, dtype):
    exact, rounded = (load_file(folder / "unet" / WEIGHTS) for folder in (sd_merged, export(sd_run, tmp_path / "x", "--dtype", dtype)))
    assert all(torch.equal(tensor.to(DTYPES[dtype]), rounded[name]) for name, tensor in exact.items())
    assert {tensor.dtype for tensor in load_file(tmp_path / "x/vae" / WEIGHTS).values()} == {DTYPES[dtype]}
    assert load_file(tmp_path / "x/generator.safetensors")["prompt_embedding"].dtype == torch.float32


def test_an_export_keeps_the_strength_it_was_made_with(sd_run, tmp_path):
    folder = export(sd_run, tmp_path / "merged", "--force_yml", "network_g.strength=0.5")
    assert json.loads((folder / "config.json").read_text())["strength"] == 0.5
    lr = picture(1, 3, 16, 16)
    with torch.no_grad():
        expected, found, whole = (g(lr)[0] for g in (load_generator(sd_run, strength=0.5), load_generator(folder), load_generator(sd_run)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (whole - expected).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"is a merged model, whose strength is fixed: export it again with network_g\.strength: 0\.7"):
        load_generator(folder, strength=0.7)


def test_an_export_can_be_exported_again(sd_run, sd_merged, tmp_path):
    folder = export(sd_run, tmp_path / "half", "--dtype", "fp16", "--force_yml", f"network_g.path={sd_merged}")
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "fp16" and config["merged_from"]["name"] == "sd_run"


# What it restores


def restored(run: Path, path: Path, out: Path) -> np.ndarray:
    photo = out.with_suffix(".png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 21, 3), np.uint8)).save(photo)
    command = ["-opt", str(run.with_suffix(".yml")), "-i", str(photo), "-o", str(out), "--force_yml", f"network_g.path={path}"]
    assert test_d3sr.main(command) == 0
    return np.array(Image.open(out / photo.name))


@pytest.mark.parametrize("kind", ["sd_run", "tiny_run", "taesd_run"])
def test_the_same_pictures_with_nothing_else_at_hand(kind, request, tmp_path, monkeypatch):
    """The base is gone, moved away with all that the training left."""
    run = request.getfixturevalue(kind)
    leave_alone(monkeypatch)
    folder = export(run, tmp_path / "merged")
    expected = restored(run, run, tmp_path / "before")
    assert expected.shape == (52, 84, 3) and expected.std() > 10
    shutil.copy(run.with_suffix(".yml"), tmp_path / "x.yml")
    aside = run.parent.rename(run.parent.with_name(run.parent.name + "_aside"))
    try:
        assert np.array_equal(restored(tmp_path / "x", folder, tmp_path / "after"), expected)
    finally:
        aside.rename(run.parent)


@pytest.mark.parametrize("kind", ["sd_run", "half_run"])
def test_the_same_to_the_last_bit(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    folder, lr_up = export(run, tmp_path / "merged"), picture(1, 3, 64, 128)
    assert torch.equal(load_generator(folder).restore(lr_up), load_generator(run).restore(lr_up))


@pytest.mark.parametrize("kind", ["sd_run", "tiny_run"])
def test_half_precision_is_close(kind, request, tmp_path):
    run, lr_up = request.getfixturevalue(kind), picture(1, 3, 64, 128)
    half = load_generator(export(run, tmp_path / "merged", "--dtype", "fp16"))
    error = (half.restore(lr_up) - load_generator(run).restore(lr_up)).abs()
    assert half.dtype == torch.float32 and 0 < error.max() < 0.02 and error.mean() < 2e-3


def test_a_base_that_is_told_does_not_replace_the_merged_one(sd_base, sd_merged):
    """options/test_sd21.yml names one."""
    lr_up = picture(1, 3, 64, 64)
    told = load_generator(sd_merged, base=str(sd_base), revision="v1").restore(lr_up)
    assert torch.equal(told, load_generator(sd_merged).restore(lr_up))


def test_diffusers_reads_it(sd_merged):
    ours = load_generator(sd_merged)
    unet = UNet2DConditionModel.from_pretrained(sd_merged, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(sd_merged / "vae")
    for theirs, mine in ((unet, ours.unet), (vae, ours.autoencoder.model)):
        assert all(torch.equal(tensor, mine.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    assert torch.allclose(DDPMScheduler.from_pretrained(sd_merged, subfolder="scheduler").alphas_cumprod, ours.alphas_cumprod)


@pytest.mark.parametrize(("kind", "dtype"), [("sd_run", "fp32"), ("sd_run", "fp16"), ("taesd_run", "fp32"), ("tiny_run", "bf16")])
def test_the_program_of_the_readme_restores(kind, dtype, request, tmp_path, monkeypatch):
    folder = export(request.getfixturevalue(kind), tmp_path / "my-model", "--dtype", dtype)
    lr = np.random.default_rng(0).integers(0, 256, (18, 27, 3), np.uint8)
    Image.fromarray(lr).save(tmp_path / "photo.png")
    (program,) = re.findall(r"```python\n(import json.+?)```", (folder / "README.md").read_text(), re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("program.py")
    expected = by_hand(load_generator(folder), torch.from_numpy(lr))
    result = np.array(Image.open("restored.png")).astype(int)
    assert result.shape == (72, 108, 3) and result.std() > 10
    assert np.abs(result - expected).max() <= 1


def by_hand(generator: Generator, lr: torch.Tensor) -> np.ndarray:
    """What test_d3sr.py does with a whole picture (h, w, 3) of 18 x 27 pixels."""
    lr_up = generator.upsample(lr.permute(2, 0, 1)[None] / 127.5 - 1, (72, 108))
    multiple = generator.size_multiple
    padded = torch.nn.functional.pad(lr_up, (0, -108 % multiple, 0, -72 % multiple), mode="reflect")
    sr = generator.restore(padded)[0, :, :72, :108]
    return ((sr + 1) * 127.5).round().permute(1, 2, 0).int().numpy()


# Training and looking on


def test_training_on_from_a_merged_folder_is_refused_in_one_line(sd_base, sd_merged):
    generator = generator_of(str(sd_base), rank=4, alpha=8, prompt_tokens=5)
    with pytest.raises(ValueError, match=r"merged model.*set path.pretrain_network_g to the folder it was exported from") as refusal:
        load_trained(generator, sd_merged)
    assert "\n" not in str(refusal.value)


def test_a_new_lora_can_be_trained_on_it(sd_merged):
    """As the refusal says: the adapters are zero before training, so only the prompt differs."""
    generator, lr_up = generator_of(str(sd_merged), rank=2, alpha=2, prompt_tokens=5, timestep=250), picture(1, 3, 64, 64)
    merged = load_generator(sd_merged)
    with torch.no_grad():
        generator.prompt_embedding.copy_(merged.prompt_embedding)
    torch.testing.assert_close(generator.restore(lr_up), merged.restore(lr_up))


def test_the_dry_run_describes_it(sd_run, sd_merged, capsys):
    count = {part: sum(tensor.numel() for tensor in load_file(sd_merged / part / WEIGHTS).values()) for part in ("unet", "vae")}
    lines = describe_generator(str(sd_merged)).splitlines()
    assert lines[0] == f"generator: {sd_merged}, T_L = 250, x4, merged, whole in itself"
    assert lines[1].startswith("merged from: sd_run, trained on ")
    assert lines[2:] == [f"parameters: UNet {count['unet']:,}, autoencoder {count['vae']:,}"]
    assert "network_g.pretrained (some/base) is not used" in describe_generator(str(sd_merged), "some/base")


# Nothing is destroyed


def test_what_is_not_an_export_is_never_replaced(sd_run, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.png").write_bytes(b"dear")
    for more in ((), ("--overwrite",)):
        assert "photos is neither empty nor an earlier export" in refused(capsys, sd_run, tmp_path / "photos", *more)
        assert "sd_run is neither empty nor an earlier export" in refused(capsys, sd_run, sd_run, *more)
        assert "one.png is a file; -o names a folder" in refused(capsys, sd_run, tmp_path / "photos/one.png", *more)
    assert files(tmp_path) == {"photos/one.png": b"dear"}


def test_an_export_is_replaced_where_asked_and_holds_nothing_else(sd_run, tiny_run, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    export(tiny_run, tmp_path / "x")
    former = files(tmp_path)
    assert "x is an earlier export; give --overwrite" in refused(capsys, sd_run, tmp_path / "x")
    (tmp_path / "x/notes.txt").write_text("mine")
    assert "x also holds notes.txt, which no export wrote" in refused(capsys, sd_run, tmp_path / "x", "--overwrite")
    (tmp_path / "x/notes.txt").unlink()
    assert files(tmp_path) == former
    export(sd_run, tmp_path / "x", "--overwrite")
    assert json.loads((tmp_path / "x/config.json").read_text())["merged_from"]["name"] == "sd_run"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("ending", [".tmp", ".former"])
def test_a_neighbour_of_the_temporary_name_is_kept(ending, sd_run, tmp_path, capsys):
    (tmp_path / f"x{ending}").mkdir()
    assert f"x{ending} is in the way" in refused(capsys, sd_run, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == [f"x{ending}"]


@pytest.mark.parametrize("limit", [0, 100_000])
def test_a_full_disk_is_one_clear_error_and_leaves_what_was_there(sd_run, tiny_run, tmp_path, capsys, limit):
    """The limit on file sizes makes the system refuse to write on, at the first byte or in the middle of the UNet."""
    export(tiny_run, tmp_path / "x")
    former = files(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        message = refused(capsys, sd_run, tmp_path / "x", "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"cannot write {tmp_path / 'x'}" in message and "File too large" in message
    assert files(tmp_path) == former and [path.name for path in tmp_path.iterdir()] == ["x"]


def test_nothing_is_left_of_an_export_whose_onnx_computes_something_else(tiny_run, tmp_path, capsys, monkeypatch):
    def refuse(generator: Generator, file: Path) -> None:
        assert set(files(file.parent)) > {"config.json", "generator.safetensors"}
        raise ValueError("model.onnx computes something else")

    monkeypatch.setattr("tools.exporting.onnx_export.check_packages", lambda: None)
    monkeypatch.setattr("tools.exporting.onnx_export.write_onnx", refuse)
    assert "computes something else" in refused(capsys, tiny_run, tmp_path / "x", "--onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", PACKAGES)
def test_a_missing_package_is_named_before_any_work(missing, tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    message = refused(capsys, tiny_run, tmp_path / "x", "--onnx")
    assert f"{missing}" in message and "pip install -r requirements-onnx.txt" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--force_yml", "network_g.path=no/such/folder"], "holds no trained generator"),
        (["--force_yml", "network_g.pretrained=/no/such/base"], "there is no such folder"),
        (["--force_yml", "network_g.pth=x"], "network_g.pth"),
    ],
)
def test_mistakes_leave_nothing_behind(more, problem, sd_run, tmp_path, capsys):
    assert main(["-opt", str(sd_run.with_suffix(".yml")), "-o", str(tmp_path / "x"), *more]) == 2
    assert problem in capsys.readouterr().err and list(tmp_path.iterdir()) == []
