"""The printed numbers: Table 3 of the paper to the last digit, and every stage."""

import json
from pathlib import Path

import pytest

from tests.tiny_models import write_tiny_base
from tools.complexity import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


def printed(capsys: pytest.CaptureFixture[str], file: str, *more: str) -> list[list[str]]:
    """Words of each printed line."""
    assert main(["-opt", str(ROOT / file), *more]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_the_paper_s_table_3(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "options/test_sd21.yml", "--force_yml", "network_g.path=no/such/folder")
    assert "rank 16, not merged" in " ".join(lines[0])
    for expected in (
        "as thop counts 966.34 M 2,132.3 G",  # the paper: 966.3 M, 2,132 G
        "everything 966.59 M 2,229.5 G",
        "VAE encode 558.33 541.15",
        "UNet 402.13 339.10",
        "VAE decode 1,257.26 1,240.08",
        "total, LoRA merged 2,217.72 2,120.33",
        "LoRA 11.80 11.80",
        "total 2,229.52 2,132.13",
    ):
        assert expected.split() in lines


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "total"), [("both", 61.16 + 402.13 + 70.68), ("decoder", 558.33 + 402.13 + 70.68)])
def test_the_fast_modes(capsys: pytest.CaptureFixture[str], parts: str, total: float) -> None:
    """Encoder (TAESD's, or Stable Diffusion's), UNet, TAESD's decoder."""
    fast = f"network_g.fast_vae={{path: madebyollin/taesd, parts: {parts}}}"
    lines = printed(capsys, "options/test_sd21.yml", "--force_yml", "network_g.path=no/such/folder", fast)
    assert f"{parts} of madebyollin/taesd;" in " ".join(lines[0])
    (found,) = (float(line[3].replace(",", "")) for line in lines if line[:3] == ["total,", "LoRA", "merged"])
    assert found == pytest.approx(total, abs=0.02)


@pytest.mark.slow
def test_a_training_file_shows_both_players(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = f"network_g.pretrained={write_tiny_base(tmp_path)}"  # 4 pixels per position, so 256 pixels are a latent of 64x64
    lines = printed(capsys, "options/train_dfosd.yml", "--size", "256", "--force_yml", small)
    assert any(line[:4] == ["Generator", "at", "256x256", "pixels:"] for line in lines)
    assert ["parameters", "of", "the", "trunk", "351.66", "M"] in lines
    assert ["trunk", "130.95", "105.72"] in lines
    discriminator = 351_662_080 + 6_874_880 + 410_241 + 77 * 1024  # trunk, LoRA, head, embedding
    assert f"everything {discriminator / 1e6:.2f} M".split() in [line[:3] for line in lines]


@pytest.mark.slow
def test_a_training_without_discriminator(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = f"network_g.pretrained={write_tiny_base(tmp_path)}"
    lines = printed(capsys, "options/ablations/disc_none.yml", "--size", "64", "--force_yml", small)
    assert lines[0][0] == "Generator" and not any("Discriminator" in line for line in lines)


def test_the_small_base_by_its_own_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path)
    (base / "config.json").write_text(json.dumps({"timestep": 100, "scale": 4, "train": "full", "base": str(base)}))
    lines = printed(capsys, "options/test.yml", "--size", "64", "--force_yml", f"network_g.path={base}")
    assert "all of the UNet trained" in " ".join(lines[0]) and str(base / "unet" / "config.json") in lines[0]
    assert any(line[0] == "total" for line in lines if line)
    transform = 16 * 16 * 48 * 48 / 1e9  # 48 channels of 48 numbers each, at 16 x 16 positions: not a layer, so only counted in full
    assert f"VAE encode {transform:.2f} 0.00".split() in lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "500"], "size: expected a multiple of 64 pixels, got 500"),
        (["--force_yml", "network_g.pretrained=someone/something"], "the sizes of 'someone/something' are unknown"),
        (["--force_yml", "network_g.pretrained=null", "network_g.path=no/such/folder"], "holds no trained generator"),
        (["--force_yml", "sclae=4"], "scale"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-opt", str(ROOT / "options/test_sd21.yml"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and "Traceback" not in err
