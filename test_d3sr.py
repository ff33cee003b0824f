#!/usr/bin/env python
"""Restores pictures with D3SR, and scores them where HR is known.

    python test_d3sr.py -opt options/test.yml                               the pictures that the option file names
    python test_d3sr.py -opt options/test.yml -i photo.jpg folder/ -o OUT   yours: OUT/<stem>.png, sub-folders kept
    python test_d3sr.py -opt options/test.yml -i photo.jpg -o result.webp   one picture: its result's name, .png, .jpg or .webp
    python test_d3sr.py -opt options/test.yml -i clip.mp4 -o out.mp4        a video, frame by frame, with its sound (pip install av)
    python test_d3sr.py -opt options/test.yml --force_yml datasets.test.realsr.dataroot_lq=A/LR datasets.test.realsr.dataroot_gt=A/HR
    torchrun --nproc_per_node 4 test_d3sr.py -opt options/test.yml ...      the pictures shared among four processes or GPUs

Running it again goes on where it stopped: results that exist are kept, unless output.overwrite is true.
Exit status: 0 all done; 1 some pictures failed, named at the end, the others are done; 2 a mistake in options or paths, nothing done;
130 stopped by Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from data.console import prepare, say, say_traceback
from options.arguments import add_option_arguments, add_several
from options.d3sr import load_test_options, to_yaml

STOPPED = 130  # the exit status that shells give to Ctrl-C


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option_arguments(parser, "option file, such as options/test.yml")
    add_several(parser, "-i", "--input", metavar="INPUT", help="pictures, folders or .txt lists, instead of the option file's")
    parser.add_argument("-o", "--output", metavar="OUT", help="the results' folder, or one result's name (default: results/NAME[/SET])")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="instead of the option file's")
    parser.add_argument("--dry-run", action="store_true", help="print the options and what would be done, and stop")
    return parser.parse_args(argv)


def report(error: BaseException) -> int:
    """Says what ended the program; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        if os.environ.get("RANK", "0") == "0":  # torchrun hands Ctrl-C to every process
            say("stopped; every result that exists is whole, and the same command goes on from here", error=True)
        return STOPPED
    if not isinstance(error, (ValueError, OSError)):
        say_traceback(error)
        return 1
    say(f"test_d3sr.py: {error}", error=True)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        device = [f"device={args.device}"] if args.device else []
        options = load_test_options(args.opt, [*args.force_yml, *device])
        from restoring.run import describe, run  # late: help and mistakes in options need no torch

        if args.dry_run:
            say(*to_yaml(options).split("\n"))
            say(*describe(options, args.input, args.output).split("\n"))
            return 0
        return run(options, args.input, args.output, report)
    except (ValueError, OSError, KeyboardInterrupt) as error:
        return report(error)


if __name__ == "__main__":
    sys.exit(main())
