"""An autoencoder without weights to learn: an orthonormal block transform, whitened.

Where no learned VAE can be had, or none can be afforded, the latent of a picture is its blockwise DCT in an orthonormal
opponent colour space: lossless, free to decode, and at 1/4 of the picture's sides it is as small as the LR picture. Each of
its channels (16 frequencies x 3 colours for 4 x 4 blocks) is whitened to zero mean and unit variance over photographs,
which is what a diffusion model's noise schedule expects of a latent.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.precision import without_autocast

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
SMALLEST_STD = 1e-4  # far below what 8 bit pictures hold; a channel that never varies (grey pictures have no colour) is not blown up


def dct_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II: (size, size) float64, row k is frequency k."""
    n = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (n[None, :] + 0.5) * n[:, None]) * math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def opponent_colours() -> Tensor:
    """Orthonormal opponent colours of RGB: (3, 3) float64, rows intensity, red-blue, green-magenta."""
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    return colours / colours.norm(dim=1, keepdim=True)


class BlockTransform(nn.Module):
    """Whitened orthonormal transform of block_size x block_size RGB blocks.

    Latent channel c = (colour * block_size + vertical frequency) * block_size + horizontal frequency.
    `mean` and `std` (C,) are buffers; the identity until `fit`. Computed in float32 also under autocast.
    """

    def __init__(self, block_size: int = 4):
        super().__init__()
        self.block_size = block_size
        self.latent_channels = 3 * block_size**2
        dct = dct_matrix(block_size)
        basis = torch.einsum("oc,yi,xj->oyxcij", opponent_colours(), dct, dct)
        self.register_buffer("basis", basis.reshape(self.latent_channels, 3, block_size, block_size).float(), persistent=False)
        self.register_buffer("mean", torch.zeros(self.latent_channels))
        self.register_buffer("std", torch.ones(self.latent_channels))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BlockTransform":
        """As config.json describes it, not whitened yet; named as diffusers' models name it."""
        return cls(config["block_size"])

    def transform(self, images: Tensor) -> Tensor:
        """Unwhitened coefficients: (N, 3, H, W) -> (N, C, H/b, W/b). Keeps the energy of the picture."""
        with without_autocast(images):
            return F.conv2d(images, self.basis.to(images.dtype), stride=self.block_size)

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1], sides multiples of the block -> latents (N, C, H/b, W/b), float32."""
        z = self.transform(images.float())
        return (z - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, C, h, w) -> images (N, 3, bh, bw), float32; the exact inverse of `encode`."""
        z = z.float() * self.std.view(1, -1, 1, 1) + self.mean.view(1, -1, 1, 1)
        with without_autocast(z):
            return F.conv_transpose2d(z, self.basis, stride=self.block_size)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Sets mean and std from a sample of pictures (N, 3, H, W) in [-1, 1]."""
        z = self.transform(images.float())
        self.mean.copy_(z.mean(dim=(0, 2, 3)))
        self.std.copy_(z.std(dim=(0, 2, 3)).clamp(min=SMALLEST_STD))

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and the whitening statistics, laid out as diffusers lays out an autoencoder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = {"block_size": self.block_size, "latent_channels": self.latent_channels}
        config = {"_class_name": type(self).__name__, **sizes, "scaling_factor": 1.0}
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({"mean": self.mean.contiguous(), "std": self.std.contiguous()}, folder / WEIGHTS_NAME)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "BlockTransform":
        """Reads what `save_pretrained` wrote."""
        transform = cls.from_config(json.loads((Path(folder) / CONFIG_NAME).read_text(encoding="utf-8")))
        transform.load_state_dict(load_file(Path(folder) / WEIGHTS_NAME))
        return transform
