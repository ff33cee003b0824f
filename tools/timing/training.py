"""One iteration of both players, as train_d3sr.py runs it, without reading, logging and saving."""

from collections.abc import Callable
from typing import Any

import torch

from engine import distributed
from engine.health import DiscriminatorHealth
from engine.logs import Means
from engine.loop import build_steps, set_backends
from engine.players import build_run
from options.d3sr import TrainOptions, load_train_options
from tools.timing.measure import memory_of, seconds_of


def training(file: str, repeats: int, device: str, clock: str) -> dict[str, Any]:
    """Iterations of both players on made-up crops, random weights in the perceptual loss; from where the discriminator is heard."""
    changes = ["train.perceptual.backbone_weights=random", "train.discriminator_start=0", "train.adversarial_start=0", f"device={device}"]
    options = load_train_options(file, changes)
    with distributed.start(options.device) as world:
        step = training_step(options, world)
        seconds = seconds_of(step, world.device, repeats=repeats, clock=clock)
        memory = memory_of(step, world.device)
    images = options.datasets.train.batch_size_per_gpu * options.train.accumulate
    row = {"images": images, "side": options.datasets.train.gt_size, "seconds": seconds}
    row |= {"per_second": images / seconds, "memory_mib": memory}
    columns = {"images": "images", "side": "side", "seconds": "s per iteration"}
    columns |= {"per_second": "images per second", "memory_mib": "MiB at work"}
    return {"columns": columns, "rows": [row], "note": f"{file}, {options.train.precision}; pictures ready in memory."}


def training_step(options: TrainOptions, world: distributed.World, means: Means | None = None) -> Callable[[], dict[str, float]]:
    """One iteration of train_d3sr.py without reading, logging and saving; it returns the norms of both players' gradients.

    Args:
        options: of a training against a discriminator, which is heard from the first iteration if they say so.
        means: gets the losses, as in a training.
    """
    set_backends(options.train)
    t, data, run = options.train, options.datasets.train, build_run(options, world)
    random = torch.Generator().manual_seed(0)
    sides = {"lr": data.gt_size // options.scale, "hr": data.gt_size}
    batch = {name: torch.rand(data.batch_size_per_gpu, 3, side, side, generator=random).to(world.device) for name, side in sides.items()}
    batches = [batch | {"index": torch.arange(data.batch_size_per_gpu)}] * t.accumulate
    means = Means() if means is None else means
    steps = build_steps(run, options, world, means, DiscriminatorHealth(run.noising.low, run.noising.high, world.device))

    def step() -> dict[str, float]:
        steps.discriminator_step(steps.generator_step(batches))
        norms = run.step(("g", "d"), t.grad_clip)
        run.iteration += 1
        return norms

    return step
