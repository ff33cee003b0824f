"""The results of tools/benchmark.py for people: Markdown tables and a plot. Everything in them is in the JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scoring.tables import markdown_text

Results = Mapping[str, Any]

COLUMNS = {
    "variant": ("variant", "{}"),
    "size": ("pixels", "{0} x {0}"),
    "seconds": ("s per image", "{:.3f}"),
    "times_ours": ("times as long as channels_last", "{:.2f}"),
    "ratio": ("times naive", "{:.2f}"),
    "gmacs": ("GMACs", "{:.1f}"),
    "share": ("share of the limit", "{:.0%}"),
    "memory_mib": ("MiB at work", "{:.0f}"),
    "weights_mib": ("MiB of weights", "{:.1f}"),
    "difference": ("differs from naive by", "{:.1e}"),
}
"""Key of a row -> heading and format; times_ours is there with --rivals only."""


def table(rows: Sequence[Results], columns: Mapping[str, tuple[str, str]]) -> str:
    """Markdown; a value that was not measured is a dash."""
    lines = [["-" if row[key] is None else form.format(row[key]) for key, (_, form) in columns.items()] for row in rows]
    return markdown_text([heading for heading, _ in columns.values()], lines, padded=False)


def markdown(results: Results) -> str:
    """All that was measured."""
    machine, limit = results["machine"], results.get("limit")
    lines = ["# Benchmark", "", f"`{results['command']}`", "", ", ".join(f"{name}: {value}" for name, value in machine.items()), ""]
    if limit:
        rates = ", ".join(f"{name} {rate:.1f}" for name, rate in limit.items())
        lines += [f"The device's limit in GMACs per second, measured in the same run: {rates}.", ""]
    if results["rows"]:
        columns = {key: column for key, column in COLUMNS.items() if key in results["rows"][0]}
        lines += [table(results["rows"], columns), ""]
        rounds = f"Medians of {results['repeats']} rounds, in each of which every variant had its turn; ratios within a round."
        lines += [f"{rounds} Seconds of the {results['clock']} clock.", ""]
        lines += [line for note in results.get("rivals", []) for line in (note, "")]
    for title, part in results["parts"].items():
        first = part["rows"][0]
        columns = {key: (heading, "{:.3f}" if isinstance(first[key], float) else "{}") for key, heading in part["columns"].items()}
        lines += [f"## {title}", "", table(part["rows"], columns), "", *([part["note"], ""] if part["note"] else [])]
    return "\n".join(lines)


def plot(results: Results, file: Path) -> None:
    """Seconds per image against the side of the output, one line for each variant; and against each other those of the scaling."""
    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in results["rows"]:
        curves.setdefault(row["variant"], []).append((row["size"], row["seconds"]))
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    scaling = results["parts"].get("Scaling")
    if scaling:
        points = [(row["size"], row["seconds"]) for row in scaling["rows"]]
        axes.plot(*zip(*points, strict=True), marker="s", linestyle="--", label="in tiles, as test_d3sr.py")
    axes.set(xscale="log", yscale="log", xlabel="side of the output (pixels)", ylabel="seconds per image")
    axes.set_title(results["machine"]["device"])
    axes.grid(True, which="both", alpha=0.3)
    if curves or scaling:
        axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
