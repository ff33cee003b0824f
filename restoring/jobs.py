"""What a restoration has to do: which picture is read from where, and what its result is called."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.photos.photo import output_format
from data.whole_files import sha256_of

OVERVIEW = "comparison_overview.png"
SHEETS = "comparison"
MADE_BY = "D3SR "

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[. ]+$')
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\u00b9\u00b2\u00b3])(?=\s*(\.|$))", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """One picture: where it is read, where its HR lies (None if unknown), and its result's name below the set's folder."""

    lr: Path
    hr: Path | None
    output: Path


@dataclass(frozen=True)
class JobSet:
    """Pictures that share a folder of results. Sets without a name (from `-i` and `input`) are not scored.

    failures: "path: reason" of what could not be listed. remarks: what else listing and pairing have to say, in a line each.
    single: the user named the one result, not a folder.
    """

    name: str | None
    folder: Path
    jobs: list[Job]
    failures: Sequence[str] = ()
    remarks: Sequence[str] = ()
    single: bool = False

    @property
    def place(self) -> Path:
        """What the user is told of where the results are."""
        return self.folder / self.jobs[0].output if self.single else self.folder

    @property
    def folders(self) -> set[Path]:
        """All that files are written to."""
        below = {parent / job.output.parent for job in self.jobs for parent in (Path(), Path(SHEETS))}
        return {self.folder, *(self.folder / folder for folder in below)}

    @property
    def has_hr(self) -> bool:
        """Whether HR is known, which is so for all pictures of a set or for none."""
        return any(job.hr is not None for job in self.jobs)


def make_set(
    name: str | None, folder: Path, sources: Sequence[tuple[Path, Path, Path | None]], *, extension: str = "png", suffix: str = ""
) -> JobSet:
    """The jobs for pictures given as (LR file, its path relative to what the user named, HR file or None).

    Pictures below `folder` are left out when they were found in a folder above it: they are results, of an earlier run.
    Raises ValueError where a result would replace one of these files, or a comparison sheet a result, or nothing is left.
    """
    results = folder.resolve()
    sources = [source for source in sources if len(source[1].parts) == 1 or results not in source[0].resolve().parents]
    if not sources:
        raise ValueError(f"{folder}: all the pictures lie in the folder of the results; choose another one with -o")
    outputs = output_names((relative for _, relative, _ in sources), extension, suffix)
    jobs = [Job(lr, hr, output) for (lr, _, hr), output in zip(sources, outputs, strict=True)]
    originals = {path.resolve() for job in jobs for path in (job.lr, job.hr) if path is not None}
    for job in jobs:
        if (folder / job.output).resolve() in originals:
            raise ValueError(f"{folder / job.output}: the result would replace an input picture; choose another folder with -o")
    job_set = JobSet(name, folder, jobs)
    if job_set.has_hr and any(output.parts[0].casefold() == SHEETS for output in outputs):
        raise ValueError(f"{name}: a sub-folder called '{SHEETS}' would mix with the comparison sheets; rename it")
    return job_set


def single_set(result: Path, pictures: Sequence[Path]) -> JobSet:
    """The job of one picture whose result the user named. Raises ValueError for more or no pictures, and formats that are not written."""
    if len(pictures) != 1:
        raise ValueError(f"{result}: that names one result, but {len(pictures)} pictures are given with -i; choose a folder with -o")
    output_format(result, 1, 1)
    job_set = make_set(None, result.parent, [(pictures[0], Path(result.name), None)], extension=result.suffix[1:])
    return replace(job_set, single=True)


def output_names(
    relatives: Iterable[Path], extension: str = "png", suffix: str = "", *, windows: bool = os.name == "nt"
) -> list[Path]:
    """a.png for every input a.*, sub-folders kept; the second of that name becomes a_jpg.png, then a_jpg_2.png and so on.

    Names that differ in case only count as the same, since they are on some disks. The suffix comes last: a_x4.png with suffix "_x4".
    windows: names that Windows forbids are changed, see `windows_name`.
    """
    taken, names = {OVERVIEW}, []

    def named(relative: Path, stem: str) -> Path:
        name = relative.with_name(f"{stem}{suffix}.{extension}")
        return Path(*map(windows_name, name.parts)) if windows else name

    for relative in relatives:
        tag = f"{relative.stem}_{relative.suffix[1:].lower()}"
        name, count = named(relative, relative.stem), 1
        while name.as_posix().casefold() in taken:
            name = named(relative, tag if count == 1 else f"{tag}_{count}")
            count += 1
        taken.add(name.as_posix().casefold())
        names.append(name)
    return names


def windows_name(name: str) -> str:
    """A file's or folder's name as Windows allows it: _ in place of : and other signs and of dots and spaces at the end, CON_ for CON.

    Source: Microsoft, "Naming Files, Paths, and Namespaces".
    """
    name = _FORBIDDEN.sub("_", name)
    device = _DEVICE.match(name)
    return f"{device[1]}_{name[device.end() :]}" if device else name


def settings_key(weights: str | Path, settings: Mapping[str, Any]) -> str:
    """Tells results of one generator and one set of options from those of others: 16 hexadecimal digits.

    weights: folder of the trained generator; what its files hold counts, not where they lie.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in sorted(Path(weights).iterdir()):
        if file.suffix in (".json", ".safetensors"):
            digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()[:16]


def made_by(key: str, source: Path) -> str:
    """What a result says of its origin: the settings' key and that of the input file's bytes. Raises OSError."""
    return f"{MADE_BY}{key}-{sha256_of(source)[:16]}"
