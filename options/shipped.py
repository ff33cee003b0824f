"""Weights and pictures that come with the repository, named in an option file: found from whatever folder a script is started in."""

import os
from pathlib import Path
from typing import Any

from options.schema import Section

ROOT = Path(__file__).resolve().parents[1]
"""Of this code."""

KEYS = (
    *("input", "network_g.path", "network_g.pretrained", "network_g.vae", "network_g.fast_vae.path", "network_d.pretrained"),
    *("path.pretrain_network_g", "train.perceptual.backbone_weights", "train.perceptual.dists_weights"),
    *("metrics.*.pretrained_model_path", "val.metrics.*.pretrained_model_path"),
    *("datasets.val.*.dataroot_lq", "datasets.val.*.dataroot_gt"),
)
"""Options that may name such a file or folder; `*` is any name. What a run writes, and what it trains on, is the user's own."""


def find_shipped(section: Section) -> Section:
    """The same options, in which a relative path that does not exist in the working directory is the one in the repository that its option
    file belongs to, or in that of this code, if it exists there. All else (hub ids, words, what is missing) stays as it is written."""
    for key in KEYS:
        _find(section, key.split("."))
    return section


def _find(section: Any, keys: list[str]) -> None:
    first, *rest = keys
    for name in (list(section) if first == "*" else [first]) if isinstance(section, Section) else []:
        if rest:
            _find(section.get(name), rest)
        elif name in section:
            value, places = section[name], _places(section.sources[name].file)
            section[name] = [_found(item, places) for item in value] if isinstance(value, list) else _found(value, places)


def _found(value: Any, places: list[Path]) -> Any:
    if not isinstance(value, str) or not value or os.path.exists(os.path.expanduser(value)):
        return value
    return next((str(place / value) for place in places if os.path.exists(place / value)), value)


def _places(file: str) -> list[Path]:
    """The repository that an option file belongs to, if it does, and that of this code."""
    own = next((folder for folder in Path(file).resolve().parents if (folder / "test_d3sr.py").is_file()), ROOT)
    return [own, ROOT]
