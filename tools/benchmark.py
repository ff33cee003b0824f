"""How fast and how large the generator is, beside the straightforward way to run it, in one run on the machine at hand.

    python tools/benchmark.py -opt options/test.yml -o OUT                            benchmark.json, .md and .png in OUT
    python tools/benchmark.py -opt options/test.yml -o OUT --variants naive fused --sizes 512 --scaling 256 512 1024 --processes 1 2
    python tools/benchmark.py -opt options/test.yml -o OUT --sizes --losses 2 128 --training options/train_tiny.yml

Variants: naive = diffusers' UNet as it trains, peft's adapters beside the weights; loaded = adapters merged; fused = everything folded that
is the same for every picture (models/fused.py); channels_last = the same, laid out so (what test_d3sr.py runs);
phase = fused, and the UNet enlarges by transposed convolutions; compiled = torch.compile of fused; fast_decoder, fast_both = fused with a
small VAE, see --fast-vae.
Each round gives every variant one turn, so that what else the machine does falls on all of them alike.
"""

import argparse
import copy
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    import torch

    from models.generator import Generator
    from options.d3sr import TestOptions

VARIANTS = ("naive", "loaded", "fused", "channels_last", "phase", "compiled")
FAST = ("fast_decoder", "fast_both")
SCALING = (256, 512, 1024, 2048, 4096)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="option file of a test, which says what runs and how")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the results")
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024, 2048], help="sides of the output (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="which; naive is always among them")
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


def unmerged(options: "TestOptions") -> "Generator":
    """As it trains: timestep and text embedding go through the network with every picture, and so do adapters, where it has some."""
    from models.generator import MERGED, base_of, build_generator, load_generator, load_trained, read_generator_config, revision_of
    from models.sizes import trained_plan

    network = options.network_g
    config = read_generator_config(network.path)
    if config["train"] == MERGED:
        return load_generator(network.path)
    source = base_of(network.path, config, network.pretrained)
    plan = trained_plan(network.path, base=network.pretrained, revision=network.revision)
    generator = build_generator(
        source, revision=revision_of(config, source, network.revision), vae=plan.vae, timestep=config["timestep"], scale=config["scale"],
        train=plan.train, rank=plan.rank, alpha=plan.alpha, targets=plan.targets, prompt_tokens=plan.prompt_tokens,
    )  # fmt: skip
    load_trained(generator, network.path)
    return generator.requires_grad_(False).eval()


def build(name: str, options: "TestOptions", fast_vae: str | None) -> "Generator":
    """One variant, float32 on the CPU."""
    import torch

    from models.fused import compile_networks, fuse
    from models.generator import load_generator, use_fast_vae

    if name == "naive":
        return unmerged(options)
    network = options.network_g
    generator = load_generator(network.path, base=network.pretrained, revision=network.revision)
    if name in FAST:
        use_fast_vae(generator, fast_vae, name.removeprefix("fast_"))
    if name == "loaded":
        return generator
    layout = torch.channels_last if name == "channels_last" else torch.contiguous_format
    generator = fuse(generator, phase_upsampling=name == "phase", memory_format=layout)
    if name == "compiled":
        compile_networks(generator)
    return generator


def build_all(names: Sequence[str], options: "TestOptions", fast_vae: str | None, device: "torch.device") -> "dict[str, Generator]":
    """Every variant in the asked precision, on the device."""
    from engine.distributed import dtype_of
    from models.generator import cast_weights

    return {name: cast_weights(build(name, options, fast_vae), dtype_of(options.precision)).to(device) for name in names}


def shipped(options: "TestOptions", device: "torch.device") -> "Generator":
    """The variant that test_d3sr.py runs by default."""
    return build_all(["channels_last"], options, None, device)["channels_last"]


def measure(
    generators: "Mapping[str, Generator]", size: int, repeats: int, limit: Mapping[str, float], device: "torch.device", clock: str
) -> list[dict[str, Any]]:
    """A row for every variant at one size. Raises ValueError for a size that the network does not take."""
    import torch

    from engine.benchmark import interleaved, memory_of, ratios, weights_mib
    from engine.complexity import generator_macs, total
    from engine.onnx_export import example_picture

    macs = {name: total(generator_macs(copy.deepcopy(generator).to("meta"), size).values()) for name, generator in generators.items()}
    lr_up = example_picture((size, size)).to(device)
    calls: dict[str, Callable[[], torch.Tensor]] = {name: (lambda g=generator: g.restore(lr_up)) for name, generator in generators.items()}
    rows = []
    with torch.inference_mode():
        results = {name: call() for name, call in calls.items()}  # also the warm-up
        seconds = interleaved(calls, device, repeats=repeats, warmup=0, clock=clock)
        speed = ratios(seconds, "naive")
        for name, taken in seconds.items():
            difference = (results[name] - results["naive"]).abs().max().item()
            middle, gmacs = sorted(taken)[len(taken) // 2], macs[name].everything / 1e9
            seen = device.type == "cuda" or name != "compiled"  # what compiled code makes on a CPU shows nowhere
            rows.append({
                "variant": name, "size": size, "seconds": middle, "all_seconds": taken, "ratio": speed[name], "gmacs": gmacs,
                "share": gmacs / middle / max(limit.values()), "memory_mib": memory_of(calls[name], device) if seen else None,
                "weights_mib": weights_mib(generators[name]), "difference": difference,
            })  # fmt: skip
    return rows


def processes(counts: Sequence[int], options: "TestOptions", size: int, pictures: int) -> dict[str, Any]:
    """Pictures per second of 1, 2 ... processes that share the cores; each restores `pictures`."""
    import torch.multiprocessing as mp

    from engine.threads import physical_cores

    rows = []
    for count in counts:
        context = mp.get_context("spawn")
        barrier, queue = context.Barrier(count), context.Queue()
        threads = max(1, physical_cores() // count)
        arguments = (options, size, pictures, threads, barrier, queue)
        workers = [context.Process(target=worker, args=arguments) for _ in range(count)]
        for process in workers:
            process.start()
        times = [queue.get() for _ in workers]
        for process in workers:
            process.join()
        seconds = max(end for _, end in times) - min(start for start, _ in times)
        rows.append({"processes": count, "threads": threads, "per_second": count * pictures / seconds})
    columns = {"processes": "processes", "threads": "threads of each", "per_second": "pictures per second"}
    return {"columns": columns, "rows": rows, "note": f"Output {size} x {size}, {pictures} pictures each, after one to warm up."}


def worker(options: "TestOptions", size: int, pictures: int, threads: int, barrier: Any, queue: Any) -> None:
    """One process of `processes`: puts (start, end) of its pictures."""
    import torch

    from engine.distributed import choose_device
    from engine.onnx_export import example_picture

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


def training(file: str, repeats: int, device: str, clock: str) -> dict[str, Any]:
    """Iterations of both players on made-up crops, random weights in the perceptual loss; from where the discriminator is heard."""
    from engine import distributed
    from engine.benchmark import interleaved, memory_of
    from options.d3sr import load_train_options

    changes = ["train.perceptual.backbone_weights=random", "train.adversarial_start=0", f"device={device}"]
    options = load_train_options(file, changes)
    with distributed.start(options.device) as world:
        step = training_step(options, world)
        seconds = sorted(interleaved({"": step}, world.device, repeats=repeats, clock=clock)[""])
        memory = memory_of(step, world.device)
    middle, images = seconds[len(seconds) // 2], options.datasets.train.batch_size_per_gpu * options.train.accumulate
    row = {"images": images, "side": options.datasets.train.gt_size, "seconds": middle, "per_second": images / middle, "memory_mib": memory}
    columns = {"images": "images", "side": "side", "seconds": "s per iteration"}
    columns |= {"per_second": "images per second", "memory_mib": "MiB at work"}
    return {"columns": columns, "rows": [row], "note": f"{file}, {options.train.precision}; pictures ready in memory."}


def training_step(options: Any, world: Any) -> Callable[[], None]:
    """One iteration of train_d3sr.py without reading, logging and saving."""
    import dataclasses

    import torch

    from engine.distributed import dtype_of
    from engine.health import DiscriminatorHealth
    from engine.logs import Means
    from losses.perceptual import build_perceptual
    from train_d3sr import build_run, discriminator_step, generator_step

    t, data, run = options.train, options.datasets.train, build_run(options, world)
    p = dataclasses.asdict(t.perceptual)
    perceptual = build_perceptual(**{name: value for name, value in p.items() if name not in ("weight", "shift")}).to(world.device)
    random = torch.Generator().manual_seed(0)
    sides = {"lr": data.gt_size // options.scale, "hr": data.gt_size}
    batch = {name: torch.rand(data.batch_size_per_gpu, 3, side, side, generator=random).to(world.device) for name, side in sides.items()}
    batches = [batch | {"index": torch.arange(data.batch_size_per_gpu)}] * t.accumulate
    means, health = Means(), DiscriminatorHealth(run.noising.low, run.noising.high, world.device)

    def autocast() -> torch.autocast:
        return torch.autocast(world.device.type, dtype_of(t.precision), enabled=t.precision != "fp32")

    def step() -> None:
        judged = generator_step(run, run.generator, batches, perceptual, options, means, autocast)
        discriminator_step(run, run.discriminator, judged, options, means, health, autocast)
        run.iteration += 1

    return step


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        from options.d3sr import load_test_options

        options = load_test_options(args.opt, args.force_yml)
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
    from engine.threads import physical_cores

    device = choose_device(options.device)
    if args.clock == "cpu" and device.type != "cpu":
        raise ValueError("--clock cpu: a GPU's work takes no processor seconds; use --clock wall")
    if device.type == "cpu":
        torch.set_num_threads(physical_cores() if options.num_threads == "auto" else options.num_threads)
    names = [name for name in VARIANTS if name == "naive" or name in args.variants] + (list(FAST) if args.fast_vae else [])
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
    from engine.benchmark_report import markdown, plot

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / "benchmark.md").write_text(markdown(results), encoding="utf-8")
    if results["rows"] or "Scaling" in results["parts"]:
        plot(results, folder / "benchmark.png")
    print(markdown(results))


if __name__ == "__main__":
    sys.exit(main())
