"""Trains D3SR: a one-step diffusion generator against a diffusion discriminator.

    python train_d3sr.py -opt options/train_tiny.yml
    torchrun --nproc_per_node 4 train_d3sr.py -opt options/train.yml

Running the same command again resumes. Ctrl-C, or SIGTERM, finishes the iteration and saves first.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from options.d3sr import TrainOptions, load_train_options, to_yaml

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from engine.distributed import World
    from engine.health import DiscriminatorHealth
    from engine.logs import Means, RunLog
    from engine.run import Run
    from engine.validation import Validation
    from models.discriminator import Discriminator
    from models.generator import Generator
    from models.noising import NoiseAware

STOPPED = 130  # the exit status that shells give to Ctrl-C
DEBUG = (
    "train.total_iter=8",
    "train.scheduler.warmup_iter=0",
    "logger.print_freq=1",
    "logger.save_checkpoint_freq=4",
    "val.val_freq=4",
    "logger.use_tb_logger=false",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file, e.g. options/train.yml")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="override options, e.g. train.total_iter=1000")
    parser.add_argument("--launcher", choices=["none", "pytorch"], help="default: what torchrun's environment says")
    parser.add_argument("--debug", action="store_true", help="eight iterations of everything, each of them logged")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved options and what would be loaded, then stop")
    return parser.parse_args(argv)


def build_players(options: TrainOptions, world: "World") -> "tuple[Generator, Discriminator | None, NoiseAware | None]":
    """Generator and discriminator as they are before training, and what the discriminator is shown (None, None where there is none)."""
    import torch

    from engine.distributed import dtype_of, shard_frozen
    from models.backbones import heavy_layers
    from models.discriminator import build_discriminator
    from models.generator import build_generator, load_trained
    from models.noising import NOISINGS, NoiseAware

    g, d, seed = options.network_g, options.network_d, options.manual_seed
    generator = build_generator(
        g.pretrained, revision=g.revision, vae=g.vae, timestep=g.timestep, scale=options.scale, train=g.train,
        **dataclasses.asdict(g.lora), prompt_tokens=g.prompt_tokens, prompt_init=g.prompt_init, prompt_std=g.prompt_std,
        dtype=dtype_of(options.train.precision), seed=seed,
    ).to(world.device, memory_format=torch.channels_last)  # fmt: skip
    if options.path.pretrain_network_g:
        load_trained(generator, options.path.pretrain_network_g)
    if d.type == "none":
        return generator, None, None
    discriminator = build_discriminator(
        d.pretrained, revision=d.revision, head_channels=d.head_channels, image_size=options.datasets.train.gt_size,
        **dataclasses.asdict(d.lora), prompt_tokens=d.prompt_tokens, prompt_init=d.prompt_init, prompt_std=d.prompt_std,
        dtype=dtype_of(options.train.precision), seed=seed + 1,
    )  # fmt: skip
    if d.shard and world.size > 1:
        shard_frozen(discriminator, heavy_layers(discriminator.trunk), world)
    else:
        discriminator.to(world.device, memory_format=torch.channels_last)
    judged, made = discriminator.trunk.config.in_channels, generator.autoencoder.latent_channels
    if judged != made:
        raise ValueError(f"network_d.pretrained: '{d.pretrained}' judges latents of {judged} channels, the generator makes {made}")
    noising = NoiseAware(d.timestep_min, d.timestep_max) if d.type == "noise_aware" else NOISINGS[d.type]()
    return generator, discriminator, noising


def build_run(options: TrainOptions, world: "World") -> "Run":
    """Both players, their optimizers and, if asked for, the moving average, at iteration 0."""
    import torch

    from engine.optimization import MovingAverage, build_adamw
    from engine.run import Run
    from models.generator import base_fingerprint

    g, t = options.network_g, options.train
    generator, discriminator, noising = build_players(options, world)
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
    release = {
        "timestep": g.timestep, "scale": options.scale, "train": g.train, **dataclasses.asdict(g.lora), "base": g.pretrained,
        "revision": g.revision, "base_fingerprint": base_fingerprint(g.pretrained, g.revision), "vae": g.vae,
    }  # fmt: skip
    return Run(options.name, generator, discriminator, noising, optimizers, scalers, average, release)


def build_dataset(options: TrainOptions) -> "Dataset":
    """Endless LR / HR crops: degraded from HR images, or cut from one's own pairs."""
    from data.hr_crops import HRCrops
    from data.paired import PairedCrops

    d = options.datasets.train
    crops = {"gt_size": d.gt_size, "scale": options.scale, "seed": options.manual_seed, "use_hflip": d.use_hflip}
    if d.dataroot_lq is not None:
        return PairedCrops(d.dataroot_lq, d.dataroot_gt, **crops)
    return HRCrops(d.sources, **crops, degradation=options.degradation, usm=d.gt_usm)


def build_validation(options: TrainOptions, world: "World", folder: Path) -> "Validation":
    """The validation sets and their metrics; pictures and sheets go to `folder`."""
    from data.image_io import to_uint8, write_image
    from data.paired import PairedFolder
    from engine.metrics import build_metric
    from engine.validation import Validation

    sets = {name: PairedFolder(d.dataroot_lq, d.dataroot_gt, options.scale) for name, d in options.datasets.val.items()}
    wanted = options.val.metrics.items() if sets else ()
    metrics = [build_metric(name, **dataclasses.asdict(metric), device=world.device) for name, metric in wanted]
    val = options.val
    return Validation(sets, metrics, world, folder, val.tile, val.color_fix, val.save_img, to_uint8, write_image)


def generator_step(
    run: "Run", generator_all: Any, batches: list[dict], perceptual: Any, options: TrainOptions, means: "Means", autocast: Any
) -> list:
    """Updates the generator on L_spatial + lambda_1 L_G. Returns what the discriminator judges next: (z_hat, z_hr, sample indices) a batch.

    The gradients of the spatial loss (Eq. 8) and of the adversarial loss (Eq. 2) are taken separately down to z_hat, where they meet and
    go on through the UNet as one: their ratio can be watched, and it costs nothing.
    """
    import torch

    from engine.distributed import synchronised
    from engine.objectives import GENERATOR_STEP, SHIFT, draw, frozen, generator_objective, sample_seed
    from losses.pattern import flat_detail, repetition
    from losses.perceptual import shifted_distance
    from losses.spatial import spatial_loss

    t, generator = options.train, run.generator
    adversarial = run.discriminator is not None and run.iteration >= t.adversarial_start
    scale = run.scalers["g"].scale(generator.alphas_cumprod.new_ones(())) / len(batches)
    shifted = shifted_distance(perceptual, t.perceptual.shift, sample_seed(options.manual_seed, run.iteration, SHIFT))
    judged = []
    for number, batch in enumerate(batches):
        lr, hr, indices = batch["lr"], batch["hr"], batch["index"].tolist()
        with synchronised(generator_all, last=number == len(batches) - 1):
            with autocast():
                sr, z_hat = generator_all(lr * 2 - 1)
            sr = (sr + 1) / 2
            spatial, parts = spatial_loss(sr, hr, shifted, mse_weight=t.mse_weight, perceptual_weight=t.perceptual.weight)
            for name, weight, loss in (("pattern", t.pattern_weight, flat_detail), ("repetition", t.repetition_weight, repetition)):
                if weight:
                    value = loss(sr, hr)
                    spatial = spatial + weight * value
                    means.add(**{name: value.detach()})
            spatial_gradient = torch.autograd.grad(scale * spatial, z_hat)[0]
            gradient = spatial_gradient
            if adversarial:
                with frozen(run.discriminator), autocast():
                    seen = draw(run.noising, options.manual_seed, indices, GENERATOR_STEP, z_hat)
                    loss_g, _ = generator_objective(run.discriminator, run.noising, z_hat, seen, generator.alphas_cumprod)
                    adversarial_gradient = torch.autograd.grad(scale * t.adversarial_weight * loss_g, z_hat)[0]
                gradient = spatial_gradient + adversarial_gradient
                means.add(loss_g=loss_g, adversarial_gradient=adversarial_gradient.norm() / scale)
            z_hat.backward(gradient)
        means.add(mse=parts["mse"], perceptual=parts["perceptual"], spatial_gradient=spatial_gradient.norm() / scale)
        if adversarial:
            with autocast():
                judged.append((z_hat.detach(), generator.encode(hr * 2 - 1), indices))
    means.add(gradient_g=run.step("g", t.grad_clip))
    return judged


def discriminator_step(
    run: "Run", discriminator_all: Any, judged: list, options: TrainOptions, means: "Means", health: "DiscriminatorHealth", autocast: Any
) -> None:
    """Updates the discriminator on L_D (Eq. 3): real and generated latents under noise."""
    from engine.distributed import mean_of, synchronised
    from engine.objectives import FAKE, REAL, discriminator_objective, draw

    d, seed, real_sign = options.network_d, options.manual_seed, 0.0
    for number, (z_hat, z_hr, indices) in enumerate(judged):
        real = draw(run.noising, seed, indices, REAL, z_hr)
        fake = draw(run.noising, seed, indices, REAL if d.share_timesteps else FAKE, z_hat, noise_tag=REAL if d.share_noise else FAKE)
        with synchronised(discriminator_all, last=number == len(judged) - 1):
            with autocast():
                loss_d, real_logits, fake_logits = discriminator_objective(
                    discriminator_all, run.noising, z_hr, z_hat, real, fake, run.generator.alphas_cumprod
                )
            run.scalers["d"].scale(loss_d / len(judged)).backward()
        means.add(loss_d=loss_d, real_logits=real_logits.mean(), fake_logits=fake_logits.mean())
        health.add(real_logits, real.timesteps, fake_logits, fake.timesteps)
        real_sign += real_logits.sign().mean() / len(judged)
    means.add(gradient_d=run.step("d", options.train.grad_clip))
    if run.noising.adaptive:
        run.noising.observe(mean_of(real_sign))


def open_run_folder(options: TrainOptions, world: "World") -> "tuple[Path, RunLog]":
    """The run's folder and its log; a former run of this name makes way where path.resume is false."""
    from engine.checkpoint import archive
    from engine.logs import RunLog

    folder, tensorboard = Path(options.path.experiments_root) / options.name, Path(options.path.tb_root) / options.name
    archived = [archive(former) for former in (folder, tensorboard)] if world.is_main and not options.path.resume else []
    log = RunLog(folder, options.name, tensorboard if options.logger.use_tb_logger else None, world)
    for place in filter(None, archived):
        log.info(f"the former run of this name is now {place}")
    return folder, log


def train(options: TrainOptions, world: "World") -> bool:
    """The training of Sec. 3.4. Returns False where a signal ended it early."""
    import torch
    from tqdm import tqdm

    from data.loading import endless_batches
    from data.sampler import ShardedSampler
    from engine.checkpoint import newest_intact_state
    from engine.distributed import dtype_of, from_main, parallel
    from engine.housekeeping import Housekeeping, Schedule
    from engine.objectives import sample_seed
    from engine.optimization import learning_rate_factor, set_learning_rate
    from engine.release import parameter_summary
    from engine.run import resume_run
    from losses.perceptual import build_perceptual

    # Pictures, before anything heavy is loaded
    t, d, logger = options.train, options.datasets.train, options.logger
    folder, log = open_run_folder(options, world)
    dataset = build_dataset(options)
    log.info(dataset.report())
    validation = build_validation(options, world, folder / "visualization")

    # Players and losses
    run = build_run(options, world)
    state = from_main(newest_intact_state(folder / "training_states", log.warning) if world.is_main else None, world)
    if state is not None:
        resume_run(run, state)
        log.info(f"resuming {state}")
    log.write_options(to_yaml(options))
    schedule = Schedule(t.total_iter, logger.print_freq, options.val.val_freq, logger.save_checkpoint_freq, t.check_ranks)
    samples = d.batch_size_per_gpu * world.size * t.accumulate
    keeper = Housekeeping(run, world, folder, log, validation, schedule, samples, logger.keep_last, options.val.best)
    keeper.begin()
    log.info(f"generator: {parameter_summary(run.generator)}")
    generator_all, discriminator_all = parallel(run.generator, world), None
    if run.discriminator is not None:
        log.info(f"discriminator: {parameter_summary(run.discriminator)}")
        if options.network_d.shard:
            spread = f"spread over {world.size} processes" if world.size > 1 else "all here: with one process there is nothing to share"
            log.info(f"network_d.shard: its frozen weights are {spread}")
        discriminator_all = parallel(run.discriminator, world)
    p = dataclasses.asdict(t.perceptual)
    perceptual = build_perceptual(**{name: value for name, value in p.items() if name not in ("weight", "shift")})
    perceptual = perceptual.to(world.device) if perceptual is not None else None

    # Batches
    sampler = ShardedSampler(rank=world.rank, world_size=world.size, start=run.iteration * samples)
    workers = {"workers": d.num_worker_per_gpu, "device": world.device, "warn": log.warning}
    loader = endless_batches(dataset, d.batch_size_per_gpu, sampler, **workers)
    learning_rates = {"g": t.optim_g.lr, "d": t.optim_d.lr}

    def autocast() -> torch.autocast:
        return torch.autocast(world.device.type, dtype_of(t.precision), enabled=t.precision != "fp32")

    bar = tqdm(total=t.total_iter, initial=run.iteration, disable=not world.is_main, desc=options.name, dynamic_ncols=True)
    stopped = False
    with keeper.stop, bar:
        while run.iteration < t.total_iter and not stopped:
            torch.manual_seed(sample_seed(options.manual_seed, run.iteration, 64 + world.rank))
            factor = learning_rate_factor(run.iteration, t.total_iter, **dataclasses.asdict(t.scheduler))
            for player, optimizer in run.optimizers.items():
                set_learning_rate(optimizer, learning_rates[player] * factor)

            # The two players
            batches = [next(loader) for _ in range(t.accumulate)]
            judged = generator_step(run, generator_all, batches, perceptual, options, keeper.means, autocast)
            if judged:
                discriminator_step(run, discriminator_all, judged, options, keeper.means, keeper.health, autocast)
            if run.average is not None:
                run.average.update(run.iteration)
            run.iteration += 1
            bar.update()

            # Log, validate, save
            stopped = keeper.after_iteration(learning_rates["g"] * factor)
    if not stopped:
        log.info(f"finished: {folder / 'models'}")
    return not stopped


def dry_run(options: TrainOptions) -> str:
    """What would be loaded from where, parameters and memory, in words; needs no weights, no network and no GPU."""
    from data.pictures import find_pictures
    from engine.dry_run import BatchPlan, PerceptualPlan, describe_training
    from models.sizes import DiscriminatorPlan, GeneratorPlan

    g, d, t, data = options.network_g, options.network_d, options.train, options.datasets.train
    generator = GeneratorPlan(
        source=g.pretrained, revision=g.revision, vae=g.vae, train=g.train, prompt_tokens=g.prompt_tokens, **dataclasses.asdict(g.lora)
    )
    discriminator = None
    if d.type != "none":
        sizes = {"head_channels": d.head_channels, "prompt_tokens": d.prompt_tokens, **dataclasses.asdict(d.lora)}
        discriminator = DiscriminatorPlan(source=d.pretrained, revision=d.revision, **sizes)
    p = t.perceptual
    batch = BatchPlan(
        gt_size=data.gt_size, per_process=data.batch_size_per_gpu, accumulate=t.accumulate, precision=t.precision,
        processes=None if options.num_gpu == "auto" else options.num_gpu, checkpointing=t.gradient_checkpointing, ema=t.ema_decay > 0,
        shard=d.shard and d.type != "none",
    )  # fmt: skip
    folders = [("training HR", path) for path, _ in data.sources] + [("training LR", data.dataroot_lq)]
    for name, paired in options.datasets.val.items():
        folders += [(f"val {name} LR", paired.dataroot_lq), (f"val {name} HR", paired.dataroot_gt)]
    return describe_training(
        generator, discriminator, PerceptualPlan(p.type, p.backbone, p.backbone_weights, p.dists_weights), batch,
        folders=folders, list_images=find_pictures, start_from=options.path.pretrain_network_g,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        options = load_train_options(args.opt, [*(DEBUG if args.debug else ()), *args.force_yml])
        if args.dry_run:
            print(to_yaml(options))
            print(dry_run(options))
            return 0
        from engine.distributed import start

        with start(options.device, args.launcher) as world:
            if options.num_gpu not in ("auto", world.size):
                raise ValueError(
                    f"{args.opt}: num_gpu is {options.num_gpu}, but {world.size} process(es) were started: use "
                    f"torchrun --nproc_per_node {options.num_gpu}, or set num_gpu (and train.accumulate, to keep the batch)"
                )
            return 0 if train(options, world) else STOPPED
    except (ValueError, OSError) as error:
        print(f"train_d3sr.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
