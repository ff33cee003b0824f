"""The frozen convolution trunks behind DISTS and LPIPS, without torchvision's import and without any classifier.

Only the convolutions of VGG16 (59 MB instead of 553 MB) and SqueezeNet 1.1 (2.9 MB) are built; key names are those of torchvision's
`features`, so its files load. Nothing is random unless `weights="random"` is asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from data.whole_files import sha256_of, why_no_tensors

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RANDOM_SEED = 0
VGG16_WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)


class L2Pool(nn.Module):
    """DISTS' pooling, sqrt(g * h^2) with stride 2: no aliasing, unlike the max-pool it stands for.

    (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2)); g is the 3x3 Hann window, zero-padded by 1 as in the reference DISTS.
    """

    def __init__(self) -> None:
        super().__init__()
        window = torch.tensor((0.25, 0.5, 0.25))
        self.register_buffer("window", window.outer(window)[None, None], persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        channels = hidden.shape[1]
        kernel = self.window.expand(channels, 1, 3, 3)
        power = F.conv2d(hidden.square(), kernel, stride=2, padding=1, groups=channels)
        return (power + 1e-12).sqrt()


class Fire(nn.Module):
    """SqueezeNet's block: a 1x1 squeeze, then 1x1 and 3x3 expansions side by side. (N, C, H, W) -> (N, 2 * expand, H, W)."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1, device="meta")
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1, device="meta")
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1, device="meta")

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.squeeze(hidden).relu_()
        return torch.cat((self.expand1x1(hidden), self.expand3x3(hidden)), dim=1).relu_()


def _vgg16_layers() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG16_WIDTHS:
        if width == "pool":
            layers.append(L2Pool())
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1, device="meta"), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers)


def _squeezenet_layers() -> nn.Sequential:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    head = (nn.Conv2d(3, 64, 3, stride=2, device="meta"), nn.ReLU(inplace=True), pool())
    middle = (Fire(64, 16, 64), Fire(128, 16, 64), pool(), Fire(128, 32, 128), Fire(256, 32, 128), pool())
    tail = (Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256))
    return nn.Sequential(*head, *middle, *tail)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """What is fixed about a trunk; its numbers are torchvision's."""

    build_layers: Callable[[], nn.Sequential]
    """Builds `features` with parameters on the meta device: no memory, no random numbers."""
    taps: tuple[int, ...]
    """Indices in `features` whose output, after its ReLU, is a tap."""
    channels: tuple[int, ...]
    """Channels of each tap."""
    url: str
    """torchvision's weight file; the 8 digits in its name start its SHA-256."""


BACKBONES: dict[str, Backbone] = {
    "vgg16": Backbone(
        build_layers=_vgg16_layers,
        taps=(3, 8, 15, 22, 29),
        channels=(64, 128, 256, 512, 512),
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    "squeezenet1_1": Backbone(
        build_layers=_squeezenet_layers,
        taps=(1, 4, 7, 9),
        channels=(64, 128, 256, 384),
        url="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    ),
}


class Features(nn.Module):
    """A frozen trunk: images (N, 3, H, W) in [0, 1] -> list of taps (N, C_k, H_k, W_k), all >= 0 (after a ReLU).

    ImageNet's mean and std are applied inside. VGG16 has DISTS' L2 pooling in place of its max-pools, SqueezeNet keeps its own.
    """

    def __init__(self, layers: nn.Sequential, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers
        self.taps = taps
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        hidden = (images - self.mean) / self.std
        taps = []
        for index in range(self.taps[-1] + 1):
            hidden = self.layers[index](hidden)
            if index in self.taps:
                taps.append(hidden)
        return taps


def get_backbone(name: str) -> Backbone:
    """The entry of BACKBONES; raises ValueError that lists the names."""
    if name not in BACKBONES:
        raise ValueError(f"perceptual backbone: {name!r} is unknown; expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build_features(backbone: str, weights: str) -> Features:
    """A frozen trunk with loaded weights.

    backbone: "vgg16" (taps relu1_2, relu2_2, relu3_3, relu4_3, relu5_3) or "squeezenet1_1" (after features 1, 4, 7, 9).
    weights: "torchvision" (its file from torch.hub's cache, else downloaded; the SHA-256 is checked either way), a path to a
    .pth / .pt / .safetensors file (torchvision's whole state dict, or `features` alone, with or without the prefix `features.`),
    or "random" (He-normal from a fixed seed of its own; for tests and timing only).
    Raises ValueError for a wrong name, file or content, OSError when the download fails.
    """
    spec = get_backbone(backbone)
    layers = spec.build_layers()
    if weights == "random":
        state = _random_state(layers)
    else:
        path = backbone_file(backbone) if weights == "torchvision" else Path(weights).expanduser()
        state = _features_only(read_state_dict(path))
        _check_state(state, layers, f"{path} does not hold the features of {backbone}")
    state = {key: value.to(torch.float32, copy=True) for key, value in state.items()}
    layers.load_state_dict(state, assign=True)
    return Features(layers, spec.taps)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a .pth / .pt file (weights only, no code is run). ValueError says what is wrong."""
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise ValueError(f'weights: {str(path)!r} is not understood; expected "torchvision", "random", or a .pth, .pt or .safetensors file')
    if not path.is_file():
        raise ValueError(f"weights: there is no file {path}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of anyone's may make the libraries say anything
        raise ValueError(f"weights: {path} cannot be read as a plain state dict ({why_no_tensors(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights: {path} holds no plain state dict (names to tensors)")
    return state


def check_pair(sr: Tensor, hr: Tensor) -> None:
    """Raise ValueError unless both are (N, 3, H, W) of one shape: broadcasting would compare the wrong pictures in silence."""
    if sr.shape != hr.shape or sr.ndim != 4 or sr.shape[1] != 3:
        raise ValueError(f"sr and hr must both be (N, 3, H, W) of one shape; got {tuple(sr.shape)} and {tuple(hr.shape)}")


def _random_state(layers: nn.Sequential) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    state = {}
    for key, value in layers.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        state[key] = noise * math.sqrt(2 / value[0].numel()) if value.ndim == 4 else torch.zeros(value.shape)
    return state


def _features_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefixed = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    return prefixed or state


def _check_state(state: dict[str, Tensor], layers: nn.Sequential, problem: str) -> None:
    expected = {key: tuple(value.shape) for key, value in layers.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = [f"{key} {found.get(key, 'missing')} instead of {shape}" for key, shape in expected.items() if found.get(key) != shape]
    wrong += [f"{key} is not part of it" for key in found if key not in expected]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"weights: {problem}: {'; '.join(wrong[:3])}{more}")


def backbone_file(backbone: str, *, check: bool = True) -> Path:
    """torchvision's weight file of a trunk in torch.hub's cache, downloaded where it is not there.

    check: compare its SHA-256, which for VGG16 means to read 553 MB; without, what was checked before is taken as it is.
    Raises ValueError for another file of that name, OSError when the download fails.
    """
    url = get_backbone(backbone).url
    name = url.rsplit("/", 1)[-1]
    expected = name.rsplit("-", 1)[-1].removesuffix(".pth")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=expected)
        except (OSError, RuntimeError) as error:  # no network, full disk; or the hash of what arrived
            raise OSError(
                f"weights: cannot download {name} from {url} ({error}). Get that file on a machine with network and put it into "
                f'{path.parent}, or give its path (or a .safetensors of it) in place of "torchvision" (train.perceptual.backbone_weights)'
            ) from error
    found = sha256_of(path) if check else expected
    if not found.startswith(expected):
        raise ValueError(
            f"weights: {path} is not torchvision's {name}: its SHA-256 starts with {found[:8]}. Delete it to download it again; "
            f'to use weights of your own, give their path in place of "torchvision"'
        )
    return path
