"""Which LR and which HR file belong together, by their names."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.listing import ImageFile, Listing, list_images, read_pairs
from data.sources import some

Roots = str | Path | Sequence[str | Path]
Pair = tuple[ImageFile, ImageFile | None]
Templates = tuple[str, str]
"""How the names of LR and HR come from that of their pair, '{}': ('{}x4', '{}') pairs 0801x4.png with 0801.png. BasicSR's filename_tmpl."""

PLAIN: Templates = ("{}", "{}")
_SCALES = (4, 2, 3, 8)
KNOWN: tuple[Templates, ...] = (
    *((f"{{}}x{n}", "{}") for n in _SCALES),  # DIV2K, Flickr2K, EDSR's benchmark sets
    *((f"{{}}x4{track}", "{}") for track in "mdw"),  # DIV2K mild, difficult, wild
    *((f"{{}}_LR{n}", "{}_HR") for n in _SCALES),  # RealSR
    *((f"{{}}_x{lr}", f"{{}}_x{hr}") for n in _SCALES for lr, hr in ((1, n), (n, 1))),  # DRealSR
    *((f"{{}}_SRF_{n}_LR", f"{{}}_SRF_{n}_HR") for n in _SCALES),  # SelfExSR's Set5 to Urban100
    *((f"{{}}_x{n}", "{}") for n in _SCALES),
    *(("{}_LR", "{}_HR"), ("{}_lr", "{}_hr")),
)
"""Of data sets that many have."""


class Pairs(NamedTuple):
    """What belongs together, in LR's order."""

    pairs: list[Pair]
    remarks: list[str]
    """What the user should know: names that differ, files that are passed over."""
    failures: list[str]
    """As of `Listing`; only where there is no HR, since they are refused where there is."""


def pair_by_name(dataroot_lq: Roots, dataroot_gt: Roots | None, templates: Templates = PLAIN) -> Pairs:
    """LR and HR files with the same path below their roots up to the extension (LR/a/1.png and HR/a/1.jpg); no HR if dataroot_gt is None.

    Names follow `templates`; where plain ones do not pair, those in KNOWN are tried. Where paths do not pair, the folders that all files
    of a side have in front are left out on both sides (a list names LR/1.png, the other HR/1.png). What pairs all files is taken, with a
    remark. Both roots may be one folder whose names tell LR from HR, or one list of pairs (see `read_pairs`).

    Raises: ValueError naming the files when a name occurs twice on one side or lacks its partner on the other, or files cannot be listed.
    """
    one = dataroot_gt == dataroot_lq
    if one and isinstance(dataroot_gt, (str, Path)) and str(dataroot_gt).lower().endswith(".txt") and os.path.isfile(dataroot_gt):
        listed = read_pairs(dataroot_gt)
        if listed is not None:
            return Pairs(list(zip(listed[1].files, listed[0].files, strict=True)), [], [])
    lr = list_images(dataroot_lq)
    if dataroot_gt is None:
        side = _side(lr.files, "{}")
        _refuse_twice(dataroot_lq, side)
        return Pairs([(file, None) for file in side.files.values()], _remarks(dataroot_lq, lr), lr.failures)
    hr = lr if one else list_images(dataroot_gt)
    _refuse_failures(lr, hr)
    best = None
    for way in _ways(lr.files, None if one else hr.files, templates):
        if one and way.templates == PLAIN and best is not None and best.matches:
            break  # a folder with LR and HR in it: that every file pairs with itself means nothing
        if way.whole:
            remarks = ([way.remark] if way.remark else []) + _remarks(dataroot_lq, lr) + ([] if one else _remarks(dataroot_gt, hr))
            return Pairs([(file, way.hr.files[name]) for name, file in way.lr.files.items()], remarks, [])
        best = way if best is None or way.matches > best.matches else best
    assert best is not None
    raise _no_pairs(best, dataroot_lq, dataroot_gt)


def files_by_name(root: Roots) -> dict[str, ImageFile]:
    """Path below the root, without extension -> file, in natural order.

    Raises: ValueError when a name occurs twice, nothing is there, or a part of it cannot be listed.
    """
    listing = list_images(root)
    _refuse_failures(listing)
    side = _side(listing.files, "{}")
    _refuse_twice(root, side)
    return side.files


class _Side(NamedTuple):
    """Files by the names of their pairs, in their order; those whose names do not follow the template; "a and b" of one name."""

    files: dict[str, ImageFile]
    odd: list[ImageFile]
    twice: list[str]


@dataclass(frozen=True)
class _Way:
    """One way to pair."""

    lr: _Side
    hr: _Side
    templates: Templates
    remark: str

    @property
    def whole(self) -> bool:
        return self.lr.files.keys() == self.hr.files.keys() and not (self.lr.odd or self.hr.odd or self.lr.twice or self.hr.twice)

    @property
    def matches(self) -> int:
        return len(self.lr.files.keys() & self.hr.files.keys())


def _ways(lr: Sequence[ImageFile], hr: Sequence[ImageFile] | None, templates: Templates) -> Iterator[_Way]:
    """The ways to pair, likeliest first. hr: None where LR and HR lie together, so that only their names tell them apart."""
    tried = (templates,) if templates != PLAIN else (PLAIN, *KNOWN) if hr is not None else (*KNOWN, PLAIN)
    for ends in tried:
        remark = "" if ends == templates else f"LR and HR are paired as '{ends[0]}' and '{ends[1]}' (filename_tmpl, filename_tmpl_gt)"
        if hr is None and ends != PLAIN:
            small = _side(lr, ends[0])
            yield _Way(small._replace(odd=[]), _side(small.odd, ends[1]), ends, remark)
            continue
        files = (lr, lr if hr is None else hr)
        if ends != templates and not all(_pair_name(side[0], end) for side, end in zip(files, ends, strict=True)):
            continue  # at once, since there may be millions of files
        yield _Way(_side(files[0], ends[0]), _side(files[1], ends[1]), ends, remark)
        fronts = [os.path.commonprefix([file.relative.parent.parts for file in side]) for side in files]
        if any(fronts):
            folders = " and ".join("/".join(front) or "(none)" for front in fronts)
            sides = (_side(side, end, len(front)) for side, end, front in zip(files, ends, fronts, strict=True))
            left_out = f"without the folders in front: {folders}"
            yield _Way(*sides, ends, f"{remark}, {left_out}" if remark else f"LR and HR are paired {left_out}")


def _side(files: Sequence[ImageFile], template: str, front: int = 0) -> _Side:
    """front: how many folders are left out at the front of each path."""
    side = _Side({}, [], [])
    for file in files:
        name = _pair_name(file, template)
        if not name:
            side.odd.append(file)
            continue
        path = "/".join((*file.relative.parent.parts[front:], name))
        if path in side.files:
            side.twice.append(f"{side.files[path].path} and {file.path}")
        side.files.setdefault(path, file)
    return side


def _pair_name(file: ImageFile, template: str) -> str:
    """The name of the pair that a file belongs to by its own; empty if it does not follow the template."""
    before, after = template.split("{}")
    stem = file.relative.stem
    fits = stem.startswith(before) and stem.endswith(after)
    return stem[len(before) : len(stem) - len(after)] if fits else ""


def _remarks(root: Roots, listing: Listing) -> list[str]:
    return [f"{root}: {listing.remark()}"] if listing.passed_over else []


def _refuse_failures(*listings: Listing) -> None:
    failures = list(dict.fromkeys(failure for listing in listings for failure in listing.failures))
    if failures:
        raise ValueError(f"{len(failures)} places cannot be read, so pictures would be missing:{some(failures)}")


def _refuse_twice(root: Roots, side: _Side) -> None:
    if side.twice:
        raise ValueError(f"{root}: names must be unique up to the extension; remove one of each:{some(side.twice)}")


def _no_pairs(way: _Way, dataroot_lq: Roots, dataroot_gt: Roots) -> ValueError:
    """What is wrong with the best way to pair."""
    _refuse_twice(dataroot_lq, way.lr)
    _refuse_twice(dataroot_gt, way.hr)
    plain = way.templates == PLAIN
    alone = [
        f"{file.path}: no {other} " + (f"of the same name in {root}" if plain else f"'{template}' in {root}")
        for side, partner, other, template, root in (
            (way.lr, way.hr, "HR", way.templates[1], dataroot_gt),
            (way.hr, way.lr, "LR", way.templates[0], dataroot_lq),
        )
        for name, file in side.files.items()
        if name not in partner.files
    ]
    for side, template in zip((way.lr, way.hr), way.templates, strict=True):
        alone += [f"{file.path}: its name is not '{template}'" for file in side.odd]
    advice = "; filename_tmpl and filename_tmpl_gt say how names differ" if plain else f", as '{way.templates[0]}' and '{way.templates[1]}'"
    return ValueError(f"LR and HR must pair up by name{advice}; {len(alone)} files have no partner:{some(alone)}")
