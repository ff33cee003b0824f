"""What a restoration has to do: which picture is read from where, and what its result is called."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

OVERVIEW = "comparison_overview.png"
SHEETS = "comparison"


@dataclass(frozen=True)
class Job:
    """One picture: where it is read, where its HR lies (None if unknown), and its result's name below the set's folder."""

    lr: Path
    hr: Path | None
    output: Path


@dataclass(frozen=True)
class JobSet:
    """Pictures that share a folder of results. Sets without a name (from `-i` and `input`) are not scored."""

    name: str | None
    folder: Path
    jobs: list[Job]

    @property
    def has_hr(self) -> bool:
        """Whether HR is known, which is so for all pictures of a set or for none."""
        return any(job.hr is not None for job in self.jobs)


def make_set(name: str | None, folder: Path, sources: Sequence[tuple[Path, Path, Path | None]]) -> JobSet:
    """The jobs for pictures given as (LR file, its path relative to what the user named, HR file or None).

    Raises ValueError where a result would replace one of these files, or a comparison sheet a result.
    """
    outputs = output_names(relative for _, relative, _ in sources)
    jobs = [Job(lr, hr, output) for (lr, _, hr), output in zip(sources, outputs, strict=True)]
    originals = {path.resolve() for job in jobs for path in (job.lr, job.hr) if path is not None}
    for job in jobs:
        if (folder / job.output).resolve() in originals:
            raise ValueError(f"{folder / job.output}: the result would replace an input picture; choose another folder with -o")
    job_set = JobSet(name, folder, jobs)
    if job_set.has_hr and any(output.parts[0].casefold() == SHEETS for output in outputs):
        raise ValueError(f"{name}: a sub-folder called '{SHEETS}' would mix with the comparison sheets; rename it")
    return job_set


def output_names(relatives: Iterable[Path]) -> list[Path]:
    """a.png for every input a.*, sub-folders kept; the second of that name becomes a_jpg.png, then a_jpg_2.png and so on.

    Names that differ in case only count as the same, since they are on some disks.
    """
    taken, names = {OVERVIEW}, []
    for relative in relatives:
        tagged = f"{relative.stem}_{relative.suffix[1:].lower()}"
        name, count = relative.with_suffix(".png"), 1
        while name.as_posix().casefold() in taken:
            name = relative.with_name(f"{tagged}.png" if count == 1 else f"{tagged}_{count}.png")
            count += 1
        taken.add(name.as_posix().casefold())
        names.append(name)
    return names
