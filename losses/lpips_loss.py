"""LPIPS (Zhang et al. 2018) in two forms: the lpips package with its calibrated heads, and a light one with uniform weights.

The heads were calibrated for torchvision's VGG16 and SqueezeNet features. On VGG16 they are used. On SqueezeNet, `build_perceptual`
takes the uniform form: the light backbone has to work with other people's weights as well, for which those heads mean nothing,
and it stops at tap 9 of 12.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from losses.features import Features, build_features, check_pair, get_backbone

LPIPS_NETS = {"vgg16": "vgg", "squeezenet1_1": "squeeze"}


class LPIPS(nn.Module):
    """LPIPS v0.1 of the lpips package, with its heads; frozen, float32 even under autocast.

    backbone, weights: as in `build_features`, with its errors; the package itself downloads nothing. VGG16 keeps its max-pools here.
    """

    def __init__(self, backbone: str, weights: str) -> None:
        super().__init__()
        get_backbone(backbone)
        self.model = _build_lpips(LPIPS_NETS[backbone], build_features(backbone, weights).layers.state_dict())

    def scores(self, sr: Tensor, hr: Tensor) -> Tensor:
        """LPIPS of each pair of images (N, 3, H, W) in [0, 1]: float32 (N,). ValueError if the shapes differ."""
        check_pair(sr, hr)
        with torch.autocast(sr.device.type, enabled=False):
            # normalize=True is the package's word for [0, 1] -> [-1, 1]; without it the value is wrong by a factor of about 9.
            return self.model(sr.float(), hr.float(), normalize=True).flatten()

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Mean of `scores` over the batch: float32 scalar."""
        return self.scores(sr, hr).mean()


class UniformLPIPS(nn.Module):
    """LPIPS' formula without heads: unit-normalise every position over the channels, squared difference, sum over channels, mean over
    positions, mean over taps. Frozen, float32 even under autocast.
    """

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features

    def scores(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The distance of each pair of images (N, 3, H, W) in [0, 1]: float32 (N,). ValueError if the shapes differ."""
        check_pair(sr, hr)
        with torch.autocast(sr.device.type, enabled=False):
            pairs = zip(self.features(sr.float()), self.features(hr.float()), strict=True)
            distances = [(_unit(x) - _unit(y)).square().sum(1).mean((1, 2)) for x, y in pairs]
            return torch.stack(distances).mean(0)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Mean of `scores` over the batch: float32 scalar."""
        return self.scores(sr, hr).mean()


def _unit(hidden: Tensor) -> Tensor:
    # The constant stands inside the root: outside, as in the package, the gradient at an all-zero position is NaN.
    return hidden / (hidden.square().sum(1, keepdim=True) + 1e-20).sqrt()


def _build_lpips(net: str, trunk: dict[str, Tensor]) -> nn.Module:
    import lpips  # late: it brings torchvision, and only training with LPIPS needs it

    # On the meta device: the package would first build and randomly fill a VGG16 with its 138 M parameter classifier.
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, use_dropout=False, verbose=False)
    model.scaling_layer = lpips.ScalingLayer()
    state = {f"scaling_layer.{key}": value for key, value in model.scaling_layer.state_dict().items()}
    for key in model.net.state_dict():
        state[f"net.{key}"] = trunk[key.split(".", 1)[1]]  # slice2.5.weight is 5.weight of `features`
    heads = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth", map_location="cpu", weights_only=True)
    for key, value in heads.items():
        index = key.removeprefix("lin").split(".", 1)[0]
        # The package holds each head under two names; 1x1 convolutions without the dropout layer that stood at 0.
        state[f"lin{index}.model.0.weight"] = state[f"lins.{index}.model.0.weight"] = value
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()
