"""tools/random_base.py writes bases that this project and diffusers itself can read."""

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

from models.backbones import load_unet
from models.configs import KNOWN, SMALL_SD_UNET
from tests.tiny_models import SMALL_TINY_UNET, discriminator_of, generator_of
from tools.random_base import main

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """This project's own base with few channels."""
    monkeypatch.setitem(KNOWN, "tiny", {"unet": SMALL_TINY_UNET, "vae": KNOWN["tiny"]["vae"]})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tiny", "small-sd"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_both_players_can_be_built_from_it(tmp_path, capsys, kind, dtype):
    folder = tmp_path / "base"
    main([kind, str(folder), "--dtype", dtype])
    assert f"wrote {folder}" in capsys.readouterr().out
    assert {part.name for part in folder.iterdir()} == {"unet", "vae", "scheduler"}
    wanted = {"fp32": torch.float32, "fp16": torch.float16}[dtype]
    assert {tensor.dtype for tensor in load_file(folder / "unet" / WEIGHTS).values()} == {wanted}
    assert {tensor.dtype for tensor in load_file(folder / "vae" / WEIGHTS).values()} == {torch.float32 if kind == "tiny" else wanted}
    generator = generator_of(str(folder), rank=2, alpha=2, prompt_tokens=3)
    discriminator = discriminator_of(str(folder), rank=2, alpha=2, prompt_tokens=3, head_channels=4)
    side = generator.size_multiple
    with torch.no_grad():
        sr, z_hat = generator(torch.zeros(1, 3, side // 4, side // 4))
        assert sr.shape == (1, 3, side, side) and torch.isfinite(sr).all()
        assert all(torch.isfinite(votes).all() for votes in discriminator(z_hat, torch.tensor([5])))


def test_diffusers_reads_it(tmp_path):
    main(["small-sd", str(tmp_path)])
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert unet.config.block_out_channels == SMALL_SD_UNET["block_out_channels"]
    scheduler = DDPMScheduler.from_pretrained(tmp_path / "scheduler")
    assert scheduler.config.prediction_type == "epsilon" and not scheduler.config.clip_sample
    assert scheduler.alphas_cumprod[399].item() == pytest.approx(0.4261, abs=5e-5)


def test_the_seed_decides(tmp_path):
    weights = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        main(["tiny", str(tmp_path / name), "--seed", seed])
        weights.append(load_file(tmp_path / name / "unet" / WEIGHTS)["conv_in.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_its_files_hold_what_the_source_in_memory_makes(tmp_path):
    main(["small-sd", str(tmp_path), "--seed", "3"])
    for made, read in ((load_unet(f"random:small-sd{seed}").state_dict(), load_file(tmp_path / "unet" / WEIGHTS)) for seed in (":3", "")):
        same = [torch.equal(made[name], read[name]) for name in made if made[name].ndim > 1]
        assert made.keys() == read.keys() and len(set(same)) == 1
    assert not same[0]


def test_an_unknown_kind_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["sd3", str(tmp_path)])
    assert "sd21-base" in capsys.readouterr().err
