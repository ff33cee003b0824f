"""What a run of test_d3sr.py has to do, by its options and command line: pictures and videos, their results' places and sizes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.listing import Listing, is_image_name, list_images
from data.pairing import pair_by_name
from models.release import read_generator_config
from options.d3sr import TestOptions
from options.target_size import TargetSize
from restoring.jobs import JobSet, make_set, single_set
from restoring.pictures import Restoration
from restoring.target import Target

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


def check_size(options: TestOptions, inputs: Sequence[str] | None) -> None:
    """Raises ValueError where a set with HR is to be restored to another size than scale times LR."""
    scored = [] if inputs else [name for name, data in options.datasets.test.items() if data.dataroot_gt is not None]
    if scored and options.size is not None:
        raise ValueError(f"size: expected null with datasets.test.{scored[0]}.dataroot_gt, since HR is scale times LR; set scale instead")


def named_size(size: TargetSize) -> str:
    """For people: `long_side 2048`."""
    measure, value = size.chosen
    return f"{measure} {value:.10g}{', however far beyond the network' if size.beyond else ''}"


def restoration_of(options: TestOptions) -> Restoration:
    """How pictures are restored. Raises ValueError where a size is asked for and there is no network whose scale bounds it."""
    scale: float | Target = options.scale
    if options.size is not None:
        measure, value = options.size.chosen
        most = math.inf if options.size.beyond else read_generator_config(options.network_g.path)["scale"]
        scale = Target(measure=measure, value=value, most=most)
    return Restoration(scale=scale, tile=options.tile, tile_overlap=options.tile_overlap, color_fix=options.color_fix)


def find_videos(options: TestOptions, inputs: Sequence[str] | None, output: str | None) -> tuple[list[Any], Sequence[str] | None]:
    """The videos among what is to be restored (see `restoring.video.Video`), and the inputs without them; folders are not looked into.

    Raises ValueError where PyAV is missing, and what `restoring.video.find_videos` raises.
    """
    given = inputs or (() if options.datasets.test else options.inputs)
    names = [name for name in given if Path(name).suffix.lower() in VIDEOS and not Path(name).is_dir()]
    if not names:
        return [], inputs
    try:
        from restoring import video  # late: it needs PyAV, which is optional
    except ImportError as error:
        raise ValueError(f"{names[0]}: videos need PyAV: pip install av ({error})") from error
    others = [name for name in given if name not in names]
    root = Path(output) if output else Path(options.path.results_root, options.name)
    videos = video.find_videos(
        [Path(name) for name in names],
        root,
        alone=len(given) == 1,
        suffix=options.output.suffix,
        max_megapixels=options.max_megapixels,
        output_size=restoration_of(options).output_size,
    )
    return videos, others


def find_pictures(options: TestOptions, inputs: Sequence[str] | None, output: str | None) -> list[JobSet]:
    """What is to be done: the pictures of -i, else the sets of datasets.test, else those of `input`.

    output: a folder, or the name of a picture where there is one to restore.
    Raises ValueError for paths that lead to no picture, LR and HR that do not pair up, and results that would replace an input.
    """
    pictures = inputs or ([] if options.datasets.test else options.inputs)
    if output and is_image_name(Path(output).name) and not Path(output).is_dir():
        found = list_images(pictures) if pictures else Listing()
        return [told(single_set(Path(output), [file.path for file in found.files]), found)]
    naming = {"extension": options.output.format, "suffix": options.output.suffix}
    root = Path(output) if output else Path(options.path.results_root, options.name)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root}: the results need a folder, but this is a file; choose another -o")
    if inputs or not options.datasets.test:
        if not pictures:
            raise ValueError("nothing to restore: give -i, or `input` or `datasets.test` in the option file")
        found = list_images(pictures)
        return [told(make_set(None, root, [(file.path, file.relative, None) for file in found.files], **naming), found)]
    sets = []
    for name, data in options.datasets.test.items():
        folder = root if output and len(options.datasets.test) == 1 else root / name
        pairs, remarks, failures = pair_by_name(data.dataroot_lq, data.dataroot_gt, data.templates)
        job_set = make_set(name, folder, [(lr.path, lr.relative, hr and hr.path) for lr, hr in pairs], **naming)
        sets.append(replace(job_set, failures=failures, remarks=remarks))
    return sets


def told(job_set: JobSet, found: Listing) -> JobSet:
    """The set, and what listing its pictures has to say."""
    return replace(job_set, failures=found.failures, remarks=[found.remark()] if found.passed_over else [])
