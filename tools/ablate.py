"""Trains variants of one setting on a small base, scores each on pairs, and writes one table and the training curves.

    python tools/ablate.py options/ablations/loss_*.yml --base options/train_tiny.yml --iterations 300 \\
        --score RealSR/LR RealSR/HR -o results/ablations/table5 --force_yml datasets.train.dataroot_gt=PHOTOS

A variant is an option file that says what differs (`base: ../train_dfosd.yml`). That difference is laid over --base, so all variants share
seed, data and everything else. Models that do not fit a small base need stand-ins: its own stands for SD 2.1-base, and for others

    --stand_in stable-diffusion-xl-base-1.0=weights/larger-base

Trainings live in --runs, named by what they are: the same training is never done twice, whichever table asks for it, and the same command
again goes on where it stopped. Exit status: 0 all done; 1 some variants failed, the others are done; 2 a mistake, nothing done; 130 Ctrl-C.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from options.arguments import add_several
from tools.ablation.options import describe, plan_variants, scoring_options


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("variants", nargs="+", metavar="FILE", help="option files, e.g. options/ablations/loss_*.yml")
    add("--base", default="options/train_tiny.yml", metavar="FILE", help="what all have in common (default: %(default)s)")
    add("--iterations", type=int, help="of each training (default: the base's); warm-up and adversarial_start are scaled with it")
    add("--seed", type=int, nargs="+", default=[0], help="several: each variant is trained once per seed, and the table shows the spread")
    add_several(parser, "--stand_in", metavar="NAME=PATH", help="for a model or data folder; NAME= drops a folder")
    add("--score", nargs=2, required=True, metavar=("LR", "HR"), help="the pairs to score on")
    add("--test", default="options/test.yml", metavar="FILE", help="options of the scoring: metrics, tile (default: %(default)s)")
    add("--niqe", metavar="FILE", help="also NIQE, with these parameters (.mat or BasicSR's .npz)")
    add("--perceptual", metavar="WEIGHTS", help="also LPIPS* and DISTS* on SqueezeNet 1.1: a file of weights, or torchvision")
    add("-o", "--output", required=True, metavar="DIR", help="folder of the table and the curves")
    add("--runs", default="experiments/ablations", metavar="DIR", help="folder of the trainings (default: %(default)s)")
    add("--processes", type=int, default=1, help="training processes (GPUs) of each run")
    add_several(parser, "--force_yml", metavar="KEY=VALUE", help="change the base; variants come on top")
    add_several(parser, "--force_test", metavar="KEY=VALUE", help="change the scoring's options")
    add("--title", help="heading of the table (default: what the variants' files say)")
    add("--dry-run", action="store_true", help="list what would be run, and stop")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    args.given = sys.argv[1:] if argv is None else argv
    try:
        variants = plan_variants(args)
        test = scoring_options(args.test, args.force_test, args.score, args.niqe)
        if args.dry_run:
            say(*describe(variants).split("\n"))
            return 0
        from tools.ablation.study import carry_out, write_results  # late: torch

        carry_out(variants, test, args)
        say("", *write_results(variants, args).split("\n"))
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here", error=True)
        return 130
    except (ValueError, OSError) as error:
        say(f"ablate.py: {error}", error=True)
        return 2
    return int(any(training.failure for variant in variants for training in variant.trainings))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a training in progress is ended, too
    sys.exit(main())
