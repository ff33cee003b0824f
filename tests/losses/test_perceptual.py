import pytest
import torch

from losses.dists import DISTS
from losses.ea_dists import EdgeAware
from losses.lpips_loss import LPIPS, UniformLPIPS
from losses.perceptual import PERCEPTUAL, build_perceptual


def test_the_rows_of_table_5():
    assert list(PERCEPTUAL) == ["mse", "lpips", "ea_lpips", "dists", "ea_dists"]
    assert build_perceptual("mse") is None


@pytest.mark.parametrize("name", ["lpips", "ea_lpips", "dists", "ea_dists"])
def test_each_row_is_what_it_says_on_the_light_backbone(name, pair):
    module = build_perceptual(name, backbone="squeezenet1_1", backbone_weights="random")
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
    assert isinstance(build_perceptual("lpips", backbone_weights="random"), LPIPS)
    module = build_perceptual("ea_dists", backbone_weights="random", dists_weights="uniform", sobel_mode="grey", sobel_eps=1e-8)
    assert module.distance.with_image
    assert (module.sobel_mode, module.sobel_eps) == ("grey", 1e-8)


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match="ea_dists"):
        build_perceptual("ea-dists")
    with pytest.raises(ValueError, match="vgg16, squeezenet1_1"):
        build_perceptual("lpips", backbone="alex")
    with pytest.raises(ValueError, match="f5e65c96"):
        build_perceptual("ea_dists", backbone_weights="random")
