"""What is trained on the GPU that is not there: a handful of runs in which every value of every option that decides on data types, or on
what is computed, occurs."""

CASES = {
    "bf16, as the paper": ["train.precision=bf16"],
    "bf16, generator in full": [
        "train.precision=bf16", "network_g.train=full", "network_d.train_conv_in=true", "network_d.features=multi",
        "network_d.type=diffusion_gan", "train.gradient_checkpointing=[vae, unet, discriminator]",
    ],
    "fp16, discriminator in full": [
        "train.precision=fp16", "network_d.train=full", "network_d.features=multi", "network_d.type=vanilla", "train.ema_decay=0.99",
        "network_d.share_timesteps=false", "network_d.share_noise=false", "train.pattern_weight=1.0", "train.repetition_weight=1.0",
        "train.perceptual.shift=7", "train.r1_weight=1", "train.coherence_weight=1.0", "train.overshoot_weight=1.0",
    ],
    "bf16, gradient penalty": ["train.precision=bf16", "train.r1_weight=1", "train.gradient_checkpointing=[discriminator]"],
    "fp32, discriminator in full": [
        "train.precision=fp32", "network_d.train=full", "network_d.type=diffusion_gan",
        "train.adversarial_ratio=null", "train.adversarial_weight=0.1", "train.perceptual.type=dists", "train.accumulate=2",
    ],
}  # fmt: skip
"""Name -> what differs from options/train.yml."""

VALIDATED = ("bf16, as the paper", "bf16, generator in full")
"""These also restore a picture before they train."""

TILES = (0, 128)
