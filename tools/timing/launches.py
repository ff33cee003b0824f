"""How often a program asks the device for work: operators that start at least one kernel, counted on tensors without values.

Nothing is allocated and no GPU is needed (torch's FakeTensorMode). Counted are calls of aten's operators, however large their tensors
are; views and uninitialised memory are left out, since they start nothing. A call is one even where a device needs several kernels for
it: a convolution that changes layouts first, a norm of two passes, an optimizer that updates some dozens of tensors with each kernel.

Fake tensors claim to lie on the CPU, where autograd needs no driver, and are made to be treated as on a GPU: autocast takes norms to
float32 (`in_float`), attention is one operator, and the updates see tensors that claim to lie on cuda:0, for which torch takes its
multi-tensor operators. Compared once with tests/fake_cuda, where all of an iteration claims to be on a GPU: its two steps differ by 1 %.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from engine.distributed import World, dtype_of
from engine.health import DiscriminatorHealth
from engine.logs import Means
from engine.loop import build_steps
from engine.objectives import AdversarialBalance, Draw, Draws
from engine.optimization import MovingAverage, build_adamw, clip_gradients, update
from engine.run import Run
from engine.steps import Steps
from models.fused import fuse
from models.generator import Generator, cast_weights
from models.noising import build_noising
from models.sizes import meta_discriminator, meta_generator, trained_settings
from options.d3sr import TestOptions, TrainOptions

NOTHING = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh", "promote_types")
"""Operators that give memory as it is, or an answer without looking at any."""
MOST = 6
CPU = torch.device("cpu")


def starts_work(function: Any) -> bool:
    """Whether an operator computes or copies: it is no query, gives no view of an argument and no uninitialised memory."""
    if function.namespace != "aten" or function._schema.name.removeprefix("aten::") in NOTHING:
        return False
    return not any(result.alias_info is not None and not result.alias_info.is_write for result in function._schema.returns)


class Launches(TorchDispatchMode):
    """Counts operators that start work, by phase and name. Reading a number is one too, and tells the program 1.

    counts: phase -> operator -> calls. What runs in a backward pass goes to the phase with ", backward" behind it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counter[str]] = {}
        self._phase = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside, calls are counted for `name`."""
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self._phase and starts_work(function):
            backward = torch._C._current_graph_task_id() != -1
            of_phase = self.counts.setdefault(f"{self._phase}, backward" if backward else self._phase, Counter())
            of_phase[function._schema.name.removeprefix("aten::")] += 1
        if function is torch.ops.aten._local_scalar_dense.default:
            return 1
        return function(*args, **(kwargs or {}))


def in_float(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function as a GPU's autocast has it where a CPU's leaves it alone: on float32."""

    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
        return function(*args, **kwargs)

    return wrapped


@contextmanager
def on_paper() -> Iterator[Launches]:
    """Inside, new tensors have no values, and what is done with them is counted."""
    norms = {name: in_float(getattr(F, name)) for name in ("group_norm", "layer_norm", "softplus")}
    with patch.multiple(F, **norms), FakeTensorMode(allow_non_fake_inputs=True), Launches() as launches:
        yield launches


def describe_launches(options: TrainOptions | TestOptions, size: int) -> list[str]:
    """Calls of operators, in bf16: restoring a picture of size x size pixels, and one iteration where the options train.

    Raises:
        ValueError: sizes that are unknown or do not fit, or a test whose generator is not there and which names no base.
    """
    g, fast_vae = options.network_g, None
    if isinstance(options, TestOptions):
        g, fast_vae = trained_settings(g.path, base=g.pretrained, revision=g.revision), g.fast_vae
    naive = meta_generator(g, fast_vae)
    with torch.device("meta"):
        fused = fuse(meta_generator(g, fast_vae, adapted=False))
    lines = [f"Operators that start work, one picture of {size}x{size} pixels, bf16"]
    for name, generator in {"as it trains": naive, "fused": fused}.items():
        lines += ["", *_table(name, restoring_launches(cast_weights(generator, torch.bfloat16), size))]
    if isinstance(options, TrainOptions):
        data, t = options.datasets.train, options.train
        what = f"batch {data.batch_size_per_gpu} x {t.accumulate} of {data.gt_size} pixels, {t.precision}, one process"
        lines += ["", *_table(f"one iteration: {what}", training_launches(options))]
    return lines


def _table(title: str, counts: dict[str, Counter[str]]) -> list[str]:
    """Calls by phase, and the most frequent operators."""
    everything = sum(counts.values(), Counter())
    lines = [f"  {title}"]
    for phase, of_phase in {**counts, "total": everything}.items():
        often = ", ".join(f"{name} {calls:,}" for name, calls in of_phase.most_common(MOST))
        lines.append(f"  {phase:30}{of_phase.total():>8,}   {often}")
    return lines


def check_size(generator: Generator, size: int) -> None:
    """Raises ValueError where pictures of size x size pixels are none that the generator works in."""
    if size < 1 or size % generator.size_multiple:
        raise ValueError(f"size: expected a multiple of {generator.size_multiple} pixels, got {size}")


def restoring_launches(generator: Generator, size: int) -> dict[str, Counter[str]]:
    """Of one picture of size x size pixels through a generator on the meta device: VAE encode, UNet (with Eq. 1), VAE decode.

    Raises:
        ValueError: see `check_size`.
    """
    check_size(generator, size)
    with torch.no_grad(), on_paper() as launches:
        generator.to_empty(device=CPU)
        with launches.phase("VAE encode"):
            z = generator.encode(torch.empty(1, 3, size, size))
        with launches.phase("UNet"):
            z_hat = generator.denoise(z)
        with launches.phase("VAE decode"):
            generator.autoencoder.decode(z_hat)
    return launches.counts


class StepsOnPaper(Steps):
    """The steps of a training whose noise and timesteps lie on the device already: drawing them is the host's work."""

    def _draw(self, batch: dict[str, Any]) -> Draws:
        autoencoder, (count, _, height, width) = self.run.generator.autoencoder, batch["hr"].shape
        shape = (count, autoencoder.latent_channels, height // autoencoder.factor, width // autoencoder.factor)
        one = Draw(torch.empty(count, dtype=torch.int64), torch.empty(shape))
        return Draws(one, one, one)


def training_launches(options: TrainOptions) -> dict[str, Counter[str]]:
    """Of one iteration on one device in which both players train, where there are two, and the generator hears the other.

    Raises:
        ValueError: sizes that are unknown.
    """
    t, data = options.train, options.datasets.train
    steps = _meta_steps(options)
    networks = [network for network in (steps.run.generator, steps.run.discriminator) if network is not None]
    with on_paper() as launches:
        for network in filter(None, (*networks, steps.distance)):
            network.to_empty(device=CPU)
        sides = {"lr": data.gt_size // options.scale, "hr": data.gt_size}
        batch = {name: torch.empty(data.batch_size_per_gpu, 3, side, side) for name, side in sides.items()}
        with launches.phase("generator step"):
            judged = steps.generator_step([batch] * t.accumulate)
        if judged:
            with launches.phase("discriminator step"):
                steps.discriminator_step(judged)
        for network in networks:
            _update(network, options, launches)
    return launches.counts


def _meta_steps(options: TrainOptions) -> StepsOnPaper:
    """As train_d3sr.py builds them, with the networks on the meta device."""
    t, dtype = options.train, dtype_of(options.train.precision)
    generator, discriminator, health = meta_generator(options.network_g, dtype=dtype), None, None
    parts, noising = {"vae": generator.autoencoder, "unet": generator.unet}, build_noising(options.network_d)
    if noising is not None:
        discriminator = meta_discriminator(options.network_d, dtype=dtype)
        parts["discriminator"] = discriminator.trunk
        health = DiscriminatorHealth(noising.low, noising.high, CPU)
    for name in t.gradient_checkpointing:
        if name in parts:
            parts[name].enable_gradient_checkpointing()
    scalers = {player: torch.amp.GradScaler("cpu", enabled=t.precision == "fp16") for player in ("g", "d")}
    balance = AdversarialBalance(CPU, weight=t.adversarial_weight, ratio=t.adversarial_ratio)
    run = Run("", generator, discriminator, noising, {}, scalers, None, balance, {}, max(t.adversarial_start, t.discriminator_start))
    perceptual = replace(t.perceptual, backbone_weights="random")  # nothing is downloaded here
    steps = build_steps(run, replace(options, train=replace(t, perceptual=perceptual)), World(0, 1, CPU), Means(), health)
    for network in filter(None, (generator, discriminator, steps.distance)):
        network.to("meta").to(memory_format=torch.channels_last)
    return StepsOnPaper(**vars(steps))


def _update(network: nn.Module, options: TrainOptions, launches: Launches) -> None:
    """Clipping, AdamW and the generator's moving average on parameters that claim to lie on a GPU."""
    trained = {name: nn.Parameter(torch.empty_like(p, device="cuda")) for name, p in network.trainable().items()}
    optimizer = build_adamw(trained, learning_rate=1e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    average = MovingAverage(trained, options.train.ema_decay) if options.train.ema_decay and isinstance(network, Generator) else None
    for parameter in trained.values():
        parameter.grad = torch.empty_like(parameter)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    update(optimizer, scaler, 1.0)  # the first one makes the moments
    for parameter in trained.values():
        parameter.grad = torch.empty_like(parameter)
    plain = [*_foreach_utils._foreach_supported_types, FakeTensor]  # torch asks for the very class
    with patch.object(_foreach_utils, "_foreach_supported_types", plain), launches.phase("updates"):
        clip_gradients(optimizer, scaler, options.train.grad_clip)
        update(optimizer, scaler, 1.0)
        if average is not None:
            average.update(0)
