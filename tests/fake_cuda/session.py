"""Trains small networks for an iteration each on a GPU that is not there, and writes down what was seen: see tests/test_fake_cuda.py.

usage: python -m tests.fake_cuda.session LIBRARY FOLDER
LIBRARY is hooks.cpp, compiled. FOLDER gets the bases and, in the end, report.json: case -> what was seen. `started` lies there once torch
has taken the GPU for real.
"""

import json
import sys
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from engine.distributed import World
from engine.housekeeping import Housekeeping, Schedule
from engine.loop import build_steps
from engine.players import build_run
from engine.run import Run
from engine.steps import Steps
from losses.adversarial import discriminator_loss, generator_adversarial_loss
from losses.pattern import flat_detail, repetition
from losses.spatial import spatial_loss
from models.diffusion import forward_diffusion, predict_z0
from models.generator import Generator
from models.lora import cast_inputs
from options.d3sr import TrainOptions, load_train_options
from restoring.pictures import restore_picture
from tests.fake_cuda.bases import write_bases
from tests.fake_cuda.cases import CASES, TILES, VALIDATED
from tests.fake_cuda.device import fake_cuda
from tests.fake_cuda.watch import OURS, ROOT, Watch

CUDA = torch.device("cuda", 0)
SIDE = 64


def options_of(case: str, sd: Path, sdxl: Path) -> TrainOptions:
    """options/train.yml in small."""
    small = [
        "name=fake", f"network_g.pretrained={sd}", f"network_d.pretrained={sdxl}", "network_d.head_channels=16", "network_g.lora.rank=4",
        "network_d.lora.rank=4", f"datasets.train.gt_size={SIDE}", "train.adversarial_start=0", "train.perceptual.backbone_weights=random",
        "train.perceptual.dists_weights=uniform",
    ]  # fmt: skip
    return load_train_options(f"{ROOT}options/train.yml", [*small, *CASES[case]])


def described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tensor.device.type}".removeprefix("torch.")


class Pictures:
    """In the place of a run's validation: one LR picture, restored whole and in tiles."""

    def __init__(self, tiles: tuple[int, ...]) -> None:
        self.sets, self.folder, self.tiles, self.restored = {"one": None}, "nowhere", tiles, {}

    def score(self, generator: Generator, *_: Any) -> tuple[dict[str, float], int]:
        """As `Validation.score`, without scores."""
        for tile in self.tiles:
            pair = restore_picture(generator, torch.rand(1, 3, 20, 36, device=CUDA), tile=tile, color_fix="wavelet")
            self.restored[str(tile)] = [f"{described(picture)} {tuple(picture.shape)}" for picture in pair]
        return {}, 0


def odd_gradients(run: Run) -> list[str]:
    """What is not as an optimizer wants it, with the parameter's name. A side of 1 may have any stride."""
    odd = []
    for player, parameters in run.trained().items():
        for name, p in parameters.items():
            if p.grad is None:
                odd.append(f"network_{player}'s {name} has none")
            elif described(p.grad) != "float32 cuda" or described(p) != "float32 cuda":
                odd.append(f"network_{player}'s {name}, {described(p)}, has one in {described(p.grad)}")
            elif any(side != 1 and own != its for side, own, its in zip(p.shape, p.stride(), p.grad.stride(), strict=True)):
                odd.append(f"network_{player}'s {name}, {tuple(p.shape)}, has strides {p.stride()}, its gradient {p.grad.stride()}")
    return odd


def note_convolutions(distance: nn.Module) -> Counter[str]:
    """Fills, from now on, with the data types that go into the module's convolutions and come out of them."""
    dtypes: Counter[str] = Counter()

    def note(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        dtypes.update((described(inputs[0]), described(output)))

    for module in distance.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    return dtypes


def halves_under_autocast(steps: Steps, watch: Watch) -> dict[str, list[str]]:
    """Operations in half precision within what must be computed in float32, whatever it is given and although autocast is on."""
    low, images = torch.get_autocast_dtype("cuda"), torch.rand(2, 3, SIDE, SIDE, device=CUDA)
    z, t, alphas = torch.rand(2, 4, 8, 8, device=CUDA), torch.ones(2, dtype=torch.int64, device=CUDA), steps.run.generator.alphas_cumprod
    low_z, low_images = z.to(low), images.to(low)
    weights = {"mse_weight": 1.0, "perceptual_weight": 1.0}
    parts = {
        "Eq. 1": lambda: predict_z0(z, low_z, t, alphas),
        "Eq. 4": lambda: forward_diffusion(low_z, t, low_z, alphas),
        "Eq. 2": lambda: generator_adversarial_loss(low_z),
        "Eq. 3": lambda: discriminator_loss(low_z, low_z),
        "Eq. 8": lambda: spatial_loss(low_images, images, steps.distance, **weights)[0],
        "the losses against patterns": lambda: flat_detail(low_images, images) + repetition(low_images, images),
    }
    found = {}
    for name, compute in parts.items():
        watch.clear()
        result = compute()
        found[name] = [*watch.halves, *([] if described(result) == "float32 cuda" else [f"the result is {described(result)}"])]
    return found


def conversions(steps: Steps, watch: Watch, casting: bool) -> int:
    """Conversions between data types in a pass of the UNet under autocast, with adapters that cast their inputs or do not."""
    cast_inputs(steps.run.generator, casting)
    watch.clear()
    with torch.no_grad(), steps.autocast():
        steps.run.generator.denoise(torch.rand(1, 4, 8, 8, device=CUDA))
    return watch.operations["aten._to_copy.default"]


def iteration(steps: Steps, watch: Watch, batches: int) -> dict[str, Any]:
    """One iteration as `engine.loop.train` has it."""
    run, shape = steps.run, (2, 3, SIDE // 4, SIDE // 4)
    batch = {"lr": torch.rand(shape, device=CUDA), "hr": torch.rand(2, 3, SIDE, SIDE, device=CUDA), "index": torch.tensor([0, 1])}
    watch.clear()
    judged = steps.generator_step([batch] * batches)
    real_sign = steps.discriminator_step(judged)
    seen = {"operations": watch.operations.total(), "odd_gradients": odd_gradients(run)}
    seen["trained"] = {player: len(parameters) for player, parameters in run.trained().items()}
    run.step(("g", "d"), steps.options.train.grad_clip)
    if run.average is not None:
        run.average.update(run.iteration)
    latents = [latent for one in judged for latent in (one.z_hat, one.z_hr)]
    return seen | {"copies": list(watch.copies), "latents": sorted({described(latent) for latent in [*latents, real_sign]})}


def seen_in(case: str, options: TrainOptions, watch: Watch, attention: Counter[str]) -> dict[str, Any]:
    """A run that is built, restores a picture, and trains for an iteration."""
    world, silent = World(0, 1, CUDA), SimpleNamespace(info=lambda _: None, warning=lambda _: None)
    run = build_run(options, world)
    pictures = Pictures(TILES if case in VALIDATED else ())
    schedule = Schedule(total_iter=1, print_freq=1, val_freq=1, save_freq=1, check_freq=0, early=(0,), early_pictures=1)
    keeper = Housekeeping(run, world, Path("nowhere"), None, silent, pictures, schedule, 2, 1, None)
    steps = build_steps(run, options, world, keeper.means, keeper.health)
    keeper.begin()
    attention.clear()
    convolutions = note_convolutions(steps.distance)
    seen = iteration(steps, watch, options.train.accumulate)
    seen |= {"precision": options.train.precision, "batches": options.train.accumulate, "restored": pictures.restored}
    seen |= {"adapted": options.network_g.train == "lora", "attention": dict(attention), "convolutions": dict(convolutions)}
    if options.train.precision != "fp32":
        with steps.autocast():
            seen["halves"] = halves_under_autocast(steps, watch)
        seen["conversions"] = {how: conversions(steps, watch, how == "casting") for how in ("casting", "plain")}
    return seen


def fault_of(error: Exception) -> str:
    """The error, and the lines of our own that led to it."""
    lines = [(frame.filename.removeprefix(ROOT), frame) for frame in traceback.extract_tb(error.__traceback__)]
    path = [f"{file}:{frame.lineno}: {frame.line}" for file, frame in lines if file.startswith(OURS)]
    return "\n".join([f"{type(error).__name__}: {error}", *path])


def main(library: str, folder: Path) -> None:
    bases, report = write_bases(folder), {}
    with fake_cuda(library) as (watch, attention):
        weight = torch.ones(2, 2, device=CUDA, requires_grad=True)
        (weight @ weight).sum().backward()
        (folder / "started").touch()
        for case in CASES:
            try:
                report[case] = seen_in(case, options_of(case, *bases), watch, attention)
            except (RuntimeError, TypeError, AssertionError) as error:
                report[case] = {"fault": fault_of(error)}
    (folder / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
