"""A training from its options to its end (Sec. 3.4): the loop of both players, and what it is made of."""

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from data.hr_crops import HRCrops
from data.loading import endless_batches
from data.paired import PairedCrops, PairedFolder
from data.sampler import ShardedSampler
from engine.checkpoint import archive, newest_intact_state
from engine.distributed import World, by_main, dtype_of, from_main, mean_of, parallel
from engine.folder_lock import LOCK, FolderLock
from engine.health import DiscriminatorHealth
from engine.housekeeping import Housekeeping, Schedule
from engine.logs import Forgiving, Means, RunLog, describe_machine
from engine.needs import insist
from engine.objectives import sample_seed
from engine.optimization import learning_rate_factor, set_learning_rate
from engine.players import build_run
from engine.run import Run, resume_run
from engine.steps import Steps
from engine.validation import Validation
from losses.perceptual import build_perceptual
from models.lora import cast_inputs
from models.sizes import parameter_summary
from options.d3sr import TrainOptions, to_yaml
from options.training import TrainingOptions
from scoring.metrics import build_metric


def set_backends(options: TrainingOptions) -> None:
    """How a GPU computes, for the whole process: `train.cudnn_benchmark` and `train.tf32`."""
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = options.tf32


def build_dataset(options: TrainOptions) -> Dataset:
    """Endless LR / HR crops: degraded from HR images, or cut from one's own pairs."""
    d = options.datasets.train
    crops = {"gt_size": d.gt_size, "scale": options.scale, "seed": options.manual_seed, "use_hflip": d.use_hflip}
    if d.dataroot_lq is not None:
        return PairedCrops(d.dataroot_lq, d.dataroot_gt, **crops, templates=d.templates)
    return HRCrops(d.sources, **crops, degradation=options.degradation, usm=d.gt_usm)


def build_validation(options: TrainOptions, world: World, folder: Path) -> Validation:
    """The validation sets and their metrics; pictures and sheets go to `folder`. Every process must call it."""
    named = options.datasets.val.items()
    sets = {name: PairedFolder(d.dataroot_lq, d.dataroot_gt, options.scale, d.templates) for name, d in named} if world.is_main else None
    sets = from_main(sets, world)
    wanted = options.val.metrics.items() if sets else ()
    metrics = [build_metric(name, **dataclasses.asdict(metric), device=world.device) for name, metric in wanted]
    return Validation(sets, metrics, world, folder, options.val.tile, options.val.color_fix, options.val.save_img)


def claim(folder: Path, tensorboard: Path, resume: bool) -> tuple[FolderLock, list[str]]:
    """The run's folder as this training's own, and what there is to be said of it; a former run of this name makes way unless `resume`.

    Raises:
        ValueError: another training writes there, or the disk refuses.
    """
    said: list[str] = []
    if not resume and folder.exists():
        with FolderLock(folder, said.append):
            former = archive(folder)
        (former / LOCK).unlink()
        said.append(f"the former run of this name is now {former}")
    lock = FolderLock(folder, said.append)
    if not resume and (former := archive(tensorboard)):
        said.append(f"the former run of this name is now {former}")
    return lock, said


def open_run_folder(options: TrainOptions, world: World, claims: ExitStack) -> tuple[Path, RunLog, FolderLock | None]:
    """The run's folder, its log and, on the main process, its lock, which `claims` gives back. Errors as `claim`, on every process."""
    folder, tensorboard = Path(options.path.experiments_root) / options.name, Path(options.path.tb_root) / options.name
    lock, said = by_main(lambda: claim(folder, tensorboard, options.path.resume), world) or (None, [])
    if lock is not None:
        claims.enter_context(lock)
    log = RunLog(folder, options.name, tensorboard if options.logger.use_tb_logger else None, world)
    for line in said:
        log.info(line)
    return folder, log, lock


def build_steps(run: Run, options: TrainOptions, world: World, means: Means, health: DiscriminatorHealth | None) -> Steps:
    """The two steps, with gradients averaged over the processes."""
    t = options.train
    low = t.precision != "fp32"

    def autocast() -> torch.autocast:
        return torch.autocast(world.device.type, dtype_of(t.precision), enabled=low)

    discriminator = parallel(run.discriminator, world) if run.discriminator is not None else None
    for network in filter(None, (run.generator, run.discriminator)):
        cast_inputs(network, False)
    distance = build_perceptual(t.perceptual)
    if distance is not None:
        distance.to(world.device)
    return Steps(run, options, world, parallel(run.generator, world), discriminator, distance, autocast, means, health)


def describe_players(run: Run, options: TrainOptions, world: World, log: RunLog) -> None:
    """Log lines on what trains."""
    log.info(f"generator: {parameter_summary(run.generator)}")
    if run.discriminator is None:
        return
    log.info(f"discriminator: {parameter_summary(run.discriminator)}")
    if options.network_d.shard:
        spread = f"spread over {world.size} processes" if world.size > 1 else "all here: with one process there is nothing to share"
        log.info(f"network_d.shard: its frozen weights are {spread}")


class Prepared(NamedTuple):
    """What the loop goes on with; `loader` yields batches for ever."""

    run: Run
    steps: Steps
    keeper: Housekeeping
    loader: Iterator[dict[str, Any]]
    log: RunLog


def prepare(options: TrainOptions, world: World, claims: ExitStack) -> Prepared:
    """Everything that happens once: pictures are looked at before anything heavy is loaded, then come players, losses and batches.

    claims: what is given back when the training ends, however it does.
    """
    asked, options = options, insist(options, world)
    t, d, logger = options.train, options.datasets.train, options.logger
    set_backends(t)
    folder, log, lock = open_run_folder(options, world, claims)
    for line in describe_machine(world, per_process=d.batch_size_per_gpu, accumulate=t.accumulate):
        log.info(line)
    dataset = from_main(build_dataset(options) if world.is_main else None, world)
    log.info(dataset.report())
    validation = build_validation(options, world, folder / "visualization")
    for name, pairs in validation.sets.items():
        if pairs.report():
            log.info(f"val.{name}: {pairs.report()}")

    run = build_run(options, world)
    state = from_main(by_main(lambda: newest_intact_state(folder / "training_states", log.warning), world), world)
    if state is not None:
        resume_run(run, state)
        log.info(f"resuming {state}")
    log.write_options(to_yaml(asked))
    schedule = Schedule(
        total_iter=t.total_iter, print_freq=logger.print_freq, val_freq=options.val.val_freq, save_freq=logger.save_checkpoint_freq,
        check_freq=t.check_ranks, first_save=logger.first_checkpoint, early=options.val.early, early_pictures=options.val.early_pictures,
    )  # fmt: skip
    samples = d.batch_size_per_gpu * world.size * t.accumulate
    keeper = Housekeeping(run, world, folder, lock, log, validation, schedule, samples, logger.keep_last, options.val.best)
    describe_players(run, options, world, log)
    steps = build_steps(run, options, world, keeper.means, keeper.health)
    keeper.begin()

    sampler = ShardedSampler(rank=world.rank, world_size=world.size, start=run.iteration * samples)
    workers = {"workers": d.num_worker_per_gpu, "device": world.device, "warn": log.warning}
    return Prepared(run, steps, keeper, endless_batches(dataset, d.batch_size_per_gpu, sampler, **workers), log)


def train(options: TrainOptions, world: World) -> bool:
    """The training of Sec. 3.4. Returns False where a signal ended it early."""
    with redirect_stderr(Forgiving(sys.stderr)), ExitStack() as claims:
        return iterate(prepare(options, world, claims), options, world)


def iterate(prepared: Prepared, options: TrainOptions, world: World) -> bool:
    """The loop of both players. Returns False where a signal ended it early."""
    run, steps, keeper, loader, log = prepared
    t, learning_rates = options.train, {"g": options.train.optim_g.lr, "d": options.train.optim_d.lr}
    bar = tqdm(total=t.total_iter, initial=run.iteration, disable=not world.is_main, desc=options.name, dynamic_ncols=True)
    stopped = False
    with keeper.stop, bar:
        while run.iteration < t.total_iter and not stopped:
            torch.manual_seed(sample_seed(options.manual_seed, run.iteration, 64 + world.rank))
            factor = learning_rate_factor(run.iteration, t.total_iter, **dataclasses.asdict(t.scheduler))
            for player, optimizer in run.optimizers.items():
                set_learning_rate(optimizer, learning_rates[player] * factor)

            # What each player learns from
            batches = keeper.next_batches(loader, t.accumulate)
            judged = steps.generator_step(batches)
            real_sign = steps.discriminator_step(judged) if judged else None

            # Updates
            norms = run.step(("g", "d") if judged else ("g",), t.grad_clip)
            keeper.means.add(**{f"gradient_{player}": norm for player, norm in norms.items()})
            if run.average is not None:
                run.average.update(run.iteration)
            if judged and run.noising.adaptive:
                run.noising.observe(mean_of(real_sign))
            run.iteration += 1
            bar.update()

            # Log, save, validate
            stopped = keeper.after_iteration(learning_rates["g"] * factor)
    if not stopped:
        log.info(f"finished: {keeper.folder / 'models'}")
    return not stopped
