"""Proves a GPU: what this device computes, how fast, and how much memory that takes, as one report. Needs no download.

    python tools/gpu_check.py -o OUT                                 OUT/report.md and report.json; log.txt is what the steps printed
    python tools/gpu_check.py -o OUT --minutes 10 --only correctness iteration training.sdxl
    python tools/gpu_check.py -o OUT --device cpu                    the same in small

Base models are random weights of the published sizes, photographs are made up. Each step is a process of its own with a limit of time, the
most important first; the report is written anew after each. Exit status: 0 all is well, 1 something failed or had no time, 2 no report.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="steps:\n" + "\n".join(f"  {step.name:<28}{step.title}" for step in STEPS),
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the report")
    minutes = "for all steps together (default: 4 on a GPU, where all may take 15; 30 on a CPU, which may need fewer)"
    parser.add_argument("--minutes", type=float, help=minutes)
    parser.add_argument("--bases", choices=["small", "full"], help="sizes of the models (default: full on a GPU, small on a CPU)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="steps, or their groups: training, restoring.compiled")
    for hidden in ("--step", "--rows", "--folder", "--deadline"):  # what a report tells the process of a step
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in args.only or []:
        if not chosen([name]):
            parser.error(f"--only {name}: no such step; there are {', '.join(step.name for step in STEPS)}")
    return args


def chosen(only: Sequence[str] | None) -> list[Step]:
    """The steps that are asked for, in order."""
    return [step for step in STEPS if only is None or {step.name, step.name.partition(".")[0]} & set(only)]


def run_step(args: argparse.Namespace) -> None:
    """In the process of a step: its rows, one line of JSON each, as soon as they are there."""
    os.chdir(Path(__file__).resolve().parents[1])  # where option files' relative paths start
    # Compiled code of its own: a step that is ended leaves half a file, over which everybody else's compiler would stumble.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(args.folder) / "inductor")
    import torch

    from engine.distributed import choose_device

    device = choose_device(args.device)  # before the rest is imported: an error comes sooner
    if device.type == "cuda":
        torch.cuda.set_device(device)
    from tools.checks import correctness, iteration, machine, restoring, small_model, training
    from tools.checks.common import Setting

    modules = {module.__name__.rpartition(".")[2]: module for module in (correctness, iteration, machine, restoring, small_model, training)}
    module, _, function = args.step.partition(".")
    setting = Setting(device, args.bases == "full", Path(args.folder), float(args.deadline))
    with Path(args.rows).open("a", encoding="utf-8") as file:
        for row in getattr(modules[module], function)(setting):
            file.write(json.dumps(row) + "\n")
            file.flush()


def child(args: argparse.Namespace, folder: Path, step: str, rows: Path, seconds: float) -> list[str]:
    """The command of a step's process."""
    told = {"-o": args.output, "--device": args.device, "--bases": args.bases or "small", "--step": step, "--rows": rows}
    told |= {"--folder": folder, "--deadline": time() + seconds}
    return [sys.executable, str(Path(__file__).resolve()), *(str(part) for pair in told.items() for part in pair)]


def run_all(
    steps: Sequence[Step],
    minutes: float,
    lenience: float,
    folder: Path,
    log: Path,
    command: Callable[[str, Path, float], list[str]],
    done: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Every step within its limit of time.

    Args:
        lenience: a step is ended at so many times its seconds, at least.
        folder: of the files that rows are written to.
        command: (name of the step, file of its rows, seconds) -> what to run.
        done: told of all results so far after each.
    """
    results: list[dict[str, Any]] = []
    end = monotonic() + 60 * minutes
    for index, step in enumerate(steps):
        left, wanted = end - monotonic(), sum(other.seconds for other in steps[index:])
        limit = min(left, lenience * step.seconds * max(1.0, left / wanted))
        facts = {"name": step.name, "title": step.title, "limit": max(limit, 0)}
        if limit < SHORTEST:
            results.append({**facts, "status": "skipped", "reason": "no time left; give more --minutes", "seconds": 0, "rows": []})
        else:
            rows = folder / f"{step.name}.jsonl"
            results.append({**facts, **run_limited(command(step.name, rows, limit), rows, log, limit)})
        done(results)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.step:
        try:
            run_step(args)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        return 0
    out = Path(args.output).resolve()
    out.mkdir(parents=True, exist_ok=True)
    (log := out / "log.txt").write_text("", encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="gpu_check-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        found = run_limited(child(args, folder, "machine.facts", folder / "machine.jsonl", 60), folder / "machine.jsonl", log, 120)
        if found["status"] != "ok":
            print(f"gpu_check.py: {found['reason'].removesuffix(' (exit status 2)')}", file=sys.stderr)
            return 2
        machine = found["rows"][0]["values"]
        args.device = machine["kind of device"]
        args.bases = args.bases or ("full" if args.device == "cuda" else "small")
        args.minutes = MINUTES[args.device] if args.minutes is None else args.minutes
        asked = [*(sys.argv[1:] if argv is None else argv)]
        header = {
            **machine, "bases": args.bases, "minutes": args.minutes, "command": shlex.join(["python", "tools/gpu_check.py", *asked]),
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        }  # fmt: skip
        return write_and_judge(args, header, folder, out, log)


def write_and_judge(args: argparse.Namespace, header: dict[str, Any], folder: Path, out: Path, log: Path) -> int:
    """Runs the steps, the report written after each; the exit status."""
    steps = chosen(args.only)

    def write(results: list[dict[str, Any]]) -> None:
        report = {"header": header, "asked": [step.name for step in steps], "steps": results}
        for name, text in (("report.json", json.dumps(report, indent=2) + "\n"), ("report.md", markdown(report))):
            (out / f"{name}.part").write_text(text, encoding="utf-8")
            (out / f"{name}.part").replace(out / name)
        if results:
            print(f"{results[-1]['name']}: {results[-1]['status']}, {results[-1]['seconds']:.0f} s {results[-1]['reason']}", flush=True)

    write([])
    lenience = LENIENCE[args.device]
    results = run_all(steps, args.minutes, lenience, folder, log, lambda *told: child(args, folder, *told), write)
    return int(any(result["status"] != "ok" for result in results))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the step at work is ended as well
    sys.exit(main())
