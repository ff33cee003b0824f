"""`train_d3sr.py -opt FILE --dry-run` for every training file: no GPU, no network, no weights, exit status 0."""

from pathlib import Path

import numpy as np
import pytest

from data.image_io import write_image
from engine import dry_run
from options.d3sr import TrainOptions, load_train_options
from tests.tiny_models import write_tiny_base
from train_d3sr import main

ROOT = Path(__file__).resolve().parents[1]
TRAININGS = [path for path in (ROOT / "options").glob("**/*.yml") if not path.name.startswith("test") and path.parent.name != "benchmarks"]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in TRAININGS)


@pytest.fixture(scope="module", autouse=True)
def measured_once() -> None:
    """Most files share their networks: what is counted for one is remembered for the others."""
    measure, known = dry_run.measure, {}

    def remembered(options: TrainOptions) -> tuple:
        data, t = options.datasets.train, options.train
        key = (options.network_g, options.network_d, t.perceptual, t.precision, t.gradient_checkpointing, t.ema_decay > 0, options.num_gpu)
        key += (data.gt_size, data.batch_size_per_gpu)
        if key not in known:
            known[key] = measure(options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dry_run, "measure", remembered)
        yield


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.chdir(ROOT)


def test_there_are_training_files() -> None:
    assert {"options/train.yml", "options/train_tiny.yml", "options/ablations/disc_none.yml"} <= set(FILES)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_every_training_file(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = load_train_options(file)
    assert main(["-opt", file, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"name: {options.name}\n" in out and "What would be loaded" in out and "Batch: " in out
    assert options.network_g.pretrained in out and options.datasets.train.sources[0][0] in out
    if "tiny" not in file:
        assert "17.02 M trained in 557 tensors, 949.56 M frozen" in out
        assert "peak: weights and the largest phase" in out
        discriminators = {"none": "none", "stabilityai": "24.07 M trained", "sd2-community": "7.36 M trained"}
        # SD 2.1's, less 16 x 256 for each of 14 keys and values of the text, and less 77 x 256 of the text itself
        discriminators["stable-diffusion-v1-5"] = "7.29 M trained"
        kind = "none" if options.network_d.type == "none" else options.network_d.pretrained.split("/")[0]
        assert f"discriminator  {discriminators[kind]}" in out


def test_with_everything_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_tiny_base(tmp_path / "base")
    for name in ("a", "b", "c"):
        write_image(tmp_path / "photos" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    places = [f"network_g.pretrained={base}", f"network_d.pretrained={base}", f"datasets.train.dataroot_gt={tmp_path / 'photos'}"]
    places += [
        f"datasets.val.samples.dataroot_lq={tmp_path / 'photos'}",
        "train.perceptual.backbone_weights=random",
        "train.precision=fp32",
    ]
    assert main(["-opt", "options/train_tiny.yml", "--dry-run", "--force_yml", *places]) == 0
    out, _ = capsys.readouterr()
    assert "nothing is missing" in out and "photos (3 images)" in out and "peak" in out


def test_a_mistake_in_the_options_is_still_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-opt", "options/train_tiny.yml", "--dry-run", "--force_yml", "train.total_itre=5"]) == 2
    assert "total_iter" in capsys.readouterr().err
