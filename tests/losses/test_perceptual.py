from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losses.dists import DISTS
from losses.ea_dists import EdgeAware
from losses.lpips_loss import LPIPS, UniformLPIPS
from losses.perceptual import PERCEPTUAL, build_perceptual, shifted_distance
from losses.settings import PerceptualSettings


def distance_of(kind: str, **more: Any) -> nn.Module | None:
    return build_perceptual(PerceptualSettings(type=kind, weight=1, **more))


def test_the_rows_of_table_5():
    assert list(PERCEPTUAL) == ["mse", "lpips", "ea_lpips", "dists", "ea_dists"]
    assert distance_of("mse") is None


@pytest.mark.parametrize("name", ["lpips", "ea_lpips", "dists", "ea_dists"])
def test_each_row_is_what_it_says_on_the_light_backbone(name, pair):
    module = distance_of(name, backbone="squeezenet1_1", backbone_weights="random")
    assert isinstance(module, EdgeAware) == name.startswith("ea_")
    distance = module.distance if isinstance(module, EdgeAware) else module
    assert isinstance(distance, DISTS if name.endswith("dists") else UniformLPIPS)
    sr = pair[0].requires_grad_()
    loss = module(sr, pair[1])
    assert loss.shape == () and loss.dtype == torch.float32
    loss.backward()
    assert sr.grad.isfinite().all() and sr.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_papers_backbone():
    assert isinstance(distance_of("lpips", backbone_weights="random"), LPIPS)
    module = distance_of("ea_dists", backbone_weights="random", dists_weights="uniform", sobel_mode="grey", sobel_eps=1e-8)
    assert module.distance.with_image
    assert (module.sobel_mode, module.sobel_eps) == ("grey", 1e-8)


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match="ea_dists"):
        distance_of("ea-dists")
    with pytest.raises(ValueError, match="vgg16, squeezenet1_1"):
        distance_of("lpips", backbone="alex")
    with pytest.raises(ValueError, match="dists_weights: expected DISTS' alpha and beta"):
        distance_of("ea_dists", backbone_weights="random")


def test_a_shift_moves_both_images_alike_and_by_every_offset() -> None:
    sr, hr = torch.rand(2, 2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    seen = set()
    for seed in range(60):
        crops: list[torch.Tensor] = []
        shifted_distance(lambda a, b, crops=crops: crops.extend((a, b)), 2, seed)(sr, hr)
        assert crops[0].shape == crops[1].shape == (2, 3, 10, 8)
        places = [(y, x) for y in range(3) for x in range(3) if torch.equal(crops[0], sr[..., y : y + 10, x : x + 8])]
        assert torch.equal(crops[1], hr[..., places[0][0] : places[0][0] + 10, places[0][1] : places[0][1] + 8])
        seen.add(places[0])
    assert len(seen) == 9


def test_no_shift_is_the_distance_itself() -> None:
    assert shifted_distance(F.mse_loss, 0, 0) is F.mse_loss and shifted_distance(None, 5, 0) is None
