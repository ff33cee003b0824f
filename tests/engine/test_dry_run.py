"""What --dry-run says: how large the networks are, what memory they take, and that nothing is loaded or downloaded for it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from engine import dry_run
from engine.dry_run import UNKNOWN, describe_networks, describe_training
from engine.memory import Memory
from engine.needs import MISSING
from models.release import CONFIG_FILE, GENERATOR_FILE
from models.sizes import parameter_summary
from options.d3sr import TrainOptions, load_train_options
from tests.short_training import OPTIONS
from tests.tiny_models import discriminator_of, generator_of, write_sd_base, write_taesd

pytestmark = pytest.mark.usefixtures("empty_caches")


@pytest.fixture
def base(tiny_base: Path) -> str:
    return str(tiny_base)


def bare(*changes: str) -> TrainOptions:
    """train_tiny.yml without discriminator, perceptual loss and validation."""
    without = ["network_d.type=none", "train.perceptual.type=mse", "datasets.val.samples=null", "datasets.train.dataroot_gt=assets"]
    return load_train_options(OPTIONS, [*without, "train.precision=fp32", *changes])


def described(*changes: str) -> str:
    return describe_training(bare(*changes))


def networks(base: str, *changes: str) -> str:
    return "\n".join(describe_networks(bare(f"network_g.pretrained={base}", *changes)))


def memory_of(base: str, *changes: str) -> Memory:
    """With a discriminator of the same base, and nothing checkpointed."""
    judge = ["network_d.type=noise_aware", "network_d.head_channels=8", "network_d.train=lora", "train.gradient_checkpointing=[]"]
    options = bare(f"network_g.pretrained={base}", f"network_d.pretrained={base}", *judge, *changes)
    found = dry_run.measure(options)[1]
    assert found is not None
    return found


def test_nothing_missing(base: str) -> None:
    places = [f"network_g.pretrained={base}", f"network_d.pretrained={base}", "network_d.type=noise_aware", "network_d.head_channels=8"]
    text = described(*places, "network_g.train=full", "network_g.prompt_tokens=7")
    real = generator_of(base, train="full", prompt_tokens=7)
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
    text = networks(base, "network_d.type=noise_aware", "network_d.pretrained=someone/something")
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
    ("changes", "said"),
    [
        (["batch_size_per_gpu=4", "gt_size=64", "num_gpu=4"], "16 crops of 64x64 pixels = 4 x 4 process(es) x 1 accumulated"),
        (
            ["batch_size_per_gpu=3", "gt_size=32", "num_gpu=auto", "accumulate=2"],
            "6 crops of 32x32 pixels = 3 x 1 process (any number may be started) x 2",
        ),
    ],
)
def test_effective_batch(changes: list[str], said: str, base: str) -> None:
    sections = {"batch_size_per_gpu": "datasets.train.", "gt_size": "datasets.train.", "accumulate": "train.", "num_gpu": ""}
    assert said in networks(base, *(sections[change.split("=")[0]] + change for change in changes))


@pytest.mark.slow
def test_options_change_the_memory(base: str) -> None:
    sizes = ["network_g.train=full", "datasets.train.gt_size=512", "datasets.train.batch_size_per_gpu=2", "train.ema_decay=0"]

    plain, half = memory_of(base, *sizes), memory_of(base, *sizes, "train.precision=bf16")
    assert half.unet.kept < plain.unet.kept and half.judging.kept < plain.judging.kept and 2 * half.frozen == plain.frozen
    saving = memory_of(base, *sizes, "train.gradient_checkpointing=[unet]", "train.ema_decay=0.9")
    assert saving.unet.kept < plain.unet.kept and saving.judging == plain.judging
    trained = sum(p.numel() for p in generator_of(base, train="full", prompt_tokens=8).trainable().values())
    assert saving.trained - plain.trained == 4 * trained
    saving = memory_of(base, *sizes, "train.gradient_checkpointing=[vae, discriminator]")
    assert saving.unet == plain.unet and saving.judging.kept < plain.judging.kept
    assert memory_of(base, *sizes, "train.perceptual.type=ea_dists").perceptual > plain.perceptual == 0


@pytest.mark.slow
def test_a_spread_discriminator_takes_less_where_the_processes_are_known(base: str) -> None:
    def frozen(shard: bool, processes: str) -> int:
        changes = ["network_d.train=lora", f"network_d.shard={str(shard).lower()}", f"num_gpu={processes}", "train.precision=bf16"]
        said = networks(base, "network_d.type=noise_aware", f"network_d.pretrained={base}", *changes)
        assert ("frozen weights spread over" in said) == shard
        return memory_of(base, "datasets.train.gt_size=64", "datasets.train.batch_size_per_gpu=1", *changes).frozen

    weights = 2 * sum(p.numel() for p in discriminator_of(base, head_channels=8).parameters() if not p.requires_grad)
    assert frozen(True, "auto") == frozen(False, "4")
    assert frozen(True, "2") - frozen(True, "4") == pytest.approx(weights / 4, abs=1)


def test_nothing_is_computed_and_no_weight_is_read(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.pretrained_files.read_weights", None)
    monkeypatch.setattr("safetensors.safe_open", None)
    before = torch.get_rng_state()
    described(f"network_g.pretrained={base}", f"network_d.pretrained={base}", "network_d.type=noise_aware")
    assert torch.equal(before, torch.get_rng_state())
