#!/usr/bin/env python
"""Draws trainings beside each other: losses, logits of the discriminator, validation metrics, each run a line.

    python tools/plot_runs.py experiments/A experiments/B -o results/curves
    python tools/plot_runs.py experiments/A -o results/curves --names mse gradient_g skipped_steps

Writes curves.png, curves.svg (its text is text) and curves.csv, the numbers. Faint lines are the logged values, strong ones their running
means. A run that goes on can be looked at, too. Exit status: 0 done; 2 a mistake.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders of trainings, or their logs")
    add("-o", "--output", required=True, metavar="FOLDER", help="of curves.png, curves.svg and curves.csv")
    add("--names", nargs="+", action="extend", metavar="NAME", help="numbers of the logs to draw (default: losses, logits, validation)")
    add("--title", default="", help="above the panels (default: none)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    try:
        from tools.figures.curves import plot_runs  # late: matplotlib

        say(*plot_runs(args.runs, Path(args.output), args.title, args.names))
    except (ValueError, OSError) as error:
        say(f"plot_runs.py: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
