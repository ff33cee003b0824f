"""The options of the two networks and of their losses and optimizers: the part of the tree that says what is trained, and how.

Objects are frozen and check themselves when they are built; `schema.build` adds file and dotted key to what a check says.
"""

from dataclasses import dataclass, field
from typing import Literal

from options.schema import check

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


def check_timestep(name: str, timestep: int) -> None:
    """Refuses a timestep outside 0..999."""
    check(0 <= timestep < NUM_TIMESTEPS, f"{name} must be from 0 to {NUM_TIMESTEPS - 1}, got {timestep}")


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Low-rank adapters; their strength is alpha / rank."""

    rank: int = 16
    """r of the paper: inner width of each adapter."""
    alpha: int = 16
    """The paper's scaling factor; equal to rank it means strength 1."""
    targets: tuple[str, ...] = LORA_TARGETS
    """Ends of the names of the modules that get an adapter."""

    def __post_init__(self) -> None:
        check(self.rank >= 1, f"rank must be at least 1, got {self.rank}")
        check(self.alpha >= 1, f"alpha must be at least 1, got {self.alpha}")
        check(len(self.targets) > 0, "targets must name at least one module")
        check(len(set(self.targets)) == len(self.targets), "targets must not name a module twice")


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
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
    lora: LoraOptions = field(default_factory=LoraOptions)
    """The UNet's adapters; without effect when train is full."""
    prompt_tokens: int = 77
    """Length of the learnable text embedding; without effect on a UNet that has no cross-attention."""
    prompt_init: Literal["normal", "zeros"] = "normal"
    """How the text embedding starts."""
    prompt_std: float = 0.02
    """Standard deviation of prompt_init: normal."""

    def __post_init__(self) -> None:
        check_timestep("timestep", self.timestep)
        check(self.prompt_tokens >= 1, f"prompt_tokens must be at least 1, got {self.prompt_tokens}")
        check(self.prompt_std > 0, f"prompt_std must be above 0, got {self.prompt_std}")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorOptions:
    """The discriminator (Sec. 3.2): the down and mid blocks of a pre-trained UNet on noised latents, and a head per position."""

    type: Literal["noise_aware", "vanilla", "diffusion_gan", "none"] = "noise_aware"
    """noise_aware = the paper's; vanilla, diffusion_gan and none are the other rows of Table 6."""
    pretrained: str | None = None
    """Diffusers folder or hub id whose UNet it starts from, or random:KIND; needed unless type is none."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; null = its main branch."""
    train: Literal["lora", "full"] = "lora"
    """lora = adapters on the UNet, as in the paper; full = every weight that is kept of it, for small bases."""
    lora: LoraOptions = field(default_factory=LoraOptions)
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
    timestep_max: int = 999
    """Highest t of F(z, t), inclusive."""
    share_timesteps: bool = True
    """Real and generated latent of a pair get the same t."""
    share_noise: bool = True
    """Real and generated latent of a pair get the same noise."""
    shard: bool = False
    """Its frozen weights are spread over the processes (FSDP2): less memory, more traffic. Without effect with one process or type none."""

    def __post_init__(self) -> None:
        if self.type != "none":
            check(bool(self.pretrained), f"pretrained: expected the folder or hub id that type {self.type} starts from")
        check(self.head_channels >= 1, f"head_channels must be at least 1, got {self.head_channels}")
        check(self.prompt_tokens >= 1, f"prompt_tokens must be at least 1, got {self.prompt_tokens}")
        check(self.prompt_std > 0, f"prompt_std must be above 0, got {self.prompt_std}")
        check_timestep("timestep_min", self.timestep_min)
        check_timestep("timestep_max", self.timestep_max)
        low, high = self.timestep_min, self.timestep_max
        check(low <= high, f"timestep_max must not be below timestep_min {low}, got {high}")
        if self.type in ("vanilla", "diffusion_gan"):
            for name, value, default in (("timestep_min", low, 0), ("timestep_max", high, NUM_TIMESTEPS - 1)):
                check(value == default, f"{name}: expected {default} with type {self.type}, which has timesteps of its own, got {value}")
        whole = self.train == "full"
        check(not (whole and self.shard), "shard: expected false with train: full, since only frozen weights can be spread")
        check(not (whole and self.train_conv_in), "train_conv_in: expected false with train: full, which trains it anyway")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """One player's optimizer."""

    type: Literal["AdamW"] = "AdamW"
    """The paper's."""
    lr: float = 5e-5
    """Learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running mean and of the running square of the gradient."""
    eps: float = 1e-8
    """Added to the denominator."""

    def __post_init__(self) -> None:
        check(self.lr > 0, f"lr must be above 0, got {self.lr}")
        check(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        check(all(0 <= beta < 1 for beta in self.betas), f"betas must both be in [0, 1), got {list(self.betas)}")
        check(self.eps > 0, f"eps must be above 0, got {self.eps}")


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions:
    """The learning rate over the run, for both players: a factor on their `lr`."""

    type: Literal["constant", "cosine", "multistep"] = "constant"
    """constant; cosine down to 0 at total_iter; multistep = times gamma at each milestone."""
    warmup_iter: int = 0
    """Iterations of linear growth from 0 at the start."""
    milestones: tuple[int, ...] = ()
    """Iterations, ascending; multistep only."""
    gamma: float = 0.5
    """Factor at each milestone."""

    def __post_init__(self) -> None:
        check(self.warmup_iter >= 0, f"warmup_iter must not be negative, got {self.warmup_iter}")
        ascending = all(earlier < later for earlier, later in zip((0, *self.milestones), self.milestones, strict=False))
        check(ascending, f"milestones must be above 0 and ascending, got {list(self.milestones)}")
        needed = self.type == "multistep"
        check(bool(self.milestones) == needed, f"milestones: expected {'at least one' if needed else 'none'} with type {self.type}")
        check(0 < self.gamma <= 1, f"gamma must be in (0, 1], got {self.gamma}")


@dataclass(frozen=True, kw_only=True)
class PerceptualOptions:
    """The perceptual part of the spatial loss (Eq. 5 to 8)."""

    type: Literal["mse", "lpips", "ea_lpips", "dists", "ea_dists"] = "ea_dists"
    """The rows of Table 5; mse = no perceptual loss."""
    weight: float
    """lambda_2 of Eq. 8; without effect when type is mse."""
    backbone: Literal["vgg16", "squeezenet1_1"] = "vgg16"
    """vgg16 as in the papers, or the light SqueezeNet 1.1."""
    backbone_weights: str = "torchvision"
    """torchvision = its download; a .pth or .safetensors file; or random (seeded), for tests."""
    dists_weights: str | None = None
    """File with DISTS' alpha and beta, which belong to vgg16, or uniform for equal weights; null with squeezenet1_1 and for other types."""
    sobel_mode: Literal["channel", "grey"] = "grey"
    """Edges of Eq. 6 and 7 for each colour channel, or of the grey image."""
    sobel_eps: float = 1e-6
    """Added under the square root of Eq. 7, so that flat places have a gradient."""

    shift: int = 0
    """Both images are moved by the same random 0..shift pixels first, so that no grid can hide in the backbone's strides."""

    def __post_init__(self) -> None:
        check(self.shift >= 0, f"shift must not be negative, got {self.shift}")
        check(self.weight >= 0, f"weight must not be negative, got {self.weight}")
        check(bool(self.backbone_weights), "backbone_weights must be torchvision, a file, or random")
        if self.type in ("dists", "ea_dists"):
            vgg16, given = self.backbone == "vgg16", self.dists_weights
            check(not vgg16 or bool(given), "dists_weights: expected DISTS' alpha and beta (options/train.yml names the file's address)")
            check(vgg16 or given in (None, "uniform"), f"dists_weights: expected null or uniform with {self.backbone}, got {given!r}")
        check(self.sobel_eps > 0, f"sobel_eps must be above 0, got {self.sobel_eps}")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The `train` section: the run, its optimizers and its losses."""

    total_iter: int = 100_000
    """Generator updates, after which the run ends exactly."""
    accumulate: int = 1
    """Batches per update; the effective batch is batch_size_per_gpu x num_gpu x accumulate."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of the networks under autocast; trained weights, losses and optimizers stay in fp32."""
    ema_decay: float = 0.0
    """Decay per update of the running mean of what trains; 0 = no mean is kept."""
    grad_clip: float | None = 1.0
    """Largest norm of each player's gradient; null = no clipping."""
    gradient_checkpointing: tuple[Literal["vae", "unet", "discriminator"], ...] = ("vae",)
    """Where memory is saved by computing forward passes twice; the VAE decoder is where most of it goes."""
    optim_g: OptimizerOptions = field(default_factory=OptimizerOptions)
    """The generator's optimizer."""
    optim_d: OptimizerOptions = field(default_factory=OptimizerOptions)
    """The discriminator's optimizer."""
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)
    """The learning rates over the run."""
    adversarial_weight: float | None = None
    """lambda_1 of Sec. 3.4 as a number; null where adversarial_ratio is given. Without effect when network_d.type is none."""
    adversarial_ratio: float | None = None
    """lambda_1 as a share: the weight with which the adversarial gradient at z_hat is so many times as long as the spatial one."""
    r1_weight: float = 0.0
    """gamma of R1, which keeps the discriminator's gradient at real latents short (Mescheder et al. 2018); 0 = none, as in the paper."""
    r1_every: int = 16
    """Iterations between two that compute R1, which then counts so many times as much (StyleGAN2's lazy regularization)."""
    mse_weight: float = 1.0
    """Weight of the MSE in Eq. 8, on images in [0, 1]; the paper's is 1."""
    perceptual: PerceptualOptions
    """The perceptual loss and lambda_2."""
    pattern_weight: float = 0.0
    """Weight of a loss against fine patterns where HR is flat (`losses.pattern.flat_detail`); 0 as in the paper."""
    repetition_weight: float = 0.0
    """Of the loss against detail that repeats itself with the period of a block VAE (losses/pattern.py: repetition); 0 as in the paper."""
    coherence_weight: float = 0.0
    """Weight of a loss against edges that fray (losses/edges.py: lost_coherence); 0 as in the paper."""
    overshoot_weight: float = 0.0
    """Weight of a loss against halos and colour fringes beside edges (losses/edges.py: overshoot); 0 as in the paper."""
    discriminator_start: int | None = None
    """Iteration from which the discriminator trains; null = together with adversarial_start."""
    adversarial_start: int = 0
    """Iteration from which the generator hears the discriminator."""
    cudnn_benchmark: bool = True
    """Let cuDNN try its algorithms at the start and take the fastest; which one may differ from run to run, and with it the last bits."""
    tf32: bool = True
    """Products that are computed in float32 (losses, VGG16) take 10 bits of their factors on GPUs with TF32: several times as fast."""
    check_ranks: int = 1000
    """Iterations between checks that all processes hold the same weights, one more at the start; 0 = none."""

    def __post_init__(self) -> None:
        check(self.total_iter >= 1, f"total_iter must be at least 1, got {self.total_iter}")
        check(self.accumulate >= 1, f"accumulate must be at least 1, got {self.accumulate}")
        for name in ("pattern_weight", "repetition_weight", "coherence_weight", "overshoot_weight"):
            check(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        check(0 <= self.ema_decay < 1, f"ema_decay must be in [0, 1), got {self.ema_decay}")
        check(self.grad_clip is None or self.grad_clip > 0, f"grad_clip must be above 0, or null for none, got {self.grad_clip}")
        places = self.gradient_checkpointing
        check(len(set(places)) == len(places), f"gradient_checkpointing must not name a part twice, got {list(places)}")
        warmup = self.scheduler.warmup_iter
        check(warmup <= self.total_iter, f"scheduler.warmup_iter must not exceed total_iter {self.total_iter}, got {warmup}")
        weight, ratio = self.adversarial_weight, self.adversarial_ratio
        one = (weight is None) != (ratio is None)
        check(one, "adversarial_ratio: expected a number either here or in adversarial_weight, and null in the other")
        for name, value in (("adversarial_weight", weight), ("adversarial_ratio", ratio)):
            check(value is None or value >= 0, f"{name} must not be negative, got {value}")
        check(self.r1_weight >= 0, f"r1_weight must not be negative, got {self.r1_weight}")
        check(self.r1_every >= 1, f"r1_every must be at least 1, got {self.r1_every}")
        check(self.mse_weight >= 0, f"mse_weight must not be negative, got {self.mse_weight}")
        check(self.adversarial_start >= 0, f"adversarial_start must not be negative, got {self.adversarial_start}")
        start, heard = self.discriminator_start, self.adversarial_start
        fits = start is None or 0 <= start <= heard
        check(fits, f"discriminator_start must be from 0 to adversarial_start {heard}, or null, got {start}")
        check(self.check_ranks >= 0, f"check_ranks must not be negative, got {self.check_ranks}")

    @property
    def discriminator_starts(self) -> int:
        """Iteration from which the discriminator trains."""
        return self.adversarial_start if self.discriminator_start is None else self.discriminator_start
