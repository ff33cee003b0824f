"""Training curves: read from the logs of runs, drawn beside each other, and kept as numbers. tools/plot_runs.py draws any runs'."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scoring.tables import csv_text
from tools.figures.figures import COLOURS, save_figure

Curves = dict[str, dict[int, float]]
"""Name -> iteration -> value; names of validation scores are SET/METRIC."""

TITLES = {
    "mse": "MSE",
    "perceptual": "perceptual loss (each its own)",
    "loss_g": "generator's adversarial loss (Eq. 2)",
    "loss_d": "discriminator's loss (Eq. 3)",
    "real_logits": "logits of real latents",
    "fake_logits": "logits of generated latents",
}
_LINE = re.compile(r"INFO: (?:train|val)  iter (\d+)/\d+  (.*)")
_SIZE = re.compile(r"INFO: discriminator: ([\d.]+) M trained in \d+ tensors, ([\d.]+) M frozen")


def read_curves(log: Path) -> Curves:
    """Every number of a train_NAME.log. Of an iteration that was logged twice, since the run resumed before it, the later line counts."""
    curves: Curves = {}
    for iteration, text in _LINE.findall(_text(log)):
        for pair in text.split("  "):
            name, _, number = pair.rpartition(" ")
            try:
                curves.setdefault(name, {})[int(iteration)] = float(number)
            except ValueError:
                continue  # words between the numbers
    return {name: dict(sorted(points.items())) for name, points in curves.items() if name}


def last_iteration(log: Path) -> int:
    """The iteration of the last line of numbers; 0 before the first."""
    found = _LINE.findall(_text(log))
    return int(found[-1][0]) if found else 0


def discriminator_size(log: Path) -> float | None:
    """Parameters of the discriminator in millions, trained and frozen; None where there is none."""
    found = _SIZE.findall(_text(log))
    return sum(map(float, found[-1])) if found else None


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""


def write_curves_csv(file: Path, runs: Mapping[str, Sequence[Curves]]) -> None:
    """One number a line: variant, run (from 0), name, iteration, value."""
    lines = []
    for label, several in runs.items():
        for run, curves in enumerate(several):
            lines += [(label, run, name, i, value) for name, points in curves.items() for i, value in points.items()]
    file.write_text(csv_text(["variant", "run", "name", "iteration", "value"], lines), encoding="utf-8", newline="")


def smoothed(values: Sequence[float]) -> list[float]:
    """Centred running means over a fifteenth of the curve; shorter ones at its ends."""
    array, reach = np.asarray(values, dtype=float), len(values) // 30
    return [float(array[max(0, i - reach) : i + reach + 1].mean()) for i in range(len(array))]


def draw_curves(stem: Path, runs: Mapping[str, Sequence[Curves]], title: str, chosen: Sequence[str] | None = None) -> list[Path]:
    """stem.png and stem.svg: a panel per name of `chosen`, a labelled line per variant. Without `chosen` the numbers of TITLES and all
    validation scores that any run has.

    Every value is drawn faintly, and its running mean over it. Returns the files; none where there is nothing to draw.
    """
    names = {name for several in runs.values() for curves in several for name in curves}
    panels = list(chosen or [name for name in TITLES if name in names] + sorted(name for name in names if "/" in name))
    if not panels:
        return []
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, name in zip(axes, panels, strict=False):
        for number, (label, several) in enumerate(runs.items()):
            for run, curves in enumerate(several):
                _line(axis, curves.get(name, {}), number, label if run == 0 else None)
        axis.set_title(TITLES.get(name, name), fontsize=10)
        axis.set_xlabel("iteration", fontsize=9)
        axis.grid(alpha=0.25)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return save_figure(figure, stem)


def _line(axis: Axes, points: Mapping[int, float], number: int, label: str | None) -> None:
    known = [(iteration, value) for iteration, value in points.items() if np.isfinite(value)]
    if not known:
        return
    iterations, values = zip(*known, strict=True)
    look = {"color": COLOURS[number % len(COLOURS)], "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3]}
    axis.plot(iterations, values, alpha=0.25, linewidth=0.8, **look)
    axis.plot(iterations, smoothed(values), linewidth=1.6, marker="o" if len(values) == 1 else None, label=label, **look)


def draw_sizes(stem: Path, sizes: Mapping[str, float], means: Mapping[str, Mapping[str, float | None]], title: str) -> list[Path]:
    """stem.png and stem.svg: every metric against the size of the discriminator (label -> M parameters), points labelled, as Fig. 3."""
    order = sorted(sizes, key=lambda label: sizes[label])
    metrics = [
        name for name in dict.fromkeys(n for label in order for n in means[label]) if all(means[x].get(name) is not None for x in order)
    ]
    if not metrics:
        return []
    figure = Figure(figsize=(3.6 * len(metrics), 3.4), layout="constrained")
    for number, (axis, name) in enumerate(zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True)):
        points = [(sizes[label], means[label][name]) for label in order]
        axis.plot(*zip(*points, strict=True), color=COLOURS[number % len(COLOURS)], marker="o")
        for label, point in zip(order, points, strict=True):
            axis.annotate(label, point, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("discriminator, M parameters", fontsize=9)
        axis.margins(0.25)
        axis.grid(alpha=0.25)
    figure.suptitle(title, fontsize=11)
    return save_figure(figure, stem)


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


def plot_runs(runs: Sequence[str], out: Path, title: str, names: Sequence[str] | None) -> list[Path]:
    """curves.png, curves.svg and curves.csv in `out`, of trainings' folders or logs. Returns the files.

    names: what to draw of the numbers in the logs; None: what `draw_curves` chooses. Raises ValueError for what is not there.
    """
    logs = [find_log(run) for run in runs]
    labels = labels_of(logs)
    if len(set(labels)) < len(labels):
        raise ValueError("a run is named twice")
    curves = {label: [read_curves(log)] for label, log in zip(labels, logs, strict=True)}
    empty = [str(log) for label, log in zip(labels, logs, strict=True) if not curves[label][0]]
    if empty:
        raise ValueError(f"{empty[0]}: no line of numbers yet")
    known = dict.fromkeys(name for (run,) in curves.values() for name in run)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"--names: no run has {unknown[0]!r}; known: {', '.join(known)}")
    out.mkdir(parents=True, exist_ok=True)
    write_curves_csv(out / "curves.csv", curves)
    return [*draw_curves(out / "curves", curves, title, names), out / "curves.csv"]
