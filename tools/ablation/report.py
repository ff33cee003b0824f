"""What an ablation leaves: table.md, table.csv, curves.{png,svg,csv}, and sizes.{png,svg} where discriminators differ in size."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.console import one_line
from scoring.tables import BICUBIC, MISSING, Markup, escaped, markdown_text
from tools.ablation.tables import Row, csv_table, markdown_table
from tools.figures import curves

SECTIONS_APART = (
    "name",
    "path",
    "logger",
    "val",
    "datasets.val",
    "degradation",
    "num_gpu",
    "device",
    "manual_seed",
    "datasets.train.num_worker_per_gpu",
)
"""Settings that the comparison with the paper's leaves out; of `degradation` it says only that it is another."""


def write_report(out: Path, rows: Sequence[Row], title: str, protocol: Sequence[str], command: str) -> str:
    """Writes everything into `out`. Returns the table, in Markdown, and where it lies.

    protocol: sentences on how the numbers came about. command: what makes this again.
    """
    out.mkdir(parents=True, exist_ok=True)
    scores = [scores for row in rows for scores in row.scores]
    lower = {name: value for one in scores for name, value in one.lower_better.items()}
    sizes = {row.label: size for row in rows if row.logs and (size := curves.discriminator_size(row.logs[0])) is not None}
    table = [replace(row, notes={"discriminator": f"{sizes[row.label]:.2f} M" if row.label in sizes else MISSING}) for row in rows]
    if scores and scores[0].bicubic:
        reference = replace(scores[0], mean=scores[0].bicubic)
        table.append(Row(label=BICUBIC, what="no network", scores=[reference], reference=True))
    logs = {row.label: [curves.read_curves(log) for log in row.logs] for row in rows}
    curves.write_curves_csv(out / "curves.csv", logs)
    figures = curves.draw_curves(out / "curves", logs, title)
    judged = {row.label: sizes[row.label] for row in rows if row.label in sizes and row.scores and not row.failure}
    if len(set(judged.values())) > 1:
        means = {row.label: {name: row.mean(name) for name in lower} for row in rows if row.label in judged}
        figures += curves.draw_sizes(out / "sizes", judged, means, title)
    text = markdown_table(table, lower)
    commands = f"```\n{one_line(command)}\n```"
    images = ", ".join(str(number) for number in sorted({one.images for one in scores}))
    notes = [*protocol, *([f"Images scored: {images}."] if images else []), *stars(lower)]
    pictures = "\n".join(f"![{file.stem}]({file.name})" for file in figures if file.suffix == ".png")
    parts = [f"# {escaped(title)}", "\n".join(f"- {note}" for note in notes), text, pictures, what_stood_for_what(rows), commands]
    (out / "table.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    (out / "table.csv").write_text(csv_table(table, lower), encoding="utf-8")
    return f"{text}\n\n{out / 'table.md'}"


def stars(metrics: Mapping[str, bool]) -> list[str]:
    """What the star behind a metric's name means, where there is one."""
    if not any(name.endswith("*") for name in metrics):
        return []
    return [
        "LPIPS* and DISTS* are the two formulas with uniform weights on SqueezeNet 1.1, not the published metrics; "
        "a variant trained with one of them on the same network has an advantage there."
    ]


def what_stood_for_what(rows: Sequence[Row]) -> str:
    """A table of the settings in which the runs differ from the variants' own files, with the variants where they are not all alike."""
    keys = dict.fromkeys(key for row in rows for key, (theirs, ours) in row.settings.items() if theirs != ours)
    known = [row for row in rows if row.settings]
    lines = []
    for key in keys:
        if not any(key == apart or key.startswith(f"{apart}.") for apart in SECTIONS_APART):
            lines.append(
                [Markup(f"`{key}`"), *(_values({row.label: row.settings.get(key, (None, None))[side] for row in known}) for side in (0, 1))]
            )
    if any(key.startswith("degradation") for key in keys):
        lines.append([Markup("`degradation`"), "the file's", "the base's"])
    if not lines:
        return ""
    return "## What stood for what\n\n" + markdown_text(["setting", "the variants' own files", "trained here"], lines)


def _values(by_variant: Mapping[str, Any]) -> str:
    """One value, or each with the variants that have it."""
    labels_of: dict[str, list[str]] = {}
    for label, value in by_variant.items():
        labels_of.setdefault(value if isinstance(value, str) else json.dumps(value), []).append(label)
    if len(labels_of) == 1:
        return next(iter(labels_of))
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in labels_of.items())
