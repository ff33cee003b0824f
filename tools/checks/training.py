"""How fast the device trains in the paper's setting, with random weights of the published sizes, and where the time goes."""

import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import DeviceType
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from engine.distributed import World
from engine.dry_run import measure as estimate
from engine.memory import GIB
from options.d3sr import TrainOptions, load_train_options
from tools.checks import ROOT
from tools.checks.scripts import logged, run_script, summary, training_changes
from tools.checks.step import Row, Setting, attempt, row
from tools.timing.measure import seconds_of, synchronise
from tools.timing.training import training_step

SDXL, SD21 = (str(ROOT / "options" / name) for name in ("train.yml", "train_dfosd.yml"))
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1")
LARGEST_OPERATORS = 10


def sdxl(setting: Setting) -> Iterator[Row]:
    """train_d3sr.py: Stable Diffusion 2.1 against SDXL, as options/train.yml has it."""
    yield trained(setting, "sdxl", SDXL)


def sd21(setting: Setting) -> Iterator[Row]:
    """train_d3sr.py: Stable Diffusion 2.1 against itself, as options/train_dfosd.yml has it."""
    yield trained(setting, "sd21", SD21)


def fp16(setting: Setting) -> Iterator[Row]:
    """As sdxl, in fp16 with loss scaling, whose first steps may be skipped until the scale fits."""
    yield trained(setting, "fp16", SDXL, precision="fp16")


def torchrun(setting: Setting) -> Iterator[Row]:
    """As sdxl, through torchrun, after a first use of NCCL in this process alone."""
    if setting.device.type == "cuda" and not dist.is_nccl_available():
        yield row("torchrun", {}, "this torch has no NCCL", "skipped")
        return
    yield attempt("collectives of one process", lambda: collectives(setting))
    yield trained(setting, "torchrun", SDXL, launcher=TORCHRUN)


def trained(setting: Setting, name: str, file: str, *, precision: str | None = None, launcher: Sequence[str] = ()) -> Row:
    """A training of a few iterations, run as a user runs it; its speed, its peak of memory, and what the dry run says of that."""
    precision, (iterations, every) = precision or setting.precision, (24, 4) if setting.full else (3, 1)
    what = f"{name}, {precision}"
    changes = [*settings(setting, name, file), f"train.precision={precision}"]
    changes += [f"train.total_iter={iterations}", f"logger.print_freq={every}"]
    return attempt(what, partial(training, setting, what, name, file, changes, launcher), setting.lacks(precision))


def training(setting: Setting, what: str, name: str, file: str, changes: Sequence[str], launcher: Sequence[str]) -> Row:
    """The training itself; its peak of memory is estimated meanwhile."""
    options = load_train_options(file, changes)
    with ThreadPoolExecutor(1) as pool:  # beside the script, which is another process
        estimated = pool.submit(estimated_gib, options)
        _, in_time = run_script(setting, *launcher, "train_d3sr.py", "-opt", file, "--force_yml", *changes)
        lines = logged(setting, name)
        if not lines:
            raise RuntimeError("no log line in the time that it was given")
        values = summary(lines, options.datasets.train.batch_size_per_gpu)
        values["dry run says (GiB)"] = estimated.result()
    note = f"batch {options.datasets.train.batch_size_per_gpu} of {options.datasets.train.gt_size} pixels"
    return row(what, values, note if in_time else f"{note}; cut off after {lines[-1]['iter']:.0f} iterations")


def settings(setting: Setting, name: str, file: str) -> list[str]:
    """What a training from random weights changes in its option file."""
    generator, discriminator = setting.bases()
    changes = [
        *training_changes(setting, name), "num_gpu=auto", "datasets.val.realsr=null", f"network_g.pretrained={generator}",
        f"network_d.pretrained={generator if file == SD21 else discriminator}",
    ]  # fmt: skip
    small = ["datasets.train.gt_size=64", "datasets.train.batch_size_per_gpu=1", "datasets.train.num_worker_per_gpu=1"]
    return changes if setting.full else changes + small


def estimated_gib(options: TrainOptions) -> float:
    """The peak that --dry-run says, in GiB."""
    _, memory = estimate(options)
    return memory.peak / GIB


def operators(setting: Setting) -> Iterator[Row]:
    """One iteration as in sdxl with pictures ready in memory: its time, how busy the device is, and its ten largest operators."""
    if lacking := setting.lacks(setting.precision):
        yield row(setting.precision, {}, lacking, "skipped")
        return
    options = load_train_options(SDXL, [*settings(setting, "operators", SDXL), f"train.precision={setting.precision}"])
    step = training_step(options, World(0, 1, setting.device))
    seconds = seconds_of(step, setting.device, repeats=5 if setting.full else 1, warmup=3 if setting.full else 1)
    on_gpu, values = setting.device.type == "cuda", {"ms": seconds * 1e3, "iterations/s": 1 / seconds}
    if on_gpu:
        values["peak (GiB)"] = torch.cuda.max_memory_allocated(setting.device) / 2**30
    yield row("one iteration, pictures ready in memory", values)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        step()
        synchronise(setting.device)
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]  # kernels are counted with who calls them
    times = {event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 for event in events}
    calls, total = {event.key: event.count for event in events}, sum(times.values())
    values = {"ms": total, "share": 1.0, "calls": sum(calls.values()), "of the iteration": total / (seconds * 1e3)}
    yield row("all operators", values, "of the iteration: how busy the device is; the rest it waits for the program" if on_gpu else "")
    for name in sorted(times, key=times.__getitem__, reverse=True)[:LARGEST_OPERATORS]:
        yield row(f"`{name}`", {"ms": times[name], "share": times[name] / total, "calls": calls[name]})


def collectives(setting: Setting) -> Row:
    """A group of one: a sum over it, and gradients averaged over it as in a training on several devices."""
    on_gpu = setting.device.type == "cuda"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dist.init_process_group("nccl" if on_gpu else "gloo", init_method=address, rank=0, world_size=1)
    try:
        values = torch.arange(4.0, device=setting.device)
        dist.all_reduce(values)
        plain = nn.Linear(4, 4).to(setting.device)
        wrapped = DistributedDataParallel(plain, device_ids=[setting.device.index] if on_gpu else None)
        wrapped(values).sum().backward()
        right = values.tolist() == [0, 1, 2, 3] and torch.equal(plain.weight.grad, values.expand(4, 4))
        note = f"{dist.get_backend()}: a sum, and a gradient through DistributedDataParallel"
    finally:
        dist.destroy_process_group()
    return row("collectives of one process", {"right": "yes" if right else "no"}, note, "ok" if right else "failed")
