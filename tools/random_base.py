"""Writes a base model with random weights in diffusers' layout, for tests and benchmarks where the real one cannot be had.

python tools/random_base.py tiny /tmp/base
python tools/random_base.py sd21-base /tmp/sd21 --dtype fp16

A program of this project needs no such folder: `network_g.pretrained: random:sd21-base` makes the same weights in memory.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from models.configs import KNOWN


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[name for name, parts in KNOWN.items() if "unet" in parts], help="whose sizes the model has")
    parser.add_argument("folder", help="where to write unet/, vae/ and scheduler/")
    parser.add_argument("--dtype", choices=["fp32", "fp16"], default="fp32", help="of the files")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    prepare()
    args = parse_args(argv)
    from tools.pretraining.random_base import write_random_base  # late: it imports torch

    parameters = write_random_base(args.kind, args.seed, args.dtype, Path(args.folder))
    say(f"wrote {args.folder}: {parameters / 1e6:.2f} M parameters in the UNet")


if __name__ == "__main__":
    main()
