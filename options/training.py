"""The `train` section of the options: the run, its optimizers and its losses.

Objects are frozen and check themselves when they are built; `schema.build` adds file and dotted key to what a check says.
"""

from dataclasses import dataclass, field
from typing import Literal

from losses.settings import PerceptualSettings
from options.schema import check


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
    perceptual: PerceptualSettings
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
