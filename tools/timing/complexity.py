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
from models.release import MERGED
from models.settings import DiscriminatorSettings, FastVaeSettings, GeneratorSettings
from models.sizes import find_config, meta_discriminator, meta_generator, trained_settings
from options.d3sr import TestOptions, TrainOptions
from tools.timing.launches import check_size, describe_launches

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
    check_size(generator, size)
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


def describe(options: TrainOptions | TestOptions, size: int, launches: bool = False) -> list[str]:
    """Lines on the generator at size x size output pixels, and on the discriminator where the options train one; or on their launches.

    Raises:
        ValueError: sizes that are unknown or do not fit, or a test whose generator is not there and which names no base.
    """
    if launches:
        return describe_launches(options, size)
    g = options.network_g
    if isinstance(options, TestOptions):
        return describe_generator(trained_settings(g.path, base=g.pretrained, revision=g.revision), g.fast_vae, size)
    lines = describe_generator(g, None, size)
    if options.network_d.type == "none":
        return lines
    return [*lines, "", *describe_discriminator(options.network_d, size // meta_generator(g).autoencoder.factor)]


def describe_generator(settings: GeneratorSettings, fast_vae: FastVaeSettings | None, size: int) -> list[str]:
    """Both countings as the generator trains, and the stages as they run once the LoRA is merged."""
    generator = meta_generator(settings, fast_vae)
    rows = generator_macs(meta_generator(settings, fast_vae, adapted=False), size)
    macs = total(rows.values())
    trained = "merged" if settings.train == MERGED else "all of the UNet trained"
    if settings.train == "lora":
        trained = f"LoRA of rank {settings.lora.rank}, not merged"
        merged, macs = macs, total(generator_macs(generator, size).values())
        rows |= {"total, LoRA merged": merged, "LoRA": macs - merged}
    if fast_vae is not None:
        trained += f", {fast_vae.parts} of {fast_vae.path}"
    origin = find_config(settings.pretrained, "unet", settings.revision)[1]
    head = f"Generator at {size}x{size} pixels: {settings.pretrained}, {trained}; sizes from {origin}"
    return [head, *_headline(macs, count_parameters(generator)), "", *_table({**rows, "total": macs})]


def describe_discriminator(settings: DiscriminatorSettings, side: int) -> list[str]:
    """Both countings as the discriminator trains, and of its trunk alone."""
    bare, discriminator = meta_discriminator(settings, adapted=False), meta_discriminator(settings)
    macs = discriminator_macs(discriminator, side)["with head"]
    trunk, parameters = discriminator_macs(bare, side)["trunk"], count_parameters(bare.trunk)
    trained = "all of it trained" if settings.train == "full" else f"LoRA of rank {settings.lora.rank}, not merged"
    origin = find_config(settings.pretrained, "unet", settings.revision)[1]
    return [
        f"Discriminator on a latent of {side}x{side}: {settings.pretrained}, {trained}; sizes from {origin}",
        *_headline(macs, count_parameters(discriminator)),
        "",
        *_table({"trunk": trunk, "LoRA and head": macs - trunk, "total": macs}),
        f"  {'parameters of the trunk':24}{parameters.everything / 1e6:>10,.2f} M",
    ]


def _headline(macs: Macs, parameters: Parameters) -> list[str]:
    """Both countings, in the paper's units."""
    return [
        f"  {'':24}{'parameters':>12}{'MACs':>14}",
        f"  {'as thop counts':24}{parameters.thop / 1e6:>10,.2f} M{macs.thop / 1e9:>12,.1f} G",
        f"  {'everything':24}{parameters.everything / 1e6:>10,.2f} M{macs.everything / 1e9:>12,.1f} G",
    ]


def _table(rows: dict[str, Macs]) -> list[str]:
    """GMACs by stage."""
    lines = [f"  {'GMACs':24}{'everything':>12}{'conv + linear':>16}"]
    return lines + [f"  {name:24}{macs.everything / 1e9:>12,.2f}{macs.layers / 1e9:>16,.2f}" for name, macs in rows.items()]
