"""A video restored frame by frame, in parts that are kept when a run ends early, and joined with its sound when all are there.

Needs PyAV, which is optional, so this module is imported late.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.listing import is_image_name
from data.videos.clip import Clip, Frame, opened, read_clip, read_frames, to_array
from data.videos.parts import FORMATS, PART, PartWriter, check_encoder, comment_of, join, tracks
from data.whole_files import TEMPORARY, sha256_of, whole_file
from restoring.jobs import MADE_BY, output_names
from restoring.pipeline import FAILURES, overlapped

SEGMENT = 30
"""Frames of a part: what a kill loses at most."""
LARGEST = 16384
"""Side of a picture that the encoders take."""
SLACK = 1.0
"""Seconds that a video's headers may promise beyond its last frame without a word."""

Restore = Callable[[np.ndarray], np.ndarray]
OutputSize = Callable[[int, int], tuple[int, int]]
Picture = tuple[int, np.ndarray]
"""pts and RGB (H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How videos are restored. Parts and processes: each restores every `processes`-th part, from `rank` on.

    restore: from RGB (H, W, 3), uint8 or uint16, to its result of that dtype. settings_key: see `restoring.jobs`. quality: see `crf_of`.
    overwrite: also where the result exists.
    """

    restore: Restore
    settings_key: str
    quality: int
    overwrite: bool
    rank: int = 0
    processes: int = 1


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a process has done of a video; small, since processes send it to each other.

    parts: how many the whole video has. end: when its last frame begins; damaged: where it could not be decoded; both in seconds.
    kept: the result existed.
    """

    parts: int = 0
    end: float = 0
    damaged: tuple[float, ...] = ()
    kept: bool = False
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Video:
    """A clip and its result. size: (H, W) of the result, even. notes: what its owner should know before."""

    clip: Clip
    output: Path
    size: tuple[int, int]
    notes: tuple[str, ...]

    def describe(self) -> str:
        """What would be done, in lines."""
        clip = self.clip
        source = f"{clip.path}: {clip.width}x{clip.height}, about {clip.frames} frames, {clip.seconds:.1f} s, {float(clip.rate):g} a second"
        return "\n  ".join([f"{source} -> {self.output}, {self.size[1]}x{self.size[0]}", *self.notes])

    @property
    def folder(self) -> Path:
        """Of the parts, beside the result."""
        return self.output.with_name(f"{self.output.name}.parts")

    @cached_property
    def _source(self) -> str:
        return sha256_of(self.clip.path)

    @property
    def _ending(self) -> str:
        return self.output.suffix.lower()

    def key(self, run: Run) -> str:
        """Tells the parts of this clip, these settings and this way of encoding from all others."""
        return sha256(f"{run.settings_key} {self._source} {FORMATS[self._ending]} {SEGMENT}".encode()).hexdigest()[:16]

    def restore_share(self, run: Run) -> Share:
        """Writes this process's parts, as far as they are missing.

        Raises ValueError and OSError for a frame or part that fails; the parts before it are whole and stay.
        """
        if self.output.is_file() and not run.overwrite:
            return Share(kept=True)
        key, damaged, last = self.key(run), [], 0
        with closing(read_frames(self.clip, damaged)) as frames, self._progress(key, run) as bar:
            for number in count():
                first = next(frames, None)
                if first is None:
                    return Share(parts=number, end=float(last * self.clip.time_base), damaged=tuple(damaged))
                segment, part = chain([first], islice(frames, SEGMENT - 1)), self._part(key, number)
                if number % run.processes != run.rank or part.is_file():
                    last = deque(segment, maxlen=1).pop().pts
                else:
                    last = self._write_part(part, segment, run, bar)
        raise AssertionError("count() has no end")

    def _write_part(self, path: Path, frames: Iterator[Frame], run: Run, bar: tqdm) -> int:
        """The last frame's pts. The next frame is read and the one before is encoded while the network is busy."""
        with whole_file(path) as file, PartWriter(file, self.clip, FORMATS[self._ending][1], crf_of(run.quality)) as writer:

            def read(_: int) -> Picture | None:
                frame = next(frames, None)
                return frame and (frame.pts, to_array(frame, self.clip))

            def compute(_: int, picture: Picture | None) -> Picture | None:
                return picture and (picture[0], with_even_sides(run.restore(picture[1])))

            def write(_: int, picture: Picture | None) -> int | None:
                return picture and writer.add(*picture)

            last = 0
            for outcome in overlapped(range(SEGMENT), read, compute, write, writers=1):
                if outcome.error is not None:
                    raise outcome.error
                if outcome.value is not None:
                    last = outcome.value
                    bar.update()
        return last

    def finish(self, shares: Sequence[Share], run: Run) -> tuple[list[str], str | None]:
        """Joins the parts, when every process has done its share, and removes them.

        Returns what the owner should know, and what failed: what could not be decoded. Errors as `restore_share`.
        """
        key = self.key(run)
        if shares[0].kept:
            notes = [f"{self.output} exists and was kept; --force_yml output.overwrite=true makes it anew"]
            if key not in comment_of(self.output):
                notes.append(f"WARNING: {self.output} was made from another video or with other settings than these")
            return notes, None
        with whole_file(self.output) as file:
            parts = [self._part(key, number) for number in range(shares[0].parts)]
            join(parts, self.clip, file, self._ending, MADE_BY + key)
        for part in (*self.folder.glob(f"*.{PART}"), *self.folder.glob(f".*{TEMPORARY}")):
            part.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
        notes, damaged = [f"video in {self.output}"], shares[0].damaged
        if shares[0].end + SLACK < self.clip.seconds:
            notes.append(f"{self.clip.path}: its pictures end at {shares[0].end:.1f} s of {self.clip.seconds:.1f}; is the file cut off?")
        places = f"{len(damaged)} places, the first" if len(damaged) > 1 else "a place"
        return notes, f"{self.clip.path}: damaged in {places} at {min(damaged):.2f} s; the rest is restored" if damaged else None

    def _part(self, key: str, number: int) -> Path:
        return self.folder / f"{key}-{number:06}.{PART}"

    def _progress(self, key: str, run: Run) -> tqdm:
        there = len(list(self.folder.glob(f"{key}-*.{PART}"))) * SEGMENT // run.processes
        total = max(self.clip.frames // run.processes, there)
        return tqdm(desc=self.clip.path.name, total=total, initial=there, unit="frame", disable=run.rank != 0)


def restore_videos(
    videos: Sequence[Video],
    run: Run,
    *,
    gather: Callable[[Share | str | None], list],
    reason: Callable[[Exception, Path], str],
    warn: Callable[[str], None],
) -> int:
    """All videos, one after the other; the exit status: 1 where one failed, with its reason said, and the others are done.

    gather: every process's value, on every process. reason: what failed, in one line.
    """
    failed = False
    for video in videos:
        for note in video.notes if run.rank == 0 else ():
            warn(f"{video.clip.path}: {note}")
        failure = _failure(video, run, gather, reason, warn)
        failed |= failure is not None
        if failure and run.rank == 0:
            warn(f"failed: {failure}")
    return int(failed)


def _failure(
    video: Video,
    run: Run,
    gather: Callable[[Share | str | None], list],
    reason: Callable[[Exception, Path], str],
    warn: Callable[[str], None],
) -> str | None:
    """Restores one video; the same answer in every process: what failed."""

    def stopped(error: Exception) -> str:
        stay = f"; the whole parts stay in {video.folder}, and the same command goes on from there" if video.folder.is_dir() else ""
        return f"{reason(error, video.clip.path)}{stay}"

    try:
        share = video.restore_share(run)
    except FAILURES as error:
        share = Share(failure=stopped(error))
    shares = gather(share)
    failure = next((share.failure for share in shares if share.failure), None)
    if failure is None and run.rank == 0:
        try:
            notes, failure = video.finish(shares, run)
            for note in notes:
                warn(note)
        except FAILURES as error:
            failure = stopped(error)
    return gather(failure)[0]


def crf_of(quality: int) -> int:
    """H.264's constant rate factor for `output.quality`: 16, hardly to be told from the frames, for 95; 28 for 75."""
    return min(51, round(16 + 0.6 * (95 - quality)))


def with_even_sides(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) with the last row and column repeated where a side is odd: players' 4:2:0 has one colour for 2 x 2 pixels."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def find_videos(
    paths: Sequence[Path], output: Path, *, alone: bool, suffix: str, max_megapixels: float, output_size: OutputSize
) -> list[Video]:
    """The videos, looked into. output: a folder, or the result's own name where one video is `alone`. output_size: (H, W) for (h, w).

    Raises ValueError and OSError for what cannot be read or written as asked, before anything is computed.
    """
    named = not output.is_dir() and (output.suffix.lower() in (*FORMATS, ".avi", ".m4v") or is_image_name(output.name))
    if named and not alone:
        raise ValueError(f"{output}: several inputs need a folder for their results; choose another -o")
    if named and output.suffix.lower() not in FORMATS:
        raise ValueError(f"{output}: videos are written as {', '.join(FORMATS)}; choose one of these endings")
    outputs = [output] if named else [output / name for name in output_names((Path(path.name) for path in paths), "mp4", suffix)]
    videos = []
    for path, result in zip(paths, outputs, strict=True):
        if any(result.resolve() == other.resolve() for other in paths):
            raise ValueError(f"{result}: the result would replace an input video; choose another -o")
        videos.append(_video(read_clip(path, max_megapixels), result, output_size))
    return videos


def _video(clip: Clip, output: Path, output_size: OutputSize) -> Video:
    ending = output.suffix.lower()
    check_encoder(ending)
    with opened(clip.path) as container:
        lost = tracks(container, ending)[1]
    if ending != ".mkv" and any(track.startswith("audio") for track in lost):
        other = output.with_suffix(".mkv").name
        raise ValueError(f"{clip.path}: {', '.join(lost)} cannot be copied into {ending} as it is; write to {other} instead")
    height, width = output_size(clip.height, clip.width)
    size = (height + height % 2, width + width % 2)
    if max(size) > LARGEST:
        raise ValueError(f"{clip.path}: the result, {size[1]}x{size[0]}, is larger than the {LARGEST} pixels of a side that can be encoded")
    notes = [f"left out, since {ending} cannot hold it as it is: {', '.join(lost)}"] if lost else []
    if size != (height, width):
        notes.append(f"{width}x{height} is made {size[1]}x{size[0]}, as sides must be even")
    if clip.interlaced:
        notes.append("it is interlaced, and the comb of its lines will be sharpened; deinterlace it before")
    return Video(clip=clip, output=output, size=size, notes=tuple(notes))
