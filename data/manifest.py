"""Manifests: what is known of a data set's images, measured once, so that a training starts without opening any of them."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
from tqdm import tqdm

from data.duplicates import exact_copies, near_copies, perceptual_hash
from data.image_files import UnsuitableError, open_regular, reason
from data.image_io import read_image
from data.listing import LARGEST_FILE, list_images, natural_key
from data.records import check_fields, read_records, write_records
from data.sources import some

SUFFIX = ".jsonl"
VERSION = 1
_KIND = "d3sr-manifest"
_TOOL = "tools/manifest.py"
_UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image of a manifest."""

    path: str
    """Relative to the manifest's folder, with slashes; absolute where there is no relative one."""
    bytes: int
    """Size of the file."""
    mtime_ns: int
    """When the file was last changed; with `bytes`, how a rerun knows that it need not be read."""
    width: int = 0
    """Pixels of the upright image; 0 if it is unreadable, and so on below."""
    height: int = 0
    sha256: str = ""
    """Of the file, 64 hex digits."""
    perceptual_hash: str = ""
    """See `duplicates.perceptual_hash`."""
    sharpness: float = 0.0
    """Variance of the Laplacian (4 neighbours) of the luma in 8-bit levels, 5 digits. It compares pictures of like size."""
    left_out: str = ""
    """Why the image is not trained on ("too small: ...", "unreadable: ..."); empty if it is."""

    @property
    def why(self) -> str:
        """`left_out` up to its colon: too small, blurred, duplicate, near duplicate, unreadable, or empty."""
        return self.left_out.partition(":")[0]


def measure(file: str, path: str) -> Entry:
    """Read one image file whole. What is wrong with it is said in `left_out`, by the words of `read_image`."""
    try:
        status = os.stat(file)
        if status.st_size > LARGEST_FILE:
            raise UnsuitableError(f"{status.st_size / 1e9:.1f} GB are too many for a picture")
        with open_regular(file) as opened:
            data = opened.read()
    except (OSError, UnsuitableError) as error:
        return Entry(path=path, bytes=0, mtime_ns=0, left_out=f"{_UNREADABLE}: {reason(file, error)}")
    entry = Entry(path=path, bytes=status.st_size, mtime_ns=status.st_mtime_ns)
    try:
        luma = cv2.cvtColor(read_image(file, BytesIO(data)), cv2.COLOR_RGB2GRAY)
    except ValueError as error:
        return replace(entry, left_out=f"{_UNREADABLE}: {str(error).removeprefix(f'{file}: ')}")
    deviation = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))[1].item()
    return replace(
        entry,
        width=luma.shape[1],
        height=luma.shape[0],
        sha256=hashlib.sha256(data).hexdigest(),
        perceptual_hash=perceptual_hash(luma),
        sharpness=float(f"{deviation**2:.5g}"),
    )


def measure_all(roots: Sequence[str | Path], manifest: str | Path, *, workers: int) -> tuple[list[Entry], int, str]:
    """(entries of all images below folders, in natural order of their paths; how many of them had to be read; what was passed over).

    Files whose size and time are those in `manifest`, if it is there, are not read again; unreadable ones are tried once more. Shows a
    progress bar if stderr is a terminal.

    Args:
        roots: folders, images or `.txt` lists, as for `list_images`. An image that is named twice counts once.
        workers: processes that read; 0 = this one. The result does not depend on it.

    Raises: ValueError when a root is missing or a part of it cannot be listed, the manifest is there but is none, or a process dies.
    """
    listing = list_images(roots)
    if listing.failures:
        raise ValueError(f"{len(listing.failures)} places cannot be read, so the manifest would lack images:{some(listing.failures)}")
    former = {entry.path: entry for entry in read_manifest(manifest)} if Path(manifest).exists() else {}
    files = {manifest_path(image.path, manifest): os.path.abspath(image.path) for image in listing.files}
    entries = {path: former[path] for path, file in files.items() if path in former and _unchanged(former[path], file)}
    unread = [path for path in files if path not in entries]
    arguments = [files[path] for path in unread], unread
    bar = partial(tqdm, total=len(unread), desc="reading", disable=None, dynamic_ncols=True)
    if workers == 0:
        entries |= {entry.path: entry for entry in bar(map(measure, *arguments))}
    else:
        with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
            try:
                entries |= {entry.path: entry for entry in bar(pool.map(measure, *arguments, chunksize=4))}
            except BrokenProcessPool as error:
                raise ValueError("a process that reads images was killed, probably for want of memory; use fewer --workers") from error
    return [entries[path] for path in sorted(entries, key=lambda path: natural_key(Path(path)))], len(unread), listing.remark()


def select(entries: Sequence[Entry], *, min_side: int, min_sharpness: float, drop_duplicates: bool) -> tuple[list[Entry], Counter[str]]:
    """(the entries with `left_out` set anew, how many there are of each kind, duplicates also where they stay).

    A filter sees what those before it left: unreadable, too small, blurred, exact duplicates, near ones.
    """
    judged = [replace(entry, left_out=_too_poor(entry, min_side, min_sharpness)) for entry in entries]
    found = Counter(entry.why for entry in judged if entry.left_out)
    left = [index for index, entry in enumerate(judged) if not entry.left_out]
    for kind, find in (
        ("duplicate", lambda some: exact_copies([entry.sha256 for entry in some])),
        ("near duplicate", lambda some: near_copies([entry.perceptual_hash for entry in some], [e.width * e.height for e in some])),
    ):
        copies = {left[copy]: left[original] for copy, original in find([judged[index] for index in left]).items()}
        found[kind] = len(copies)
        if drop_duplicates:
            for copy, original in copies.items():
                judged[copy] = replace(judged[copy], left_out=f"{kind}: of {judged[original].path}")
        left = [index for index in left if index not in copies]
    return judged, found


def read_manifest(path: str | Path) -> list[Entry]:
    """All entries, also of images that are left out. Raises ValueError when the file is missing, damaged, cut or no manifest."""
    records = read_records(path, _KIND, VERSION, _TOOL)[1]
    check_fields(path, records, {field.name: field.type for field in fields(Entry)})
    return [Entry(**record) for record in records]


def write_manifest(path: str | Path, entries: Sequence[Entry]) -> None:
    """Write it whole or not at all: a header with version and counts, one line an image. Raises OSError when the disk refuses."""
    left_out = Counter(entry.why for entry in entries if entry.left_out)
    header = {"version": VERSION, "used": len(entries) - left_out.total(), "left_out": dict(sorted(left_out.items()))}
    write_records(path, _KIND, header, [asdict(entry) for entry in entries])


def manifest_path(file: str | Path, manifest: str | Path) -> str:
    """The `path` of a file's entry."""
    file, folder = os.path.abspath(file), os.path.dirname(os.path.abspath(manifest))
    same_drive = os.path.splitdrive(file)[0] == os.path.splitdrive(folder)[0]
    return Path(os.path.relpath(file, folder) if same_drive else file).as_posix()


def file_of(entry: Entry, manifest: str | Path) -> str:
    """Where an entry's file is. Resolved as text, since `..` behind a linked folder would lead elsewhere."""
    return os.path.normpath(os.path.join(os.path.dirname(manifest), entry.path))


def _unchanged(entry: Entry, file: str) -> bool:
    try:
        status = os.stat(file)
    except OSError:
        return False
    return entry.why != _UNREADABLE and (entry.bytes, entry.mtime_ns) == (status.st_size, status.st_mtime_ns)


def _too_poor(entry: Entry, min_side: int, min_sharpness: float) -> str:
    if entry.why == _UNREADABLE:
        return entry.left_out
    if min(entry.width, entry.height) < min_side:
        return f"too small: {entry.width}x{entry.height}"
    return f"blurred: sharpness {entry.sharpness:g}" if entry.sharpness < min_sharpness else ""
