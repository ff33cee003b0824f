"""What a training loads: where it is or is not, what is fetched, and that all that is missing is said at once."""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.image_io import write_image
from engine.distributed import World
from engine.needs import MISSING, base_need, images_need, insist, metric_needs, perceptual_needs, release_need
from losses.settings import PerceptualSettings
from options.d3sr import TrainOptions
from options.datasets import MetricOptions
from tests.engine.test_distributed import in_processes
from tests.short_training import options_of

MAIN = World(0, 1, torch.device("cpu"))
PARTS = ("unet", "vae", "scheduler")


pytestmark = pytest.mark.usefixtures("empty_caches")


@pytest.fixture
def base(tiny_base: Path) -> str:
    return str(tiny_base)


def describe_base(source: str, revision: str | None, parts: tuple[str, ...]) -> str:
    return base_need("base", "network_g.pretrained", source, revision, parts).text


def describe_perceptual(type: str, backbone: str, weights: str = "torchvision", dists: str | None = None) -> list[str]:
    options = PerceptualSettings(type=type, weight=1, backbone=backbone, backbone_weights=weights, dists_weights=dists)
    return [need.text for need in perceptual_needs(options)]


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
    assert f"{MISSING}: this folder lacks {named};" in said


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
    assert f"random:sd3: {MISSING}: 'random:sd3': expected random:KIND" in describe_base("random:sd3", None, PARTS)
    assert f"{MISSING}: 'random:taesd': it has no unet" in describe_base("random:taesd", None, PARTS)


@pytest.mark.parametrize("source", ["/no/such/folder", "./folder", "a/b/c", "folder"])
def test_a_path_is_not_taken_for_a_hub_id(source: str) -> None:
    assert f"{source}: {MISSING}: there is no such folder" in describe_base(source, None, PARTS)


def test_a_name_below_an_existing_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()
    assert f"{MISSING}: there is a folder weights" in describe_base("weights/gone", None, PARTS)


def test_perceptual_weights(tmp_path: Path) -> None:
    assert describe_perceptual("mse", "vgg16") == []
    (said,) = describe_perceptual("lpips", "squeezenet1_1")
    assert said == "squeezenet1_1: not here, would be downloaded from https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "checkpoints" / "vgg16-397923af.pth").touch()
    backbone, dists = describe_perceptual("ea_dists", "vgg16", "torchvision", str(tmp_path / "dists.pth"))
    assert backbone.endswith("vgg16-397923af.pth (file)")
    assert f"{MISSING}: get DISTS_weights-f5e65c96.pth" in dists
    (tmp_path / "dists.pth").touch()
    assert describe_perceptual("dists", "vgg16", "random", str(tmp_path / "dists.pth"))[1].endswith("(file)")
    (said,) = describe_perceptual("dists", "vgg16", "random", "uniform")
    assert "tests only" in said
    assert MISSING in describe_perceptual("lpips", "vgg16", "gone.pth")[0]


def test_a_start_from_another_run(tmp_path: Path) -> None:
    need = functools.partial(release_need, "starts from", "path.pretrain_network_g", str(tmp_path))
    assert f"{MISSING}: '{tmp_path}' holds no trained generator" in need().text
    for train, said in (("merged", "cannot be trained on"), ("lora", "lacks generator.safetensors")):
        (tmp_path / "config.json").write_text(f'{{"timestep": 1, "scale": 4, "train": "{train}", "base": "owner/base"}}')
        assert said in need().problem
    (tmp_path / "generator.safetensors").touch()
    assert need().text == f"{tmp_path} (folder; trained from owner/base)"


def test_images_are_counted_or_only_looked_for(tmp_path: Path) -> None:
    need = functools.partial(images_need, "training HR", "datasets.train.dataroot_gt")
    write_image(tmp_path / "photos/a.png", np.zeros((8, 8, 3), np.uint8))
    photos, empty = tmp_path / "photos", tmp_path / "empty"
    empty.mkdir()
    assert [need(str(photos), count=count).text for count in (True, False)] == [f"{photos} (1 images)", str(photos)]
    assert [need(str(empty), count=count).problem is None for count in (True, False)] == [False, True]
    for count in (True, False):
        assert need("no/such", count=count).text.startswith(f"no/such: {MISSING}: no such file or folder")


def test_the_files_of_metrics(tmp_path: Path) -> None:
    assert metric_needs("psnr", MetricOptions(type="psnr")) == metric_needs("rare", MetricOptions(type="rare")) == []
    own, trunk = metric_needs("l", MetricOptions(type="lpips-vgg"))
    assert (own.key, own.problem, trunk.problem) == ("val.metrics.l", None, None) and "would be downloaded from https://" in own.text
    (given,) = metric_needs("n", MetricOptions(type="niqe", pretrained_model_path="gone.mat"))
    assert given.text == f"gone.mat: {MISSING}: there is no such file" and given.key == "val.metrics.n.pretrained_model_path"


@pytest.fixture
def lab(base: str, tmp_path: Path) -> Path:
    """base/ and HR/, one picture."""
    (tmp_path / "base").symlink_to(base)
    write_image(tmp_path / "HR/a.png", np.zeros((64, 64, 3), np.uint8))
    return tmp_path


def broken(lab: Path) -> TrainOptions:
    """Options that seven things are missing for."""
    gone = ["network_g.pretrained=no/such/base", "network_d.pretrained=owner/name", f"network_g.vae={lab / 'no_vae'}"]
    gone += ["path.pretrain_network_g=no/run_100", "datasets.train.dataroot_gt=no/photos", "train.perceptual.backbone_weights=no.pth"]
    return options_of(lab, lab, *gone, "datasets.val.mine={dataroot_lq: no/LR}", "val.metrics={psnr: null, ssim: null}")


def test_all_that_is_missing_is_said_at_once_with_its_option(lab: Path) -> None:
    with pytest.raises(ValueError, match="7 things that this training needs are not there") as caught:
        insist(broken(lab), MAIN)
    said = [line.removeprefix("  - ").split(": ")[:2] for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert said == [
        ["network_g.pretrained", "no/such/base"],
        ["network_g.vae", str(lab / "no_vae")],
        ["path.pretrain_network_g", "no/run_100"],
        ["network_d.pretrained", "owner/name"],
        ["train.perceptual.backbone_weights", "squeezenet1_1"],
        ["datasets.train.dataroot_gt", "no/photos"],
        ["datasets.val.mine.dataroot_lq", "no/LR"],
    ]
    assert "HF_HUB_OFFLINE forbids a download; download it elsewhere" in str(caught.value)


def test_nothing_is_missing(lab: Path) -> None:
    options = options_of(lab, lab)
    assert insist(options, MAIN) is options


def test_the_small_files_of_a_hubs_base_are_fetched_before_the_large_ones(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked: list[str] = []

    def download(source: str, name: str, *, subfolder: str, revision: str | None) -> str:
        asked.append(f"{source} {subfolder}/{name} {revision}")
        if source == "owner/unreachable":
            raise LocalEntryNotFoundError("no network")
        return "somewhere"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("models.hub.answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    options = functools.partial(options_of, lab, lab, "network_g.pretrained=owner/name", "network_g.revision=v1")
    insist(options(), MAIN)
    assert asked == [f"owner/name {part} v1" for part in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")]
    with pytest.raises(ValueError, match=r"^network_d.pretrained: cannot find .*the hub cannot be reached"):
        insist(options("network_d.pretrained=owner/unreachable"), MAIN)


def with_torchvision(options: TrainOptions) -> TrainOptions:
    perceptual = dataclasses.replace(options.train.perceptual, backbone_weights="torchvision")
    return dataclasses.replace(options, train=dataclasses.replace(options.train, perceptual=perceptual))


def _count_checks(options: TrainOptions, file: Path, world: World) -> tuple[list[bool], str]:
    checks: list[bool] = []

    def backbone_file(_: str, *, check: bool = True) -> Path:
        checks.append(check)
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.needs.backbone_file", backbone_file)
        return checks, insist(options, world).train.perceptual.backbone_weights


def test_a_backbone_is_downloaded_and_checked_once_a_machine(lab: Path) -> None:
    """The others take the file as it is then."""
    work: Any = functools.partial(_count_checks, with_torchvision(options_of(lab, lab)), lab / "squeezenet.pth")
    assert in_processes(2, work) == [([True, False], str(lab / "squeezenet.pth")), ([False], str(lab / "squeezenet.pth"))]


def test_a_failed_download_is_among_what_is_missing(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(ValueError, match=r"^train.perceptual.backbone_weights: weights: cannot download squeezenet1_1"):
        insist(with_torchvision(options_of(lab, lab)), MAIN)
