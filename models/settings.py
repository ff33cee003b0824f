"""What the two networks are built from: every number with its one default. Torch-free; options/ reads these objects from its files.

Objects are frozen and check themselves: a wrong value is a `ValueError` that begins with the field's name.
"""

from dataclasses import dataclass, field
from typing import Literal

NUM_TIMESTEPS = 1000
"""T of every Stable Diffusion; timesteps run from 0 to 999."""

LORA_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
"""The 14 module names with which the paper's Table 3 comes out to the last digit: 278 modules, 16,944,128 parameters in SD 2.1's UNet."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_timestep(name: str, timestep: int) -> None:
    _check(0 <= timestep < NUM_TIMESTEPS, f"{name} must be from 0 to {NUM_TIMESTEPS - 1}, got {timestep}")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters; their strength is alpha / rank."""

    rank: int = 16
    """r of the paper: inner width of each adapter."""
    alpha: int = 16
    """The paper's scaling factor; equal to rank it means strength 1."""
    targets: tuple[str, ...] = LORA_TARGETS
    """Ends of the names of the modules that get an adapter."""

    def __post_init__(self) -> None:
        _check(self.rank >= 1, f"rank must be at least 1, got {self.rank}")
        _check(self.alpha >= 1, f"alpha must be at least 1, got {self.alpha}")
        _check(len(self.targets) > 0, "targets must name at least one module")
        _check(len(set(self.targets)) == len(self.targets), "targets must not name a module twice")


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """The one-step generator (Eq. 1): a pre-trained VAE and UNet, and what of it trains."""

    pretrained: str
    """Diffusers folder or hub id with `vae`, `unet` and `scheduler`; or random:KIND, random weights of that size, for tests."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; null = its main branch."""
    vae: str | None = None
    """Folder or hub id of another autoencoder, AutoencoderTiny for example, or random:taesd; null = the one in `pretrained`."""
    timestep: int = 399
    """T_L of Eq. 1, 0..999. The paper says "intermediate"; 399 is what the same lab uses with the same base (OSDFace)."""
    train: Literal["lora", "full"] = "lora"
    """lora = adapters on the UNet, as in the paper; full = every UNet weight, for small bases. The VAE never trains."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """The UNet's adapters; without effect when train is full."""
    prompt_tokens: int = 77
    """Length of the learnable text embedding; without effect on a UNet that has no cross-attention."""
    prompt_init: Literal["normal", "zeros"] = "normal"
    """How the text embedding starts."""
    prompt_std: float = 0.02
    """Standard deviation of prompt_init: normal."""

    def __post_init__(self) -> None:
        _check_timestep("timestep", self.timestep)
        _check(self.prompt_tokens >= 1, f"prompt_tokens must be at least 1, got {self.prompt_tokens}")
        _check(self.prompt_std > 0, f"prompt_std must be above 0, got {self.prompt_std}")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
    """The discriminator (Sec. 3.2): the down and mid blocks of a pre-trained UNet on noised latents, and a head per position."""

    type: Literal["noise_aware", "vanilla", "diffusion_gan", "none"] = "noise_aware"
    """noise_aware = the paper's; vanilla, diffusion_gan and none are the other rows of Table 6."""
    pretrained: str | None = None
    """Diffusers folder or hub id whose UNet it starts from, or random:KIND; needed unless type is none."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; null = its main branch."""
    train: Literal["lora", "full"] = "lora"
    """lora = adapters on the UNet, as in the paper; full = every weight that is kept of it, for small bases."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """The UNet's adapters; without effect when train is full."""
    train_conv_in: bool = False
    """Train the UNet's first convolution beside the adapters (OSCAR, AdcSR): for latents of another base, such as SD 2.1's in SDXL."""
    features: Literal["mid", "multi"] = "mid"
    """What is judged: the mid block's output (paper), or that of every down block as well, each by a head of its own."""
    head_channels: int = 320
    """Hidden width of the per-position MLP that ends in one realism logit."""
    prompt_tokens: int = 77
    """Length of the learnable text condition."""
    prompt_init: Literal["normal", "zeros"] = "normal"
    """How the text condition starts. zeros is SDXL's own null condition; for SD 2.1 zeros lie outside what it has seen."""
    prompt_std: float = 0.02
    """Standard deviation of prompt_init: normal."""
    timestep_min: int = 0
    """Lowest t of F(z, t), Eq. 4."""
    timestep_max: int = NUM_TIMESTEPS - 1
    """Highest t of F(z, t), inclusive."""
    share_timesteps: bool = True
    """Real and generated latent of a pair get the same t."""
    share_noise: bool = True
    """Real and generated latent of a pair get the same noise."""
    shard: bool = False
    """Its frozen weights are spread over the processes (FSDP2): less memory, more traffic. Without effect with one process or type none."""

    def __post_init__(self) -> None:
        if self.type != "none":
            _check(bool(self.pretrained), f"pretrained: expected the folder or hub id that type {self.type} starts from")
        _check(self.head_channels >= 1, f"head_channels must be at least 1, got {self.head_channels}")
        _check(self.prompt_tokens >= 1, f"prompt_tokens must be at least 1, got {self.prompt_tokens}")
        _check(self.prompt_std > 0, f"prompt_std must be above 0, got {self.prompt_std}")
        _check_timestep("timestep_min", self.timestep_min)
        _check_timestep("timestep_max", self.timestep_max)
        low, high = self.timestep_min, self.timestep_max
        _check(low <= high, f"timestep_max must not be below timestep_min {low}, got {high}")
        if self.type in ("vanilla", "diffusion_gan"):
            for name, value, default in (("timestep_min", low, 0), ("timestep_max", high, NUM_TIMESTEPS - 1)):
                _check(value == default, f"{name}: expected {default} with type {self.type}, which has timesteps of its own, got {value}")
        whole = self.train == "full"
        _check(not (whole and self.shard), "shard: expected false with train: full, since only frozen weights can be spread")
        _check(not (whole and self.train_conv_in), "train_conv_in: expected false with train: full, which trains it anyway")


@dataclass(frozen=True, kw_only=True)
class FastVaeSettings:
    """A small autoencoder in the place of the generator's own."""

    path: str
    """Folder or hub id of an AutoencoderTiny made for the generator's base, such as madebyollin/taesd; random:taesd for benchmarks."""
    parts: Literal["decoder", "both"] = "decoder"
    """decoder = the encoder stays, and with it what the UNet is used to; both = the fastest."""

    def __post_init__(self) -> None:
        _check(bool(self.path), "path must not be empty")
