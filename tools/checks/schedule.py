"""Which steps there are, how much time each gets, and the report of them all. Needs no torch: each step is a process of its own."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple

from data.console import say
from data.whole_files import write_text
from tools.checks import ROOT
from tools.checks.limited import run_limited
from tools.checks.report import markdown


class Step(NamedTuple):
    """One process of the report."""

    name: str
    """module.function of tools/checks/."""
    seconds: float
    """What it may need at published sizes on a fast GPU, its start included."""
    title: str


STEPS = (
    Step("correctness.small_model", 30, "The small model restores as on the CPU"),
    Step("iteration.both_players", 40, "An iteration of both players is that of the CPU"),
    Step("training.sdxl", 75, "Training in the paper's setting: SD 2.1 against SDXL"),
    Step("restoring.naive_and_fused", 60, "Restoring at the size of SD 2.1"),
    Step("training.operators", 70, "Where an iteration of training goes"),
    Step("training.sd21", 60, "Training: SD 2.1 against SD 2.1"),
    Step("small_model.train", 60, "Training the small model"),
    Step("training.torchrun", 60, "Training through torchrun"),
    Step("training.fp16", 60, "Training in fp16"),
    Step("restoring.fast_vae", 60, "Restoring with a small VAE"),
    Step("restoring.precisions", 50, "Restoring in other precisions"),
    Step("restoring.tiles", 50, "Restoring in tiles"),
    Step("small_model.pretrain", 40, "Pre-training the small model"),
    Step("correctness.compiled", 60, "The small model compiled"),
    Step("restoring.compiled", 150, "Restoring at the size of SD 2.1, compiled into CUDA graphs"),
)
"""In order of importance."""
LENIENCE = {"cuda": 1.5, "cpu": 6.0}
"""A step is ended at so many times its seconds, more where there is time for all: a CPU needs longer even for small models."""
MINUTES = {"cuda": 4.0, "cpu": 30.0}
"""For all steps together."""
SHORTEST = 3.0
"""Seconds below which no step is started."""


def chosen(only: Sequence[str] | None) -> list[Step]:
    """The steps that are asked for, in order."""
    return [step for step in STEPS if only is None or {step.name, step.name.partition(".")[0]} & set(only)]


def command_of(args: argparse.Namespace, step: str, folder: Path, seconds: float) -> list[str]:
    """What runs a step in a process of its own: tools/gpu_check.py with its hidden arguments."""
    arguments = {"-o": args.output, "--device": args.device, "--bases": args.bases or "small", "--step": step}
    arguments |= {"--folder": folder, "--deadline": time() + seconds}
    return [sys.executable, str(ROOT / "tools/gpu_check.py"), *(str(part) for pair in arguments.items() for part in pair)]


def run(args: argparse.Namespace, step: str, folder: Path, log: Path, limit: float) -> dict[str, Any]:
    """Status, reason, seconds and rows of a step, which is ended after `limit` seconds."""
    return run_limited(command_of(args, step, folder, limit), rows_file(folder, step), log, limit)


def rows_file(folder: Path, step: str) -> Path:
    """Where a step's process writes its rows."""
    return folder / f"{step}.jsonl"


def run_all(args: argparse.Namespace, folder: Path, log: Path) -> Iterator[dict[str, Any]]:
    """The results of the steps that are asked for, each run within its limit of time: a share of what is left for all."""
    steps, end = chosen(args.only), monotonic() + 60 * args.minutes
    for index, step in enumerate(steps):
        left, wanted = end - monotonic(), sum(other.seconds for other in steps[index:])
        limit = min(left, LENIENCE[args.device] * step.seconds * max(1.0, left / wanted))
        facts = {"name": step.name, "title": step.title, "limit": max(limit, 0)}
        if limit < SHORTEST:
            yield {**facts, "status": "skipped", "reason": "no time left; give more --minutes", "seconds": 0, "rows": []}
        else:
            yield {**facts, **run(args, step.name, folder, log, limit)}


def make_report(args: argparse.Namespace, asked: Sequence[str]) -> int:
    """Runs the steps, the report written anew after each. Returns the exit status.

    asked: the arguments as they were given, for the report's header.
    """
    out = Path(args.output).resolve()
    out.mkdir(parents=True, exist_ok=True)
    (log := out / "log.txt").write_text("", encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="gpu_check-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        found = run(args, "machine.facts", folder, log, 120)
        if found["status"] != "ok":
            say(f"gpu_check.py: {found['reason'].removesuffix(' (exit status 2)')}", error=True)
            return 2
        machine = found["rows"][0]["values"]
        args.device = machine["kind of device"]
        args.bases = args.bases or ("full" if args.device == "cuda" else "small")
        args.minutes = MINUTES[args.device] if args.minutes is None else args.minutes
        header = {
            **machine, "bases": args.bases, "minutes": args.minutes, "command": shlex.join(["python", "tools/gpu_check.py", *asked]),
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        }  # fmt: skip
        report = {"header": header, "asked": [step.name for step in chosen(args.only)], "steps": []}
        write(report, out)
        for result in run_all(args, folder, log):
            report["steps"].append(result)
            write(report, out)
            say(f"{result['name']}: {result['status']}, {result['seconds']:.0f} s {result['reason']}")
        return int(any(result["status"] != "ok" for result in report["steps"]))


def write(report: Mapping[str, Any], out: Path) -> None:
    """report.json and report.md."""
    write_text(out / "report.json", json.dumps(report, indent=2) + "\n")
    write_text(out / "report.md", markdown(report))
