"""tools/pretrain_tiny.py on a few small pictures: a base that the models read, and a run that resumes to the bit."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from models.backbones import load_alphas_cumprod, load_autoencoder, load_unet, new_unet
from models.block_transform import BlockTransform
from models.diffusion import scaled_linear_alphas_cumprod
from tests.tiny_models import SMALL_TINY_UNET
from tools import pretrain_tiny
from tools.pretraining import pretrain


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller UNet, and statistics of fewer crops."""
    fit = pretrain.fit_transform
    monkeypatch.setattr("models.configs.TINY_UNET", SMALL_TINY_UNET)
    monkeypatch.setattr(pretrain, "fit_transform", lambda dataset, num_crops: fit(dataset, 40))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def arguments(photos: Path, out: Path, *more: str) -> list[str]:
    small = ["--iterations", "5", "--batch", "2", "--size", "32", "--workers", "0", "--save-every", "2"]
    return ["--data", str(photos), "--out", str(out), *small, *more]


@pytest.mark.slow
def test_the_base_can_be_read_and_has_learned(photos: Path, tmp_path: Path) -> None:
    assert pretrain_tiny.main(arguments(photos, tmp_path / "base")) == 0
    unet, autoencoder = load_unet(str(tmp_path / "base")), load_autoencoder(str(tmp_path / "base"))
    assert torch.equal(load_alphas_cumprod(str(tmp_path / "base")), scaled_linear_alphas_cumprod())
    stored = load_file(tmp_path / "base/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    fresh = new_unet(SMALL_TINY_UNET, 0).state_dict()
    state = torch.load(tmp_path / "base/pretrain_state.pt", weights_only=True)
    moved = max((unet.state_dict()[name] - tensor).abs().max().item() for name, tensor in fresh.items())
    assert state["iteration"] == 4 and 1e-5 < moved < 1e-2 and all(torch.isfinite(tensor).all() for tensor in stored.values())
    assert not any(tensor.requires_grad for tensor in state["ema"].values())

    images = torch.stack([torch.from_numpy(np.asarray(Image.open(path)).copy()) for path in sorted(photos.iterdir())])
    images = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    z = autoencoder.encode(images)
    torch.testing.assert_close(autoencoder.decode(z), images, rtol=0, atol=1e-4)
    level = z[:, 0]  # the mean intensity of a block: whitened over crops of these very pictures
    assert abs(level.mean()) < 0.3 and 0.7 < level.std() < 1.3


@pytest.mark.slow
def test_a_resumed_run_ends_like_an_uninterrupted_one(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretrain_tiny.main(arguments(photos, tmp_path / "whole")) == 0
    loss, calls = pretrain.denoising_loss, []

    def loss_until_the_fourth(*values: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(*values)

    monkeypatch.setattr(pretrain, "denoising_loss", loss_until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        pretrain_tiny.main(arguments(photos, tmp_path / "parts"))
    monkeypatch.setattr(pretrain, "denoising_loss", loss)
    monkeypatch.setattr(pretrain, "fit_transform", pytest.fail)
    assert pretrain_tiny.main(arguments(photos, tmp_path / "parts", "--workers", "1")) == 0
    for part in ("unet", "vae"):
        whole, parts = (load_file(tmp_path / run / part / "diffusion_pytorch_model.safetensors") for run in ("whole", "parts"))
        assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_loss_is_that_of_noise_prediction() -> None:
    """For a UNet that answers with its input, in float32: the mean of (z_t - noise)^2 with z_t of Eq. 4."""

    class Echo(torch.nn.Module):
        config = type("Config", (), {"cross_attention_dim": 12})()

        def forward(self, z_t: torch.Tensor, timesteps: torch.Tensor, encoder_hidden_states: torch.Tensor, return_dict: bool) -> tuple:
            assert not encoder_hidden_states.any() and encoder_hidden_states.shape == (64, pretrain.NULL_TOKENS, 12)
            self.timesteps = timesteps
            return (z_t,)

    echo, generator = Echo(), torch.Generator().manual_seed(0)
    z = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    alphas = scaled_linear_alphas_cumprod()
    found = pretrain.denoising_loss(echo, z, alphas, generator)
    assert echo.timesteps.min() < 100 and echo.timesteps.max() > 899
    # z and noise are independent and standard normal: E (a z + (b - 1) n)^2 = a^2 + (b - 1)^2 with a^2 + b^2 = 1
    alpha_bar = alphas[echo.timesteps].double()
    expected = (alpha_bar + ((1 - alpha_bar).sqrt() - 1) ** 2).mean()
    assert found.item() == pytest.approx(expected.item(), rel=0.03)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    args = pretrain_tiny.parse_args(["--data", "x", "--out", "y", "--iterations", "1000", "--learning-rate", "0.01"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.01)
    cosine, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000), []
    for _ in range(1000):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    found = [pretrain.learning_rate_at(iteration, args) for iteration in range(1000)]
    assert found[99:] == pytest.approx(expected[99:], abs=1e-9)
    assert found[:99] == pytest.approx([value * (i + 1) / 100 for i, value in enumerate(expected[:99])], abs=1e-9)


def test_the_transform_is_whitened_over_the_first_crops() -> None:
    crops = [{"hr": torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))} for n in range(60)]
    transform = pretrain.fit_transform(copy.copy(crops), 40)
    assert isinstance(transform, BlockTransform) and transform.block_size == 4
    z = transform.encode(torch.stack([crop["hr"] for crop in crops[:40]]) / 127.5 - 1)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(48), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(48), rtol=0, atol=1e-4)


def test_a_missing_folder_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert pretrain_tiny.main(arguments(tmp_path / "absent", tmp_path / "base")) == 2
    error = capsys.readouterr().err
    assert error.startswith("pretrain_tiny.py: ") and "absent" in error and "Traceback" not in error
    assert not (tmp_path / "base").exists()


@pytest.mark.slow
def test_a_base_of_another_shape_shares_the_latents(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain_tiny.main(arguments(photos, tmp_path / "base")) == 0
    shape = ["--channels", "16", "32", "48", "--layers", "3", "1", "1", "--seed", "1", "--precision", "fp32"]
    assert pretrain_tiny.main(arguments(photos, tmp_path / "judge", "--latents", str(tmp_path / "base"), *shape)) == 0
    for tensor in ("mean", "std"):
        ours, theirs = (getattr(load_autoencoder(str(tmp_path / name)).model, tensor) for name in ("judge", "base"))
        assert torch.equal(ours, theirs)
    unet = load_unet(str(tmp_path / "judge"))
    assert [len(block.resnets) for block in unet.down_blocks] == [3, 1, 1] and [len(block.resnets) for block in unet.up_blocks] == [2, 2, 4]
    assert list(unet.config.block_out_channels) == [16, 32, 48]
    assert pretrain_tiny.main(arguments(photos, tmp_path / "third", "--latents", "random:small-sd")) == 2
    assert "'random:small-sd' has a learned autoencoder" in capsys.readouterr().err
