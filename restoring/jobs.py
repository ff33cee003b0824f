"""What a restoration has to do: which picture is read from where, and what its result is called."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OVERVIEW = "comparison_overview.png"
SHEETS = "comparison"
MADE_BY = "D3SR "


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
    """

    name: str | None
    folder: Path
    jobs: list[Job]
    failures: Sequence[str] = ()
    remarks: Sequence[str] = ()

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


def output_names(relatives: Iterable[Path], extension: str = "png", suffix: str = "") -> list[Path]:
    """a.png for every input a.*, sub-folders kept; the second of that name becomes a_jpg.png, then a_jpg_2.png and so on.

    Names that differ in case only count as the same, since they are on some disks. The suffix comes last: a_x4.png with suffix "_x4".
    """
    taken, names = {OVERVIEW}, []
    for relative in relatives:
        tag = f"{relative.stem}_{relative.suffix[1:].lower()}"
        name, count = relative.with_name(f"{relative.stem}{suffix}.{extension}"), 1
        while name.as_posix().casefold() in taken:
            stem = tag if count == 1 else f"{tag}_{count}"
            name = relative.with_name(f"{stem}{suffix}.{extension}")
            count += 1
        taken.add(name.as_posix().casefold())
        names.append(name)
    return names


def settings_key(weights: str | Path, settings: Mapping[str, Any]) -> str:
    """Tells results of one generator and one set of options from those of others: 16 hexadecimal digits.

    weights: folder of the trained generator; what its files hold counts, not where they lie.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in sorted(Path(weights).iterdir()):
        if file.suffix in (".json", ".safetensors"):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def made_by(key: str, source: bytes) -> str:
    """What a result says of its origin: the settings' key and that of the input file's bytes."""
    return f"{MADE_BY}{key}-{hashlib.sha256(source).hexdigest()[:16]}"
