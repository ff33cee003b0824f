"""Both players as the options want them: networks, optimizers, and what the discriminator is shown."""

import dataclasses

import torch

from engine.distributed import World, dtype_of, shard_frozen
from engine.objectives import AdversarialBalance
from engine.optimization import MovingAverage, build_adamw
from engine.run import Run
from models.discriminator import Discriminator, build_discriminator
from models.generator import Generator, base_fingerprint, build_generator, load_trained
from models.noising import build_noising
from options.d3sr import TrainOptions


def build_players(options: TrainOptions, world: World) -> tuple[Generator, Discriminator | None]:
    """Generator and discriminator (None where network_d.type is none) as they are before training, on the device.

    Raises:
        ValueError: weights that are missing or damaged, or networks that do not fit each other.
    """
    g, d, seed = options.network_g, options.network_d, options.manual_seed
    dtype = dtype_of(options.train.precision)
    generator = build_generator(g, scale=options.scale, dtype=dtype, seed=seed)
    generator.to(world.device, memory_format=torch.channels_last)
    if options.path.pretrain_network_g:
        load_trained(generator, options.path.pretrain_network_g)
    if d.type == "none":
        return generator, None
    discriminator = build_discriminator(d, image_size=options.datasets.train.gt_size, dtype=dtype, seed=seed + 1)
    judged, made = discriminator.in_channels, generator.autoencoder.latent_channels
    if judged != made:
        raise ValueError(f"network_d.pretrained: '{d.pretrained}' judges latents of {judged} channels, the generator makes {made}")
    if d.shard and world.size > 1:
        shard_frozen(discriminator, discriminator.heavy_layers(), world)
    else:
        discriminator.to(world.device, memory_format=torch.channels_last)
    return generator, discriminator


def build_run(options: TrainOptions, world: World) -> Run:
    """Both players, their optimizers and, if asked for, the moving average, at iteration 0."""
    g, t = options.network_g, options.train
    generator, discriminator = build_players(options, world)
    parts = {"vae": generator.autoencoder, "unet": generator.unet}
    players = {"g": (generator, t.optim_g)}
    if discriminator is not None:
        parts["discriminator"] = discriminator.trunk
        players["d"] = (discriminator, t.optim_d)
    for name in t.gradient_checkpointing:
        if name in parts:
            parts[name].enable_gradient_checkpointing()
    optimizers = {
        name: build_adamw(player.trainable(), learning_rate=o.lr, weight_decay=o.weight_decay, betas=o.betas, eps=o.eps)
        for name, (player, o) in players.items()
    }
    scalers = {name: torch.amp.GradScaler(world.device.type, enabled=t.precision == "fp16") for name in players}
    average = MovingAverage(generator.trainable(), t.ema_decay) if t.ema_decay else None
    balance = AdversarialBalance(world.device, weight=t.adversarial_weight, ratio=t.adversarial_ratio)
    release = {
        "timestep": g.timestep, "scale": options.scale, "train": g.train, **dataclasses.asdict(g.lora), "base": g.pretrained,
        "revision": g.revision, "base_fingerprint": base_fingerprint(g.pretrained, g.revision), "vae": g.vae,
    }  # fmt: skip
    noising = build_noising(options.network_d)
    return Run(options.name, generator, discriminator, noising, optimizers, scalers, average, balance, release)
