"""Trains and scores what an ablation planned, and writes down what came out."""

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from data.console import say
from data.image_io import read_image, to_tensor
from data.pairing import Pair, pair_by_name
from options.d3sr import TestOptions, TrainOptions
from options.schema import dump
from options.yaml_files import to_yaml
from restoring.jobs import make_set
from tools.ablation.options import PlannedVariant, Training, name_training
from tools.ablation.overlay import flat, without_defaults
from tools.ablation.report import write_report
from tools.ablation.runs import Clock, launch, minutes, read_metrics, read_scores, write_scores
from tools.ablation.tables import CheckpointScores, Row, perceptual_distances
from tools.figures.curves import last_iteration

ROOT = Path(__file__).resolve().parents[2]


def carry_out(variants: Sequence[PlannedVariant], test: TestOptions, args: argparse.Namespace) -> None:
    """Trains and scores everything that is not there yet, with a line about each on the terminal."""
    pairs = pair_by_name(*args.score).pairs  # a mistake there must not show after hours of training
    waiting = [(variant, training) for variant in variants for training in variant.trainings]
    clock = Clock(len(waiting))
    say(f"{len(variants)} variants, {len(waiting)} runs; {len(pairs)} pairs to score on; trainings in {args.runs}")
    for number, (variant, training) in enumerate(waiting, start=1):
        label = variant.label if len(variant.trainings) == 1 else f"{variant.label}_seed{training.seed}"
        if training.failure is None:
            training.name = name_training(variant.label, training.options, args.processes)  # a row above may have trained the same
            train_and_score(training, label, pairs, test, args)
        took = clock.lap(counts=training.fresh and training.failure is None)
        if training.failure:
            state = f"FAILED: {training.failure}"
        else:
            means = "  ".join(f"{name} {value:.4g}" for name, value in training.scores.mean.items() if value is not None)
            state = f"{f'done in {minutes(took)}' if training.fresh else 'was there'}: {means}"
        say(f"[{number}/{len(waiting)}] {label}: {state}{clock.left()}")


def train_and_score(training: Training, label: str, pairs: Sequence[Pair], test: TestOptions, args: argparse.Namespace) -> None:
    """Brings one training to its scores, from wherever it stands; `training` says afterwards how that went."""
    out = Path(args.output)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(args.processes)] if args.processes > 1 else []
    try:
        if not training.checkpoint.is_dir():
            training.fresh = True
            options = option_file(out, f"{label}_train", replace(training.options, name=training.name))
            command = [sys.executable, *torchrun, str(ROOT / "train_d3sr.py"), "-opt", options]
            log, total = out / "logs" / f"{label}_train.log", training.options.train.total_iter
            launch(command, log, label, total, lambda: last_iteration(training.log))
        training.scores = score(training, label, pairs, test, args)
    except (ValueError, OSError) as error:
        training.failure = str(error)


def score(training: Training, label: str, pairs: Sequence[Pair], test: TestOptions, args: argparse.Namespace) -> CheckpointScores:
    """The scores of a training's last checkpoint: read where they exist, else made by test_d3sr.py."""
    settings = json.dumps([training.checkpoint.name, without_defaults(test), args.perceptual], sort_keys=True)
    folder = training.folder / "scores" / hashlib.sha256(settings.encode()).hexdigest()[:8]
    scores = read_scores(folder / "scores.json")
    if scores is not None:
        return scores
    training.fresh = True
    generator = replace(test.network_g, path=str(training.checkpoint), pretrained=None, revision=None)
    options = option_file(Path(args.output), f"{label}_score", replace(test, network_g=generator))
    command = [sys.executable, str(ROOT / "test_d3sr.py"), "-opt", options, "-o", str(folder)]
    launch(command, Path(args.output) / "logs" / f"{label}_score.log", f"{label}, scoring")
    scores = read_metrics(folder / "metrics.json")
    if args.perceptual:
        scores = scores.extended(perceptual_distances(restored_pairs(folder, pairs), args.perceptual))
    write_scores(folder / "scores.json", scores)
    return scores


def option_file(out: Path, name: str, options: TrainOptions | TestOptions) -> str:
    """Writes resolved options to out/options/NAME.yml, with which anyone can run the same by hand."""
    file = out / "options" / f"{name}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(to_yaml(options), encoding="utf-8")
    return str(file)


def restored_pairs(folder: Path, pairs: Sequence[Pair]) -> Iterator[tuple[Tensor, Tensor]]:
    """(SR, HR) of every pair, float (3, H, W) in [0, 1], from what test_d3sr.py wrote to `folder`."""
    for job in make_set("pairs", folder, [(lr.path, lr.relative, hr.path) for lr, hr in pairs]).jobs:
        yield to_tensor(read_image(folder / job.output)), to_tensor(read_image(job.hr))


def write_results(variants: Sequence[PlannedVariant], args: argparse.Namespace) -> str:
    """The table and the curves of what was scored. Returns the table and where it lies."""
    finished = []
    for planned in variants:
        used = dict(flat(dump(planned.variant.options))) if planned.variant else {}
        finished.append(
            Row(
                label=planned.label,
                what=planned.what,
                scores=[training.scores for training in planned.trainings if training.scores],
                logs=[training.log for training in planned.trainings if training.name],
                failure=next((training.failure for training in planned.trainings if training.failure), None),
                settings={key: (planned.variant.original.get(key), value) for key, value in used.items()},
            )
        )
    protocol = [
        f"Every variant: {args.base}, its own file on top; seed {', '.join(map(str, args.seed))}, the same data in the same order.",
        f"Scored on {args.score[0]} and {args.score[1]} with the options of {args.test}, at the end of the training.",
    ]
    of_paper = [planned for planned in variants if planned.table]
    tables = dict.fromkeys(f"{planned.table} ({planned.subject})" if planned.subject else planned.table for planned in of_paper)
    title = args.title or (f"As in the paper: {', '.join(tables)}" if tables else "Ablation")
    command = shlex.join(["python", "tools/ablate.py", *args.given])
    return write_report(Path(args.output), finished, title, protocol, command)
