"""The reports of tools/compare_degradations.py in Markdown and JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.lr_statistics import STATISTICS

ASSUMPTIONS = """\
Every crop gives one LR picture by either pipeline; the random numbers of the two are independent. "KS" is the two-sample Kolmogorov-Smirnov
test, "shift" the Mann-Whitney test. Both take the samples for independent; since both come from the same crops, they resemble each other,
and the two tests are cautious (they reject less often than they say). "swap" is exact: it compares the KS distance with that of {swaps:,}
random exchanges of the two values of a crop, and assumes only that the crops' degradations are independent of each other. All {tests}
p-values are corrected together by Holm's method, which assumes nothing on how the tests depend on each other. "again" is the KS distance
between ours and ours with other random numbers: what chance alone does. A distance above {smallest:.3f} would be rejected by KS alone."""

OPERATIONS = """\
Each operation alone, the same input and the same numbers: |ours - BasicSR's|, mean and largest, in 8-bit levels. Rows near 0 are the same
function up to rounding. The others differ for a reason, whether the statistics show it or not (our JPEG qualities are whole numbers):"""


def agreement_text(document: Mapping[str, Any]) -> str:
    """The report on the distributions."""
    differ, level = document["differ"], document["level"]
    verdict = f"**They agree**: none of the {document['tests']} tests rejects at level {level:g} (all together)."
    if differ:
        verdict = f"**They differ** at level {level:g} (all tests together) in: {', '.join(differ)}. See the reasons below."
    rows = [
        [
            name,
            f"{row['ours']:.3f}",
            f"{row['basicsr']:.3f}",
            f"{row['ks_distance']:.3f}",
            f"{row['ks_distance_ours_again']:.3f}",
            f"{row['superiority']:.3f}",
            *(f"{row['p'][test]:.3f}" for test in ("ks", "mann_whitney", "swap")),
            f"{row['smallest_corrected_p']:.3f}",
        ]
        for name, row in document["statistics"].items()
    ]
    heading = ["LR statistic", "ours, median", "BasicSR, median", "KS distance", "again", "P(ours larger)"]
    assumptions = ASSUMPTIONS.format(swaps=document["swaps"], tests=document["tests"], smallest=document["smallest_distance_rejected"])
    operations = [[row["operation"], f"{row['mean']:.4f}", f"{row['largest']:.4f}", row["note"]] for row in document["operations"]]
    parts = [
        "# Degradations beside BasicSR",
        verdict,
        table([*heading, "p KS", "p shift", "p swap", "smallest p, corrected"], rows),
        "\n".join(f"- {name}: {meaning}" for name, meaning in STATISTICS.items()),
        assumptions,
        "## One operation at a time",
        OPERATIONS + "\n" + "\n".join(f"- {note}" for note in dict.fromkeys(row["note"] for row in document["operations"]) if note),
        table(["operation", "mean", "largest", "note"], operations),
        origin(document),
    ]
    return "\n\n".join(parts) + "\n"


def speed_text(document: Mapping[str, Any]) -> str:
    """The report on the speed."""
    heading = ["crop", "ours", "BasicSR, one by one", "BasicSR, batch of 16", "ours / one by one", "ours / batch", "our loader"]
    rows = [
        [
            str(size["gt_size"]),
            *(f"{size[key]:.1f}" for key in ("ours", "basicsr_one", "basicsr_batch")),
            *(f"{size[key]:.1f}x" for key in ("ratio_one", "ratio_batch")),
            f"{size['loader']:.1f}",
        ]
        for size in document["sizes"]
    ]
    shares = [[str(size["gt_size"]), *(f"{share:.0%}" for share in size["profile"].values())] for size in document["sizes"]]
    batches = ", ".join(str(size["batches"]) for size in document["sizes"])
    parts = [
        "# Speed beside BasicSR",
        f"Samples per CPU second on one thread, median over batches of 16 crops ({batches}), in turn in one process; ratios are medians of "
        'the batches\' ratios. "Our loader" also reads, decodes and crops the photo.',
        table(heading, rows),
        "Where our time goes:",
        table(["crop", *document["sizes"][0]["profile"]], shares),
        origin(document),
    ]
    return "\n\n".join(parts) + "\n"


def origin(document: Mapping[str, Any]) -> str:
    """What it was made with, and the command."""
    keys = ("crops", "gt_size", "seed", "options", "jpeg_of_basicsr", "basicsr_commit")
    facts = [f"- {key}: {document[key]}" for key in keys] + [f"- {name}: {version}" for name, version in document["versions"].items()]
    return "\n".join(facts) + f"\n\n```\n{document['command']}\n```"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_report(folder: str | Path, name: str, document: Mapping[str, Any], text: str) -> None:
    """Writes NAME.md and NAME.json into the folder, and shows the text."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for suffix, content in (("md", text), ("json", json.dumps(document, indent=2) + "\n")):
        Path(folder, f"{name}.{suffix}").write_text(content, encoding="utf-8")
    print(text)
