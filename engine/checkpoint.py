"""What a run leaves on disk: released weights for people (models/), and states to go on from (training_states/).

A folder is written under a temporary name, flushed to the disk and only then renamed, so a kill at any instant leaves either the
whole folder or none. A state also carries the SHA-256 of each of its files: a damaged one is recognised, named and passed over.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.whole_files import FORMER, put_back, sha256_of, write_folder

MANIFEST, VALUES = "manifest.json", "values.json"


def save_state(
    root: Path, iteration: int, tensors: dict[str, dict[str, Tensor]], optimizers: dict[str, dict], values: dict[str, Any], keep_last: int
) -> None:
    """Writes root/ITERATION and removes all but the newest `keep_last` states up to it.

    States of later iterations stay: the run went back behind them because they are damaged.

    Args:
        tensors: named groups of tensors, each a .safetensors file.
        optimizers: named state dictionaries, each a .pt file that `torch.load(weights_only=True)` reads.
        values: anything JSON.
    """

    def write(folder: Path) -> None:
        for name, group in tensors.items():
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}, folder / f"{name}.safetensors")
        for name, state in optimizers.items():
            torch.save(state, folder / f"{name}.pt")
        (folder / VALUES).write_text(json.dumps({"iteration": iteration, **values}, indent=2) + "\n", encoding="utf-8")
        sums = {file.name: sha256_of(file) for file in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")

    write_folder(root / str(iteration), write)
    prune([folder for folder in reversed(state_folders(root)) if int(folder.name) <= iteration], keep_last)


def state_folders(root: Path) -> list[Path]:
    """The states under root, newest first."""
    folders = [folder for folder in root.iterdir() if folder.name.isdecimal()] if root.is_dir() else []
    return sorted(folders, key=lambda folder: int(folder.name), reverse=True)


def newest_intact_state(root: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest state whose files are whole, None where there is no state; each damaged one before it is named through `warn`.

    Raises:
        ValueError: there are states, and all are damaged. To start over among them would remove them one by one.
    """
    for former in list(root.glob(f"*{FORMER}")):
        put_back(former.with_suffix(""))
    damaged = []
    for folder in state_folders(root):
        damage = _damage(folder)
        if damage is None:
            return folder
        warn(f"{folder} is damaged ({damage}): passed over")
        damaged.append(f"{folder.name} ({damage})")
    if damaged:
        raise ValueError(
            f"{root}: no state to go on from, every one is damaged: {', '.join(damaged)}. Either put back a copy of one, or set "
            "path.resume: false to start over in a new folder (this one is kept under another name), or use a new `name`"
        )
    return None


def _damage(folder: Path) -> str | None:
    if not (folder / MANIFEST).is_file():
        return f"{MANIFEST} is missing"
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: neither JSON nor, perhaps, text
        return f"{MANIFEST}: {error}"
    if not isinstance(sums, dict) or VALUES not in sums or any(Path(name).name != name for name in sums):
        return f"{MANIFEST} is not a list of this folder's files"
    for name, expected in sums.items():
        try:
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256_of(folder / name) != expected:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name}: {error}"
    return None


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """One group of tensors of a state, on the CPU.

    Raises:
        ValueError: the state has no such group, so it belongs to other options.
    """
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        raise ValueError(f"{folder} holds no {name}, but the options of this run want one: use a new `name`, or path.resume: false")
    return load_file(file)


def read_optimizer(folder: Path, name: str) -> dict:
    """One optimizer's state dictionary."""
    return torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True)


def read_values(folder: Path) -> dict[str, Any]:
    """The JSON part of a state, `iteration` in it."""
    return json.loads((folder / VALUES).read_text(encoding="utf-8"))


def copy_tensors(into: dict[str, Tensor], source: dict[str, Tensor], what: str) -> None:
    """Copies saved tensors into those of a model, in place.

    Raises:
        ValueError: the names or shapes differ, so the state belongs to other options.
    """
    odd = sorted(set(into) ^ set(source)) or [name for name in into if into[name].shape != source[name].shape]
    if odd:
        raise ValueError(
            f"the saved {what} does not fit the options of this run, first at '{odd[0]}': use a new `name`, or path.resume: false"
        )
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(source[name])


def prune(folders: Iterable[Path], keep: int) -> None:
    """Removes all but the last `keep` of folders given oldest first."""
    for folder in list(folders)[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)


def archive(folder: Path) -> Path | None:
    """Moves an existing run out of the way, as BasicSR does: NAME_archived_DATE. Returns the new folder."""
    if not folder.exists():
        return None
    archived = folder.with_name(f"{folder.name}_archived_{datetime.now():%Y%m%d_%H%M%S}")
    os.replace(folder, archived)
    return archived
