"""Option files: safe YAML that knows `5e-5` and refuses duplicate keys, `base:` files, and `--force_yml a:b=c`. Knows nothing of D3SR."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from options.schema import Location, OptionsError, Section, dump

_FORCED = "--force_yml"
_MAX_DEPTH = 32  # an anchor that contains itself would nest for ever
_MOST_BYTES = 2**20
_MOST_NODES = 100_000  # anchors of lists of anchors are a few lines that stand for billions of values
_MERGE_TAG = "tag:yaml.org,2002:merge"
_FLOAT_TAG = "tag:yaml.org,2002:float"
_NUMBER_TAGS = ("tag:yaml.org,2002:int", _FLOAT_TAG)
_LONGEST_NUMBER = 100  # YAML's 1:30:00 is read in the square of its length
# YAML 1.1 wants "5.0e-5"; YAML 1.2, JSON and everyone who writes a learning rate accept "5e-5" too.
_EXPONENT_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 floats, which counts what its text stands for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.nodes = 0


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper: it quotes a text that `_Loader` would read as a float, and keeps lists of scalars on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: list[Any]) -> yaml.Node:
        flat = not any(isinstance(item, (dict, list)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Loader.add_implicit_resolver(_FLOAT_TAG, _EXPONENT_FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_FLOAT_TAG, _EXPONENT_FLOAT, list("-+.0123456789"))
_Dumper.add_representer(list, _Dumper.represent_list)


def read_options(path: str | Path, force_yml: Iterable[str] = ()) -> Section:
    """Reads an option file and its bases, then applies `--force_yml` assignments. Types are checked later, by `schema.build`.

    `base: other.yml` (relative to the file that says so) is read first; mappings are merged recursively, lists and scalars replaced.
    Raises OptionsError for a missing or unreadable file, broken YAML, a duplicate key, a cycle of bases, or a malformed assignment.
    """
    section = _read_with_bases(Path(path), ())
    for assignment in force_yml:
        _force(section, assignment)
    return section


def to_yaml(options: Any) -> str:
    """The YAML text from which an equal options object loads."""
    return yaml.dump(dump(options), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=140)


def _read_with_bases(path: Path, chain: tuple[Path, ...]) -> Section:
    """One file merged over its base; `chain` holds the files that led here."""
    if path.resolve() in (seen.resolve() for seen in chain):
        raise Location(str(chain[-1])).child("base").error(f"a cycle of base files: {' -> '.join(map(str, (*chain, path)))}")
    section = _parse(_read_text(path), Location(str(path)))
    if not isinstance(section, Section):
        raise OptionsError(f"{path}: expected a mapping of option names to values")
    if "base" not in section:
        return section
    base, location = section.pop("base"), Location("").child("base", section)
    if not isinstance(base, str):
        raise location.error("expected the name of one option file, relative to this one")
    base_path = Path(os.path.normpath(path.parent / base))
    if not base_path.is_file():
        raise location.error(f"no such file: {base_path}{_similar_file(base_path)}")
    return _merge(_read_with_bases(base_path, (*chain, path)), section)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise OptionsError(f"{path}: expected an option file of at most {_MOST_BYTES >> 20} MiB")
        return data.decode("utf-8")
    except FileNotFoundError as error:
        raise OptionsError(f"{path}: no such option file{_similar_file(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise OptionsError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _similar_file(path: Path) -> str:
    close = difflib.get_close_matches(path.name, sorted(file.name for file in path.parent.glob("*.yml")), n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _merge(base: Section, over: Section) -> Section:
    """`over` laid over `base`: mappings merge, everything else is replaced. The base's order of keys is kept."""
    merged = Section()
    for section in (base, over):
        for key, value in section.items():
            if isinstance(value, Section) and isinstance(merged.get(key), Section):
                value = _merge(merged[key], value)
            merged.put(key, value, section.sources[key])
    return merged


def _parse(text: str, location: Location) -> Any:
    """YAML text -> Section, list or scalar."""
    try:
        loader = _Loader(text)
        loader.name = location.file
        node = loader.get_single_node()
        return Section() if node is None else _from_node(loader, node, location)
    except RecursionError as error:
        raise location.error(f"nested deeper than {_MAX_DEPTH} levels") from error
    except yaml.YAMLError as error:
        raise location.error(f"not valid YAML: {error}") from error


def _from_node(loader: _Loader, node: yaml.Node, location: Location) -> Any:
    if location.key.count(".") + location.key.count("[") > _MAX_DEPTH:
        raise location.error(f"nested deeper than {_MAX_DEPTH} levels")
    loader.nodes += 1
    if loader.nodes > _MOST_NODES:
        raise location.error(f"stands for more than {_MOST_NODES:,} values, counting anchors as often as they are used")
    if isinstance(node, yaml.MappingNode) and node.tag == loader.DEFAULT_MAPPING_TAG:
        return _from_mapping(loader, node, location)
    if isinstance(node, yaml.SequenceNode) and node.tag == loader.DEFAULT_SEQUENCE_TAG:
        return [_from_node(loader, item, location.item(index)) for index, item in enumerate(node.value)]
    return _from_scalar(loader, node, location)


def _from_scalar(loader: _Loader, node: yaml.Node, location: Location) -> Any:
    if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBER_TAGS and len(node.value) > _LONGEST_NUMBER:
        raise location.error(f"expected a number of at most {_LONGEST_NUMBER} characters, got {len(node.value):,}")
    try:
        return loader.construct_object(node, deep=True)  # for foreign tags this is where the safe loader refuses
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # !!int x, 2001-99-99
        raise location.error(f"not a value that YAML knows: {str(error) or type(error).__name__}") from error


def _from_mapping(loader: _Loader, node: yaml.MappingNode, location: Location) -> Section:
    own, inherited = Section(), Section()
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == _MERGE_TAG:
            _inherit(inherited, _from_node(loader, value_node, location), Location(location.file, line, location.key))
            continue
        if not isinstance(key_node, yaml.ScalarNode):  # and if only for the message: anchors in it may stand for gigabytes of text
            raise Location(location.file, line, location.key).error("expected a text as key, got a list or a mapping")
        key = _from_scalar(loader, key_node, Location(location.file, line, location.key))
        here = Location(location.file, line, location.child(str(key)).key)
        if not isinstance(key, str):
            raise here.error(f"expected a text as key, got {key!r}; put it in quotes")
        if key in own:
            raise here.error(f"this key appears twice, first in line {own.sources[key].line}")
        own.put(key, _from_node(loader, value_node, here), here)
    _inherit(own, inherited, location)
    return own


def _inherit(section: Section, parents: Any, location: Location) -> None:
    """YAML's `<<`: keys of one or several anchored mappings, where `section` does not have them already."""
    for parent in parents if isinstance(parents, list) else [parents]:
        if not isinstance(parent, Section):
            raise location.error("<<: expected the anchor of a mapping")
        for key, value in parent.items():
            if key not in section:
                section.put(key, value, parent.sources[key])


def _force(section: Section, assignment: str) -> None:
    """Applies one `a:b=c` or `a.b=c`; a number between the separators is an index into a list."""
    dotted, equals, text = assignment.partition("=")
    keys = [key.strip() for key in re.split(r"[.:]", dotted)]
    if not equals or not all(keys):
        raise OptionsError(f"{_FORCED}: expected KEY.KEY=VALUE or KEY:KEY=VALUE, got {assignment!r}")
    value = _parse(text, Location(_FORCED, key=".".join(keys))) if text.strip() else None
    location, node = Location(_FORCED), section
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, Section):
            location = location.child(key)
            if last or node.get(key) is None:  # a section that the file leaves to its defaults is created
                node.put(key, value if last else Section(), location)
            node = node[key]
        elif isinstance(node, list):
            index = _index(key, node, location)
            location = location.item(index)
            node[index] = value if last else node[index]
            node = node[index]
        else:
            raise location.error(f"expected a mapping to set {key!r} in, but this is a single value")


def _index(key: str, items: list[Any], location: Location) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise location.error(f"expected an index from 0 to {len(items) - 1}, got {key!r}")
    return int(key)
