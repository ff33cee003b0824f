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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders of trainings, or their logs")
    add("-o", "--output", required=True, metavar="FOLDER", help="of curves.png, curves.svg and curves.csv")
    add("--names", nargs="+", metavar="NAME", help="what to draw of the numbers in the logs (default: losses, logits, validation)")
    add("--title", default="", help="above the panels (default: none)")
    return parser.parse_args(argv)


def find_log(run: str) -> Path:
    """The log of a training's folder. Raises ValueError where there is none, or more than one that it could be."""
    path = Path(run)
    if path.is_file():
        return path
    own = path / f"train_{path.resolve().name}.log"
    found = [own] if own.is_file() else sorted(path.glob("train_*.log"))
    if len(found) != 1:
        what = "holds several logs; name one of them" if found else "holds no train_NAME.log of a training"
        raise ValueError(f"{run}: {what}")
    return found[0]


def labels_of(logs: Sequence[Path]) -> list[str]:
    """Names of the runs; where two are called alike, their whole paths."""
    names = [log.stem.removeprefix("train_") for log in logs]
    return [name if names.count(name) == 1 else str(log.parent) for name, log in zip(names, logs, strict=True)]


def draw(args: argparse.Namespace) -> list[Path]:
    """Reads the logs and writes the files."""
    from tools.figures.curves import draw_curves, read_curves, write_curves_csv

    logs = [find_log(run) for run in args.runs]
    labels = labels_of(logs)
    if len(set(labels)) < len(labels):
        raise ValueError("a run is named twice")
    runs = {label: [read_curves(log)] for label, log in zip(labels, logs, strict=True)}
    empty = [str(log) for label, log in zip(labels, logs, strict=True) if not runs[label][0]]
    if empty:
        raise ValueError(f"{empty[0]}: no line of numbers yet")
    known = dict.fromkeys(name for (curves,) in runs.values() for name in curves)
    unknown = [name for name in args.names or () if name not in known]
    if unknown:
        raise ValueError(f"--names: no run has {unknown[0]!r}; known: {', '.join(known)}")
    out = Path(args.output)
    out.mkdir(parents=True, exist_ok=True)
    write_curves_csv(out / "curves.csv", runs)
    return [*draw_curves(out / "curves", runs, args.title, args.names), out / "curves.csv"]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        print(*draw(args), sep="\n")
    except (ValueError, OSError) as error:
        print(f"plot_runs.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
