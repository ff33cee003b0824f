"""What tools/benchmark.py measures beside its table: growth with the picture, several processes, the perceptual loss."""

import math
from collections.abc import Callable, Sequence
from statistics import median_high
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from engine.distributed import choose_device
from losses.dists import DISTS, build_dists
from losses.ea_dists import EdgeAware
from losses.sobel import sobel
from models.generator import Generator
from options.d3sr import TestOptions
from restoring.host import physical_cores
from restoring.rows import restore_rows
from tools.exporting.onnx_export import example_picture
from tools.timing.measure import fitted_exponent, interleaved, memory_of, ratios, seconds_of
from tools.timing.variants import shipped

Part = dict[str, Any]
"""columns (key -> heading), rows, note."""


def scaling(generator: Generator, sizes: Sequence[int], tile: int, overlap: int, repeats: int, clock: str = "wall") -> Part:
    """Seconds and MiB of pictures of growing side, in tiles as test_d3sr.py restores them, and how they grow with the area."""
    device = generator.prompt_embedding.device
    rows = []
    for size in sizes:
        lr = example_picture((max(1, size // generator.scale),) * 2).to(device)

        def restore(lr: Tensor = lr, size: int = size) -> None:
            for _ in restore_rows(generator, lr, (size, size), tile=tile, overlap=min(overlap, tile // 2), warn=no_warning):
                pass

        with torch.inference_mode():
            seconds = seconds_of(restore, device, repeats=repeats, warmup=int(size == sizes[0]), clock=clock)
            rows.append({"size": size, "seconds": seconds, "memory_mib": memory_of(restore, device)})
    part = {"columns": {"size": "side", "seconds": "s per image", "memory_mib": "MiB at work"}, "rows": rows, "note": None}
    if len(rows) == 1:
        return part
    areas = [row["size"] ** 2 for row in rows]
    exponents = {key: fitted_exponent(areas, [row[key] for row in rows]) for key in ("seconds", "memory_mib")}
    growth = f"time ~ area^{exponents['seconds']:.2f}, memory ~ area^{exponents['memory_mib']:.2f}"
    return part | {"note": f"{growth} (least squares over the logarithms)", "exponents": exponents}


def no_warning(message: str) -> None:
    """Half precision may overflow on a made-up picture; that is not what is measured."""


def processes(counts: Sequence[int], options: TestOptions, size: int, pictures: int) -> Part:
    """Pictures per second of 1, 2 ... processes that share the cores; each restores `pictures`."""
    rows = []
    for count in counts:
        context = mp.get_context("spawn")
        barrier, queue = context.Barrier(count), context.Queue()
        threads = max(1, physical_cores() // count)
        arguments = (options, size, pictures, threads, barrier, queue)
        workers = [context.Process(target=_process, args=arguments) for _ in range(count)]
        for process in workers:
            process.start()
        times = [queue.get() for _ in workers]
        for process in workers:
            process.join()
        seconds = max(end for _, end in times) - min(start for start, _ in times)
        rows.append({"processes": count, "threads": threads, "per_second": count * pictures / seconds})
    columns = {"processes": "processes", "threads": "threads of each", "per_second": "pictures per second"}
    return {"columns": columns, "rows": rows, "note": f"Output {size} x {size}, {pictures} pictures each, after one to warm up."}


def _process(options: TestOptions, size: int, pictures: int, threads: int, barrier: Any, queue: Any) -> None:
    """One process of `processes`: puts (start, end) of its pictures."""
    torch.set_num_threads(threads)
    device = choose_device(options.device)
    generator = shipped(options, device)
    lr_up = example_picture((size, size)).to(device)
    generator.restore(lr_up)
    barrier.wait()
    start = perf_counter()
    for _ in range(pictures):
        generator.restore(lr_up).cpu()
    queue.put((start, perf_counter()))


def losses(device: torch.device, *, batch: int, side: int, repeats: int, clock: str = "wall") -> Part:
    """EA-DISTS (Eq. 5) with its gradient, beside two calls of pyiqa's DISTS and beside nothing but the convolutions, all of one VGG16.

    Raises:
        ValueError: pyiqa's value is another.
    """
    ours = build_dists("vgg16", "random", "uniform").to(device)
    theirs, eps = _pyiqa_dists(ours).to(device), 1e-12
    sr, hr = (torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)).to(device) for seed in (0, 1))
    sr.requires_grad_()
    edge_aware = EdgeAware(ours, sobel_eps=eps)
    distances = {
        "EA-DISTS, here": lambda: edge_aware(sr, hr),
        "two calls of pyiqa's DISTS": lambda: theirs(sr, hr).mean() + theirs(sobel(sr, eps=eps), sobel(hr, eps=eps)).mean(),
    }
    values = {name: distance().item() for name, distance in distances.items()}
    first, second = values.values()
    if not math.isclose(first, second, rel_tol=1e-3):
        raise ValueError(f"the two losses are not the same: {values}")
    calls: dict[str, Callable[[], object]] = {name: _with_gradient(distance, sr) for name, distance in distances.items()}
    calls["its convolutions alone"] = _convolutions_only(ours, batch, side, device)
    seconds = interleaved(calls, device, repeats=repeats, clock=clock)
    speed, memory = ratios(seconds, "two calls of pyiqa's DISTS"), {name: memory_of(call, device) for name, call in calls.items()}
    rows = [
        {"what": name, "seconds": median_high(taken), "ratio": speed[name], "memory_mib": memory[name]} for name, taken in seconds.items()
    ]
    columns = {"what": "forward and backward", "seconds": "s", "ratio": "times pyiqa", "memory_mib": "MiB at work"}
    return {"columns": columns, "rows": rows, "note": f"{batch} pictures of {side} x {side}; the losses are {first:.6f} and {second:.6f}."}


def _pyiqa_dists(ours: DISTS) -> nn.Module:
    """pyiqa's DISTS over the weights of ours, without its download."""
    from pyiqa.archs import dists_arch  # late: it takes seconds, and a machine for speed may have neither of the two
    from torchvision.models.vgg import cfgs, make_layers  # late: as above

    torchvision_models = dists_arch.models
    dists_arch.models = SimpleNamespace(vgg16=lambda weights: SimpleNamespace(features=make_layers(cfgs["D"])))
    try:
        theirs = dists_arch.DISTS(pretrained=False)
    finally:
        dists_arch.models = torchvision_models
    pairs = zip(_convolutions(theirs), _convolutions(ours), strict=True)
    for own, other in pairs:
        own.load_state_dict(other.state_dict())
    with torch.no_grad():
        theirs.alpha.copy_(ours.alpha.view(1, -1, 1, 1))
        theirs.beta.copy_(ours.beta.view(1, -1, 1, 1))
    return theirs.requires_grad_(False)


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def _with_gradient(distance: Callable[[], Tensor], sr: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(distance(), sr)


def _convolutions_only(dists: DISTS, batch: int, side: int, device: torch.device) -> Callable[[], object]:
    """The floor: VGG16's convolutions on two batches of 2N (pictures and edges), one of them with its gradient, and nothing else."""
    inputs = [torch.rand(2 * batch, 3, side, side, device=device, requires_grad=wanted) for wanted in (True, False)]

    def forward(x: Tensor) -> Tensor:
        for layer in dists.features.layers:
            if isinstance(layer, nn.Conv2d):
                x = F.conv2d(x, layer.weight, layer.bias, padding=1)
            elif not isinstance(layer, nn.ReLU):  # a pooling halves the sides
                x = x[..., ::2, ::2]
        return x

    def call() -> object:
        with torch.no_grad():
            forward(inputs[1])
        return torch.autograd.grad(forward(inputs[0]).sum(), inputs[0])

    return call
