"""Parameters and multiply-accumulates (MACs) of a network, counted in two ways; works on the meta device.

Everything: all elements of all parameters, and every convolution and matrix product that runs, attention and functional calls
included, as torch's FlopCounterMode sees them (2 FLOPs are 1 MAC). Norms, activations and interpolation are not in it.

thop's way, which gives Table 3 of the paper to the last digit (966.3 M, 2,132 G): only whole layers of the kinds in `THOP_RULES`, each
with its own rule; their parameters, and nothing else. So no attention products, no GroupNorm, no parameter that belongs to no such
layer (the text embedding). The rules are written from what thop 0.1.1 does, with which they were compared; thop is not needed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.objectives import frozen
from models.discriminator import Discriminator
from models.generator import Generator

Rule = Callable[[nn.Module, Tensor, Tensor], int]


def conv_macs(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    """Output elements x input channels of a group x kernel size; no bias.

    thop uses it for transposed convolutions as well, where it counts stride^2 times too many.
    """
    return y.numel() * (x.shape[1] // layer.groups) * prod(layer.weight.shape[2:])


def linear_macs(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    """Output elements x input features; no bias."""
    return y.numel() * layer.in_features


def norm_macs(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    """Two operations per element, twice that with weight and bias. (thop calls these operations MACs.)"""
    return x.numel() * (4 if layer.weight is not None else 2)


def upsample_macs(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    """One per output element; nearest neighbour, the only kind that these models have as a layer."""
    return y.numel()


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MATRIX_LAYERS = (*CONVOLUTIONS, nn.Linear)
THOP_RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys(CONVOLUTIONS, conv_macs),
    nn.Linear: linear_macs,
    nn.LayerNorm: norm_macs,
    nn.Upsample: upsample_macs,
}


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass: of everything, thop's way, and of convolution and linear layers alone."""

    everything: int
    thop: int
    layers: int

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(self.everything + other.everything, self.thop + other.thop, self.layers + other.layers)

    def __sub__(self, other: "Macs") -> "Macs":
        return Macs(self.everything - other.everything, self.thop - other.thop, self.layers - other.layers)


@dataclass(frozen=True)
class Parameters:
    """Numbers that a network holds: all of them, and thop's way."""

    everything: int
    thop: int


def total(parts: Iterable[Macs]) -> Macs:
    """The sum."""
    return sum(parts, Macs(0, 0, 0))


def count_macs(module: nn.Module, forward: Callable[[], object]) -> Macs:
    """The MACs of what `forward` runs; its layers are those of `module`."""
    seen: list[tuple[type, int]] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((type(layer), THOP_RULES[type(layer)](layer, inputs[0], output)))

    handles = [layer.register_forward_hook(count) for layer in module.modules() if type(layer) in THOP_RULES]
    try:
        # FlopCounterMode fails on a parameter that wants a gradient, even where none is taken.
        with frozen(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
            forward()
    finally:
        for handle in handles:
            handle.remove()
    layers = sum(macs for kind, macs in seen if kind in MATRIX_LAYERS)
    return Macs(counter.get_total_flops() // 2, sum(macs for _, macs in seen), layers)


def count_parameters(module: nn.Module) -> Parameters:
    """The parameters of a network, counted both ways."""
    known = [layer for layer in module.modules() if type(layer) in THOP_RULES]
    return Parameters(_elements(module.parameters()), sum(_elements(layer.parameters()) for layer in known))


def _elements(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def generator_macs(generator: Generator, size: int) -> dict[str, Macs]:
    """MACs of each stage for one output picture of size x size pixels: VAE encode, UNet (with Eq. 1), VAE decode.

    Raises:
        ValueError: `size` is no multiple of what the generator works in.
    """
    if size < 1 or size % generator.size_multiple:
        raise ValueError(f"size: expected a multiple of {generator.size_multiple} pixels, got {size}")
    device = generator.prompt_embedding.device
    side, autoencoder = size // generator.autoencoder.factor, generator.autoencoder
    images = torch.zeros(1, 3, size, size, device=device)
    z = torch.zeros(1, autoencoder.latent_channels, side, side, device=device)
    return {
        "VAE encode": count_macs(generator, lambda: generator.encode(images)),
        "UNet": count_macs(generator, lambda: generator.denoise(z)),
        "VAE decode": count_macs(generator, lambda: autoencoder.decode(z)),
    }


def discriminator_macs(discriminator: Discriminator, side: int) -> dict[str, Macs]:
    """MACs for one latent of side x side positions: the trunk, and with the head."""
    device = discriminator.prompt_embedding.device
    z = torch.zeros(1, discriminator.in_channels, side, side, device=device)
    timesteps = torch.zeros(1, dtype=torch.long, device=device)
    trunk = count_macs(discriminator, lambda: discriminator.features(z, timesteps))
    return {"trunk": trunk, "with head": count_macs(discriminator, lambda: discriminator(z, timesteps))}
