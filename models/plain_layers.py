"""Layers of `models.plain_unet`, under diffusers' names of weights.

The constants that classes carry are diffusers' as well: the fused form asks every layer for them, since there they can be otherwise.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimestepProjection(nn.Module):
    """Timesteps (N,) -> cosines and sines (N, width), float32."""

    def __init__(self, width: int):
        super().__init__()
        self.half = width // 2

    def forward(self, timesteps: Tensor) -> Tensor:
        exponent = -math.log(10000) * torch.arange(self.half, dtype=torch.float32, device=timesteps.device) / self.half
        angles = timesteps[:, None].float() * torch.exp(exponent)[None, :]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class TimestepEmbedding(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.linear_1, self.act, self.linear_2 = nn.Linear(width, out), nn.SiLU(), nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class ResnetBlock(nn.Module):
    """norm -> SiLU -> conv, twice, the timestep added between, beside a shortcut."""

    time_embedding_norm, output_scale_factor, upsample, downsample = "default", 1.0, None, None

    def __init__(self, channels: int, out: int, temb: int, groups: int, eps: float):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, channels, eps), nn.Conv2d(channels, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(temb, out)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out, eps), nn.Conv2d(out, out, 3, padding=1)
        self.nonlinearity = nn.SiLU()
        self.conv_shortcut = None if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        hidden = self.conv1(self.nonlinearity(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None]
        hidden = self.conv2(self.nonlinearity(self.norm2(hidden)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden


class Attention(nn.Module):
    """Of tokens (N, T, width) to `context` (N, S, its width), or to themselves."""

    group_norm = spatial_norm = norm_q = norm_k = norm_cross = None
    residual_connection, rescale_output_factor = False, 1.0

    def __init__(self, width: int, heads: int, head_width: int, context_width: int):
        super().__init__()
        self.heads, self.scale = heads, head_width**-0.5
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context_width, heads * head_width, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(heads * head_width, width)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        layers = ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        q, k, v = (layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, tokens in layers)
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """One half of a linear layer's output, gated by the GELU of the other."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        return hidden * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU and a linear layer."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each behind a norm and beside a shortcut."""

    norm_type, pos_embed = "layer_norm", None

    def __init__(self, width: int, heads: int, head_width: int, context_width: int):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, heads, head_width, width)
        self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, heads, head_width, context_width)
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = self.attn1(normed, normed) + x
        x = self.attn2(self.norm2(x), prompt) + x
        return self.ff(self.norm3(x)) + x


class Transformer(nn.Module):
    """A transformer block on a map (N, C, h, w), between projections that are linear layers or 1x1 convolutions."""

    def __init__(self, channels: int, heads: int, context_width: int, groups: int, linear: bool):
        super().__init__()
        width = channels // heads * heads
        self.norm, self.linear = nn.GroupNorm(groups, channels, eps=1e-6), linear
        self.proj_in = nn.Linear(channels, width) if linear else nn.Conv2d(channels, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, channels // heads, context_width)])
        self.proj_out = nn.Linear(width, channels) if linear else nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        hidden, size = self.norm(x), x.shape[2:]
        tokens = self.proj_in(_tokens(hidden)) if self.linear else _tokens(self.proj_in(hidden))
        for block in self.transformer_blocks:
            tokens = block(tokens, prompt)
        return (_map(self.proj_out(tokens), size) if self.linear else self.proj_out(_map(tokens, size))) + x


def _tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, h w, C)


def _map(tokens: Tensor, size: torch.Size) -> Tensor:
    return tokens.unflatten(1, size).permute(0, 3, 1, 2).contiguous()


class Downsample(nn.Module):
    """3x3 convolution, stride 2."""

    use_conv, norm = True, None

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest enlargement x2, 3x3 convolution."""

    use_conv, norm = True, None

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
