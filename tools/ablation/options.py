"""What an ablation runs: how each variant is trained, named and scored, and what stands for what does not fit the base."""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models.configs import known_model
from options.d3sr import TestOptions, TrainOptions, load_test_options
from options.datasets import MetricOptions, PairedData, TestDatasets
from options.schema import OptionsError
from options.yaml_files import read_options
from tools.ablation.overlay import Base, Variant, fingerprint, is_forced, lay_over, read_base

PAPERS_BASE = Path(__file__).resolve().parents[2] / "options/train_dfosd.yml"
"""What the paper's ablations are variants of; its discriminator's model is the one for which a small base's own stands."""

POINTS = 50
"""How many points a training curve has at least."""

_HEADER = re.compile(r"#\s*((?:Table|Figure)\s+\d+)\s*(?:\(([^)]*)\))?:\s*(.+)")


@dataclass
class Training:
    """One training and its scores. `name` is its folder's below --runs; `failure` says in one line why it has no `scores`."""

    seed: int
    options: TrainOptions | None = None
    name: str = ""
    failure: str | None = None
    scores: Any = None
    fresh: bool = False

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return Path(self.options.path.experiments_root, self.name)

    @property
    def log(self) -> Path:
        """What train_d3sr.py wrote down."""
        return self.folder / f"train_{self.name}.log"

    @property
    def checkpoint(self) -> Path:
        """The generator at the end: averaged where an average is kept."""
        ending = "_ema" if self.options.train.ema_decay else ""
        return self.folder / "models" / f"{self.name}_{self.options.train.total_iter}{ending}"


@dataclass
class PlannedVariant:
    """One variant: label (the file's stem), table and subject (where the paper has it), what (it is), and a training per seed."""

    label: str
    table: str
    subject: str
    what: str
    variant: Variant | None = None
    trainings: list[Training] = field(default_factory=list)


def plan_variants(args: argparse.Namespace) -> list[PlannedVariant]:
    """What tools/ablate.py is to train. A variant that cannot be is there with trainings that have failed already."""
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
    return [plan_variant(file, base, stand_ins, seeds=args.seed, runs=args.runs, processes=args.processes) for file in args.variants]


def plan_variant(
    file: str, base: Base, stand_ins: Mapping[str, str | None] | None, *, seeds: Iterable[int], runs: str, processes: int
) -> PlannedVariant:
    """One variant with a training per seed; where it cannot be trained, they have failed already."""
    planned = PlannedVariant(Path(file).stem, *read_header(file), trainings=[Training(seed) for seed in dict.fromkeys(seeds)])
    try:
        planned.variant = lay_over(file, base, stand_ins)
        for training in planned.trainings:
            training.options = training_options(planned.variant.options, base, seed=training.seed, runs=runs, processes=processes)
            training.name = name_training(planned.label, training.options, processes)
    except ValueError as error:
        for training in planned.trainings:
            training.failure = str(error)
    return planned


def name_training(label: str, options: TrainOptions, processes: int) -> str:
    """LABEL-FINGERPRINT, or the name under which the same training exists already."""
    key = fingerprint(options, processes)
    same = sorted(path.name for path in Path(options.path.experiments_root).glob(f"*-{key}") if path.is_dir())
    return same[0] if same else f"{label}-{key}"


def read_header(path: str | Path) -> tuple[str, str, str]:
    """(table, subject, what) of a first line `# Table 5 (perceptual loss, on DFOSD): DISTS, without edges.`; else empty texts."""
    text = Path(path).read_text(encoding="utf-8", errors="replace") if Path(path).is_file() else ""
    found = _HEADER.match(text)
    return (found[1], found[2] or "", found[3].strip()) if found else ("", "", "")


def read_stand_ins(base: Base, assignments: Iterable[str], full_size: bool) -> dict[str, str | None] | None:
    """`NAME=PATH` texts as a mapping, `NAME=` to None; the base's own model stands for the paper's discriminator.

    full_size: whether the base is of the models' own size, so that they stay as they are named: None where nothing else was assigned.
    Raises ValueError for a malformed text.
    """
    stand_ins: dict[str, str | None] = {}
    if not full_size:
        stand_ins[read_options(PAPERS_BASE)["network_d"]["pretrained"]] = base.section["network_d"].get("pretrained")
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise ValueError(f"--stand_in: expected NAME=PATH, got {assignment!r}")
        stand_ins = {known: path for known, path in stand_ins.items() if name not in (known, known.split("/")[-1])} | {name: value or None}
    return stand_ins or None


def training_options(options: TrainOptions, base: Base, *, seed: int, runs: str, processes: int) -> TrainOptions:
    """The options of one training below the folder `runs`, all but its name; what is logged meanwhile, unless it was forced."""
    logger = replace(options.logger, use_tb_logger=options.logger.use_tb_logger and is_forced(base.section, "logger.use_tb_logger"))
    if not is_forced(base.section, "logger.print_freq"):
        logger = replace(logger, print_freq=max(1, min(logger.print_freq, options.train.total_iter // POINTS)))
    data = options.datasets if options.val.metrics else replace(options.datasets, val={})  # without metrics it would only cost time
    path = replace(options.path, experiments_root=runs, tb_root=str(Path(runs, "tb_logger")), resume=True)
    gpus = "auto" if options.num_gpu == "auto" else processes
    return replace(options, manual_seed=seed, logger=logger, datasets=data, path=path, num_gpu=gpus)


def scoring_options(file: str | Path, force_yml: Sequence[str], pairs: Sequence[str], niqe: str | None) -> TestOptions:
    """The options of the scoring on `pairs` (LR, HR), all but the generator; `niqe` is a file with its parameters."""
    try:
        options = load_test_options(file, force_yml)
    except OptionsError as error:
        raise OptionsError(str(error).replace("--force_yml", "--force_test", 1)) from error
    metrics = dict(options.metrics)
    if niqe is not None:
        if not Path(niqe).is_file():
            raise ValueError(f"--niqe: no file {niqe}")
        metrics["niqe"] = MetricOptions(type="niqe", pretrained_model_path=niqe)
    data = TestDatasets(test={"pairs": PairedData(dataroot_lq=pairs[0], dataroot_gt=pairs[1])})
    return replace(options, name="ablation", input=(), datasets=data, metrics=metrics, comparison_sheet=False, report=False)


def describe(variants: Iterable[PlannedVariant]) -> str:
    """What would be run, in words."""
    lines = []
    for planned in variants:
        lines.append(f"{planned.label}: {planned.what or 'its file does not say'}")
        lines += [f"    {key} = {json.dumps(value)}" for key, value in (planned.variant.varied if planned.variant else {}).items()]
        for training in planned.trainings:
            if training.failure:
                lines.append(f"    CANNOT BE RUN: {training.failure}")
                continue
            state = "trained" if training.checkpoint.is_dir() else "to be resumed" if training.folder.is_dir() else "to be trained"
            lines.append(f"    seed {training.seed}: {training.folder}, {training.options.train.total_iter} iterations, {state}")
    return "\n".join(lines)
