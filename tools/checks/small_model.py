"""How fast the small model trains: options/train_tiny.yml and tools/pretrain_tiny.py, by batch."""

import os
import re
from collections.abc import Iterator
from functools import partial

import torch

from engine.distributed import World
from options.d3sr import TrainOptions, load_train_options
from tools.checks import ROOT
from tools.checks.scripts import logged, make_photos, run_script, summary, training_changes
from tools.checks.step import Row, Setting, attempt, free_memory, row
from tools.timing.measure import seconds_of
from tools.timing.training import training_step

OPTIONS = str(ROOT / "options/train_tiny.yml")
SMALL = ("--size", "32", "--channels", "16", "32", "32")


def train(setting: Setting) -> Iterator[Row]:
    """One iteration of both players by batch, pictures ready in memory; then train_d3sr.py at the best of them."""
    if lacking := setting.lacks(setting.precision):
        yield row(setting.precision, {}, lacking, "skipped")
        return
    speeds: dict[int, float] = {}
    for batch in (8, 32, 128, 512) if setting.full else (1, 2):
        found = attempt(f"in memory, batch {batch}", partial(in_memory, setting, batch))
        yield found
        free_memory()
        if found["status"] == "ok":
            speeds[batch] = found["values"]["crops/s"]
    if speeds:
        best = max(speeds, key=speeds.__getitem__)
        yield attempt(f"train_d3sr.py, batch {best}", partial(scripted, setting, best))


def in_memory(setting: Setting, batch: int) -> Row:
    """What the device could do if pictures came for nothing."""
    step = training_step(options(setting, batch), World(0, 1, setting.device))
    seconds = seconds_of(step, setting.device, repeats=7 if setting.full else 1, warmup=3 if setting.full else 1)
    values = {"crops/s": batch / seconds}
    if setting.device.type == "cuda":
        values["peak (GiB)"] = torch.cuda.max_memory_allocated(setting.device) / 2**30
    return row(f"in memory, batch {batch}", values)


def scripted(setting: Setting, batch: int) -> Row:
    """With pictures read and degraded by loader processes, one for each processor."""
    iterations, every = (40, 5) if setting.full else (3, 1)
    changes = [*settings(setting, batch), f"train.total_iter={iterations}", f"logger.print_freq={every}"]
    _, in_time = run_script(setting, "train_d3sr.py", "-opt", OPTIONS, "--force_yml", *changes)
    lines = logged(setting, "tiny")
    if not lines:
        raise RuntimeError("no log line in the time that it was given")
    found = summary(lines, batch)
    values = {"crops/s": found["images/s"], "peak (GiB)": found["peak (GiB)"], "waiting for data": found["waiting for data"]}
    return row(f"train_d3sr.py, batch {batch}", values, f"{workers(setting)} loader processes" + ("" if in_time else "; cut off"))


def pretrain(setting: Setting) -> Iterator[Row]:
    """tools/pretrain_tiny.py from scratch, by batch."""
    for batch in (64, 256) if setting.full else (2,):
        yield attempt(f"pretrain_tiny.py, batch {batch}", partial(pretrained, setting, batch))


def pretrained(setting: Setting, batch: int) -> Row:
    """Crops per second after the first line."""
    iterations, every = (40, 10) if setting.full else (3, 1)
    output, in_time = run_script(
        setting, "tools/pretrain_tiny.py", "--data", str(make_photos(setting)), "--out", str(setting.folder / f"base{batch}"),
        "--iterations", str(iterations), "--log-every", str(every), "--batch", str(batch), "--fit-crops", "64",
        "--workers", str(workers(setting)), "--device", setting.device.type, *(() if setting.full else SMALL),
    )  # fmt: skip
    lines = [(int(number), float(speed)) for number, speed in re.findall(r"iter +(\d+) .* (\S+) crops/s", output)]
    if len(lines) < 2:
        raise RuntimeError("fewer than two lines in the time that it was given")
    (first, early), (last, late) = lines[0], lines[-1]  # each is the mean since the start
    speed = (last - first) / (last / late - first / early)
    note = f"{workers(setting)} loader processes" + ("" if in_time else "; cut off")
    return row(f"pretrain_tiny.py, batch {batch}", {"crops/s": speed}, note)


def workers(setting: Setting) -> int:
    """Loader processes."""
    return min(16, os.cpu_count() or 1) if setting.full else 1


def options(setting: Setting, batch: int) -> TrainOptions:
    """options/train_tiny.yml at a batch, both players from the first iteration."""
    return load_train_options(OPTIONS, settings(setting, batch))


def settings(setting: Setting, batch: int) -> list[str]:
    """What is changed in options/train_tiny.yml."""
    changes = [
        *training_changes(setting, "tiny"), "datasets.val.samples=null", f"datasets.train.batch_size_per_gpu={batch}",
        f"datasets.train.num_worker_per_gpu={workers(setting)}", "train.scheduler.warmup_iter=0", f"train.precision={setting.precision}",
    ]  # fmt: skip
    return changes if setting.full else [*changes, "datasets.train.gt_size=32"]
