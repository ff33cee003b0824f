"""Where training images are, whichever kind of source they come from: folders, files and lists, manifests, shards."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import manifest
from data.image_files import reason
from data.image_io import Box, Size, image_size, read_image
from data.listing import LARGEST_FILE, list_images
from data.shards import shard_members, shard_paths
from data.sources import progress_bar, some


class Picture(NamedTuple):
    """One image, as far as it is known without opening it."""

    name: str
    """What messages and batches call it: its path, or path of the shard / name of the member."""
    file: str
    """The file that holds it."""
    offset: int = 0
    """Where its bytes begin in that file."""
    num_bytes: int | None = None
    """How many they are; None: it is a file of its own."""
    size: Size | None = None
    """Where a manifest or an index knows it, or somebody has looked."""


class NameTable(Sequence[str]):
    """Names of files as one text and one array, which loader processes share, and which go from process to process as they are.

    A list would end up as a copy in each of them: to look at an object is to count a reference, and so to write to its page of memory.
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._text = b"".join(encoded)
        self._starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> str:
        number = range(len(self))[index]
        start, end = self._starts[number : number + 2].tolist()
        return os.fsdecode(self._text[start:end])


class PictureTable(Sequence[Picture]):
    """Pictures of known size, about 100 bytes each (see `NameTable`)."""

    def __init__(self, pictures: Iterable[Picture]) -> None:
        names, numbers = [], []
        for picture in pictures:
            assert picture.name.startswith(picture.file) and picture.size is not None
            names.append(picture.name)
            num_bytes = -1 if picture.num_bytes is None else picture.num_bytes
            numbers.append((len(picture.file), picture.offset, num_bytes, *picture.size))
        self._names = NameTable(names)
        self._numbers = np.array(numbers, dtype=np.int64).reshape(-1, 5)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Picture:
        name = self._names[index]
        letters, offset, num_bytes, height, width = self._numbers[index].tolist()
        return Picture(name, name[:letters], offset, None if num_bytes < 0 else num_bytes, (height, width))


def find_pictures(root: str | Path, tell: Callable[[str], None] = lambda line: None) -> list[Picture]:
    """The images of a folder (recursive), an image, a `.txt` list, a manifest (those it does not leave out) or shards (see `shard_paths`).

    tell: is told, in a line each, which files of a folder are passed over, and what of it could not be listed.
    No image is opened, unless it is in a shard without index. Raises: ValueError when the root is missing, damaged or holds no image.
    """
    shards = shard_paths(root)
    if shards:
        found = [
            Picture(f"{shard}/{m.name}", str(shard), m.offset, m.bytes, (m.height, m.width) if m.height else None)
            for shard, members in shard_members(shards)
            for m in members
        ]
    elif str(root).endswith(manifest.SUFFIX):
        used = [(manifest.file_of(entry, root), entry) for entry in manifest.read_manifest(root) if not entry.left_out]
        found = [Picture(file, file, size=(entry.height, entry.width)) for file, entry in used]
    else:
        listing = list_images(root)
        found = [Picture(str(image.path), str(image.path)) for image in listing.files]
        if listing.failures:
            tell(f"{root}: {len(listing.failures)} places could not be read, left out:{some(listing.failures)}")
        if listing.passed_over:
            tell(f"{root}: {listing.remark()}")
    if not found:
        raise ValueError(f"{root}: no images in it" + (" that are not left out" if not shards else ""))
    return found


def picture_sizes(pictures: Sequence[Picture]) -> list[Size | str]:
    """The size of every picture: what is known, else from its header, in threads. Where that cannot be read, "path: reason" instead."""

    def look(part: Sequence[Picture]) -> list[Size | str]:
        seen: list[Size | str] = []
        for picture in part:
            try:
                seen.append(picture.size or image_size(picture.name, _bytes_of(picture)))
            except ValueError as error:
                seen.append(str(error))
        return seen

    total = len(pictures)
    some_at_once = min(64, total // 32 + 1)  # to pass pictures to threads one by one takes longer than to look at them
    parts = [pictures[start : start + some_at_once] for start in range(0, total, some_at_once)]
    sizes: list[Size | str] = []
    with ThreadPoolExecutor(max_workers=8) as pool, progress_bar(total, "image sizes", "image") as bar:
        for found in pool.map(look, parts):
            sizes += found
            bar.update(len(found))
    return sizes


def usable_pictures(pictures: Sequence[Picture], sizes: Sequence[Size | str], smallest: int) -> tuple[list[int], str]:
    """(indices of the usable pictures, a report that counts all and names the first of those left out).

    sizes: of `picture_sizes`. smallest: side in pixels that a usable picture has at least.
    """
    unreadable = [size for size in sizes if isinstance(size, str)]
    usable: list[int] = []
    too_small: list[str] = []
    for index, size in enumerate(sizes):
        if isinstance(size, str):
            continue
        if min(size) >= smallest:
            usable.append(index)
        else:
            too_small.append(f"{pictures[index].name}: {size[1]}x{size[0]}")
    lines = [f"{len(usable)} of {len(sizes)} images usable"]
    for problems, what in ((too_small, f"too small (a side under {smallest} px)"), (unreadable, "unreadable")):
        if problems:
            lines.append(f"{len(problems)} {what}, left out:{some(problems)}")
    return usable, "\n".join(lines).replace("\n", "\n  ")


def read_picture(picture: Picture, box: Box) -> np.ndarray:
    """uint8 RGB (height, width, 3): a part of a picture of known size.

    Raises: ValueError naming the picture when it cannot be read or has another size by now.
    """
    return read_image(picture.name, _bytes_of(picture), size=picture.size, box=box)


def _bytes_of(picture: Picture) -> BytesIO | None:
    """The bytes of a picture in a shard, None where the picture is a file of its own, to be opened by its name.

    Raises: ValueError when the shard cannot be read, or they are too many for a picture.
    """
    if picture.num_bytes is None:
        return None
    if picture.num_bytes > LARGEST_FILE:
        raise ValueError(f"{picture.name}: {picture.num_bytes / 1e9:.1f} GB are too many for a picture")
    try:
        with open(picture.file, "rb") as file:
            file.seek(picture.offset)
            return BytesIO(file.read(picture.num_bytes))
    except OSError as error:
        raise ValueError(f"{picture.name}: {reason(picture.file, error)}") from error
