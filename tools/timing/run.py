"""Everything that tools/benchmark.py measures, and its files."""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from data.console import say
from engine.distributed import choose_device, dtype_of
from options.d3sr import TestOptions
from restoring.host import physical_cores
from tools.timing import parts, rivals
from tools.timing.measure import PACKAGES, device_limit, machine
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
    others = rivals.load_rivals(args.rivals, args.sizes) if args.rivals else []
    packages = [*PACKAGES, *rivals.installed()] if others else PACKAGES
    limit = device_limit(device, dtype_of(options.precision), repeats, clock)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]]), "machine": machine(device, packages),
        "precision": options.precision, "repeats": repeats, "clock": clock, "limit": limit, "rows": [], "parts": {},
    }  # fmt: skip
    if args.sizes:
        results |= measure_sizes(args, options, others, limit, device)
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


def measure_sizes(
    args: argparse.Namespace, options: TestOptions, others: Sequence[rivals.Rival], limit: Mapping[str, float], device: torch.device
) -> dict[str, Any]:
    """rows: every variant, and with rivals what is timed beside them, at every size. rivals: what is to be said about those, in lines."""
    generators = build_all([*args.variants, *(FAST if args.fast_vae else ())], options, args.fast_vae, device)
    rows: list[dict[str, Any]] = []
    notes = [rivals.what_is_timed(options)] if others else []
    for size in args.sizes:
        beside, said = rivals.entries(others, generators, size, options) if others else ({}, [])
        rows += measure_variants(generators, size, args.repeats, limit, device, args.clock, others=beside)
        notes += said
    return {"rows": rows, "rivals": notes} if others else {"rows": rows}
