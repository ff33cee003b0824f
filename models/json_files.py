"""JSON that came with somebody's weights: read whatever it holds, within bounds."""

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 16 * 2**20
"""A hundred times what the index of the largest model takes."""


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: no regular file, too large, no JSON, one that says a thing twice, NaN, or anything else than an object.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing, or no file; copy or download the model again")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is larger than the {MOST_BYTES >> 20} MiB that such a file can have; download the model again")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse, object_pairs_hook=_said_once)
    except RecursionError as error:
        raise ValueError(f"{path} is not valid JSON (nested too deep); download the model again") from error
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{path} is not valid JSON ({error}); copy it, or download the model again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got {shown(found)}; download the model again")
    return found


def shown(value: Any) -> str:
    """A value in a message: short, on one line."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(name for name in names if names.count(name) > 1))} appears twice")
    return found
