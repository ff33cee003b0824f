"""Counting calls of operators: by hand on small modules, and against the layers that really run."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.fused import fuse
from models.sizes import meta_generator
from options.d3sr import load_train_options
from tests.tiny_models import generator_settings, write_sd_base, write_sdxl_base
from tools.timing.launches import Launches, on_paper, restoring_launches, training_launches

ROOT = Path(__file__).resolve().parents[3]


def test_two_layers_by_hand() -> None:
    """Views (the flattening, transposed weights, expanded gradients) and empty memory are none."""
    with on_paper() as launches:
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
        with launches.phase("step"):
            F.mse_loss(model(torch.empty(5, 2, 3)), torch.empty(5, 2)).backward()
        model(torch.empty(5, 2, 3))  # in no phase
    assert launches.counts == {
        "step": {"addmm": 2, "relu": 1, "mse_loss": 1, "ones_like": 1},
        # The gradients of two weights and of what is between them; of two biases.
        "step, backward": {"mse_loss_backward": 1, "mm": 3, "sum": 2, "threshold_backward": 1},
    }


def test_reading_a_number_is_a_call() -> None:
    with on_paper() as launches, launches.phase("step"):
        assert torch.empty(()).item() == 1
    assert launches.counts == {"step": {"_local_scalar_dense": 1}}


def test_real_tensors_are_counted_as_well() -> None:
    with Launches() as launches, launches.phase("step"):
        x = torch.zeros(3, 4).t() + 1
        x += torch.zeros(4, 3)[:, :1]
        torch._foreach_mul_([x, x], 2.0)
    assert launches.counts == {"step": {"zeros": 2, "add": 1, "add_": 1, "_foreach_mul_": 1}}


def test_norms_under_autocast_are_cast_as_on_a_gpu() -> None:
    """Picture, weight and bias to float32, and then all of it to what the convolution works in; its own weights are in it already."""
    with on_paper() as launches:
        norm, convolution = nn.GroupNorm(2, 4, dtype=torch.bfloat16), nn.Conv2d(4, 4, 1, dtype=torch.bfloat16)
        x = torch.empty(1, 4, 8, 8, dtype=torch.bfloat16)
        with launches.phase("pass"), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            normed = norm(x)
            assert normed.dtype == torch.float32 and convolution(normed).dtype == torch.bfloat16
    assert launches.counts["pass"] == {"_to_copy": 4, "native_group_norm": 1, "convolution": 1}
    assert F.group_norm.__module__ == "torch.nn.functional" and F.group_norm.__name__ == "group_norm"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return write_sd_base(folder / "sd"), write_sdxl_base(folder / "sdxl")


def test_restoring_counts_the_layers_that_run(bases: tuple[Path, Path]) -> None:
    settings = generator_settings(str(bases[0]), rank=4, alpha=4)
    naive, fused = meta_generator(settings), fuse(meta_generator(settings, adapted=False))
    kinds = [type(layer) for layer in (*naive.unet.modules(), *naive.autoencoder.modules())]
    counts = {name: restoring_launches(generator, 64) for name, generator in {"naive": naive, "fused": fused}.items()}
    totals = {name: sum(of.values(), Counter()) for name, of in counts.items()}
    assert list(counts["naive"]) == ["VAE encode", "UNet", "VAE decode"]
    assert totals["naive"]["native_group_norm"] == sum(issubclass(kind, nn.GroupNorm) for kind in kinds)
    assert totals["naive"]["convolution"] == sum(issubclass(kind, nn.Conv2d) for kind in kinds)
    assert totals["naive"]["native_layer_norm"] == totals["fused"]["native_layer_norm"] == kinds.count(nn.LayerNorm)
    assert counts["naive"]["UNet"].total() > 2 * counts["fused"]["UNet"].total(), "an adapter is two layers and a sum"
    with pytest.raises(ValueError, match="multiple of"):
        restoring_launches(naive, 65)


@pytest.mark.slow
def test_an_iteration_of_both_players(bases: tuple[Path, Path]) -> None:
    sd, sdxl = bases
    changes = [
        f"network_g.pretrained={sd}", f"network_d.pretrained={sdxl}", "network_g.lora.rank=4", "network_g.lora.alpha=4",
        "datasets.train.gt_size=64", "datasets.train.batch_size_per_gpu=1", "train.ema_decay=0.9",
    ]  # fmt: skip
    counts = training_launches(load_train_options(ROOT / "options/train.yml", changes))
    steps = ["generator step", "generator step, backward", "discriminator step", "discriminator step, backward"]
    assert sorted(counts) == sorted([*steps, "updates"])
    updates = counts["updates"]
    assert updates["_fused_adamw_"] == updates["_foreach_norm"] == 2 and updates["_foreach_lerp_"] == 1
    assert updates.total() < 40, "no loop over parameters"
    assert "_local_scalar_dense" not in sum(counts.values(), Counter()), "the steps wait for nothing"
    convolutions = 13 * 2  # of VGG16, for both images; edges lie in the same batch
    assert counts["generator step"]["relu_"] == convolutions and counts["generator step, backward"]["threshold_backward"] == 13


@pytest.mark.slow
def test_an_iteration_without_discriminator(bases: tuple[Path, Path]) -> None:
    changes = [f"network_g.pretrained={bases[0]}", "datasets.train.gt_size=64", "train.perceptual.type=mse", "train.precision=fp32"]
    counts = training_launches(load_train_options(ROOT / "options/ablations/disc_none.yml", changes))
    assert list(counts) == ["generator step", "generator step, backward", "updates"] and counts["updates"]["_fused_adamw_"] == 1
