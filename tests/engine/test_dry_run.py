"""What --dry-run says: where everything is or is not, how large the networks are, and that nothing is loaded or downloaded for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine import dry_run
from engine.dry_run import MISSING, UNKNOWN, BatchPlan, PerceptualPlan, describe_base, describe_perceptual, describe_training
from engine.release import parameter_summary
from models.discriminator import build_discriminator
from models.generator import CONFIG_FILE, build_generator
from models.sizes import DiscriminatorPlan, GeneratorPlan
from tests.tiny_models import write_sd_base, write_taesd, write_tiny_base

PARTS = ("unet", "vae", "scheduler")


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


def no_images(root: str) -> list[str]:
    raise ValueError(f"{root}: no such folder")


def described(
    generator: GeneratorPlan,
    discriminator: DiscriminatorPlan | None = None,
    *,
    perceptual: PerceptualPlan = PerceptualPlan("mse"),  # noqa: B008  frozen
    batch: BatchPlan = BatchPlan(gt_size=64, per_process=2),  # noqa: B008  frozen
    folders: list[tuple[str, str | None]] | None = None,
    list_images: Callable[[str], list[str]] = no_images,
    start_from: str | None = None,
) -> str:
    return describe_training(
        generator, discriminator, perceptual, batch, folders=folders or [], list_images=list_images, start_from=start_from
    )


def test_a_folder_that_has_everything(base: str) -> None:
    assert describe_base(base, None, PARTS) == f"{base} (folder)"


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("vae/diffusion_pytorch_model.safetensors", "vae"),
        ("unet/config.json", "unet"),
        ("scheduler/scheduler_config.json", "scheduler"),
    ],
)
def test_a_folder_that_lacks_a_part(base: str, tmp_path: Path, lost: str, named: str) -> None:
    copy = shutil.copytree(base, tmp_path / "copy")
    (copy / lost).unlink()
    said = describe_base(str(copy), None, PARTS)
    assert f"{MISSING} in this folder: {named};" in said


def test_a_model_in_the_cache_of_the_hub(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = shutil.copytree(base, repository / "snapshots" / ("0" * 40))
    assert describe_base("owner/name", None, PARTS) == "owner/name (in the cache of the Hugging Face hub)"
    assert "owner/name@other: not here" in describe_base("owner/name", "other", PARTS)
    shutil.rmtree(snapshot / "vae")
    assert "would be downloaded from the Hugging Face hub (vae)" in describe_base("owner/name", None, PARTS)


def test_a_model_that_would_have_to_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    said = describe_base("owner/name", None, PARTS)
    assert said == "owner/name: not here, would be downloaded from the Hugging Face hub (unet, vae, scheduler)"
    assert "sd2-community" in describe_base("stabilityai/stable-diffusion-2-1-base", None, PARTS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert MISSING in describe_base("owner/name", None, PARTS) and "HF_HUB_OFFLINE" in describe_base("owner/name", None, PARTS)


def test_random_weights_are_never_missing() -> None:
    assert describe_base("random:sd21-base", None, PARTS) == "random:sd21-base (random weights, for tests and benchmarks)"
    assert f"{MISSING}: 'random:sd3': expected random:KIND" in describe_base("random:sd3", None, PARTS)
    text = described(GeneratorPlan(source="random:small-sd", vae="random:small-taesd"), DiscriminatorPlan(source="random:small-sdxl"))
    assert "nothing is missing" in text and "activations" in text and text.count("random weights") == 3
    text = described(GeneratorPlan(source="random:taesd"), DiscriminatorPlan(source="random:small-sdxl"))
    assert "it has no unet" in text and f"generator      {UNKNOWN}" in text and "1 of 2 are missing" in text


@pytest.mark.parametrize("source", ["/no/such/folder", "./folder", "a/b/c", "folder"])
def test_a_path_is_not_taken_for_a_hub_id(source: str) -> None:
    assert f"{source}: {MISSING}: there is no such folder" in describe_base(source, None, PARTS)


def test_a_name_below_an_existing_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()
    assert f"{MISSING}: there is a folder weights" in describe_base("weights/gone", None, PARTS)


def test_perceptual_weights(tmp_path: Path) -> None:
    assert describe_perceptual(PerceptualPlan("mse")) == []
    ((_, said),) = describe_perceptual(PerceptualPlan("lpips", "squeezenet1_1"))
    assert "would be downloaded from https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth" in said
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "checkpoints" / "vgg16-397923af.pth").touch()
    backbone, dists = describe_perceptual(PerceptualPlan("ea_dists", "vgg16", "torchvision", str(tmp_path / "dists.pth")))
    assert backbone[1].endswith("vgg16-397923af.pth (file)")
    assert f"{MISSING}: get DISTS_weights-f5e65c96.pth" in dists[1]
    (tmp_path / "dists.pth").touch()
    assert describe_perceptual(PerceptualPlan("dists", "vgg16", "random", str(tmp_path / "dists.pth")))[1][1].endswith("(file)")
    assert "tests only" in describe_perceptual(PerceptualPlan("dists", "vgg16", "random", "uniform"))[0][1]
    assert MISSING in describe_perceptual(PerceptualPlan("lpips", "vgg16", "gone.pth"))[0][1]


def test_nothing_missing(base: str) -> None:
    text = described(
        GeneratorPlan(source=base, train="full", prompt_tokens=7),
        DiscriminatorPlan(source=base, head_channels=8),
        folders=[("training HR", "photos"), ("training LR", None)],
        list_images=lambda root: [root] * 1234,
    )
    real = build_generator(base, train="full", prompt_tokens=7)
    assert parameter_summary(real) in text
    assert "photos (1,234 images)" in text and "training LR" not in text
    assert "nothing is missing" in text and MISSING not in text
    assert all(phase in text for phase in ("generator, spatial loss", "generator, adversarial loss", "discriminator"))


def test_what_is_missing_is_said_and_counted(base: str, tmp_path: Path) -> None:
    text = described(
        GeneratorPlan(source=base, vae=str(tmp_path / "no_vae")), folders=[("training HR", "photos")], start_from=str(tmp_path / "run_100")
    )
    assert "photos: no such folder" in text and "run_100" in text and "no trained generator" in text
    assert "3 of 4 are missing" in text
    assert "discriminator  none" in text


def test_another_autoencoder_and_a_start(tmp_path: Path) -> None:
    sd, start = str(write_sd_base(tmp_path / "sd")), tmp_path / "run_100"
    start.mkdir()
    (start / CONFIG_FILE).write_text(json.dumps({"timestep": 100, "scale": 4, "train": "lora", "base": "owner/base"}))
    shutil.rmtree(tmp_path / "sd" / "vae")
    text = described(GeneratorPlan(source=sd, vae=str(write_taesd(tmp_path / "taesd"))), start_from=str(start))
    assert "taesd (folder)" in text and "trained from owner/base" in text and "nothing is missing" in text
    assert "activations" in text


def test_a_base_of_unknown_sizes(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    text = described(GeneratorPlan(source=base), DiscriminatorPlan(source="someone/something"))
    assert f"discriminator  {UNKNOWN}" in text and f"Memory: {UNKNOWN}" in text
    assert "M trained" in text


def test_a_damaged_config_is_an_error(base: str, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "copy")
    (copy / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        described(GeneratorPlan(source=str(copy)))


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (BatchPlan(gt_size=64, per_process=4, processes=4), "16 crops of 64x64 pixels = 4 x 4 process(es) x 1 accumulated"),
        (BatchPlan(gt_size=32, per_process=3, accumulate=2), "6 crops of 32x32 pixels = 3 x 1 process (any number may be started) x 2"),
    ],
)
def test_effective_batch(batch: BatchPlan, said: str, base: str) -> None:
    assert said in described(GeneratorPlan(source=base), batch=batch)


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
    described(GeneratorPlan(source=base), DiscriminatorPlan(source=base))
    assert torch.equal(before, torch.get_rng_state())
