"""The perceptual losses one can choose by name: the rows of the paper's Table 5."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from losses.dists import build_dists
from losses.ea_dists import EdgeAware
from losses.features import build_features, get_backbone
from losses.lpips_loss import LPIPS, UniformLPIPS
from losses.settings import PerceptualSettings


class Recipe(NamedTuple):
    """How a row of Table 5 is put together."""

    distance: str
    """"lpips" or "dists"."""
    edge_aware: bool
    """Whether the distance of the Sobel edges is added (Eq. 5)."""
    bytes_per_pixel: dict[str, int]
    """Backbone -> what autograd keeps of it per pixel of SR, float32 and grey edges: measured on a CPU with `saved_tensors_hooks`."""


PERCEPTUAL: dict[str, Recipe | None] = {
    "mse": None,  # Eq. 8 without its second term
    "lpips": Recipe("lpips", edge_aware=False, bytes_per_pixel={"vgg16": 2439, "squeezenet1_1": 366}),
    "ea_lpips": Recipe("lpips", edge_aware=True, bytes_per_pixel={"vgg16": 4889, "squeezenet1_1": 745}),
    "dists": Recipe("dists", edge_aware=False, bytes_per_pixel={"vgg16": 2694, "squeezenet1_1": 476}),
    "ea_dists": Recipe("dists", edge_aware=True, bytes_per_pixel={"vgg16": 5400, "squeezenet1_1": 965}),
}


def build_perceptual(settings: PerceptualSettings) -> nn.Module | None:
    """A frozen module (sr, hr) -> float32 scalar, the mean over the batch of images (N, 3, H, W) in [0, 1]; None for "mse".

    settings: of its fields `weight` and `shift` are left to the caller. LPIPS is the lpips package with its heads on vgg16, and the uniform
    formula on squeezenet1_1 (see losses.lpips_loss). Besides `forward`, the module has `scores(sr, hr) -> (N,)`.
    Raises ValueError (settings, files) or OSError (download).
    """
    if settings.type not in PERCEPTUAL:
        raise ValueError(f"perceptual type: {settings.type!r} is unknown; expected one of {', '.join(PERCEPTUAL)}")
    recipe, backbone, weights = PERCEPTUAL[settings.type], settings.backbone, settings.backbone_weights
    if recipe is None:
        return None
    get_backbone(backbone)
    if recipe.distance == "dists":
        distance = build_dists(backbone, weights, settings.dists_weights)
    elif backbone == "vgg16":
        distance = LPIPS(backbone, weights)
    else:
        distance = UniformLPIPS(build_features(backbone, weights))
    return EdgeAware(distance, sobel_mode=settings.sobel_mode, sobel_eps=settings.sobel_eps) if recipe.edge_aware else distance


def shifted_distance(
    distance: Callable[[Tensor, Tensor], Tensor] | None, largest: int, seed: int
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """`distance` of both images moved by the same random 0..largest pixels, one offset for a whole iteration.

    The strides of a backbone and the blocks of an autoencoder form grids; where the two always coincide, a generator can put a pattern
    of that period into every picture and be rewarded for it. Offsets take the coincidence away.
    """
    if distance is None or largest == 0:
        return distance
    top, left = torch.randint(0, largest + 1, (2,), generator=torch.Generator().manual_seed(seed)).tolist()

    def of_crops(sr: Tensor, hr: Tensor) -> Tensor:
        height, width = sr.shape[-2] - largest, sr.shape[-1] - largest
        window = (..., slice(top, top + height), slice(left, left + width))
        return distance(sr[window], hr[window])

    return of_crops
