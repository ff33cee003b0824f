"""Autoencoders as the rest of the project sees them: pictures in [-1, 1] <-> latents already times their scaling factor.

One class for each kind, all with the same methods, around a model of diffusers' or a `BlockTransform` in `model`.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.precision import without_autocast


class Autoencoder(nn.Module):
    """What a learned VAE of diffusers' offers; the other kinds say where they differ.

    The latent of a learned VAE is the mode of its distribution, so that the same picture always gives the same latent.
    """

    is_blockwise = False
    """Whether a latent position and its own block of pixels are all that each other depend on."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @property
    def latent_channels(self) -> int:
        return self.model.config.latent_channels

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side: 8 for Stable Diffusion."""
        return 2 ** (len(self.model.config.block_out_channels) - 1)

    @property
    def channel_gain(self) -> Tensor:
        """(C,) float32: how loud each latent channel of the discriminator's gradient is heard; their root mean square is 1.

        All ones for a learned VAE, whose channels weigh about the same and mix colours and intensity.
        """
        return torch.ones(self.latent_channels, device=next(self.model.parameters()).device)

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> z (N, C, H / factor, W / factor), float32 or finer."""
        return self.latents(self.model.encoder(images.to(next(self.model.parameters()).dtype)))

    def decode(self, z: Tensor) -> Tensor:
        """z (N, C, h, w) -> (N, 3, factor h, factor w), about [-1, 1], not clamped."""
        return self.model.decoder(self.decoder_input(z))

    def latents(self, encoded: Tensor) -> Tensor:
        """What the encoder gives -> z (N, C, h, w), float32 or finer."""
        raise NotImplementedError

    def decoder_input(self, z: Tensor) -> Tensor:
        """z (N, C, h, w) as the decoder takes it, in the weights' dtype."""
        return z.to(next(self.model.parameters()).dtype) / self.model.config.scaling_factor

    @property
    def encoding(self) -> "Autoencoder":
        """The autoencoder that encodes: this one, unless two share the work."""
        return self

    @property
    def decoding(self) -> "Autoencoder":
        """The autoencoder that decodes: this one, unless two share the work."""
        return self

    def to_precision(self, dtype: torch.dtype) -> "Autoencoder":
        """The weights in `dtype`, without the warning that diffusers' own `to` gives where there is nothing to warn of."""
        return nn.Module.to(self, dtype)

    def enable_gradient_checkpointing(self) -> None:
        """Checkpoints the decoder only: nothing is learned before it, and its activations are the largest of all.

        Not the reentrant kind: it refuses `torch.autograd.grad`, which the training loop takes the gradient at z_hat with.
        """
        self.model.decoder.gradient_checkpointing = True
        self.model.decoder._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


class KLAutoencoder(Autoencoder):
    """diffusers' AutoencoderKL: the VAE of Stable Diffusion."""

    def latents(self, encoded: Tensor) -> Tensor:
        """Moments (N, 2C, h, w) -> z, the mode (N, C, h, w), float32 or finer.

        Not in half precision even under autocast: generated latents come from Eq. 1 in float32, and a discriminator must not tell real ones
        by their rounding.
        """
        dtype, quant_conv = torch.promote_types(encoded.dtype, torch.float32), self.model.quant_conv
        moments = encoded.to(dtype)
        if quant_conv is not None:
            with without_autocast(moments):
                moments = F.conv2d(moments, quant_conv.weight.to(dtype), quant_conv.bias.to(dtype))
        return moments.chunk(2, dim=1)[0] * self.model.config.scaling_factor

    def decoder_input(self, z: Tensor) -> Tensor:
        """Through the convolution before the decoder, where there is one."""
        z, post_quant_conv = super().decoder_input(z), self.model.post_quant_conv
        return z if post_quant_conv is None else post_quant_conv(z)


class TinyAutoencoder(Autoencoder):
    """diffusers' AutoencoderTiny: TAESD, small and fast."""

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side."""
        return 2 ** (len(self.model.config.decoder_block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """As `Autoencoder.encode`, by the model's own way."""
        return self.latents(self.model.encode(images.to(next(self.model.parameters()).dtype)).latents)

    def latents(self, encoded: Tensor) -> Tensor:
        """The encoder's latents times their factor."""
        return encoded.to(torch.promote_types(encoded.dtype, torch.float32)) * self.model.config.scaling_factor


class BlockAutoencoder(Autoencoder):
    """A `BlockTransform`: nothing in it is learned, and nothing in half precision."""

    is_blockwise = True

    @property
    def latent_channels(self) -> int:
        return self.model.latent_channels

    @property
    def factor(self) -> int:
        """Pixels per latent position along each side: the block's size."""
        return self.model.block_size

    @property
    def channel_gain(self) -> Tensor:
        """Of a whitened transform its standard deviations, which a loss on pictures brings along to z_hat through the decoder and a
        discriminator that judges latents does not, in intensity; 0 in the colours, where a small generator answers with fringes beside
        every edge."""
        gain = self.model.std.clone()
        gain[self.model.block_size**2 :] = 0
        return gain / gain.square().mean().sqrt()

    def encode(self, images: Tensor) -> Tensor:
        """The transform's own."""
        return self.model.encode(images)

    def decode(self, z: Tensor) -> Tensor:
        """The transform's own."""
        return self.model.decode(z)

    def to_precision(self, dtype: torch.dtype) -> Autoencoder:
        """As it is: its whitening stays float32."""
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Nothing is kept that could be saved."""


class SharedAutoencoder(Autoencoder):
    """Two autoencoders of one latent space: one encodes, the other decodes. For inference: what neither needs is given up."""

    def __init__(self, encoding: Autoencoder, decoding: Autoencoder):
        sizes = [(half.latent_channels, half.factor) for half in (encoding, decoding)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"two autoencoders of different latent spaces: (channels, pixels per position) are {sizes[0]} and {sizes[1]}")
        super().__init__(encoding.model)
        self._halves = nn.ModuleList([encoding, decoding])
        for half, unused in ((encoding, "decoder"), (decoding, "encoder")):
            half.model._modules.pop(unused, None)

    @property
    def latent_channels(self) -> int:
        return self.encoding.latent_channels

    @property
    def factor(self) -> int:
        """As the one that encodes."""
        return self.encoding.factor

    @property
    def encoding(self) -> Autoencoder:
        """The one that encodes."""
        return self._halves[0]

    @property
    def decoding(self) -> Autoencoder:
        """The one that decodes."""
        return self._halves[1]

    def encode(self, images: Tensor) -> Tensor:
        """As the one that encodes."""
        return self.encoding.encode(images)

    def decode(self, z: Tensor) -> Tensor:
        """As the one that decodes."""
        return self.decoding.decode(z)
