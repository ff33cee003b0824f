"""Trains D3SR: a one-step diffusion generator against a diffusion discriminator.

    python train_d3sr.py -opt options/train_tiny.yml
    torchrun --nproc_per_node 4 train_d3sr.py -opt options/train.yml

Running the same command again resumes. Ctrl-C, or SIGTERM, finishes the iteration and saves first.
"""

import argparse
import os
import sys

from data.console import prepare, say, say_traceback
from options.arguments import add_option_arguments
from options.d3sr import load_train_options, to_yaml

STOPPED = 130  # the exit status that shells give to Ctrl-C
DEBUG = (
    "train.total_iter=8",
    "train.scheduler.warmup_iter=0",
    "logger.print_freq=1",
    "logger.save_checkpoint_freq=4",
    "val.val_freq=4",
    "val.early=[0]",
    "logger.use_tb_logger=false",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option_arguments(parser, "option file, e.g. options/train.yml", "override options, e.g. train.total_iter=1000")
    parser.add_argument("--launcher", choices=["none", "pytorch"], help="default: what torchrun's environment says")
    parser.add_argument("--debug", action="store_true", help="eight iterations of everything, each of them logged")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved options and what would be loaded, then stop")
    return parser.parse_args(argv)


def report(error: BaseException) -> int:
    """Says what ended the training; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        if os.environ.get("RANK", "0") == "0":  # torchrun hands Ctrl-C to every process
            say("stopped; the same command starts again, or goes on from the last state", error=True)
        return STOPPED
    if not isinstance(error, (ValueError, OSError)):
        say_traceback(error)
        return 1
    say(f"train_d3sr.py: {error}", error=True)
    return getattr(error, "exit_status", 2)


def main(argv: list[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        options = load_train_options(args.opt, [*(DEBUG if args.debug else ()), *args.force_yml])
        from engine import distributed, dry_run, loop  # late: help and mistakes in options need no torch

        if args.dry_run:
            say(*to_yaml(options).split("\n"))
            say(*dry_run.describe_training(options).split("\n"))
            return 0
        with distributed.start(options.device, args.launcher, report=report) as world:
            if options.num_gpu not in ("auto", world.size):
                raise ValueError(
                    f"{args.opt}: num_gpu is {options.num_gpu}, but {world.size} process(es) were started: use "
                    f"torchrun --nproc_per_node {options.num_gpu}, or set num_gpu (and train.accumulate, to keep the batch)"
                )
            return 0 if loop.train(options, world) else STOPPED
    except (ValueError, OSError, KeyboardInterrupt) as error:
        return report(error)


if __name__ == "__main__":
    sys.exit(main())
