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
import hashlib
import json
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from torch import Tensor

    from options.d3sr import TestOptions
    from tools.ablation.options import Planned, Run
    from tools.ablation.tables import Scores


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("variants", nargs="+", metavar="FILE", help="option files, e.g. options/ablations/loss_*.yml")
    add("--base", default="options/train_tiny.yml", metavar="FILE", help="what all have in common (default: %(default)s)")
    add("--iterations", type=int, help="of each training (default: the base's); warm-up and adversarial_start are scaled with it")
    add("--seed", type=int, nargs="+", default=[0], help="several: each variant is trained once per seed, and the table shows the spread")
    add("--stand_in", nargs="+", action="extend", default=[], metavar="NAME=PATH", help="for a model or data folder; NAME= drops a folder")
    add("--score", nargs=2, required=True, metavar=("LR", "HR"), help="the pairs to score on")
    add("--test", default="options/test.yml", metavar="FILE", help="options of the scoring: metrics, tile (default: %(default)s)")
    add("--niqe", metavar="FILE", help="also NIQE, with these parameters (.mat or BasicSR's .npz)")
    add("--perceptual", metavar="WEIGHTS", help="also LPIPS* and DISTS* on SqueezeNet 1.1: a file of weights, or torchvision")
    add("-o", "--output", required=True, metavar="DIR", help="folder of the table and the curves")
    add("--runs", default="experiments/ablations", metavar="DIR", help="folder of the trainings (default: %(default)s)")
    add("--processes", type=int, default=1, help="training processes (GPUs) of each run")
    add(
        "--force_yml",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change the base; variants come on top",
    )
    add("--force_test", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change the scoring's options")
    add("--title", help="heading of the table (default: what the variants' files say)")
    add("--dry-run", action="store_true", help="list what would be run, and stop")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    args.given = sys.argv[1:] if argv is None else argv
    try:
        from tools.ablation.options import describe, scoring_options

        rows = plan(args)
        test = scoring_options(args.test, args.force_test, args.score, args.niqe)
        if args.dry_run:
            print(describe(rows))
            return 0
        carry_out(rows, test, args)
        print(f"\n{write_results(rows, args)}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"ablate.py: {error}", file=sys.stderr)
        return 2
    return int(any(run.failure for row in rows for run in row.runs))


def plan(args: argparse.Namespace) -> "list[Planned]":
    """What is to be trained. A variant that cannot be is there with runs that have failed already."""
    from models.configs import known_model
    from tools.ablation.options import plan_variant, read_stand_ins
    from tools.ablation.overlay import read_base

    for name, number in (("--iterations", args.iterations), ("--processes", args.processes)):
        if number is not None and number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
    if args.perceptual not in (None, "torchvision", "random") and not Path(args.perceptual).is_file():
        raise ValueError(f"--perceptual: no file {args.perceptual}")
    labels = [Path(file).stem for file in args.variants]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"two files are called {', '.join(twice)}: their rows could not be told apart")
    base = read_base(args.base, args.force_yml, args.iterations)
    ours = base.section["network_d"].get("pretrained")
    stand_ins = read_stand_ins(base, args.stand_in, full_size=ours is not None and known_model(ours) is not None)
    how = {"seeds": args.seed, "runs": args.runs, "processes": args.processes}
    return [plan_variant(file, base, stand_ins, **how) for file in args.variants]


def carry_out(rows: "Sequence[Planned]", test: "TestOptions", args: argparse.Namespace) -> None:
    """Trains and scores everything that is not there yet, with a line about each on the terminal."""
    from data.paired import pair_by_name
    from tools.ablation.options import name_run
    from tools.ablation.runs import Clock, minutes

    pairs = pair_by_name(*args.score)  # a mistake there must not show after hours of training
    waiting = [(row, run) for row in rows for run in row.runs]
    clock = Clock(len(waiting))
    print(f"{len(rows)} variants, {len(waiting)} runs; {len(pairs)} pairs to score on; trainings in {args.runs}", flush=True)
    for number, (row, run) in enumerate(waiting, start=1):
        label = row.label if len(row.runs) == 1 else f"{row.label}_seed{run.seed}"
        if run.failure is None:
            run.name = name_run(row.label, run.options, args.processes)  # a row above may have trained the same
            train_and_score(run, label, pairs, test, args)
        took = clock.lap(counts=run.fresh and run.failure is None)
        if run.failure:
            state = f"FAILED: {run.failure}"
        else:
            means = "  ".join(f"{name} {value:.4g}" for name, value in run.scores.mean.items() if value is not None)
            state = f"{f'done in {minutes(took)}' if run.fresh else 'was there'}: {means}"
        print(f"[{number}/{len(waiting)}] {label}: {state}{clock.left()}", flush=True)


def train_and_score(run: "Run", label: str, pairs: Sequence[Any], test: "TestOptions", args: argparse.Namespace) -> None:
    """Brings one run to its scores, from wherever it stands; `run` says afterwards how that went."""
    from tools.ablation.runs import launch
    from tools.figures.curves import last_iteration

    out = Path(args.output)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(args.processes)] if args.processes > 1 else []
    try:
        if not run.checkpoint.is_dir():
            run.fresh = True
            options = option_file(out, f"{label}_train", replace(run.options, name=run.name))
            command = [sys.executable, *torchrun, str(ROOT / "train_d3sr.py"), "-opt", options]
            log, total = out / "logs" / f"{label}_train.log", run.options.train.total_iter
            launch(command, log, label, total, lambda: last_iteration(run.log))
        run.scores = score(run, label, pairs, test, args)
    except (ValueError, OSError) as error:
        run.failure = str(error)


def score(run: "Run", label: str, pairs: Sequence[Any], test: "TestOptions", args: argparse.Namespace) -> "Scores":
    """The scores of a run's last checkpoint: read where they exist, else made by test_d3sr.py."""
    from tools.ablation.overlay import said
    from tools.ablation.runs import launch, read_metrics, read_scores, write_scores
    from tools.ablation.tables import perceptual_distances

    settings = json.dumps([run.checkpoint.name, said(test), args.perceptual], sort_keys=True)
    folder = run.folder / "scores" / hashlib.sha256(settings.encode()).hexdigest()[:8]
    scores = read_scores(folder / "scores.json")
    if scores is not None:
        return scores
    run.fresh = True
    generator = replace(test.network_g, path=str(run.checkpoint), pretrained=None, revision=None)
    options = option_file(Path(args.output), f"{label}_score", replace(test, network_g=generator))
    command = [sys.executable, str(ROOT / "test_d3sr.py"), "-opt", options, "-o", str(folder)]
    launch(command, Path(args.output) / "logs" / f"{label}_score.log", f"{label}, scoring")
    scores = read_metrics(folder / "metrics.json")
    if args.perceptual:
        scores = scores.extended(perceptual_distances(restored_pairs(folder, pairs), args.perceptual))
    write_scores(folder / "scores.json", scores)
    return scores


def option_file(out: Path, name: str, options: Any) -> str:
    """Writes resolved options to out/options/NAME.yml, with which anyone can run the same by hand."""
    from options.d3sr import to_yaml

    file = out / "options" / f"{name}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(to_yaml(options), encoding="utf-8")
    return str(file)


def restored_pairs(folder: Path, pairs: Sequence[Any]) -> "Iterator[tuple[Tensor, Tensor]]":
    """(SR, HR) of every pair, float (3, H, W) in [0, 1], from what test_d3sr.py wrote to `folder`."""
    from data.image_io import read_image, to_tensor
    from restoring.jobs import make_set

    for job in make_set("pairs", folder, [(lr.path, lr.relative, hr.path) for lr, hr in pairs]).jobs:
        yield to_tensor(read_image(folder / job.output)), to_tensor(read_image(job.hr))


def write_results(rows: "Sequence[Planned]", args: argparse.Namespace) -> str:
    """The table and the curves of what was scored. Returns the table and where it lies."""
    from options.schema import dump
    from tools.ablation.overlay import flat
    from tools.ablation.report import write_report
    from tools.ablation.tables import Row

    finished = []
    for row in rows:
        used = dict(flat(dump(row.variant.options))) if row.variant else {}
        finished.append(
            Row(
                label=row.label,
                what=row.what,
                scores=[run.scores for run in row.runs if run.scores],
                logs=[run.log for run in row.runs if run.name],
                failure=next((run.failure for run in row.runs if run.failure), None),
                settings={key: (row.variant.original.get(key), value) for key, value in used.items()},
            )
        )
    protocol = [
        f"Every variant: {args.base}, its own file on top; seed {', '.join(map(str, args.seed))}, the same data in the same order.",
        f"Scored on {args.score[0]} and {args.score[1]} with the options of {args.test}, at the end of the training.",
    ]
    tables = dict.fromkeys(f"{row.table} ({row.subject})" if row.subject else row.table for row in rows if row.table)
    title = args.title or (f"As in the paper: {', '.join(tables)}" if tables else "Ablation")
    command = shlex.join(["python", "tools/ablate.py", *args.given])
    return write_report(Path(args.output), finished, title, protocol, command)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a training in progress is ended, too
    sys.exit(main())
