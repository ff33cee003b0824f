"""Everything that tools/benchmark.py measures, and its files."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from data.console import say
from engine.distributed import choose_device, dtype_of
from options.d3sr import TestOptions
from restoring.host import physical_cores
from tools.timing import parts
from tools.timing.measure import device_limit, machine
from tools.timing.report import markdown, plot
from tools.timing.training import training
from tools.timing.variants import FAST, build_all, measure_variants, shipped

SCALING = (256, 512, 1024, 2048, 4096)


def benchmark(args: argparse.Namespace, options: TestOptions) -> None:
    """Measures all that was asked for and writes benchmark.json, benchmark.md and, where there is something to draw, benchmark.png; the
    tables also to the terminal. Raises ValueError or OSError before anything is written."""
    results, folder = measure_all(args, options), Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / "benchmark.md").write_text(markdown(results), encoding="utf-8")
    if results["rows"] or "Scaling" in results["parts"]:
        plot(results, folder / "benchmark.png")
    say(*markdown(results).split("\n"))


def measure_all(args: argparse.Namespace, options: TestOptions) -> dict[str, Any]:
    """What benchmark.json holds."""
    device, repeats, clock = choose_device(options.device), args.repeats, args.clock
    if clock == "cpu" and device.type != "cpu":
        raise ValueError("--clock cpu: a GPU's work takes no processor seconds; use --clock wall")
    if device.type == "cpu":
        torch.set_num_threads(physical_cores() if options.num_threads == "auto" else options.num_threads)
    limit = device_limit(device, dtype_of(options.precision), repeats, clock)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]]), "machine": machine(device),
        "precision": options.precision, "repeats": repeats, "clock": clock, "limit": limit, "rows": [], "parts": {},
    }  # fmt: skip
    if args.sizes:
        generators = build_all([*args.variants, *(FAST if args.fast_vae else ())], options, args.fast_vae, device)
        for size in args.sizes:
            results["rows"] += measure_variants(generators, size, repeats, limit, device, clock)
    if args.scaling is not None:
        generator, tile = shipped(options, device), 1024 if options.tile == "auto" else options.tile
        results["parts"]["Scaling"] = parts.scaling(generator, args.scaling or SCALING, tile, options.tile_overlap, repeats, clock)
    if args.processes:
        results["parts"]["Processes"] = parts.processes(args.processes, options, min(args.sizes or [512]), repeats)
    if args.losses:
        batch, side = args.losses
        results["parts"]["EA-DISTS"] = parts.losses(device, batch=batch, side=side, repeats=repeats, clock=clock)
    if args.training:
        results["parts"]["Training"] = training(args.training, repeats, options.device, clock)
    return results
