"""Files of JSON lines behind a header that says what they are and how many lines follow, so that half a file is noticed."""

import json
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.whole_files import whole_file


def write_records(path: str | Path, kind: str, header: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Write a header line {"format": kind, "records": how many, ...} and one line a record, whole or not at all.

    Names of files that are no valid text survive (as lone surrogates). Raises OSError when the disk refuses.
    """
    with whole_file(Path(path)) as file:
        for line in ({"format": kind, "records": len(records), **header}, *records):
            file.write(json.dumps(line).encode("ascii") + b"\n")


def read_records(path: str | Path, kind: str, version: int, made_by: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(header, records) of a file that `write_records` wrote with `"version": version`.

    made_by: the command that makes such a file, for messages. Raises: ValueError naming the file, and the line if one is damaged.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path}: not a regular file")  # to open a pipe is to wait for its other end
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"{path}: could not be read ({error.strerror})") from error
    header = _parse(path, 1, lines[0]) if lines[:1] and lines[0].startswith(b"{") else {}
    if header.get("format") != kind:
        raise ValueError(f'{path}: not a file of {made_by}: its first line has no "format": "{kind}"')
    if header.get("version") != version:
        raise ValueError(f"{path}: version {header.get('version')}, this code reads version {version}; make it again with {made_by}")
    if header.get("records") != len(lines) - 1:
        raise ValueError(f"{path}: {len(lines) - 1} of {header.get('records')} lines are there; make it again with {made_by}")
    return header, [_parse(path, number, line) for number, line in enumerate(lines[1:], start=2)]


def check_fields(path: str | Path, records: Iterable[Mapping[str, Any]], fields: Mapping[str, type]) -> None:
    """Raises ValueError, naming file and line, unless every record has exactly these fields, each of its type."""
    for number, record in enumerate(records, start=2):
        if record.keys() != fields.keys():
            raise ValueError(f"{path}, line {number}: expected {', '.join(fields)}; got {', '.join(record) or 'nothing'}")
        for name, kind in fields.items():
            if type(record[name]) is not kind or (kind is int and abs(record[name]) >= 1 << 63):
                raise ValueError(f"{path}, line {number}: {name}: expected {kind.__name__}, got {reprlib.repr(record[name])}")


def _parse(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: damaged ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}, line {number}: expected one JSON object, got {reprlib.repr(record)}")
    return record
