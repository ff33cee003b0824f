"""Trunks with seeded random weights, ours and torchvision's own build of the same architecture: the independent truth needs no download."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from losses.features import Features, build_features


@pytest.fixture(scope="session")
def vgg() -> Features:
    return build_features("vgg16", "random")


@pytest.fixture(scope="session")
def squeezenet() -> Features:
    return build_features("squeezenet1_1", "random")


@pytest.fixture(scope="session")
def torchvision_vgg(vgg: Features) -> nn.Sequential:
    """torchvision's VGG16 `features` (max-pools) with the weights of `vgg`."""
    from torchvision.models.vgg import cfgs, make_layers

    with torch.device("meta"):
        layers = make_layers(cfgs["D"])
    layers.load_state_dict(vgg.layers.state_dict(), assign=True)
    return layers.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def torchvision_squeezenet(squeezenet: Features) -> nn.Sequential:
    """torchvision's SqueezeNet 1.1 `features` with the weights of `squeezenet`."""
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng():
        layers = squeezenet1_1(weights=None).features
    layers.load_state_dict(squeezenet.layers.state_dict())
    return layers.requires_grad_(False).eval()


@pytest.fixture
def patched_torchvision(monkeypatch, torchvision_vgg, torchvision_squeezenet) -> None:
    """torchvision.models.{vgg16, squeezenet1_1} give the trunks above, so pyiqa and lpips build on them (and skip 138 M parameters)."""
    import torchvision

    monkeypatch.setattr(torchvision.models, "vgg16", lambda *args, **kwargs: SimpleNamespace(features=torchvision_vgg))
    monkeypatch.setattr(torchvision.models, "squeezenet1_1", lambda *args, **kwargs: SimpleNamespace(features=torchvision_squeezenet))


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """(sr, hr): 2 smooth pictures of 64x64 with noise, in [0, 1]."""
    return make_pair()


def make_pair(size: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 8, 8, generator=generator)
    hr = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    sr = hr + 0.05 * torch.randn(hr.shape, generator=generator)
    return sr.clamp(0, 1), hr
