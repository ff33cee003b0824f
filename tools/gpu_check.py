"""Proves a GPU: what this device computes, how fast, and how much memory that takes, as one report. Needs no download.

    python tools/gpu_check.py -o OUT                                 OUT/report.md and report.json; log.txt is what the steps printed
    python tools/gpu_check.py -o OUT --minutes 10 --only correctness iteration training.sdxl
    python tools/gpu_check.py -o OUT --device cpu                    the same in small

Base models are random weights of the published sizes, photographs are made up. Each step is a process of its own with a limit of time, the
most important first; the report is written anew after each. Exit status: 0 all is well, 1 something failed or had no time, 2 no report.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from tools.checks import ROOT
from tools.checks.schedule import STEPS, chosen, make_report


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="steps:\n" + "\n".join(f"  {step.name:<28}{step.title}" for step in STEPS),
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the report")
    minutes = "for all steps together (default: 4 on a GPU, where all may take 15; 30 on a CPU, which may need fewer)"
    parser.add_argument("--minutes", type=float, help=minutes)
    parser.add_argument("--bases", choices=["small", "full"], help="sizes of the models (default: full on a GPU, small on a CPU)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--only", nargs="+", action="extend", metavar="NAME", help="steps, or their groups: training, restoring.compiled")
    for hidden in ("--step", "--folder", "--deadline"):  # what a report tells the process of a step
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in args.only or []:
        if not chosen([name]):
            parser.error(f"--only {name}: no such step; there are {', '.join(step.name for step in STEPS)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    if not args.step:
        return make_report(args, sys.argv[1:] if argv is None else argv)
    os.chdir(ROOT)  # where option files' relative paths start
    # Compiled code of its own: a step that is ended leaves half a file, over which everybody else's compiler would stumble.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(args.folder) / "inductor")
    from tools.checks.run_step import run_step  # late: it imports torch

    try:
        run_step(args.step, device=args.device, full=args.bases == "full", folder=Path(args.folder), deadline=float(args.deadline))
    except ValueError as error:
        say(error, error=True)
        return 2
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the step at work is ended as well
    sys.exit(main())
