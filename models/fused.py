"""The generator as it is run, with everything folded that is the same for every picture: fewer weights and operations, the same pictures.

Beside the UNet (`models.fused_unet`): the encoder's last convolution gives z_L itself, and the UNet's last one what the decoder takes, so
that quant and post-quant convolutions, the variance half, the scaling factor, the whitening of a block transform and Eq. 1 are gone, but
for one small product with z_L. All of it is exact: only sums are taken in another order.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.autoencoders import Autoencoder, BlockAutoencoder, KLAutoencoder, SharedAutoencoder, TinyAutoencoder
from models.block_transform import BlockTransform
from models.fused_unet import FusedUNet, same_layer
from models.generator import Generator
from models.precision import without_autocast

Affine = tuple[Tensor, Tensor]
"""Matrix (C, C) and shift (C,), float64: what the decoder takes is matrix z + shift."""


class FoldedKL(KLAutoencoder):
    """A VAE whose encoder gives z as it is, and that takes what the UNet's last layer makes of it."""

    def latents(self, encoded: Tensor) -> Tensor:
        """The folded encoder gives z itself."""
        return encoded

    def decoder_input(self, z: Tensor) -> Tensor:
        """The folded UNet gives what the decoder takes."""
        return z.to(next(self.model.parameters()).dtype)


class FoldedTiny(TinyAutoencoder):
    """An AutoencoderTiny that takes what the UNet's last layer makes of its latents."""

    decoder_input = FoldedKL.decoder_input


class FoldedBlockTransform(BlockTransform):
    """Encodes with the whitening in the basis; decodes coefficients that are not whitened. Float32 as ever, float64 if made so."""

    def __init__(self, transform: BlockTransform):
        super().__init__(transform.block_size)
        self.load_state_dict(transform.state_dict())
        self.to(transform.basis)
        std = transform.std.double()
        self.register_buffer("whitening", (transform.basis.double() / std.view(-1, 1, 1, 1)).to(transform.basis))
        self.register_buffer("shift", (-transform.mean.double() / std).to(transform.basis))

    def encode(self, images: Tensor) -> Tensor:
        """As `BlockTransform.encode`."""
        with without_autocast(images):
            return F.conv2d(images.to(self.whitening.dtype), self.whitening, self.shift, stride=self.block_size)

    def decode(self, z: Tensor) -> Tensor:
        """Coefficients (N, C, h, w) -> images (N, 3, bh, bw)."""
        with without_autocast(z):
            return F.conv_transpose2d(z.to(self.basis.dtype), self.basis, stride=self.block_size)


class FusedGenerator(Generator):
    """For inference only. As its `Generator`, but the z_hat that `denoise` and `forward` return is in the decoder's own terms.

    Tiles may be blended in them as well as in z_hat, since one is an affine map of the other.
    """

    def __init__(
        self, generator: Generator, unet: FusedUNet, autoencoder: Autoencoder, from_z_lr: Tensor, memory_format: torch.memory_format
    ):
        empty = generator.prompt_embedding.detach()[:0]  # nothing is left of it: its keys and values are in the UNet
        super().__init__(unet, autoencoder, generator.alphas_cumprod, empty, generator.timestep, generator.scale)
        diagonal = from_z_lr.diag()
        self.is_diagonal = from_z_lr.is_meta or torch.equal(from_z_lr, diagonal.diag())
        weight = diagonal.view(1, -1, 1, 1) if self.is_diagonal else from_z_lr[..., None, None]
        precise = torch.promote_types(self.dtype, torch.float32)
        self.register_buffer("from_z_lr", weight.to(precise), persistent=False)
        self.memory_format = memory_format
        self.to(memory_format=memory_format).requires_grad_(False).eval()

    def denoise(self, z_lr: Tensor) -> Tensor:
        """What the decoder takes: latents (N, C, h, w) -> (N, C, h, w), float32 or finer."""
        step = self.unet(z_lr.to(self.dtype).contiguous(memory_format=self.memory_format)).to(self.from_z_lr.dtype)
        z_lr = z_lr.to(step.dtype)
        return torch.addcmul(step, z_lr, self.from_z_lr) if self.is_diagonal else step + F.conv2d(z_lr, self.from_z_lr)


@torch.no_grad()
def fuse(
    generator: Generator, *, phase_upsampling: bool = False, memory_format: torch.memory_format = torch.channels_last
) -> FusedGenerator:
    """The inference form of a loaded generator. Layers that stay as they are are shared.

    Best before `cast_weights` to half precision, and on the CPU: sums are taken in float64.

    Args:
        phase_upsampling: the UNet enlarges by transposed convolutions; fewer operations, not everywhere faster: tools/benchmark.py.
        memory_format: of weights and latents.

    Raises:
        ValueError: it has parts that cannot be folded exactly.
    """
    autoencoder, (matrix, shift) = fold_autoencoder(generator.autoencoder)
    unet = FusedUNet(generator.unet, generator.timestep, generator.prompt_embedding, phase_upsampling=phase_upsampling)
    alpha_bar = generator.alphas_cumprod[generator.timestep].double()
    of_noise, of_z_lr = -(1 - alpha_bar).sqrt() / alpha_bar.sqrt(), 1 / alpha_bar.sqrt()  # Eq. 1
    weight, bias = unet.conv_out.weight.double(), unet.conv_out.bias.double()
    weight = torch.einsum("ab,bcij->acij", of_noise * matrix, weight)
    unet.conv_out = same_layer(unet.conv_out, weight, of_noise * matrix @ bias + shift)
    return FusedGenerator(generator, unet, autoencoder, of_z_lr * matrix, memory_format)


def compile_networks(generator: Generator, mode: str | None = None) -> None:
    """Compiles the networks where they are, each the first time it sees a size; after a few sizes one version for all of them.

    A learned autoencoder's two halves run compiled on whole pictures only: tiles go through its layers one by one. Compiled code is kept in
    TORCHINDUCTOR_CACHE_DIR, or a folder of torch's own choice below the temporary files. A CPU needs a C++ compiler.

    mode: as for torch.compile. With "reduce-overhead" (CUDA graphs) each network's output lies where the next picture's will:
        `torch.compiler.cudagraph_mark_step_begin` must be called before each picture.
    """
    generator.unet.compile(mode=mode)
    for autoencoder, name in ((generator.autoencoder.encoding, "encoder"), (generator.autoencoder.decoding, "decoder")):
        half = getattr(autoencoder.model, name, None)
        if half is not None:
            half.compile(mode=mode)


def fold_autoencoder(autoencoder: Autoencoder) -> tuple[Autoencoder, Affine]:
    """An autoencoder whose encoder gives z, and the map from z_hat to what its decoder takes."""
    if isinstance(autoencoder, SharedAutoencoder):
        encoding, _ = fold_autoencoder(autoencoder.encoding)
        decoding, affine = fold_autoencoder(autoencoder.decoding)
        return SharedAutoencoder(encoding, decoding), affine
    model = autoencoder.model
    if isinstance(autoencoder, BlockAutoencoder):
        return BlockAutoencoder(FoldedBlockTransform(model)), (model.std.double().diag(), model.mean.double())
    scaling = model.config.scaling_factor
    like = next(model.parameters())
    identity = torch.eye(autoencoder.latent_channels, dtype=torch.float64, device=like.device)
    matrix, shift = identity / scaling, torch.zeros_like(identity[0])
    if isinstance(autoencoder, TinyAutoencoder):
        return FoldedTiny(model), (matrix, shift)
    post = model.post_quant_conv
    if post is not None:
        matrix, shift = post.weight.double()[..., 0, 0] / scaling, post.bias.double()
    return FoldedKL(_folded_kl(model)), (matrix, shift)


def _folded_kl(model: nn.Module) -> nn.Module:
    """The VAE with z as its encoder's output; its layers are shared with `model`, which stays as it is."""
    folded, folded.encoder = _shallow(model), _shallow(model.encoder)
    last, channels = model.encoder.conv_out, model.config.latent_channels
    weight, bias = last.weight.double(), last.bias.double()
    if model.quant_conv is not None:
        mix = model.quant_conv.weight.double()[..., 0, 0]
        weight, bias = torch.einsum("ab,bcij->acij", mix, weight), mix @ bias + model.quant_conv.bias.double()
    scaling = model.config.scaling_factor
    folded.encoder.conv_out = same_layer(last, weight[:channels] * scaling, bias[:channels] * scaling)
    folded.quant_conv = folded.post_quant_conv = None
    return folded


def _shallow(module: nn.Module) -> nn.Module:
    """A module of its own that holds the same layers."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied
