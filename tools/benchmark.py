"""How fast and how large the generator is, beside the straightforward way to run it, in one run on the machine at hand.

    python tools/benchmark.py -opt options/test.yml -o OUT                            benchmark.json, .md and .png in OUT
    python tools/benchmark.py -opt options/test.yml -o OUT --variants naive fused --sizes 512 --scaling 256 512 1024 --processes 1 2
    python tools/benchmark.py -opt options/test.yml -o OUT --sizes --losses 2 128 --training options/train_tiny.yml

Variants: naive = diffusers' UNet as it trains, peft's adapters beside the weights; loaded = adapters merged; fused = everything folded that
is the same for every picture (models/fused.py); channels_last = the same, laid out so (what test_d3sr.py runs);
phase = fused, and the UNet enlarges by transposed convolutions; compiled = torch.compile of fused; bf16 = channels_last in bfloat16;
graphs = torch.compile of channels_last into CUDA graphs (mode reduce-overhead), where asked for;
fast_decoder, fast_both = fused with a small VAE, see --fast-vae.
Each round gives every variant one turn, so that what else the machine does falls on all of them alike.
"""

import argparse
import copy
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.timing.variants import FAST, GRAPHS, VARIANTS, build_all, restoring, shipped

if TYPE_CHECKING:
    import torch

    from models.generator import Generator
    from options.d3sr import TestOptions

SCALING = (256, 512, 1024, 2048, 4096)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file of a test, which says what runs and how")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the results")
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024, 2048], help="sides of the output (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, GRAPHS], default=list(VARIANTS), help="naive is always among them")
    parser.add_argument("--fast-vae", metavar="PATH", help="AutoencoderTiny: folder or hub id; adds the two fast variants")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu = processor seconds, where others use the CPU as well"
    )
    parser.add_argument("--scaling", type=int, nargs="*", metavar="SIDE", help="growth of time and memory (default sides: 256 to 4096)")
    parser.add_argument("--processes", type=int, nargs="+", default=[], metavar="N", help="pictures per second of so many processes")
    parser.add_argument("--losses", type=int, nargs=2, metavar=("BATCH", "SIDE"), help="EA-DISTS beside two calls of pyiqa's DISTS")
    parser.add_argument("--training", metavar="FILE", help="one iteration of both players of a training's option file, on made-up crops")
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change options")
    return parser.parse_args(argv)


def measure(
    generators: "Mapping[str, Generator]",
    size: int,
    repeats: int,
    limit: Mapping[str, float],
    device: "torch.device",
    clock: str = "wall",
    warmup: int = 0,
) -> list[dict[str, Any]]:
    """A row for every variant at one size, each warmed up by `warmup` pictures and one more; the first variant is what the others are
    compared with. Raises ValueError for a size that the network does not take."""
    import torch

    from tools.exporting.onnx_export import example_picture
    from tools.timing.complexity import generator_macs, total
    from tools.timing.measure import interleaved, memory_of, ratios, weights_mib

    macs = {name: total(generator_macs(copy.deepcopy(generator).to("meta"), size).values()) for name, generator in generators.items()}
    lr_up = example_picture((size, size)).to(device)
    calls: dict[str, Callable[[], torch.Tensor]] = {name: restoring(name, generator, lr_up) for name, generator in generators.items()}
    rows, first = [], next(iter(generators))
    with torch.inference_mode():
        results = {name: call() for name, call in calls.items()}  # also the warm-up
        seconds = interleaved(calls, device, repeats=repeats, warmup=warmup, clock=clock)
        speed = ratios(seconds, first)
        for name, taken in seconds.items():
            difference = (results[name] - results[first]).abs().max().item()
            middle, gmacs = sorted(taken)[len(taken) // 2], macs[name].everything / 1e9
            seen = device.type == "cuda" or name not in ("compiled", GRAPHS)  # what compiled code makes on a CPU shows nowhere
            rows.append({
                "variant": name, "size": size, "seconds": middle, "all_seconds": taken, "ratio": speed[name], "gmacs": gmacs,
                "share": gmacs / middle / max(limit.values()), "memory_mib": memory_of(calls[name], device) if seen else None,
                "weights_mib": weights_mib(generators[name]), "difference": difference,
            })  # fmt: skip
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        from options.d3sr import load_test_options

        options = load_test_options(args.opt, args.force_yml)
        if options.precision == "auto":  # bf16 is a row of its own
            options = dataclasses.replace(options, precision="fp32")
        write(run(args, options), Path(args.output))
    except (ValueError, OSError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace, options: "TestOptions") -> dict[str, Any]:
    """All that was asked for."""
    import torch

    from engine import benchmark, benchmark_parts
    from engine.distributed import choose_device, dtype_of
    from restoring.host import physical_cores
    from tools.timing.processes import processes
    from tools.timing.training import training

    device = choose_device(options.device)
    if args.clock == "cpu" and device.type != "cpu":
        raise ValueError("--clock cpu: a GPU's work takes no processor seconds; use --clock wall")
    if device.type == "cpu":
        torch.set_num_threads(physical_cores() if options.num_threads == "auto" else options.num_threads)
    names = [name for name in (*VARIANTS, GRAPHS) if name == "naive" or name in args.variants] + (list(FAST) if args.fast_vae else [])
    limit = benchmark.device_limit(device, dtype_of(options.precision), args.repeats, args.clock)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]]), "machine": benchmark.machine(device),
        "precision": options.precision, "repeats": args.repeats, "clock": args.clock, "limit": limit, "rows": [], "parts": {},
    }  # fmt: skip
    if args.sizes:
        generators = build_all(names, options, args.fast_vae, device)
        for size in args.sizes:
            results["rows"] += measure(generators, size, args.repeats, limit, device, args.clock)
    if args.scaling is not None:
        generator = shipped(options, device)
        tile = 1024 if options.tile == "auto" else options.tile
        results["parts"]["Scaling"] = benchmark_parts.scaling(
            generator, args.scaling or SCALING, tile, options.tile_overlap, args.repeats, args.clock
        )
    if args.processes:
        results["parts"]["Processes"] = processes(args.processes, options, min(args.sizes or [512]), args.repeats)
    if args.losses:
        batch, side = args.losses
        results["parts"]["EA-DISTS"] = benchmark_parts.losses(device, batch=batch, side=side, repeats=args.repeats, clock=args.clock)
    if args.training:
        results["parts"]["Training"] = training(args.training, args.repeats, options.device, args.clock)
    return results


def write(results: dict[str, Any], folder: Path) -> None:
    """benchmark.json, benchmark.md and, where there is something to draw, benchmark.png; the tables also on the terminal."""
    from tools.timing.report import markdown, plot

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / "benchmark.md").write_text(markdown(results), encoding="utf-8")
    if results["rows"] or "Scaling" in results["parts"]:
        plot(results, folder / "benchmark.png")
    print(markdown(results))


if __name__ == "__main__":
    sys.exit(main())
