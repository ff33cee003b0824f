"""The UNet of Stable Diffusion 1.x and 2.x and of this project's small model, for running: what diffusers' UNet2DConditionModel computes,
to the bit, under the same names of weights.

diffusers has it as one of dozens of models, and importing them takes longer than restoring a picture. So what is restored with a UNet
without special settings runs on this one; training, and every UNet that differs in more than its sizes, runs on diffusers' own.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.plain_layers import Downsample, ResnetBlock, TimestepEmbedding, TimestepProjection, Transformer, Upsample

SIZES = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,  # the number of heads; diffusers keeps this name for old files' sake
    "use_linear_projection": False,
}
"""Settings that may differ, with diffusers' defaults."""

FIXED = {
    **{"act_fn": "silu", "attention_type": "default", "resnet_time_scale_shift": "default", "time_embedding_type": "positional"},
    **{"mid_block_type": "UNetMidBlock2DCrossAttn", "flip_sin_to_cos": True, "freq_shift": 0, "dropout": 0.0, "downsample_padding": 1},
    **{"conv_in_kernel": 3, "conv_out_kernel": 3, "mid_block_scale_factor": 1, "resnet_out_scale_factor": 1.0},
    **{"transformer_layers_per_block": 1, "addition_embed_type_num_heads": 64},
    **dict.fromkeys(("center_input_sample", "only_cross_attention", "dual_cross_attention", "upcast_attention"), False),
    **dict.fromkeys(("resnet_skip_time_act", "class_embeddings_concat"), False),
    **dict.fromkeys(("reverse_transformer_layers_per_block", "encoder_hid_dim", "encoder_hid_dim_type", "num_attention_heads")),
    **dict.fromkeys(("class_embed_type", "num_class_embeds", "addition_embed_type", "addition_time_embed_dim")),
    **dict.fromkeys(("projection_class_embeddings_input_dim", "time_embedding_dim", "time_embedding_act_fn", "timestep_post_act")),
    **dict.fromkeys(("time_cond_proj_dim", "mid_block_only_cross_attention", "cross_attention_norm")),
}
"""The others, and the only value that is built here: diffusers' default of each."""

DOWN, UP = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}, {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
"""Kind of a level -> whether transformers follow its ResNet blocks."""


class Config(dict):
    """Settings by name and as attributes, as diffusers' models have them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def is_plain(config: dict[str, Any]) -> bool:
    """Whether a UNet's config.json describes one that `PlainUNet` computes."""
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    full = SIZES | settings
    levels, heads = full["block_out_channels"], full["attention_head_dim"]
    return (
        all(name in SIZES or (name in FIXED and value == FIXED[name]) for name, value in settings.items())
        and all(type(full[name]) is int for name in ("layers_per_block", "norm_num_groups", "cross_attention_dim"))
        and levels[0] % 2 == 0
        and len(levels) == len(full["down_block_types"]) == len(full["up_block_types"])
        and (type(heads) is int or (isinstance(heads, (list, tuple)) and len(heads) == len(levels)))
        and DOWN.keys() >= {*full["down_block_types"]}
        and UP.keys() >= {*full["up_block_types"]}
    )


class Level(nn.Module):
    """ResNet blocks, transformers behind them or none, and a resampling layer or none."""

    def __init__(self, resnets: list[nn.Module], attentions: list[nn.Module]):
        super().__init__()
        self.attentions, self.resnets = nn.ModuleList(attentions), nn.ModuleList(resnets)
        self.downsamplers = self.upsamplers = None

    def layers(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        """Each ResNet block with the transformer behind it."""
        return zip(self.resnets, self.attentions or [None] * len(self.resnets), strict=True)


class Middle(nn.Module):
    """ResNet block, transformer, ResNet block."""

    def __init__(self, resnets: list[nn.Module], attention: nn.Module):
        super().__init__()
        self.attentions, self.resnets = nn.ModuleList([attention]), nn.ModuleList(resnets)

    def forward(self, x: Tensor, temb: Tensor, prompt: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, temb), prompt), temb)


class PlainUNet(nn.Module):
    """noise_pred (N, C, h, w) of noisy latents (N, C, h, w), h and w multiples of the levels' strides. `config`: see `is_plain`."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = c = Config(SIZES | FIXED | config)
        widths, layers = c.block_out_channels, c.layers_per_block
        heads = [c.attention_head_dim] * len(widths) if isinstance(c.attention_head_dim, int) else c.attention_head_dim
        temb, channels, skips = 4 * widths[0], widths[0], [widths[0]]

        def resnet(into: int, out: int) -> nn.Module:
            return ResnetBlock(into, out, temb, c.norm_num_groups, c.norm_eps)

        def transformer(level: int) -> nn.Module:
            return Transformer(widths[level], heads[level], c.cross_attention_dim, c.norm_num_groups, c.use_linear_projection)

        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.time_proj, self.time_embedding = TimestepProjection(widths[0]), TimestepEmbedding(widths[0], temb)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for level, (kind, out) in enumerate(zip(c.down_block_types, widths, strict=True)):
            resnets = [resnet(into, out) for into in [channels] + [out] * (layers - 1)]
            self.down_blocks.append(Level(resnets, [transformer(level) for _ in range(layers) if DOWN[kind]]))
            channels, skips = out, skips + [out] * layers
            if level < len(widths) - 1:
                self.down_blocks[-1].downsamplers = nn.ModuleList([Downsample(out)])
                skips.append(out)
        self.mid_block = Middle([resnet(channels, channels) for _ in range(2)], transformer(-1))
        for level, kind in zip(reversed(range(len(widths))), c.up_block_types, strict=True):
            out = widths[level]
            resnets = [resnet(into + skips.pop(), out) for into in [channels] + [out] * layers]
            self.up_blocks.append(Level(resnets, [transformer(level) for _ in range(layers + 1) if UP[kind]]))
            channels = out
            if level > 0:
                self.up_blocks[-1].upsamplers = nn.ModuleList([Upsample(out)])
        self.conv_norm_out, self.conv_act = nn.GroupNorm(c.norm_num_groups, channels, c.norm_eps), nn.SiLU()
        self.conv_out = nn.Conv2d(channels, c.out_channels, 3, padding=1)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PlainUNet":
        """By the name that diffusers' classes have for it."""
        return cls(config)

    def forward(self, z_t: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Called and answering as diffusers' model does with return_dict=False. encoder_hidden_states: (N, tokens, width)."""
        temb = self.time_embedding(self.time_proj(timesteps).to(z_t.dtype))
        x = self.conv_in(z_t)
        skips = [x]
        for level in self.down_blocks:
            for resnet, attention in level.layers():
                x = resnet(x, temb)
                x = x if attention is None else attention(x, encoder_hidden_states)
                skips.append(x)
            if level.downsamplers is not None:
                x = level.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block(x, temb, encoder_hidden_states)
        for level in self.up_blocks:
            for resnet, attention in level.layers():
                x = resnet(torch.cat([x, skips.pop()], dim=1), temb)
                x = x if attention is None else attention(x, encoder_hidden_states)
            if level.upsamplers is not None:
                x = level.upsamplers[0](x)
        return (self.conv_out(self.conv_act(self.conv_norm_out(x))),)
