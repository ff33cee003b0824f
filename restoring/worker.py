"""What is done with one picture of a test: read, restore (or take the result that exists), compare and score, write."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from data.photos.photo import Photo, output_format, read_photo, software_of, write_photo
from data.photos.whole import photo_size, whole_size
from data.whole_files import nearest_folder, require_writable
from models.generator import Generator
from restoring.jobs import SHEETS, Job, JobSet, made_by
from restoring.pictures import Restoration, as_rgb8, enlarge_array, restore_with_alpha
from scoring.metrics import Metric
from scoring.page import PageEntry, page_entry
from scoring.report import ImageScores, comparison_sheet, middle, score_image
from scoring.tables import BICUBIC, HR, OURS

LEAST_SHARE = 20  # files of pictures that are not flat take more than a 20th of their samples, whatever the format


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is written beside the results, and how.

    key: of the settings, see `restoring.jobs.settings_key`. overwrite: restore again what exists already. sheet: bicubic | ours | HR of
    every picture with HR. page: an entry of index.html for every picture.
    """

    key: str
    quality: int
    overwrite: bool
    sheet: bool
    page: bool


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of one picture; small, since processes send it to each other.

    kept: the result existed. from_elsewhere: and was made from another picture, or with other settings.
    shown: name and crops for the overview.
    """

    failure: str | None = None
    kept: bool = False
    from_elsewhere: bool = False
    scores: ImageScores | None = None
    shown: tuple[str, dict[str, np.ndarray]] | None = None
    entry: PageEntry | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """photo: None where nothing is to be done with it. software: what the result says of its origin. exists: whether there is a result."""

    photo: Photo | None
    software: str
    exists: bool


@dataclass(frozen=True, kw_only=True)
class Finished:
    """result: None where it exists. sheet: uint8 (H, W, 3) or None."""

    done: Done
    software: str
    result: Photo | None = None
    sheet: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The three stages of a picture, for `restoring.pipeline.overlapped`; `warn` is told what its owner should know."""

    job_set: JobSet
    generator: Generator
    restoration: Restoration
    metrics: Sequence[Metric]
    output: Output
    max_megapixels: float
    seed: int
    warn: Callable[[str], None]

    @property
    def compares(self) -> bool:
        """Whether results are looked at side by side with what the network was given."""
        return bool(self.metrics) or self.output.page or (self.output.sheet and self.job_set.has_hr)

    def read(self, job: Job) -> Loaded:
        """The picture, unless its result exists and nobody looks at it. ValueError and OSError for a result that could not be written."""
        path = self.job_set.folder / job.output
        size = self.restoration.output_size(*photo_size(job.lr))
        exists = path.is_file() and not self.output.overwrite and self._is_result(path, size)
        if not exists:
            self._require_place(path, size)
        photo = None if exists and not self.compares else read_photo(job.lr, self.max_megapixels)
        if not exists:
            require_space(path, photo, size)
        return Loaded(photo=photo, software=made_by(self.output.key, job.lr), exists=exists)

    def _is_result(self, path: Path, size: tuple[int, int]) -> bool:
        """Whether an existing file is whole and of this (height, width); what is not is said, since it will be replaced."""
        found = whole_size(path)
        if found is None:
            self.warn(f"{path}: existed, but was not whole: restored anew")
        elif found != size:
            self.warn(f"{path}: existed with {found[1]}x{found[0]} pixels in place of {size[1]}x{size[0]}: restored anew")
        return found == size

    def _require_place(self, path: Path, size: tuple[int, int]) -> None:
        """Raises ValueError or OSError where a result of this (height, width) cannot be written."""
        output_format(path, *size)
        if path.is_dir():
            raise ValueError(f"{path}: a folder of that name is in the way of the result; rename it")
        require_writable(path.parent)
        with suppress(FileNotFoundError):
            os.stat(nearest_folder(path.parent) / path.name)  # OSError for a name too long; a folder that is missing takes any

    def restore(self, job: Job, loaded: Loaded) -> Finished:
        """The network's part, and the scores. ValueError where HR has another size: then nothing is scored, but the result is written."""
        path, photo = self.job_set.folder / job.output, loaded.photo
        done = Done(kept=loaded.exists, from_elsewhere=loaded.exists and software_of(path) != loaded.software)
        if photo is None:
            return Finished(done=done, software=loaded.software)
        for note in photo.notes:
            self.warn(f"{job.lr}: {note}")
        if loaded.exists:
            result, seconds = None, None
            pixels = read_photo(path, float("inf")).pixels
        else:
            start = perf_counter()
            pixels, alpha = restore_with_alpha(
                self.generator, photo.pixels, photo.alpha, self.restoration, lambda text: self.warn(f"{job.lr}: {text}")
            )
            result, seconds = replace(photo, pixels=pixels, alpha=alpha), perf_counter() - start
        finished = Finished(done=done, software=loaded.software, result=result)
        return self._compared(job, photo, pixels, seconds, finished) if self.compares else finished

    def _compared(self, job: Job, photo: Photo, pixels: np.ndarray, seconds: float | None, finished: Finished) -> Finished:
        name = job.output.as_posix()
        size = self.restoration.output_size(*photo.pixels.shape[:2])
        pictures = {BICUBIC: as_rgb8(enlarge_array(photo.pixels, size)), OURS: as_rgb8(pixels)}
        if job.hr is not None:
            hr = as_rgb8(read_photo(job.hr, float("inf")).pixels)
            if hr.shape != pictures[OURS].shape:
                sizes = [f"{picture.shape[1]}x{picture.shape[0]}" for picture in (hr, pictures[OURS])]
                failure = f"not scored: HR is {sizes[0]}, the result {sizes[1]} ({self.restoration.scale:g} x LR): {job.hr}"
                return replace(finished, done=replace(finished.done, failure=failure))
            pictures[HR] = hr
        torch.manual_seed(self.seed)  # restoring draws nothing, but some metrics look at random crops
        scores = score_image(name, pictures, self.metrics, self.warn) if self.metrics else None
        sheet, shown = None, None
        if self.output.sheet and HR in pictures:
            sheet = comparison_sheet(list(pictures.values()), list(pictures))
            # Crops are copied, so that the whole pictures need not stay in memory.
            shown = (name, {label: middle(picture).copy() for label, picture in pictures.items()})
        entry = page_entry(name, pictures, scores, name, photo.notes, seconds) if self.output.page else None
        return replace(finished, sheet=sheet, done=replace(finished.done, scores=scores, shown=shown, entry=entry))

    def write(self, job: Job, finished: Finished) -> Done:
        """The files, each whole or not at all."""
        path = self.job_set.folder / job.output
        if finished.result is not None:
            for note in write_photo(path, finished.result, quality=self.output.quality, software=finished.software):
                self.warn(f"{path}: {note}")
        if finished.sheet is not None:
            sheet = (self.job_set.folder / SHEETS / job.output).with_suffix(".png")
            write_photo(sheet, Photo(pixels=finished.sheet), quality=self.output.quality, software=None)
        return finished.done

    def checked(self, job: Job, done: Done) -> Done:
        """What became of a picture, once all are done: its result must still be there."""
        path = self.job_set.folder / job.output
        removed = f"{job.lr}: its result was removed during the run: {path}"
        return done if done.failure or path.is_file() else replace(done, failure=removed)


def require_space(path: Path, photo: Photo, size: tuple[int, int]) -> None:
    """Raises ValueError where a result of this (height, width) certainly finds no room: less than a LEAST_SHARE-th of its samples is free.

    How small a file becomes is not known before; nearly flat graphics are refused a little early. Disks that do not tell are believed.
    """
    samples = size[0] * size[1] * (photo.pixels.shape[2] + (photo.alpha is not None)) * photo.pixels.itemsize
    disk = shutil.disk_usage(nearest_folder(path.parent))
    if disk.total and disk.free < samples // LEAST_SHARE:
        room = f"{disk.free / 1e6:.1f} MB is free"
        raise ValueError(f"{path}: the disk is full ({room}, {size[1]}x{size[0]} pixels are {samples / 1e6:.1f} MB); free some space")
