"""The tool runs on every kind of autoencoder without a UNet, sees the training's own crops, and measures what diffusers measures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

from data.image_io import read_image, to_tensor, write_image
from models.diffusion import scaled_linear_alphas_cumprod
from tests.tiny_models import write_sd_base, write_taesd, write_tiny_base
from tools.choose_timestep import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures 80 x 72, smooth with some grain; LR of the same names beside them, every fourth pixel."""
    generator = np.random.default_rng(0)
    for name in "abcde":
        hr = np.kron(generator.integers(0, 256, (9, 10, 3)), np.ones((8, 8, 1))) * 0.8 + generator.integers(0, 51, (72, 80, 3))
        write_image(tmp_path / "hr" / f"{name}.png", hr.astype(np.uint8))
        write_image(tmp_path / "lr" / f"{name}.png", hr.astype(np.uint8)[::4, ::4])
    return tmp_path


def run(photos: Path, *options: str, pictures: int = 3, out: str = "out") -> tuple[int, Path]:
    """Exit status and folder of the results; the base is at photos/base."""
    forced = [f"network_g.pretrained={photos / 'base'}", f"datasets.train.dataroot_gt={photos / 'hr'}", "datasets.train.gt_size=64"]
    arguments = ["-opt", str(ROOT / "options/train_tiny.yml"), "-o", str(photos / out), "--pictures", str(pictures)]
    return main([*arguments, "--force_yml", *forced, *options]), photos / out


def found(folder: Path) -> dict:
    return json.loads((folder / "choose_timestep.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("write_base", [write_tiny_base, write_sd_base])
def test_both_files_are_written_and_no_unet_is_needed(photos: Path, capsys, write_base) -> None:
    shutil.rmtree(write_base(photos / "base") / "unet")
    status, out = run(photos)
    assert status == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == [str(out / "choose_timestep.png"), str(out / "choose_timestep.json")]
    result = found(out)
    assert 0 <= result["timestep"] <= 999 and result["configured_timestep"] == int(printed.split("network_g.timestep is ")[1].split()[0])
    assert f"matched timestep      {result['timestep']} (95 % interval" in printed and "5 of 5 images usable" in printed
    assert len(result["pictures"]) == 3 and set(result["percentiles"]) == {"5", "25", "50", "75", "95"}
    assert result["alpha_bar"] == pytest.approx(scaled_linear_alphas_cumprod()[result["timestep"]].item())
    with Image.open(out / "choose_timestep.png") as picture:
        assert picture.size == (1100, 880)


@pytest.mark.slow
def test_the_batch_size_makes_no_difference(photos: Path) -> None:
    write_tiny_base(photos / "base")
    results = []
    for size in (1, 2, 8):
        _, out = run(photos, f"datasets.train.batch_size_per_gpu={size}", pictures=5, out=f"by_{size}")
        results.append(found(out) | {"options": None})
    assert results[0]["pictures"] == results[1]["pictures"] == results[2]["pictures"]
    for name in ("timestep", "latent_error_rms", "hr_latent_rms", "lr_latent_rms"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-6) == pytest.approx(results[2][name], rel=1e-6)


@pytest.mark.slow
def test_the_degradation_decides(photos: Path) -> None:
    write_tiny_base(photos / "base")
    harmless = "degradation={stages: [{blur_prob: 0, resize_prob: [0, 0, 1], noise_range: [0, 0], jpeg_prob: 0}], final_sinc_prob: 0}"
    timesteps = []
    for option in ("datasets.train.use_hflip=true", harmless.replace("[0, 0]", "[60, 60]"), "network_g.timestep=7"):
        _, out = run(photos, option, out=f"out{len(timesteps)}")
        timesteps.append(found(out)["timestep"])
    assert timesteps[0] == timesteps[2] != timesteps[1], "the configured timestep is reported, not used"


def test_pairs_in_a_learned_latent_space_against_diffusers(photos: Path) -> None:
    write_sd_base(photos / "base")
    for side in ("hr", "lr"):  # crops of the whole picture, so that what is drawn at random plays no part
        for file in (photos / side).glob("*.png"):
            write_image(file, read_image(file)[: 64 // (1 if side == "hr" else 4), : 64 // (1 if side == "hr" else 4)])
    status, out = run(photos, f"datasets.train.dataroot_lq={photos / 'lr'}", "datasets.train.use_hflip=false", pictures=5)
    vae = AutoencoderKL.from_pretrained(photos / "base/vae")
    powers = []
    for file in sorted((photos / "hr").glob("*.png")):
        hr, lr = (to_tensor(read_image(photos / side / file.name))[None] * 2 - 1 for side in ("hr", "lr"))
        enlarged = F.interpolate(lr, scale_factor=4, mode="bicubic").clamp(-1, 1)
        with torch.no_grad():
            z_hr, z_lr = (vae.encode(x).latent_dist.mode() * 0.18215 for x in (hr, enlarged))
        powers.append([z.square().mean().item() for z in (z_lr, z_hr, z_lr - z_hr)])
    lr_power, hr_power, error = np.mean(powers, axis=0)
    result = found(out)
    assert status == 0
    expected = {"latent_error_rms": error**0.5, "hr_latent_rms": hr_power**0.5, "lr_latent_rms": lr_power**0.5}
    assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    table = scaled_linear_alphas_cumprod()
    assert result["timestep"] == min(range(1000), key=lambda t: abs(table[t].item() - 1 / (1 + error)))


def test_another_vae_is_the_one_that_is_measured(photos: Path) -> None:
    shutil.rmtree(write_sd_base(photos / "base") / "vae")
    status, out = run(photos, f"network_g.vae={write_taesd(photos / 'taesd')}")
    assert status == 0 and found(out)["latent_error_rms"] > 0


@pytest.mark.parametrize(
    ("options", "pictures", "said"),
    [
        (["network_g.pretrained=no/such/base"], 3, "cannot find 'scheduler/scheduler_config.json' of the pre-trained model 'no/such/base'"),
        (["datasets.train.dataroot_gt=no/such/photos"], 3, "no/such/photos"),
        (["datasets.train.gt_size=128"], 3, "no usable training image; lower gt_size (128)"),
        ([], 0, "--pictures must be at least 1, got 0"),
        (["network_g.timestep=1000"], 3, "network_g.timestep: must be from 0 to 999, got 1000"),
    ],
)
def test_mistakes_are_explained(photos: Path, capsys, options: list[str], pictures: int, said: str) -> None:
    write_tiny_base(photos / "base")
    status, out = run(photos, *options, pictures=pictures)
    printed, err = capsys.readouterr()
    assert status == 2 and printed == "" and not out.exists()
    assert err.startswith("choose_timestep.py: ") and said in err and "Traceback" not in err
