"""What the numbers of a config.json can be. It comes with somebody's weights and decides how much is built: 10^9 layers would never end.

The ranges hold every model of the Stable Diffusion family with room to spare; whether the weights fit is seen when they are loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from models.json_files import shown
from models.settings import NUM_TIMESTEPS

MOST_LEVELS = 8
MOST_BLOCKS = 256
"""Levels times layers times transformer layers, each at its largest: 60 in SDXL."""


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`; `lists`: whether a list of them, one for each level, may or must stand there."""

    low: float
    high: float
    whole: bool = True
    lists: Literal["no", "may", "must"] = "no"
    null: bool = False
    needed: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a value can stand here."""
        if value is None:
            return self.null
        if isinstance(value, list) and self.lists != "no":
            items = [number for item in value for number in (item if self.lists == "may" and isinstance(item, list) else [item])]
            one = replace(self, lists="no", null=False)
            return 1 <= len(value) <= MOST_LEVELS and 1 <= len(items) <= MOST_LEVELS**2 and all(map(one.allows, items))
        number = type(value) is int or (type(value) is float and not self.whole)
        return number and self.lists != "must" and self.low <= value <= self.high

    def __str__(self) -> str:
        one = f"{'a whole number' if self.whole else 'a number'} from {self.low:g} to {self.high:g}"
        many = f"1 to {MOST_LEVELS} of them in a list"
        return {"no": one, "may": f"{one}, or {many}", "must": f"{one}, {many}"}[self.lists] + (", or null" if self.null else "")


@dataclass(frozen=True)
class Text:
    """A text, one of `choices` where there are any."""

    choices: tuple[str, ...] = ()
    lists: bool = False
    null: bool = False
    needed: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a value can stand here."""
        if value is None:
            return self.null
        if self.lists:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        return isinstance(value, str) and (not self.choices or value in self.choices)

    def __str__(self) -> str:
        what = "a list of texts" if self.lists else " | ".join(self.choices) or "a text"
        return what + (", or null" if self.null else "")


CHANNELS = Number(1, 16384)
LEVELS = replace(CHANNELS, lists="must")
LAYERS = Number(1, 16, lists="may")
FACTOR = Number(1e-6, 1e6, whole=False)
TYPES = Text(lists=True)

UNET = {
    **dict.fromkeys(("in_channels", "out_channels"), Number(1, 1024)),
    "block_out_channels": LEVELS,
    **dict.fromkeys(("down_block_types", "up_block_types"), TYPES),
    "mid_block_type": Text(null=True),
    **dict.fromkeys(("layers_per_block", "transformer_layers_per_block"), LAYERS),
    **dict.fromkeys(("attention_head_dim", "num_attention_heads"), Number(1, 1024, lists="may", null=True)),
    "reverse_transformer_layers_per_block": replace(LAYERS, null=True),
    "cross_attention_dim": CHANNELS,
    "norm_num_groups": Number(1, 1024, null=True),
    "norm_eps": Number(0, 1, whole=False),
    "dropout": Number(0, 1, whole=False),
    "freq_shift": Number(-1000, 1000, whole=False),
    "downsample_padding": Number(0, 8),
    **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), Number(1, 15)),
    **dict.fromkeys(("mid_block_scale_factor", "resnet_out_scale_factor"), FACTOR),
    **dict.fromkeys(
        (
            *("time_embedding_dim", "addition_time_embed_dim", "projection_class_embeddings_input_dim", "time_cond_proj_dim"),
            *("encoder_hid_dim", "num_class_embeds", "addition_embed_type_num_heads"),
        ),
        replace(CHANNELS, null=True),
    ),
}
AUTOENCODERS = {
    "AutoencoderKL": {
        **dict.fromkeys(("in_channels", "out_channels"), Number(3, 3)),
        "latent_channels": Number(1, 1024),
        "block_out_channels": LEVELS,
        **dict.fromkeys(("down_block_types", "up_block_types"), TYPES),
        "layers_per_block": Number(1, 16),
        "norm_num_groups": Number(1, 1024),
        "scaling_factor": FACTOR,
    },
    "AutoencoderTiny": {
        **dict.fromkeys(("in_channels", "out_channels"), Number(3, 3)),
        "latent_channels": Number(1, 1024),
        **dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), LEVELS),
        **dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks"), Number(0, 16, lists="must")),
        "upsampling_scaling_factor": Number(2, 2),
        "scaling_factor": FACTOR,
    },
    "BlockTransform": {"block_size": Number(1, 16, needed=True)},
}
SCHEDULER = {
    "num_train_timesteps": Number(1, 10 * NUM_TIMESTEPS),
    **dict.fromkeys(("beta_start", "beta_end"), Number(1e-9, 0.999, whole=False, needed=True)),
}
GENERATOR = {
    "timestep": Number(0, NUM_TIMESTEPS - 1, needed=True),
    "scale": Number(1, 32, needed=True),
    "train": Text(("lora", "full", "merged"), needed=True),
    "base": Text(needed=True),
    **dict.fromkeys(("revision", "vae", "base_fingerprint"), Text(null=True)),
    "rank": Number(1, 65536, null=True),
    "alpha": Number(1e-6, 1e6, whole=False, null=True),
    "targets": Text(lists=True, null=True),
}


def check_config(config: Mapping[str, Any], rules: Mapping[str, Number | Text], file: str) -> None:
    """Raises ValueError, naming file and key, for the first value that is out of its range."""
    for key, rule in rules.items():
        if key not in config:
            if rule.needed:
                raise ValueError(f"{file} lacks {key}: expected {rule}")
        elif not rule.allows(config[key]):
            raise ValueError(f"{file}: {key}: expected {rule}, got {shown(config[key])}")


def check_component(config: Mapping[str, Any], subfolder: str, file: str) -> None:
    """The same for a base model's component in `subfolder`; of an autoencoder by the kind that it names, unknown kinds being left alone."""
    if subfolder == "scheduler":
        check_config(config, SCHEDULER, file)
        if config["beta_start"] > config["beta_end"]:
            raise ValueError(f"{file}: beta_end: expected at least beta_start {config['beta_start']:g}, got {config['beta_end']:g}")
    elif subfolder == "unet":
        check_config(config, UNET, file)
        if config.get("in_channels", 4) != config.get("out_channels", 4):
            raise ValueError(f"{file}: out_channels: expected in_channels, since Eq. 1 subtracts one from the other")
        blocks = _largest(config.get("layers_per_block", 2)) * _largest(config.get("transformer_layers_per_block", 1))
        if blocks * len(config.get("block_out_channels", "1234")) > MOST_BLOCKS:
            raise ValueError(f"{file}: layers_per_block: expected {MOST_BLOCKS} blocks at most in all levels, got more")
    else:
        check_config(config, {"_class_name": Text()}, file)
        check_config(config, AUTOENCODERS.get(config.get("_class_name", "AutoencoderKL"), {}), file)


def _largest(value: Any) -> int:
    return max(map(_largest, value)) if isinstance(value, list) else value
