"""Strict mappings -> typed frozen dataclasses, and back. Knows nothing of D3SR, and imports the standard library only.

The dataclass is the schema: its annotations are the types, its defaults the optional keys, its `__post_init__` the ranges, each by a
`check(condition, "FIELD must ...")`; the leading field name, dotted if it lies deeper, becomes part of the key in the message.
"""

import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_SCALAR_NAMES = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", type(None): "null"}


class OptionsError(ValueError):
    """A user's mistake in an option file or on the command line: the text says where, what was expected and the nearest known key."""


@dataclass(frozen=True)
class Location:
    """Where a value was written: the file (or `--force_yml`), its line if it has one, and its dotted key."""

    file: str
    line: int | None = None
    key: str = ""

    def child(self, name: str, section: Any = None) -> "Location":
        """The location of `section[name]`, which may come from another file than the section itself."""
        source = section.sources.get(name, self) if isinstance(section, Section) else self
        return Location(source.file, source.line, f"{self.key}.{name}" if self.key else name)

    def item(self, index: int) -> "Location":
        """The location of one item of the list that stands here."""
        return replace(self, key=f"{self.key}[{index}]")

    def error(self, problem: str) -> OptionsError:
        """`FILE: dotted.key: PROBLEM (line N)`, to be raised by the caller."""
        key = f"{self.key}: " if self.key else ""
        line = "" if self.line is None else f" (line {self.line})"
        return OptionsError(f"{self.file}: {key}{problem}{line}")


class Section(dict[str, Any]):
    """A mapping that remembers where each of its keys was written, so that an error names the right file after merging."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[str, Location] = {}

    def put(self, key: str, value: Any, source: Location) -> None:
        """Sets a key together with the location it comes from."""
        self[key] = value
        self.sources[key] = source


def check(condition: bool, message: str) -> None:
    """For `__post_init__`: raises ValueError(message) unless the condition holds. The message begins with the name of the field."""
    if not condition:
        raise ValueError(message)


def build(cls: type[T], mapping: Any, where: str | Location) -> T:
    """Builds the dataclass `cls` from a mapping of plain YAML types.

    `where` is the file named in errors, for keys that do not know their own source. Raises OptionsError for the first unknown key, missing
    key, wrong type, or value that a `__post_init__` refuses.
    """
    location = where if isinstance(where, Location) else Location(where)
    if not isinstance(mapping, Mapping):
        raise location.error(f"expected {describe(cls)}, got {_show(mapping)}")
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for name in mapping:
        if name not in known:
            raise location.child(str(name), mapping).error(f"unknown key; {_nearest(str(name), known, location)}")
    values = {}
    for name, field in known.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], location.child(name, mapping))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise location.child(name).error(f"this key is missing; expected {describe(hints[name])}")
    try:
        return cls(**values)
    except ValueError as error:
        raise _refused(str(error), known, mapping, location) from error


def dump(value: Any) -> Any:
    """The plain YAML types (dict, list, scalars) from which `build` makes an equal object."""
    if is_dataclass(value):
        return {field.name: dump(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(item) for item in value]
    return value


def describe(annotation: Any) -> str:
    """What a type expects, in words for an error message."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _SCALAR_NAMES:
        return _SCALAR_NAMES[annotation]
    if is_dataclass(annotation):
        return f"a mapping with the keys {', '.join(field.name for field in fields(annotation) if field.init)}"
    if origin is Literal:
        return " | ".join(str(choice) for choice in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in args)
    if origin is dict:
        return f"a mapping of names to: {describe(args[1])}"
    if origin is list or (origin is tuple and args[-1] is Ellipsis):
        return f"a list of: {describe(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)} items: {', '.join(describe(member) for member in args)}"
    raise TypeError(f"the schema does not know the annotation {annotation!r}")


def _convert(annotation: Any, value: Any, location: Location) -> Any:
    """The value as `annotation` wants it, or an OptionsError."""
    origin = get_origin(annotation)
    if is_dataclass(annotation):
        return build(annotation, value, location)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _convert_union(annotation, value, location)
    if origin is dict:
        return _convert_dict(annotation, value, location)
    if origin in (list, tuple):
        return _convert_sequence(annotation, value, location)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in get_args(annotation)):
            return value
    elif _fits_scalar(annotation, value):
        return float(value) if annotation is float else value
    raise location.error(f"expected {describe(annotation)}, got {_show(value)}{_advice(annotation, value)}")


def _fits_scalar(annotation: Any, value: Any) -> bool:
    """True where a scalar may stand for the type: an int may for a float, a bool never for a number."""
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is annotation


def _convert_union(annotation: Any, value: Any, location: Location) -> Any:
    members = get_args(annotation)
    if isinstance(value, Mapping):
        candidates = [member for member in members if is_dataclass(member) or get_origin(member) is dict]
    elif isinstance(value, list):
        candidates = [member for member in members if get_origin(member) in (list, tuple)]
    else:
        candidates = [member for member in members if member in _SCALAR_NAMES or get_origin(member) is Literal]
    if len(candidates) == 1 and isinstance(value, (Mapping, list)):
        return _convert(candidates[0], value, location)  # its own error goes deeper than ours could
    for member in candidates:
        try:
            return _convert(member, value, location)
        except OptionsError:
            continue
    advice = next(filter(None, (_advice(member, value) for member in members)), "")
    raise location.error(f"expected {describe(annotation)}, got {_show(value)}{advice}")


def _convert_dict(annotation: Any, value: Any, location: Location) -> dict[str, Any]:
    """A mapping of free names. An entry set to null is left out: this is how a file drops an entry of its base."""
    if not isinstance(value, Mapping):
        raise location.error(f"expected {describe(annotation)}, got {_show(value)}")
    member = get_args(annotation)[1]
    return {name: _convert(member, item, location.child(str(name), value)) for name, item in value.items() if item is not None}


def _convert_sequence(annotation: Any, value: Any, location: Location) -> list[Any] | tuple[Any, ...]:
    members, origin = get_args(annotation), get_origin(annotation)
    fixed = origin is tuple and members[-1] is not Ellipsis
    if not isinstance(value, (list, tuple)):
        raise location.error(f"expected {describe(annotation)}, got {_show(value)}")
    if fixed and len(value) != len(members):
        raise location.error(f"expected {describe(annotation)}, got a list of {len(value)}")
    wanted = members if fixed else members[:1] * len(value)
    items = [_convert(member, item, location.item(index)) for index, (member, item) in enumerate(zip(wanted, value, strict=True))]
    return items if origin is list else tuple(items)


def _refused(text: str, known: Iterable[str], mapping: Mapping[str, Any], location: Location) -> OptionsError:
    """The error of a `__post_init__`, with the field name at its start moved into the dotted key."""
    match = re.match(r"[\w.\[\]]+", text)
    if match is None or re.split(r"[.\[]", match[0])[0] not in known:
        return location.error(text)
    section: Any = mapping
    for name in match[0].split("."):
        location = location.child(name, section)
        section = section.get(name) if isinstance(section, Mapping) else None
    return location.error(text[match.end() :].lstrip(" :"))


def _nearest(name: str, known: Iterable[str], location: Location) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {location.child(close[0]).key}?" if close else f"known keys here: {', '.join(known)}"


def _advice(annotation: Any, value: Any) -> str:
    """A remedy for the usual slips."""
    if get_origin(annotation) is Literal and isinstance(value, str):
        close = difflib.get_close_matches(value, [str(choice) for choice in get_args(annotation)], n=1)
        return f"; did you mean {close[0]}?" if close else ""
    if annotation is int and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if annotation is str and value is not None and not isinstance(value, (Mapping, list)):
        return "; put it in quotes"
    return ""


def _show(value: Any) -> str:
    if value is None:
        return "null (nothing)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, (list, tuple)) else repr(value)
