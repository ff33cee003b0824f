"""The report of tools/gpu_check.py as Markdown; everything in it is in its JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from scoring.tables import Markup, bold, escaped, markdown_text


def markdown(report: Mapping[str, Any]) -> str:
    """All that was found."""
    header, steps = report["header"], report["steps"]
    lines = ["# GPU check", "", f"`{header['command']}`", "", verdict(report), ""]
    if header["bases"] == "small":
        lines += ["All of it in small, with small stand-ins for every base: what it says of speed and memory is nothing of real sizes.", ""]
    lines.append(_table(("", ""), [(name, value) for name, value in header.items() if name != "command"]))
    lines += ["", "## Steps", ""]
    facts = [(step["name"], step["status"], step["seconds"], step["limit"], step["reason"]) for step in steps]
    lines.append(_table(("step", "status", "s", "limit (s)", "reason"), facts))
    for step in steps:
        if step["rows"]:
            lines += ["", f"## {step['title']}", "", f"`{step['name']}`", "", rows_table(step["rows"])]
    return "\n".join(lines) + "\n"


def verdict(report: Mapping[str, Any]) -> str:
    """One sentence."""
    named = {status: [step["name"] for step in report["steps"] if step["status"] == status] for status in ("ok", "failed", "skipped")}
    waiting = report["asked"][len(report["steps"]) :]
    clauses = [f"{len(named['ok'])} of {len(report['asked'])} steps ran and are well"]
    clauses += [f"**failed**: {', '.join(named['failed'])}"] if named["failed"] else []
    clauses += [f"not run: {', '.join(named['skipped'])}"] if named["skipped"] else []
    clauses += [f"**not finished**, still to come: {', '.join(waiting)}"] if waiting else []
    return "; ".join(clauses) + "."


def rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a row; a column for every heading that any of them has, and notes where there are some."""
    headings = list(dict.fromkeys(heading for row in rows for heading in row["values"]))
    notes = any(row["note"] or row["status"] != "ok" for row in rows)
    body = []
    for row in rows:
        note = row["note"] if row["status"] == "ok" else Markup(f"{bold(row['status'])}: {escaped(shown(row['note']))}")
        body.append([row["what"], *(row["values"].get(heading, "") for heading in headings), *([note] if notes else [])])
    return _table(["", *headings, *(["note"] if notes else [])], body)


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return markdown_text(headings, [[value if isinstance(value, Markup) else shown(value) for value in row] for row in rows], padded=False)


def shown(value: Any) -> str:
    """A value in a cell: four digits, a dash for None, and text in one line."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return " ".join(str(value).split())
