"""Folders of several methods' results of the same pictures, matched by name with each other and with HR."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from data.image_io import image_size, to_tensor, to_uint8
from data.pairing import files_by_name
from data.sources import some


@dataclass(frozen=True)
class ResultSets:
    """names: of the pictures that all folders hold, in the order of the first folder. files: label -> name -> file.

    missing, extra: label -> what it lacks of the reference's names, and what it holds beyond them.
    """

    names: list[str]
    files: dict[str, dict[str, Path]]
    missing: dict[str, list[str]]
    extra: dict[str, list[str]]

    def problems(self) -> list[str]:
        """A line per folder that lacks or adds pictures, with their names."""
        lines = [f"{label}: {len(names)} missing:{some(names)}" for label, names in self.missing.items() if names]
        return lines + [f"{label}: {len(names)} extra:{some(names)}" for label, names in self.extra.items() if names]


def match_folders(
    folders: Mapping[str, str | Path],
    suffixes: Mapping[str, str] | None = None,
    ignore: Callable[[str], bool] = lambda name: False,
) -> ResultSets:
    """Matches the pictures of labelled folders by their path below the folder, without extension.

    folders: label -> folder; the first is the reference, whose names the others must have. suffixes: label -> what its names end in beyond
    those of the reference (`_x4`); files that do not end so are extra. ignore: names that are no results.
    Raises ValueError when a folder cannot be listed, or no name is in all of them.
    """
    suffixes = suffixes or {}
    files: dict[str, dict[str, Path]] = {}
    odd: dict[str, list[str]] = {}
    for label, folder in folders.items():
        ending = suffixes.get(label, "")
        found = {name: file.path for name, file in files_by_name(folder).items() if not ignore(name)}
        odd[label] = [name for name in found if not name.endswith(ending) or name == ending]
        files[label] = {name.removesuffix(ending): path for name, path in found.items() if name not in odd[label]}
    reference = next(iter(files.values()))
    names = [name for name in reference if all(name in other for other in files.values())]
    if not names:
        examples = "; ".join(f"{label} has {next(iter(found), 'nothing')}" for label, found in files.items())
        raise ValueError(f"no picture is in all folders under one name ({examples}); a suffix of one's own is given as NAME=SUFFIX")
    missing = {label: [name for name in reference if name not in found] for label, found in files.items()}
    extra = {label: odd[label] + [name for name in found if name not in reference] for label, found in files.items()}
    return ResultSets(names, files, missing, extra)


def enlarged(lr: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) at `size` = (H, W): bicubic with a = -0.75, no antialiasing, as the generator enlarges its input."""
    return to_uint8(F.interpolate(to_tensor(lr)[None], size=size, mode="bicubic", align_corners=False)[0])


@dataclass(frozen=True, kw_only=True)
class Crop:
    """What is scored of a picture: all but `border` pixels at each side, of that the centre of centre x centre pixels; 0 = all of it."""

    border: int = 0
    centre: int = 0

    def window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width). Raises ValueError for a picture that is too small."""
        inner = (height - 2 * self.border, width - 2 * self.border)
        if min(inner) < max(1, self.centre):
            wanted = f"{self.centre} pixels" if self.centre else "a pixel"
            raise ValueError(f"{width}x{height} pixels leave less than {wanted} within a border of {self.border}")
        size = (self.centre, self.centre) if self.centre else inner
        return (height - size[0]) // 2, (width - size[1]) // 2, *size

    def of(self, picture: np.ndarray) -> np.ndarray:
        """The crop of a picture (H, W, 3), a view."""
        top, left, height, width = self.window(*picture.shape[:2])
        return picture[top : top + height, left : left + width]

    def __str__(self) -> str:
        parts = [f"without {self.border} pixels at each side"] if self.border else []
        parts += [f"the centre of {self.centre}x{self.centre} pixels"] if self.centre else []
        return ", ".join(parts) or "whole"


def check_sizes(sets: ResultSets, labels: list[str], crop: Crop) -> None:
    """Reads the headers of all pictures, so that a mistake shows before hours of scoring.

    Raises ValueError naming pictures of one name and different sizes, too small for the crop, or unreadable.
    """
    wrong = []
    for name in sets.names:
        sizes = {label: image_size(sets.files[label][name]) for label in labels}
        if len(set(sizes.values())) > 1:
            wrong.append(f"{name}: " + ", ".join(f"{label} {width}x{height}" for label, (height, width) in sizes.items()))
            continue
        try:
            crop.window(*next(iter(sizes.values())))
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    if wrong:
        raise ValueError(f"{len(wrong)} pictures cannot be compared:{some(wrong)}")
