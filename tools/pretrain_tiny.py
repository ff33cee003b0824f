"""Pre-trains the small base of D3SR: a diffusion model over block-transform latents of photographs, from scratch.

    python tools/pretrain_tiny.py --data FOLDER [FOLDER ...] --out weights/my-base
    python tools/pretrain_tiny.py --data FOLDER --latents weights/my-base --channels 160 192 192 --out weights/larger   its discriminator's

Epsilon prediction on Stable Diffusion's noise schedule, timesteps uniform over the whole range, no text (a zero embedding is
the null condition). The result is a folder in diffusers' layout that `network_g.pretrained` and `network_d.pretrained` accept.
Running the same command again resumes.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", action="extend", required=True, help="folders of photographs, or lists of files")
    parser.add_argument("--out", required=True, help="folder of the base to write")
    parser.add_argument("--iterations", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=16, help="crops per iteration")
    parser.add_argument("--channels", type=int, nargs=3, help="of the UNet's levels, multiples of 16 (default: 96 112 112)")
    parser.add_argument("--layers", type=int, nargs=3, help="residual blocks of each level (default: 1 1 1)")
    parser.add_argument("--size", type=int, default=128, help="side of a crop in pixels")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="peak; 100 iterations of warm-up, then a cosine down to zero")
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that read pictures")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="default: %(default)s")
    parser.add_argument("--save-every", type=int, default=200, help="iterations between states to resume from")
    parser.add_argument("--log-every", type=int, default=50, help="iterations between lines")
    parser.add_argument("--fit-crops", type=int, default=1024, help="crops that the block transform is whitened over")
    parser.add_argument("--latents", metavar="BASE", help="whiten as this base does, so that one can judge what the other generates")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        from tools.pretraining.pretrain import pretrain  # late: it imports torch

        pretrain(args)
    except (ValueError, OSError) as error:
        say(f"pretrain_tiny.py: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
