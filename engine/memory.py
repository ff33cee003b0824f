"""How much memory a training step takes, estimated before anything is loaded.

Weights, gradients and AdamW's two moments are counted from the networks' sizes. Activations are what autograd keeps for the backward
pass: the networks run once on the meta device, which computes nothing, while `saved_tensors_hooks` adds up the storages that are kept.
Two things that the meta device does not do as a GPU does are put in their place: fused attention (no attention matrix is kept), and
autocast, as far as it changes what is kept (convolutions and matrix products in 16 bit, norms in float32).

It is an estimate: the kernels' work space, the allocator's fragmentation, the CUDA context and DDP's buckets come on top, 10 to 20 % in
all; on a CPU, where attention and autocast differ, it is rougher. tests/engine/test_memory.py holds it to a table for Stable Diffusion
2.1-base with SD 2.1 and SDXL discriminators that was made by following every live storage through a whole step; nothing was compared
with a GPU's own counter.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from engine.objectives import frozen
from losses.features import get_backbone
from losses.perceptual import PERCEPTUAL
from models.discriminator import Discriminator
from models.generator import Generator

GIB = 2**30


class FusedAttention(torch.autograd.Function):
    """Attention as a fused kernel leaves it to the backward pass: q, k, v, the output, and one float32 number per query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads, queries = q.shape[1:3]
        out = v.new_empty(len(q), queries, heads, v.shape[-1]).transpose(1, 2)  # laid out so that joining the heads copies nothing
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise NotImplementedError("only its memory is looked at")


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention` of (N, heads, tokens, width) as far as memory goes; the other arguments do not change it."""
    return FusedAttention.apply(query, key, value)


class LikeGPU(TorchFunctionMode):
    """Inside, functions on meta tensors keep what they would keep on a GPU, under autocast to `low` (None: no autocast)."""

    IN_LOW = (F.linear, F.conv2d, F.conv_transpose2d, torch.matmul, torch.bmm, torch.baddbmm, F.scaled_dot_product_attention)
    IN_FLOAT = (F.group_norm, F.layer_norm)

    def __init__(self, low: torch.dtype | None) -> None:
        super().__init__()
        self.low = low

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.low is not None and function in self.IN_LOW + self.IN_FLOAT:
            dtype = self.low if function in self.IN_LOW else torch.float32
            args = tuple(_to(value, dtype) for value in args)
            kwargs = {name: _to(value, dtype) for name, value in (kwargs or {}).items()}
        if function is F.scaled_dot_product_attention:
            function = fused_attention
        return function(*args, **(kwargs or {}))


def _to(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@dataclass(frozen=True)
class Kept:
    """Bytes of activations: kept from forward to backward, and the most that a checkpointed block keeps while it is computed again."""

    kept: int
    block: int = 0


@dataclass
class _Bag:
    """Storages, each once however many tensors share it; those that are counted elsewhere are left out."""

    elsewhere: frozenset[int]
    storages: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.elsewhere:
            self.storages[storage._cdata] = storage
        return tensor

    @property
    def size(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


def activations(module: nn.Module, forward: Callable[[], object], low: torch.dtype | None = None) -> Kept:
    """What autograd keeps of `forward`, whose weights are those of `module`, on the meta device.

    Blocks for which gradient checkpointing is on keep their inputs only. low: dtype of autocast; None for none.
    """
    weights = frozenset(tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers()))
    kept, blocks = _Bag(weights), [0]

    def checkpointed(block: Callable, *inputs: Any) -> Any:
        for value in inputs:
            if isinstance(value, Tensor):
                kept.add(value)
        inner = _Bag(weights | kept.storages.keys())
        with saved_tensors_hooks(inner.add, lambda tensor: tensor):
            outputs = block(*inputs)
        blocks.append(inner.size)
        return outputs

    changed = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
    before = [part._gradient_checkpointing_func for part in changed]
    try:
        for part in changed:
            part._gradient_checkpointing_func = checkpointed
        with torch.enable_grad(), saved_tensors_hooks(kept.add, lambda tensor: tensor), LikeGPU(low):
            forward()
    finally:
        for part, function in zip(changed, before, strict=True):
            part._gradient_checkpointing_func = function
    return Kept(kept.size, max(blocks))


@dataclass(frozen=True)
class Memory:
    """Bytes of one training process: what is there all the time, and what autograd keeps in each part of an iteration."""

    frozen: int
    """Weights that do not train."""
    trained: int
    """Trained weights, their gradients, AdamW's two moments, their moving average."""
    unet: Kept
    decoder: Kept
    judged: Kept | None
    """The discriminator while the generator trains; None where there is none."""
    judging: Kept | None
    """The discriminator while it trains itself, on real and generated latents at once."""
    perceptual: int = 0

    @property
    def phases(self) -> dict[str, int]:
        """Activations in the order of an iteration: each loss' own graph is gone before the next is built, the UNet's stays till last."""
        found = {"generator, spatial loss": self.unet.kept + self.decoder.kept + max(self.perceptual, self.decoder.block)}
        if self.judged is not None:
            found["generator, adversarial loss"] = self.unet.kept + self.judged.kept + self.judged.block
        found["generator, UNet"] = self.unet.kept + self.unet.block
        if self.judging is not None:
            found["discriminator"] = self.judging.kept + self.judging.block
        return found

    @property
    def peak(self) -> int:
        """All the time, and the largest phase."""
        return self.frozen + self.trained + max(self.phases.values())


def frozen_bytes(discriminator: Discriminator, shares: int) -> int:
    """Frozen weights that one of `shares` processes holds at its worst: all of them if it is alone, see `shard_frozen` if it is not.

    That is its share, what lies outside the layers, which a pass gathers once, and three times the largest layer: the one at work, and
    the next one, in the buffer that it is received in and in the place that it is copied to.
    """
    layers = [_frozen(layer) for layer in discriminator.heavy_layers()]
    whole = _frozen(discriminator)
    return whole if shares == 1 else whole // shares + (whole - sum(layers)) + 3 * max(layers)


def _frozen(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters() if not parameter.requires_grad)


def estimate_memory(
    generator: Generator,
    discriminator: Discriminator | None,
    *,
    batch: int,
    gt_size: int,
    low: torch.dtype | None,
    ema: bool,
    shares: int = 1,
) -> Memory:
    """Memory of a training process but for the perceptual loss (see `with_perceptual`).

    Args:
        generator, discriminator: on the meta device, with the dtypes and the checkpointing of the training.
        batch, gt_size: crops per process and forward pass, and their side in pixels.
        low: dtype of autocast; None for float32.
        ema: whether a moving average of the generator is kept.
        shares: processes that the discriminator's frozen weights are spread over; 1 = each holds them all.
    """
    players = [player for player in (generator, discriminator) if player is not None]
    still = _frozen(generator) + (frozen_bytes(discriminator, shares) if discriminator is not None else 0)
    trained = sum(4 * p.nbytes for player in players for p in player.trainable().values())
    trained += sum(p.nbytes for p in generator.trainable().values()) if ema else 0
    side, channels = gt_size // generator.autoencoder.factor, generator.autoencoder.latent_channels
    z = torch.empty(batch, channels, side, side, device="meta", requires_grad=True)
    unet = activations(generator, lambda: generator.denoise(z.detach()), low)
    decoder = activations(generator.autoencoder, lambda: generator.autoencoder.decode(z), low)
    judged = judging = None
    if discriminator is not None:
        timesteps = torch.zeros(batch, dtype=torch.long, device="meta")
        with frozen(discriminator):
            judged = activations(discriminator, lambda: discriminator(z, timesteps), low)
        judging = activations(discriminator, lambda: discriminator(torch.cat([z, z]).detach(), timesteps.repeat(2)), low)
    return Memory(still, trained, unet, decoder, judged, judging)


def with_perceptual(memory: Memory, type: str, backbone: str, *, batch: int, gt_size: int) -> Memory:
    """Adds the perceptual loss; type and backbone as for `build_perceptual`."""
    recipe = PERCEPTUAL[type]
    if recipe is None:
        return memory
    weights = sum(p.nbytes for p in get_backbone(backbone).build_layers().parameters())
    return replace(memory, frozen=memory.frozen + weights, perceptual=recipe.bytes_per_pixel[backbone] * batch * gt_size**2)
