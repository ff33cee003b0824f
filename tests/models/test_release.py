"""What training writes is what load_generator reads: adapters merged, or the whole UNet; and everything that does not fit is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.backbones import load_unet, meta_autoencoder
from models.generator import (
    Generator,
    base_fingerprint,
    load_generator,
    load_trained,
)
from models.release import base_of, full_state, read_generator_config, save_release
from models.sizes import trained_settings
from tests.tiny_models import disturb_lora, generator_of, noise_like, picture

WEIGHTS = "diffusion_pytorch_model.safetensors"


def trained(base: Path, train: str, **options: object) -> Generator:
    """A generator whose trainable weights are no longer those it started from."""
    generator = generator_of(str(base), train=train, **{"rank": 4, "alpha": 8, "prompt_tokens": 5, "timestep": 250} | options)
    disturb_lora(generator.unet)
    with torch.no_grad():
        generator.prompt_embedding.add_(noise_like(*generator.prompt_embedding.shape))
        if train == "full":
            for parameter in generator.unet.parameters():
                parameter.mul_(1.05)
    return generator


def facts(base: Path, train: str, **more: object) -> dict:
    return {"timestep": 250, "scale": 4, "train": train, "base": str(base), "base_fingerprint": base_fingerprint(str(base)), **more}


def release(folder: Path, base: Path, train: str = "lora") -> Generator:
    generator = trained(base, train)
    save_release(folder, generator, facts(base, train))
    return generator


@pytest.fixture(scope="module")
def lora_release(sd_base, tmp_path_factory) -> Path:
    """Read-only; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("release") / "run_8"
    release(folder, sd_base)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("train", ["lora", "full"])
@pytest.mark.parametrize("base", ["sd_base", "tiny_base"])
def test_the_release_is_the_trained_generator(base, train, request, tmp_path):
    generator = release(tmp_path / "run_8", request.getfixturevalue(base), train)
    loaded = load_generator(tmp_path / "run_8")
    assert (loaded.timestep, loaded.scale) == (250, 4) and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters()) and not any("lora" in name for name, _ in loaded.named_parameters())
    lr = picture(1, 3, 16, 16)
    with torch.no_grad():
        expected, sr = generator(lr)[0], loaded(lr)[0]
        untrained = generator_of(str(request.getfixturevalue(base)), timestep=250, prompt_tokens=5)(lr)[0]
    torch.testing.assert_close(sr, expected, rtol=1e-5, atol=5e-5)
    assert (untrained - expected).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("train", ["lora", "full"])
@pytest.mark.parametrize("strength", [0.0, 0.75, 1.25])
def test_strength_scales_what_training_changed_in_the_unet(train, strength, tmp_path, tiny_base):
    release(tmp_path / "run_8", tiny_base, train)
    base, whole = load_unet(str(tiny_base)).state_dict(), load_generator(tmp_path / "run_8")
    scaled = load_generator(tmp_path / "run_8", strength=strength)
    changed = 0
    for name, weight in scaled.unet.state_dict().items():
        difference = whole.unet.state_dict()[name] - base[name]
        torch.testing.assert_close(weight, base[name] + strength * difference, rtol=1e-5, atol=1e-6)
        changed += bool(difference.abs().max() > 1e-4)
    assert changed > 20
    assert torch.equal(scaled.prompt_embedding, whole.prompt_embedding)


def test_nothing_frozen_is_saved(lora_release, sd_base):
    assert sorted(file.name for file in lora_release.iterdir()) == [
        "config.json",
        "generator.safetensors",
        "pytorch_lora_weights.safetensors",
    ]
    assert set(load_file(lora_release / "generator.safetensors")) == {"prompt_embedding"}
    assert all(".lora_" in name for name in load_file(lora_release / "pytorch_lora_weights.safetensors"))


def test_full_training_saves_the_unet_and_the_prompt(tmp_path, tiny_base):
    generator = release(tmp_path / "run_8", tiny_base, "full")
    assert sorted(file.name for file in (tmp_path / "run_8").iterdir()) == ["config.json", "generator.safetensors"]
    assert set(load_file(tmp_path / "run_8" / "generator.safetensors")) == set(full_state(generator)) == set(generator.trainable())


def test_a_half_precision_release_is_close(tmp_path, tiny_base):
    generator = trained(tiny_base, "full")
    save_release(tmp_path / "run_8", generator, facts(tiny_base, "full"), torch.float16)
    loaded, lr_up = load_generator(tmp_path / "run_8"), picture(1, 3, 32, 32)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.restore(lr_up), generator.restore(lr_up), rtol=0, atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["sd_base", "tiny_base"])
def test_half_precision_inference_casts_the_networks_only(base, request, tmp_path):
    release(tmp_path / "run_8", request.getfixturevalue(base))
    loaded, lr_up = load_generator(tmp_path / "run_8", dtype=torch.bfloat16), picture(1, 3, 64, 64)
    assert {p.dtype for p in loaded.unet.parameters()} == {torch.bfloat16}
    assert loaded.alphas_cumprod.dtype == torch.float32
    assert all(buffer.dtype == torch.float32 for buffer in loaded.autoencoder.buffers())
    sr = loaded.restore(lr_up)
    assert sr.dtype == torch.float32
    error = (sr - load_generator(tmp_path / "run_8").restore(lr_up)).abs()
    assert 0 < error.mean() < 0.03


def test_another_autoencoder_is_remembered(tmp_path, sd_base, taesd):
    generator = trained(sd_base, "lora", vae=str(taesd))
    save_release(tmp_path / "run_8", generator, facts(sd_base, "lora", vae=str(taesd)))
    lr_up = picture(1, 3, 64, 64)
    torch.testing.assert_close(load_generator(tmp_path / "run_8").restore(lr_up), generator.restore(lr_up), rtol=1e-5, atol=5e-5)


# Where the base is


def test_base_as_told_else_beside_else_as_trained(tmp_path, lora_release):
    config = {"base": "owner/name"}
    assert base_of(lora_release, config, "/elsewhere") == "/elsewhere"
    assert base_of(lora_release, config) == "owner/name"
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    assert base_of(tmp_path, config) == str(tmp_path)
    assert base_of(tmp_path, config, "/elsewhere") == "/elsewhere"


def test_a_release_beside_its_base_needs_nothing_else(tmp_path, lora_release, sd_base):
    """How weights/d3sr-tiny is laid out: one folder that can be moved."""
    folder = tmp_path / "moved"
    shutil.copytree(sd_base, folder)
    shutil.copytree(lora_release, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"base": "/gone"}))
    lr_up = picture(1, 3, 64, 64)
    torch.testing.assert_close(load_generator(folder).restore(lr_up), load_generator(lora_release).restore(lr_up))


@pytest.mark.slow
def test_the_revision_it_was_trained_from_is_used_again(tmp_path, lora_release, sd_base, monkeypatch):
    folder = tmp_path / "run_8"
    shutil.copytree(lora_release, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"base": "owner/name", "revision": "v7"}))
    asked = set()

    def download(source, name, subfolder, revision):
        asked.add((source, revision))
        return str(sd_base / subfolder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    load_generator(folder)
    assert asked == {("owner/name", "v7")}
    asked.clear()
    load_generator(folder, revision="v8")
    assert asked == {("owner/name", "v8")}
    asked.clear()
    load_generator(folder, base="mirror/name")  # a revision of one repository means nothing in another
    assert asked == {("mirror/name", None)}


def test_another_base_is_refused(tmp_path, lora_release, sd_base):
    other = tmp_path / "other"
    shutil.copytree(sd_base, other)
    weights = load_file(other / "unet" / WEIGHTS)
    weights["conv_in.weight"] += 0.01
    save_file(weights, other / "unet" / WEIGHTS)
    with pytest.raises(ValueError, match="was trained on another base .*set network_g.pretrained to that one"):
        load_generator(lora_release, base=str(other))


def test_the_same_base_in_half_precision_is_no_other(tmp_path, lora_release, sd_base):
    half = tmp_path / "half"
    shutil.copytree(sd_base, half)
    weights = {name: tensor.half() for name, tensor in load_file(half / "unet" / WEIGHTS).items()}
    (half / "unet" / WEIGHTS).unlink()
    save_file(weights, half / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert base_fingerprint(str(half)) == base_fingerprint(str(sd_base))
    lr_up = picture(1, 3, 64, 64)
    torch.testing.assert_close(
        load_generator(lora_release, base=str(half)).restore(lr_up), load_generator(lora_release).restore(lr_up), rtol=0, atol=5e-3
    )


def test_a_base_that_is_gone_is_said_to_be(tmp_path, lora_release):
    with pytest.raises(ValueError, match=r"(?s)cannot find .*there is no such folder.*mirrors"):
        load_generator(lora_release, base=str(tmp_path / "gone"))


# Damage


def test_no_release_at_all(tmp_path):
    with pytest.raises(ValueError, match=r"holds no trained generator \(no config.json\).*experiments/NAME/models/NAME_ITER"):
        load_generator(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"), [("{", "is not valid JSON"), ('{"scale": 4}', "lacks timestep, train, base"), ("[]", "expected a JSON object")]
)
def test_damaged_config(tmp_path, content, problem):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"config.json.* ?{problem}"):
        read_generator_config(tmp_path)


@pytest.mark.parametrize("name", ["generator.safetensors", "pytorch_lora_weights.safetensors"])
def test_missing_and_cut_off_files_are_named(tmp_path, lora_release, name):
    folder = tmp_path / "run_8"
    shutil.copytree(lora_release, folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{name} is damaged or incomplete"):
        load_generator(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        load_generator(folder)


# Training on from a release


@pytest.mark.parametrize("train", ["lora", "full"])
def test_training_starts_from_a_release(tmp_path, tiny_base, train):
    generator = release(tmp_path / "run_8", tiny_base, train)
    other = generator_of(str(tiny_base), train=train, rank=4, alpha=8, prompt_tokens=5, timestep=250, seed=9)
    load_trained(other, tmp_path / "run_8")
    assert set(other.trainable()) == set(generator.trainable())
    assert all(torch.equal(p, other.trainable()[name]) for name, p in generator.trainable().items())


@pytest.mark.parametrize(("train", "saved"), [("lora", "full"), ("full", "lora")])
def test_training_on_in_another_way_is_refused(tmp_path, tiny_base, train, saved):
    release(tmp_path / "run_8", tiny_base, saved)
    other = generator_of(str(tiny_base), train=train, rank=4, alpha=8, prompt_tokens=5)
    with pytest.raises(ValueError, match=f"was trained with network_g.train: {saved}"):
        load_trained(other, tmp_path / "run_8")


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"prompt_tokens": 6}, r"generator.* at prompt_embedding: \(5, 12\), expected \(6, 12\)"), ({"rank": 8}, "set lora.rank")],
)
def test_training_on_with_other_sizes_is_refused(tmp_path, tiny_base, options, problem):
    release(tmp_path / "run_8", tiny_base)
    other = generator_of(str(tiny_base), **{"rank": 4, "alpha": 8, "prompt_tokens": 5} | options)
    with pytest.raises(ValueError, match=problem):
        load_trained(other, tmp_path / "run_8")


# Parts that do not belong together


@pytest.fixture
def folder(tmp_path, lora_release) -> Path:
    """A copy to spoil."""
    shutil.copytree(lora_release, tmp_path / "run_8")
    return tmp_path / "run_8"


def resave(file: Path, change) -> None:
    """Changes the tensors of a file, and keeps its header."""
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    state = load_file(file)
    change(state)
    save_file(state, file, header)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.clear(), r"first at prompt_embedding: missing, expected \(tokens, 24\)"),
        (lambda state: state.update(prompt_embedding=torch.zeros(5, 25)), r"first at prompt_embedding: \(5, 25\), expected \(tokens, 24\)"),
        (lambda state: state.update(prompt_embedding=torch.zeros(24)), r"first at prompt_embedding: \(24,\), expected"),
        (lambda state: state.update({"unet.conv_in.bias": torch.zeros(32)}), "first at unet.conv_in.bias: nothing of that name"),
    ],
)
def test_a_generator_file_that_does_not_fit_is_named(folder, change, problem) -> None:
    resave(folder / "generator.safetensors", change)
    with pytest.raises(ValueError, match=rf"run_8/generator\.safetensors does not fit the UNet of '.*', {problem}") as raised:
        load_generator(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_unet_that_lacks_a_tensor_is_named(tmp_path, tiny_base, strength) -> None:
    release(tmp_path / "run_8", tiny_base, "full")
    resave(tmp_path / "run_8/generator.safetensors", lambda state: state.pop("unet.conv_in.bias"))
    with pytest.raises(ValueError, match=r"generator\.safetensors does not fit .*, first at unet\.conv_in\.bias: missing"):
        load_generator(tmp_path / "run_8", strength=strength)


def test_training_on_from_half_a_file_names_it(tmp_path, tiny_base) -> None:
    release(tmp_path / "run_8", tiny_base, "full")
    resave(tmp_path / "run_8/generator.safetensors", lambda state: state.pop("unet.conv_in.bias"))
    with pytest.raises(ValueError, match=r"run_8/generator\.safetensors does not fit network_g .*, first at unet\.conv_in\.bias: missing"):
        load_trained(generator_of(str(tiny_base), train="full", prompt_tokens=5), tmp_path / "run_8")


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("name", ["generator.safetensors", "pytorch_lora_weights.safetensors", f"unet/{WEIGHTS}", f"vae/{WEIGHTS}"])
def test_weights_that_are_no_fractions_are_refused(folder, sd_base, name, kind) -> None:
    for part in ("unet", "vae", "scheduler"):
        shutil.copytree(sd_base / part, folder / part)
    first = "conv_in.weight"  # by which a base is told from another
    resave(folder / name, lambda state: state.update({key: tensor.to(kind) for key, tensor in state.items() if key != first}))
    with pytest.raises(ValueError, match=f"{Path(name).parent if '/' in name else name}.*{kind}") as raised:
        load_generator(folder)
    assert "\n" not in str(raised.value)


def test_sizes_of_an_odd_prompt_are_no_traceback(folder) -> None:
    resave(folder / "generator.safetensors", lambda state: state.update(prompt_embedding=torch.zeros(())))
    with pytest.raises(ValueError, match=r"generator\.safetensors is damaged or incomplete"):
        trained_settings(folder)


def test_sizes_of_an_autoencoder_nobody_knows_are_no_traceback() -> None:
    with pytest.raises(ValueError, match="describes a Wurst; known autoencoders: AutoencoderKL"):
        meta_autoencoder({"_class_name": "Wurst"})


def test_sizes_of_a_config_without_a_lora(tmp_path, tiny_base) -> None:
    release(tmp_path / "run_8", tiny_base, "full")
    file = tmp_path / "run_8/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rank": None, "alpha": None, "targets": None}))
    assert trained_settings(tmp_path / "run_8").train == "full"


def test_a_lora_of_another_width_names_its_file(folder) -> None:
    name = "unet.mid_block.attentions.0.proj_in.lora_B.weight"
    resave(folder / "pytorch_lora_weights.safetensors", lambda state: state.update({name: torch.zeros(65, 4)}))
    with pytest.raises(ValueError, match=r"run_8/pytorch_lora_weights\.safetensors: the LoRA does not fit this UNet, first at mid_block"):
        load_generator(folder)


def test_a_base_without_a_first_convolution_is_none(folder, sd_base, tmp_path) -> None:
    shutil.copytree(sd_base, tmp_path / "base")
    resave(tmp_path / "base/unet" / WEIGHTS, lambda state: state.pop("conv_in.weight"))
    with pytest.raises(ValueError, match="base/unet hold no conv_in.weight"):
        load_generator(folder, base=str(tmp_path / "base"))


def test_a_base_that_came_with_the_code_is_found_from_anywhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = Path(__file__).resolve().parents[2] / "weights/d3sr-tiny"
    assert base_of(tmp_path, {"base": "weights/d3sr-tiny"}) == str(tiny)
    assert base_of(tmp_path, {"base": "weights/none"}) == "weights/none"
    with pytest.raises(ValueError, match=f"looked in {tmp_path} and {tiny.parents[1]}"):
        read_generator_config("weights/none")
