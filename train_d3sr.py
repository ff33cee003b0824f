"""Trains D3SR: a one-step diffusion generator against a diffusion discriminator.

    python train_d3sr.py -opt options/train_tiny.yml
    torchrun --nproc_per_node 4 train_d3sr.py -opt options/train.yml

Running the same command again resumes.
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
    from engine.run import Run

DEBUG = ("train.total_iter=8", "train.scheduler.warmup_iter=0", "logger.print_freq=1", "logger.save_checkpoint_freq=4", "val.val_freq=4", "logger.use_tb_logger=false")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file, e.g. options/train.yml")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="override options, e.g. train.total_iter=1000")
    parser.add_argument("--launcher", choices=["none", "pytorch"], help="default: what torchrun's environment says")
    parser.add_argument("--debug", action="store_true", help="eight iterations of everything, each of them logged")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved options and what would be loaded, then stop")
    return parser.parse_args(argv)


def build_run(options: TrainOptions, world: "World") -> "Run":
    """Both players, their optimizers and, if asked for, the moving average, at iteration 0."""
    import torch

    from engine.optimization import MovingAverage, build_adamw
    from engine.run import Run
    from models.discriminator import build_discriminator
    from models.generator import base_fingerprint, build_generator, load_trained
    from models.noising import NOISINGS, NoiseAware

    g, d, t = options.network_g, options.network_d, options.train
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[t.precision]
    prompt_g = {"prompt_tokens": g.prompt_tokens, "prompt_init": g.prompt_init, "prompt_std": g.prompt_std}
    prompt_d = {"prompt_tokens": d.prompt_tokens, "prompt_init": d.prompt_init, "prompt_std": d.prompt_std}
    seed = options.manual_seed
    generator = build_generator(
        g.pretrained, revision=g.revision, vae=g.vae, timestep=g.timestep, scale=options.scale, train=g.train,
        **dataclasses.asdict(g.lora), **prompt_g, dtype=dtype, seed=seed,
    ).to(world.device)  # fmt: skip
    if options.path.pretrain_network_g:
        load_trained(generator, options.path.pretrain_network_g)
    discriminator = noising = None
    if d.type != "none":
        discriminator = build_discriminator(
            d.pretrained, revision=d.revision, head_channels=d.head_channels, image_size=options.datasets.train.gt_size,
            **dataclasses.asdict(d.lora), **prompt_d, dtype=dtype, seed=seed + 1,
        ).to(world.device)  # fmt: skip
        noising = NoiseAware(d.timestep_min, d.timestep_max) if d.type == "noise_aware" else NOISINGS[d.type]()

    checkpointed = {
        "vae": generator.autoencoder,
        "unet": generator.unet,
        "discriminator": discriminator.trunk if discriminator is not None else None,
    }
    for part in t.gradient_checkpointing:
        if checkpointed[part] is not None:
            checkpointed[part].enable_gradient_checkpointing()
    players = {"g": (generator, t.optim_g)} | ({"d": (discriminator, t.optim_d)} if discriminator is not None else {})
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


def one_thread(_worker: int) -> None:
    """A loader process is one of many: OpenCV must not take every core for each."""
    import cv2

    cv2.setNumThreads(0)


class Validator:
    """The validation sets and metrics, built once; writes pictures and sheets into visualization/."""

    def __init__(self, options: TrainOptions, world: "World", folder: Path) -> None:
        from data.paired import PairedFolder
        from engine.metrics import build_metric

        self.options, self.world, self.folder = options, world, folder / "visualization"
        self.sets = {name: PairedFolder(d.dataroot_lq, d.dataroot_gt, options.scale) for name, d in options.datasets.val.items()}
        metrics = options.val.metrics.items() if self.sets else ()
        self.metrics = [build_metric(name, **dataclasses.asdict(metric), device=world.device) for name, metric in metrics]

    def __call__(self, run: "Run", warn: Any) -> dict[str, float]:
        """Mean scores by "set/metric" of the (averaged) generator."""
        from data.image_io import to_uint8, write_image
        from engine.report import picture_sheet
        from engine.validation import validate

        val, scores = self.options.val, {}
        for name, dataset in self.sets.items():

            def keep(image: str, picture: Any, name: str = name) -> None:
                if val.save_img:
                    write_image(self.folder / name / image / f"{Path(image).name}_{run.iteration}.png", picture)

            with run.averaged() as generator:
                result = validate(
                    generator, dataset, self.metrics, self.world, tile=val.tile, color_fix=val.color_fix, to_uint8=to_uint8, keep=keep, warn=warn
                )
            scores |= {f"{name}/{metric}": value for metric, value in result.means.items()}
            if self.world.is_main and result.pictures:
                labels = list(result.pictures[0][1])
                sheet = picture_sheet([list(p.values()) for _, p in result.pictures], labels, [image for image, _ in result.pictures])
                write_image(self.folder / f"{name}_{run.iteration}.png", sheet)
        return scores


def train(options: TrainOptions, world: "World") -> None:
    """The training of Sec. 3.4."""
    import torch
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    from data.hr_crops import collate
    from data.sampler import ShardedSampler
    from engine.checkpoint import archive, newest_intact_state
    from engine.distributed import from_main, mean_over_ranks, parallel, synchronised
    from engine.logs import Means, Speed, log_line, open_log, open_tensorboard, peak_memory_gib
    from engine.objectives import FAKE, GENERATOR_STEP, REAL, discriminator_objective, draw, frozen, generator_objective, sample_seed
    from engine.optimization import learning_rate_factor, set_learning_rate, update
    from engine.release import parameter_summary
    from engine.run import resume_run, save_run
    from losses.perceptual import build_perceptual
    from losses.spatial import spatial_loss

    # Run folder and log
    d, t, log_options = options.datasets.train, options.train, options.logger
    folder = Path(options.path.experiments_root) / options.name
    archived = archive(folder) if world.is_main and not options.path.resume else None
    log = open_log(folder / f"train_{options.name}.log" if world.is_main else None)
    if world.is_main:
        (folder / "options.yml").write_text(to_yaml(options))
    tensorboard = open_tensorboard(Path(options.path.tb_root) / options.name if world.is_main and log_options.use_tb_logger else None)
    if archived:
        log.info(f"the former run of this name is now {archived}")

    # Players
    run = build_run(options, world)
    state = from_main(newest_intact_state(folder / "training_states", log.warning) if world.is_main else None, world)
    if state is not None:
        resume_run(run, state)
        log.info(f"resuming {state}")
    for name, player in (("generator", run.generator), ("discriminator", run.discriminator)):
        if player is not None:
            log.info(f"{name}: {parameter_summary(player)}")
    generator, discriminator, alphas_cumprod = run.generator, run.discriminator, run.generator.alphas_cumprod
    generator_all = parallel(generator, world)
    discriminator_all = parallel(discriminator, world) if discriminator is not None else None
    optimized = {"g": t.optim_g.lr, "d": t.optim_d.lr}

    # Data, losses, validation
    dataset = build_dataset(options)
    log.info(dataset.report())
    samples = d.batch_size_per_gpu * world.size * t.accumulate
    loader = iter(
        DataLoader(
            dataset, d.batch_size_per_gpu, sampler=ShardedSampler(rank=world.rank, world_size=world.size, start=run.iteration * samples),
            num_workers=d.num_worker_per_gpu, collate_fn=collate, pin_memory=world.device.type == "cuda", worker_init_fn=one_thread,
        )
    )  # fmt: skip
    p = t.perceptual
    perceptual = build_perceptual(
        p.type, backbone=p.backbone, backbone_weights=p.backbone_weights, dists_weights=p.dists_weights,
        sobel_mode=p.sobel_mode, sobel_eps=p.sobel_eps,
    )  # fmt: skip
    perceptual = perceptual.to(world.device) if perceptual is not None else None
    validator = Validator(options, world, folder)
    autocast_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[t.precision]
    seed, means, speed, unreadable = options.manual_seed, Means(), Speed(), 0
    first, bar = run.iteration, tqdm(total=t.total_iter, initial=run.iteration, disable=not world.is_main, desc=options.name, dynamic_ncols=True)

    def autocast() -> torch.autocast:
        return torch.autocast(world.device.type, autocast_dtype, enabled=t.precision != "fp32")

    while run.iteration < t.total_iter:
        torch.manual_seed(sample_seed(seed, run.iteration, 64 + world.rank))
        adversarial = discriminator is not None and run.iteration >= t.adversarial_start
        factor = learning_rate_factor(run.iteration, t.total_iter, **dataclasses.asdict(t.scheduler))
        for player, optimizer in run.optimizers.items():
            set_learning_rate(optimizer, optimized[player] * factor)

        # Generator: the gradients of the spatial loss (Eq. 8) and of the adversarial loss (Eq. 2) meet at z_hat
        judged = []
        for micro in range(t.accumulate):
            batch = next(loader)
            lr, hr, indices = batch["lr"].to(world.device), batch["hr"].to(world.device), batch["index"].tolist()
            unreadable += len(batch["skipped"])
            for line in batch["skipped"]:
                log.warning(f"unreadable, another image taken ({unreadable} so far): {line}")
            with synchronised(generator_all, last=micro == t.accumulate - 1):
                with autocast():
                    sr, z_hat = generator_all(lr * 2 - 1)
                spatial, parts = spatial_loss((sr + 1) / 2, hr, perceptual, mse_weight=t.mse_weight, perceptual_weight=p.weight)
                scale = run.scalers["g"].scale(spatial.new_ones(())) / t.accumulate
                spatial_gradient = gradient = torch.autograd.grad(scale * spatial, z_hat)[0]
                if adversarial:
                    with frozen(discriminator), autocast():
                        seen = draw(run.noising, seed, indices, GENERATOR_STEP, z_hat)
                        loss_g, _ = generator_objective(discriminator, run.noising, z_hat, seen, alphas_cumprod)
                        adversarial_gradient = torch.autograd.grad(scale * t.adversarial_weight * loss_g, z_hat)[0]
                    gradient = spatial_gradient + adversarial_gradient
                    means.add(loss_g=loss_g, adversarial_to_spatial=adversarial_gradient.norm() / spatial_gradient.norm())
                z_hat.backward(gradient)
            means.add(mse=parts["mse"], perceptual=parts["perceptual"], spatial_gradient=spatial_gradient.norm() / scale)
            if adversarial:
                with autocast():
                    judged.append((z_hat.detach(), generator.encode(hr * 2 - 1), indices))
        norm, taken = update(run.optimizers["g"], run.scalers["g"], t.grad_clip)
        run.count_step(taken)
        means.add(gradient_g=norm)

        # Discriminator: real and generated latents under noise (Eq. 3)
        real_sign = alphas_cumprod.new_zeros(())
        for micro, (z_hat, z_hr, indices) in enumerate(judged):
            real = draw(run.noising, seed, indices, REAL, z_hr)
            shared_t, shared_noise = options.network_d.share_timesteps, options.network_d.share_noise
            fake = draw(run.noising, seed, indices, REAL if shared_t else FAKE, z_hat, noise_tag=REAL if shared_noise else FAKE)
            with synchronised(discriminator_all, last=micro == t.accumulate - 1):
                with autocast():
                    loss_d, real_logits, fake_logits = discriminator_objective(
                        discriminator_all, run.noising, z_hr, z_hat, real, fake, alphas_cumprod
                    )
                run.scalers["d"].scale(loss_d / t.accumulate).backward()
            means.add(loss_d=loss_d, real_logits=real_logits.mean(), fake_logits=fake_logits.mean())
            real_sign += real_logits.sign().mean() / t.accumulate
        if judged:
            norm, taken = update(run.optimizers["d"], run.scalers["d"], t.grad_clip)
            run.count_step(taken)
            means.add(gradient_d=norm)
            if run.noising.adaptive:
                run.noising.observe(mean_over_ranks(real_sign, world).item())

        # Moving average
        if run.average is not None:
            run.average.update(run.iteration)
        run.iteration += 1
        bar.update()

        # Log
        last = run.iteration == t.total_iter
        if run.iteration % log_options.print_freq == 0 or last:
            iterations, first = run.iteration - first, run.iteration
            values = means.read(world) | {"learning_rate": t.optim_g.lr * factor, "images_per_s": speed.read(iterations * samples)}
            values |= {"memory_gib": peak_memory_gib(world.device), "skipped_steps": run.skipped_steps}
            log.info(log_line(run.iteration, t.total_iter, values))
            for name, value in values.items() if tensorboard is not None else ():
                tensorboard.add_scalar(f"train/{name}", value, run.iteration)

        # Validate
        if validator.sets and (run.iteration % options.val.val_freq == 0 or last):
            run.metrics = validator(run, log.warning)
            log.info(log_line(run.iteration, t.total_iter, {"validation": float(run.iteration), **run.metrics}))
            for name, value in run.metrics.items() if tensorboard is not None else ():
                tensorboard.add_scalar(f"val/{name}", value, run.iteration)

        # Save
        if world.is_main and (run.iteration % log_options.save_checkpoint_freq == 0 or last):
            save_run(run, folder, log_options.keep_last)
    bar.close()
    log.info(f"finished: {folder / 'models'}")


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        options = load_train_options(args.opt, [*args.force_yml, *(DEBUG if args.debug else ())])
        if args.dry_run:
            from engine.dry_run import describe_training

            print(to_yaml(options))
            print(describe_training(options))
            return 0
        from engine.distributed import start

        with start(options.device, args.launcher) as world:
            if options.num_gpu not in ("auto", world.size):
                raise ValueError(
                    f"{args.opt}: num_gpu is {options.num_gpu}, but {world.size} process(es) were started: use torchrun --nproc_per_node {options.num_gpu}, "
                    "or set num_gpu (and train.accumulate, to keep the batch)"
                )
            train(options, world)
    except (ValueError, OSError) as error:
        print(f"train_d3sr.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
