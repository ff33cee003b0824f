"""What the perceptual loss is made of: every number with its one default. Torch-free; options/ reads this object from its files.

It is frozen and checks itself: a wrong value is a `ValueError` that begins with the field's name.
"""

from dataclasses import dataclass
from typing import Literal


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class PerceptualSettings:
    """The perceptual part of the spatial loss (Eq. 5 to 8)."""

    type: Literal["mse", "lpips", "ea_lpips", "dists", "ea_dists"] = "ea_dists"
    """The rows of Table 5; mse = no perceptual loss."""
    weight: float
    """lambda_2 of Eq. 8; without effect when type is mse."""
    backbone: Literal["vgg16", "squeezenet1_1"] = "vgg16"
    """vgg16 as in the papers, or the light SqueezeNet 1.1."""
    backbone_weights: str = "torchvision"
    """torchvision = its download; a .pth or .safetensors file; or random (seeded), for tests."""
    dists_weights: str | None = None
    """File with DISTS' alpha and beta, which belong to vgg16, or uniform for equal weights; null with squeezenet1_1 and for other types."""
    sobel_mode: Literal["channel", "grey"] = "grey"
    """Edges of Eq. 6 and 7 for each colour channel, or of the grey image."""
    sobel_eps: float = 1e-6
    """Added under the square root of Eq. 7, so that flat places have a gradient."""
    shift: int = 0
    """Both images are moved by the same random 0..shift pixels first, so that no grid can hide in the backbone's strides."""

    def __post_init__(self) -> None:
        _check(self.shift >= 0, f"shift must not be negative, got {self.shift}")
        _check(self.weight >= 0, f"weight must not be negative, got {self.weight}")
        _check(bool(self.backbone_weights), "backbone_weights must be torchvision, a file, or random")
        if self.type in ("dists", "ea_dists"):
            vgg16, given = self.backbone == "vgg16", self.dists_weights
            _check(not vgg16 or bool(given), "dists_weights: expected DISTS' alpha and beta (options/train.yml names the file's address)")
            _check(vgg16 or given in (None, "uniform"), f"dists_weights: expected null or uniform with {self.backbone}, got {given!r}")
        _check(self.sobel_eps > 0, f"sobel_eps must be above 0, got {self.sobel_eps}")
