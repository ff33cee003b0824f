"""How fast the device trains in the paper's setting, with random weights of the published sizes, and where the time goes."""

import re
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

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
from tools.checks.common import ROOT, Row, Setting, attempt, make_photos, row, run_script, skipped
from tools.timing.measure import interleaved, synchronise
from tools.timing.training import training_step

SDXL, SD21 = (str(ROOT / "options" / name) for name in ("train.yml", "train_dfosd.yml"))
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1")
LARGEST_OPERATORS = 10


def sdxl(setting: Setting) -> Iterator[Row]:
    """train_d3sr.py: Stable Diffusion 2.1 against SDXL, as options/train.yml has it."""
    yield from trained(setting, "sdxl", SDXL)


def sd21(setting: Setting) -> Iterator[Row]:
    """train_d3sr.py: Stable Diffusion 2.1 against itself, as options/train_dfosd.yml has it."""
    yield from trained(setting, "sd21", SD21)


def fp16(setting: Setting) -> Iterator[Row]:
    """As sdxl, in fp16 with loss scaling, whose first steps may be skipped until the scale fits."""
    yield from trained(setting, "fp16", SDXL, precision="fp16")


def torchrun(setting: Setting) -> Iterator[Row]:
    """As sdxl, through torchrun, after a first use of NCCL in this process alone."""
    if setting.device.type == "cuda" and not dist.is_nccl_available():
        yield skipped("torchrun", "this torch has no NCCL")
        return
    yield attempt("collectives of one process", lambda: collectives(setting))
    yield from trained(setting, "torchrun", SDXL, launcher=TORCHRUN)


def trained(setting: Setting, name: str, file: str, *, precision: str | None = None, launcher: Sequence[str] = ()) -> Iterator[Row]:
    """A training of a few iterations, run as a user runs it; its speed, its peak of memory, and what the dry run says of that."""
    precision, (iterations, every) = precision or setting.precision, (24, 4) if setting.full else (3, 1)
    what, reason = f"{name}, {precision}", setting.lacks(precision)
    if reason:
        yield skipped(what, reason)
        return
    changes = [*settings(setting, name, file), f"train.precision={precision}"]
    changes += [f"train.total_iter={iterations}", f"logger.print_freq={every}"]
    options = load_train_options(file, changes)

    def measure() -> Row:
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

    yield attempt(what, measure)


def settings(setting: Setting, name: str, file: str) -> list[str]:
    """What a training on made-up photographs, from random weights, changes in its option file."""
    generator, discriminator = setting.bases()
    changes = [
        f"name={name}", "num_gpu=auto", f"device={setting.device.type}", f"path.experiments_root={setting.folder / 'experiments'}",
        f"path.tb_root={setting.folder / 'tb'}", f"datasets.train.dataroot_gt={make_photos(setting)}", "datasets.val.realsr=null",
        f"network_g.pretrained={generator}", f"network_d.pretrained={generator if file == SD21 else discriminator}",
        "train.discriminator_start=0", "train.adversarial_start=0",  # both players at full work from the first iteration
        "train.perceptual.backbone_weights=random", "logger.save_checkpoint_freq=1000000", "logger.use_tb_logger=false",
    ]  # fmt: skip
    small = ["datasets.train.gt_size=64", "datasets.train.batch_size_per_gpu=1", "datasets.train.num_worker_per_gpu=1"]
    return changes if setting.full else changes + small


def estimated_gib(options: TrainOptions) -> float:
    """The peak that --dry-run says, in GiB."""
    _, memory = estimate(options)
    return memory.peak / GIB


def logged(setting: Setting, name: str) -> list[dict[str, float]]:
    """The values of every log line of a run, the iteration as `iter` among them."""
    file = setting.folder / "experiments" / name / f"train_{name}.log"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = re.findall(r"INFO: train  iter (\d+)/\d+  (.*)", text)
    return [{"iter": int(number)} | {k: float(v) for k, v in (pair.split(" ") for pair in pairs.split("  "))} for number, pairs in lines]


def summary(lines: Sequence[dict[str, float]], batch: int) -> dict[str, float]:
    """Speed over all log lines but the first, which holds the warm-up (all there is, where that is one)."""
    measured = range(1, len(lines)) if len(lines) > 1 else range(1)
    counts = [lines[n]["iter"] - (lines[n - 1]["iter"] if n else 0) for n in measured]
    seconds = [count * batch / lines[n]["images_per_s"] for n, count in zip(measured, counts, strict=True)]
    waited = sum(lines[n]["data_share"] * taken for n, taken in zip(measured, seconds, strict=True))
    return {
        "iterations/s": sum(counts) / sum(seconds),
        "images/s": sum(counts) * batch / sum(seconds),
        "waiting for data": waited / sum(seconds),
        "peak (GiB)": lines[-1]["memory_gib"],
        "skipped steps": int(lines[-1]["skipped_steps"]),
        "iterations": int(sum(counts)),
    }


def operators(setting: Setting) -> Iterator[Row]:
    """One iteration as in sdxl with pictures ready in memory: its time, how busy the device is, and its ten largest operators."""
    reason = setting.lacks(setting.precision)
    if reason:
        yield skipped(setting.precision, reason)
        return
    options = load_train_options(SDXL, [*settings(setting, "operators", SDXL), f"train.precision={setting.precision}"])
    step = training_step(options, World(0, 1, setting.device))
    seconds = sorted(interleaved({"": step}, setting.device, repeats=5 if setting.full else 1, warmup=3 if setting.full else 1)[""])
    middle = seconds[len(seconds) // 2]
    on_gpu, values = setting.device.type == "cuda", {"ms": middle * 1e3, "iterations/s": 1 / middle}
    if on_gpu:
        values["peak (GiB)"] = torch.cuda.max_memory_allocated(setting.device) / 2**30
    yield row("one iteration, pictures ready in memory", values)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        step()
        synchronise(setting.device)
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]  # kernels are counted with who calls them
    times = {event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 for event in events}
    calls, total = {event.key: event.count for event in events}, sum(times.values())
    values = {"ms": total, "share": 1.0, "calls": sum(calls.values()), "of the iteration": total / (middle * 1e3)}
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
