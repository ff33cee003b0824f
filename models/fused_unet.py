"""A UNet of the Stable Diffusion family with everything that is the same for every picture computed once.

The timestep is fixed, so what it adds in a ResNet block is a constant: it goes into the first convolution's bias. The text embedding is
fixed, so the keys and values of the cross-attention are constants. The affine part of the norm before a transformer goes into the linear
layer behind it, and its queries, keys and values are one product. All sums are taken in float64 and rounded once.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def same_layer(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A convolution or linear layer like `layer` with other numbers, in its dtype; the weight's sizes may differ."""
    folded = copy.copy(layer)
    folded._parameters = dict(layer._parameters)
    for name, value in (("weight", weight), ("bias", bias)):
        folded._parameters[name] = None if value is None else nn.Parameter(value.to(layer.weight.dtype), requires_grad=False)
    if isinstance(layer, nn.Conv2d):
        folded.out_channels, folded.in_channels = weight.shape[:2]
    else:
        folded.out_features, folded.in_features = weight.shape
    return folded


def check_plain(true: bool, what: str) -> None:
    """Raises ValueError for a part that cannot be folded exactly."""
    if not true:
        raise ValueError(f"this model cannot be folded exactly: {what}; set fuse: false")


def fold_norm(norm: nn.GroupNorm, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of a linear map behind a norm, (out, in) float64: the weight and bias that do the norm's affine part as well."""
    bias = 0 if bias is None else bias.double()
    return weight * norm.weight.double(), bias + weight @ norm.bias.double()


def in_place(activation: nn.Module) -> nn.Module:
    """The same values, where what it is given is of no use afterwards: on a CPU a new map costs as much as the activation."""
    return nn.SiLU(inplace=True) if type(activation) is nn.SiLU else activation


class FusedResnet(nn.Module):
    """norm -> SiLU -> conv, twice, beside a shortcut; `temb` (1, width) float64 is the embedded timestep, after its activation."""

    def __init__(self, block: nn.Module, temb: Tensor):
        super().__init__()
        plain = block.time_embedding_norm == "default" and block.upsample is None and block.downsample is None
        check_plain(plain, "a ResNet block scales by the timestep or resamples")
        self.norm1, self.norm2, self.conv2, self.conv_shortcut = block.norm1, block.norm2, block.conv2, block.conv_shortcut
        self.activation, self.scale = in_place(block.nonlinearity), block.output_scale_factor
        shift = block.time_emb_proj.weight.double() @ temb[0] + block.time_emb_proj.bias.double()
        self.conv1 = same_layer(block.conv1, block.conv1.weight, block.conv1.bias.double() + shift)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(self.activation(self.norm1(x)))
        hidden = self.conv2(self.activation(self.norm2(hidden)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        hidden += x
        return hidden if self.scale == 1.0 else hidden / self.scale


class SelfAttention(nn.Module):
    """Queries, keys and values from one product."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.heads, self.scale = attention.heads, attention.scale
        layers = (attention.to_q, attention.to_k, attention.to_v)
        bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
        self.to_qkv = same_layer(layers[0], torch.cat([layer.weight for layer in layers]), bias)
        self.to_out = attention.to_out[0]

    def forward(self, x: Tensor) -> Tensor:
        parts = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (N, heads, tokens, width)
        return self.to_out(F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Keys and values are constants, `prompt` (tokens, width) float64 being one."""

    def __init__(self, attention: nn.Module, prompt: Tensor):
        super().__init__()
        self.heads, self.scale, self.to_q, self.to_out = attention.heads, attention.scale, attention.to_q, attention.to_out[0]
        for name, layer in (("key", attention.to_k), ("value", attention.to_v)):
            constant = prompt @ layer.weight.double().T + (0 if layer.bias is None else layer.bias.double())
            constant = constant.unflatten(1, (self.heads, -1)).transpose(0, 1).contiguous()  # (heads, tokens, width)
            self.register_buffer(name, constant.to(layer.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        q = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = (constant.expand(len(x), -1, -1, -1) for constant in (self.key, self.value))
        return self.to_out(F.scaled_dot_product_attention(q, key, value, scale=self.scale).transpose(1, 2).flatten(2))


class FusedTransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each behind a norm and beside a shortcut."""

    def __init__(self, block: nn.Module, prompt: Tensor):
        super().__init__()
        for attention in (block.attn1, block.attn2):
            odd = (attention.group_norm, attention.spatial_norm, attention.norm_q, attention.norm_k, attention.norm_cross)
            plain = not any(odd) and not attention.residual_connection and attention.rescale_output_factor == 1
            check_plain(plain, "an attention layer is of an unusual kind")
        check_plain(block.norm_type == "layer_norm" and block.pos_embed is None, f"a transformer has norms of the kind {block.norm_type}")
        self.norm1, self.norm2, self.norm3, self.ff = block.norm1, block.norm2, block.norm3, block.ff
        self.attn1, self.attn2 = SelfAttention(block.attn1), CrossAttention(block.attn2, prompt)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x))
        return x + self.ff(self.norm3(x))


class FusedTransformer(nn.Module):
    """diffusers' Transformer2DModel on a map (N, C, h, w): its projections may be linear layers or 1x1 convolutions, here they are one."""

    def __init__(self, transformer: nn.Module, prompt: Tensor):
        super().__init__()
        self.groups, self.eps = transformer.norm.num_groups, transformer.norm.eps
        weight, bias = fold_norm(transformer.norm, transformer.proj_in.weight.double().flatten(1), transformer.proj_in.bias)
        self.proj_in = _linear(weight, bias, transformer.proj_in.weight)
        self.proj_out = _linear(transformer.proj_out.weight.flatten(1), transformer.proj_out.bias, transformer.proj_out.weight)
        self.blocks = nn.Sequential(*(FusedTransformerBlock(block, prompt) for block in transformer.transformer_blocks))

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.group_norm(x, self.groups, eps=self.eps).permute(0, 2, 3, 1).flatten(1, 2)  # (N, h w, C)
        tokens = self.proj_out(self.blocks(self.proj_in(tokens)))
        return x + tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def _linear(weight: Tensor, bias: Tensor, like: Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = (nn.Parameter(value.to(like.dtype), requires_grad=False) for value in (weight, bias))
    return layer


class PhaseUpsample(nn.Module):
    """Nearest enlargement x2 and then a 3x3 convolution, as one transposed convolution: 4 instead of 9 products per weight and pixel.

    Of the three lines of a kernel two always see the same line of the input, so their sum serves: (4 x 4) weights, stride 2.
    """

    def __init__(self, upsample: nn.Module):
        super().__init__()
        w = upsample.conv.weight.double().transpose(0, 1)  # (in, out, 3, 3)
        for dim in (2, 3):
            first, second, third = w.unbind(dim)
            w = torch.stack([third, second + third, first + second, first], dim)
        self.weight = nn.Parameter(w.to(upsample.conv.weight.dtype), requires_grad=False)
        self.bias = upsample.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class FusedBlock(nn.Module):
    """A level of the UNet: ResNet blocks, each perhaps followed by a transformer, then a resampling layer if there is one."""

    def __init__(self, block: nn.Module, temb: Tensor, prompt: Tensor, phase_upsampling: bool):
        super().__init__()
        attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
        self.resnets = nn.ModuleList(FusedResnet(resnet, temb) for resnet in block.resnets)
        self.attentions = nn.ModuleList(nn.Identity() if layer is None else FusedTransformer(layer, prompt) for layer in attentions)
        self.down = _only(getattr(block, "downsamplers", None))
        self.up = _only(getattr(block, "upsamplers", None))
        if phase_upsampling and self.up is not None:
            self.up = PhaseUpsample(self.up)


def _only(layers: Sequence[nn.Module] | None) -> nn.Module | None:
    if not layers:
        return None
    check_plain(len(layers) == 1 and layers[0].use_conv and layers[0].norm is None, "a level resamples in an unusual way")
    return layers[0]


class FusedUNet(nn.Module):
    """noise_pred (N, C, h, w) of latents (N, C, h, w), h and w multiples of the levels' strides, at one timestep and one text embedding.

    Unchanged layers are shared with `unet`.

    Args:
        unet: a UNet2DConditionModel or PlainUNet in eval mode.
        timestep: T_L.
        prompt_embedding: (tokens, width).
        phase_upsampling: see `PhaseUpsample`.

    Raises:
        ValueError: it has parts that cannot be folded.
    """

    def __init__(self, unet: nn.Module, timestep: int, prompt_embedding: Tensor, *, phase_upsampling: bool = False):
        super().__init__()
        self.config = unet.config
        check_plain(not getattr(unet, "peft_config", None), "its LoRA is not merged")
        odd = [name for name in ("class_embedding", "encoder_hid_proj", "time_embed_act") if getattr(unet, name, None) is not None]
        odd += [name for name in ("addition_embed_type", "center_input_sample") if unet.config.get(name)]
        check_plain(not odd, f"the UNet has {', '.join(odd)}")
        kinds = {type(block).__name__ for block in (*unet.down_blocks, *unet.up_blocks)}
        unknown = kinds - {"Level", "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
        middle = type(unet.mid_block).__name__
        check_plain(not unknown and middle in ("Middle", "UNetMidBlock2DCrossAttn"), f"blocks {unknown or middle}")
        temb, prompt = embedded_timestep(unet, timestep), prompt_embedding.detach().double()

        def fused(block: nn.Module) -> FusedBlock:
            return FusedBlock(block, temb, prompt, phase_upsampling)

        self.conv_in, self.conv_out = unet.conv_in, unet.conv_out
        self.norm_out, self.activation = unet.conv_norm_out, in_place(unet.conv_act)
        self.down_blocks = nn.ModuleList(fused(block) for block in unet.down_blocks)
        self.up_blocks = nn.ModuleList(fused(block) for block in unet.up_blocks)
        self.mid_resnets = nn.ModuleList(FusedResnet(resnet, temb) for resnet in unet.mid_block.resnets)
        self.mid_attentions = nn.ModuleList(FusedTransformer(layer, prompt) for layer in unet.mid_block.attentions)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        skips = [x]
        for block in self.down_blocks:
            for resnet, attention in zip(block.resnets, block.attentions, strict=True):
                x = attention(resnet(x))
                skips.append(x)
            if block.down is not None:
                x = block.down(x)
                skips.append(x)
        x = self.mid_resnets[0](x)
        for attention, resnet in zip(self.mid_attentions, self.mid_resnets[1:], strict=True):
            x = resnet(attention(x))
        for block in self.up_blocks:
            for resnet, attention in zip(block.resnets, block.attentions, strict=True):
                x = attention(resnet(torch.cat([x, skips.pop()], dim=1)))
            if block.up is not None:
                x = block.up(x)
        return self.conv_out(self.activation(self.norm_out(x)))


def embedded_timestep(unet: nn.Module, timestep: int) -> Tensor:
    """(1, width) float64: what every ResNet block projects, after the activation that each applies to it."""
    embedding = copy.deepcopy(unet.time_embedding).double()
    timesteps = torch.full((1,), timestep, device=unet.conv_in.weight.device)
    temb = embedding(unet.time_proj(timesteps).double())
    return temb if unet.config.resnet_skip_time_act else unet.mid_block.resnets[0].nonlinearity(temb)
