"""The arguments that name folders of results; nothing heavy is imported for them."""

import argparse
from collections.abc import Sequence

from scoring.tables import HR

LR = "LR"


def assignments(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Texts NAME=VALUE of a command line's option, each name once, as a mapping. Raises ValueError for anything else."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"{option}: expected NAME=VALUE, got {text!r}")
        if name in found:
            raise ValueError(f"{option}: {name} is named twice")
        found[name] = value
    return found


def named_folders(args: argparse.Namespace, taken: Sequence[str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Label -> folder of the pictures to compare with (--hr, --lr) and of the methods (--results), and label -> suffix (--suffix).

    taken: what no method may be called. Raises ValueError for that, and for a suffix of something else.
    """
    methods = assignments("--results", args.results)
    own = [name for name in taken if name in methods]
    if own:
        raise ValueError(f"--results: {own[0]} is a label of its own; call the method otherwise")
    known = {label: folder for label, folder in ((HR, args.hr), (LR, args.lr)) if folder}
    suffixes = assignments("--suffix", args.suffix)
    strange = [name for name in suffixes if name not in known and name not in methods]
    if strange:
        raise ValueError(f"--suffix: {strange[0]} is none of {', '.join([*known, *methods])}")
    return known, methods, suffixes
