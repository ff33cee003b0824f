"""How fast and how large the generator is, beside the straightforward way to run it, in one run on the machine at hand.

    python tools/benchmark.py -opt options/test.yml -o OUT                            benchmark.json, .md and .png in OUT
    python tools/benchmark.py -opt options/test.yml -o OUT --variants naive fused --sizes 512 --scaling 256 512 1024 --processes 1 2
    python tools/benchmark.py -opt options/test.yml -o OUT --sizes --losses 2 128 --training options/train_tiny.yml
    python tools/benchmark.py -opt options/test.yml -o OUT --sizes 512 --rivals RealESRGAN_x4plus.pth   other networks, in the same run

Variants: naive = diffusers' UNet as it trains, peft's adapters beside the weights; loaded = adapters merged; fused = everything folded that
is the same for every picture (models/fused.py); channels_last = the same, laid out so (what test_d3sr.py runs);
phase = fused, and the UNet enlarges by transposed convolutions; compiled = torch.compile of fused; bf16 = channels_last in bfloat16;
ncnn = fused, the UNet through ncnn (network_g.runtime: ncnn; requirements-ncnn.txt), where asked for;
graphs = torch.compile of channels_last into CUDA graphs (mode reduce-overhead), where asked for;
fast_decoder, fast_both = fused with a small VAE, see --fast-vae.
Rivals: each FILE of --rivals (a .safetensors or .pth of any super-resolution network that spandrel knows) joins the same rounds, float32,
through torch and, on a CPU, through ncnn: pip install -r requirements-peers.txt -r requirements-ncnn.txt -c constraints.txt.
With them comes `ours, as test_d3sr.py restores`, from LR to the result, with the option file's tile and color_fix.
Each round gives every variant one turn, so that what else the machine does falls on all of them alike.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from options.arguments import add_option_arguments
from options.d3sr import load_test_options

VARIANTS = ("naive", "loaded", "fused", "channels_last", "phase", "compiled", "bf16", "ncnn", "graphs")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option_arguments(parser, "option file of a test, which says what runs and how", "change options")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the results")
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024, 2048], help="sides of the output (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:-2], help="naive is always among them")
    parser.add_argument("--fast-vae", metavar="PATH", help="AutoencoderTiny: folder or hub id; adds the two fast variants")
    parser.add_argument("--rivals", nargs="+", default=[], metavar="FILE", help="weights of other super-resolution networks")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu = processor seconds, where others use the CPU as well"
    )
    parser.add_argument("--scaling", type=int, nargs="*", metavar="SIDE", help="growth of time and memory (default sides: 256 to 4096)")
    parser.add_argument("--processes", type=int, nargs="+", action="extend", default=[], metavar="N", help="pictures per second of N")
    parser.add_argument("--losses", type=int, nargs=2, metavar=("BATCH", "SIDE"), help="EA-DISTS beside two calls of pyiqa's DISTS")
    parser.add_argument("--training", metavar="FILE", help="one iteration of both players of a training's option file, on made-up crops")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        options = load_test_options(args.opt, args.force_yml)
        if options.precision == "auto":  # bf16 is a row of its own
            options = dataclasses.replace(options, precision="fp32")
        if args.rivals and not args.sizes:
            raise ValueError("--rivals: they are timed at --sizes, and there are none")
        compared = ("naive", "channels_last") if args.rivals else ("naive",)
        args.variants = [name for name in VARIANTS if name in (*compared, *args.variants)]
        from tools.timing.run import benchmark  # late: it imports torch

        benchmark(args, options)
    except (ValueError, OSError) as error:
        say(f"benchmark.py: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
