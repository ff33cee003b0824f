"""Images in tar files (WebDataset shards), read at random.

WebDataset streams shards from front to back and shuffles within a buffer. What its n-th sample is depends on the number of workers, on the
buffer and on how far each worker came, so a run that was killed cannot go on at the sample where it stopped. Here sample n is a pure
function of (seed, n). For that it is enough to know where in its tar every image begins: an index makes the images of all shards one long
list, in which `FileOrder` and `ShardedSampler` choose as they do among files, and an image costs one seek and one read. The price is that
shards must lie on a mounted file system (disk, NFS, Lustre, a bucket mounted as one), not behind a URL.

The index is a file beside the shard (`00000.tar.index`, written by tools/manifest.py); where there is none, or the tar's size has changed
since, it is made at the start of a run from the headers of tar and images. Shards are written by the webdataset library, and read
alike if `tar` wrote them.
"""

import json
import math
import os
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from braceexpand import UnbalancedBracesError, braceexpand

from data.image_files import reason
from data.image_io import image_size
from data.listing import is_image_name, list_images
from data.records import check_fields, read_records, write_records
from data.sources import progress_bar, some
from data.whole_files import refuse_leftovers, write_folder

VERSION = 1
MAX_SHARDS = 300_000  # that braces may name
_KIND = "d3sr-shard-index"
_TOOL = "tools/manifest.py --index"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One image in a tar."""

    name: str
    """As the tar calls it."""
    offset: int
    """Where its bytes begin in the tar."""
    bytes: int
    """How many they are."""
    height: int
    """Pixels of the upright image; 0 if its header cannot be read, and so is the width."""
    width: int


def shard_paths(root: str | Path) -> list[Path]:
    """The shards that a tar file, a folder of .tar or brace notation (`shards/{00000..00127}.tar`) names; empty if root is something else.

    Raises: ValueError when a named shard is missing, compressed or behind a URL, or a folder holds shards and images.
    """
    text, path = str(root), Path(root)
    if os.path.isdir(path):
        shards = sorted(shard for shard in path.glob("*.tar") if not shard.name.startswith(".") and shard.is_file())
        if shards and _has_images(path):
            raise ValueError(f"{root}: holds both shards (.tar) and images; name the shards as {shards[0]} or by braces, or move them")
        return shards
    if not text.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        return []
    if "://" in text or text.startswith("pipe:"):
        raise ValueError(f"{root}: shards are read at random, so they must be on a disk or a mounted file system, not behind a URL")
    if not text.endswith(".tar"):
        raise ValueError(f"{root}: a compressed tar cannot be read at random; unpack it to .tar (images are compressed anyway)")
    try:
        if not os.path.exists(path) and (text.count("{") > 50 or _number_of_names(text) > MAX_SHARDS):
            raise ValueError(f"{text[:200]}: these braces name more than {MAX_SHARDS:,} shards; give several sources")
        shards = [path] if os.path.exists(path) else [Path(name) for name in braceexpand(text)]
    except (UnbalancedBracesError, RecursionError) as error:
        raise ValueError(f"{root}: not a brace notation like shards/{{00000..00127}}.tar ({error})") from error
    missing = [f"{shard}: no such file" for shard in shards if not os.path.isfile(shard)]
    if missing:
        raise ValueError(f"{root}: {len(missing)} of {len(shards)} shards are missing:{some(missing)}")
    return shards


def shard_members(shards: Sequence[Path]) -> list[tuple[Path, list[Member]]]:
    """The images of each shard, from its index or, in threads, from its headers. Raises ValueError as `read_index` and `scan_shard` do."""

    def members(shard: Path) -> list[Member]:
        known = read_index(shard)
        return scan_shard(shard) if known is None else known

    found = []
    with ThreadPoolExecutor(max_workers=8) as pool, progress_bar(len(shards), "shards", "shard") as bar:
        for shard, some_members in zip(shards, pool.map(members, shards), strict=True):
            found.append((shard, some_members))
            bar.update()
    return found


def scan_shard(shard: Path) -> list[Member]:
    """The images of a tar in its order, one for each of webdataset's keys, from the headers alone.

    A key is a member's name up to the first dot behind the last slash. Of the members of a key the one named KEY.png, KEY.jpg ... is the
    image, else the only one of an image's extension (KEY.hr.png). Others (.json, .txt, .cls), hidden files and links are ignored.

    Raises: ValueError naming the tar when it is damaged, or the images when they are several of one key.
    """
    keys: dict[str, list[Member]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                if info.size < 0:
                    raise tarfile.ReadError(f"a member of {info.size} bytes")  # which would lead in circles
                if info.isreg() and not info.issparse() and is_image_name(info.name.rpartition("/")[2]):
                    keys.setdefault(_key(info.name), []).append(_member(shard, tar, info))
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError, RecursionError) as error:  # the last four: absurd headers
        told = reason(shard, error) if isinstance(error, OSError) else str(error) or type(error).__name__
        raise ValueError(f"{shard}: not a whole tar file ({told})") from error
    return [_only(shard, key, members) for key, members in keys.items()]


def write_index(shard: Path) -> int:
    """Write the index beside a shard; returns the number of images.

    Raises: ValueError as `scan_shard` does, OSError when the disk refuses.
    """
    members = scan_shard(shard)
    header = {"version": VERSION, "bytes": shard.stat().st_size}
    write_records(index_path(shard), _KIND, header, [asdict(member) for member in members])
    return len(members)


def read_index(shard: Path) -> list[Member] | None:
    """The index beside a shard; None if there is none or it is of a tar of another size. Raises ValueError when it is damaged."""
    path = index_path(shard)
    if not path.is_file():
        return None
    header, records = read_records(path, _KIND, VERSION, _TOOL)
    size = shard.stat().st_size
    if header.get("bytes") != size:
        return None
    check_fields(path, records, {field.name: field.type for field in fields(Member)})
    members = [Member(**record) for record in records]
    for number, member in enumerate(members, start=2):
        if min(member.offset, member.bytes, member.height, member.width) < 0 or member.offset + member.bytes > size:
            raise ValueError(f"{path}, line {number}: outside of the tar's {size:,} bytes; make the index again with {_TOOL}")
    return members


def index_path(shard: Path) -> Path:
    """00000.tar -> 00000.tar.index."""
    return shard.with_name(f"{shard.name}.index")


def write_shards(images: Iterable[tuple[str, Mapping[str, Any]]], folder: str | Path, shard_bytes: int) -> list[Path]:
    """Write folder/00000.tar, 00001.tar ... with the webdataset library, each with its index; the folder appears when all are complete.

    images: (file, what a .json beside the image is to say). Files are copied as they are, in this order, under the keys 00000000 ...
    shard_bytes: a shard is closed by the image that reaches this size.

    Raises: ValueError when the folder holds something, a file is missing or the disk is full.
    """
    from webdataset import ShardWriter  # late: 0.1 s that a training, which only reads shards, does without

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: already there; shards are written to a new folder")
    refuse_leftovers(folder)

    def write(temporary: Path) -> None:
        pattern = f"{str(temporary.absolute()).replace('%', '%%')}/%05d.tar"
        with ShardWriter(pattern, maxcount=1 << 62, maxsize=shard_bytes, verbose=0, mtime=0, encoder=False) as writer:
            for number, (file, description) in enumerate(images):
                extension = Path(file).suffix[1:].lower()
                about = json.dumps(description).encode("ascii")
                writer.write({"__key__": f"{number:08d}", extension: _bytes_of(file), "json": about})
        for shard in temporary.glob("*.tar"):
            write_index(shard)

    write_folder(folder, write)
    return sorted(folder.glob("*.tar"))


def _bytes_of(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: {reason(file, error)}") from error


def _has_images(folder: Path) -> bool:
    try:
        return bool(list_images(folder).files)
    except ValueError:
        return False


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _number_of_names(text: str) -> int:
    """How many names `braceexpand`, which holds all of them in memory, makes of a text; or more, but never fewer."""

    def alternatives(part: str) -> int:
        return math.prod(int(count) for count in re.findall("\0(\\d+)\0", part))

    def count(group: re.Match[str]) -> str:
        numbers = re.fullmatch(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?", group[1])
        if numbers:
            first, last, step = (int((number or "1")[:20]) for number in numbers.groups())
            found = abs(last - first) // max(1, step) + 1
        elif re.fullmatch(r"[A-Za-z]\.\.[A-Za-z](\.\.-?\d+)?", group[1]):
            found = 52
        else:
            found = sum(alternatives(part) for part in group[1].split(","))
        return f"\0{found}\0"

    inner = ""
    while inner != text:  # from the innermost braces outwards
        inner, text = text, re.sub(r"\{([^{}]*)\}", count, text)
    return alternatives(text)


def _only(shard: Path, key: str, members: Sequence[Member]) -> Member:
    """The image of a key."""
    plain = [member for member in members if member.name.rpartition(".")[0] == key]
    found = plain or members
    if len(found) > 1:
        names = ", ".join(member.name for member in found)
        raise ValueError(f"{shard}: several images of one key, {names}; a sample is one image (a key ends at the first dot of a name)")
    return found[0]


def _member(shard: Path, tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    try:
        height, width = image_size(f"{shard}/{info.name}", tar.extractfile(info))
    except ValueError:
        height, width = 0, 0
    return Member(name=info.name, offset=info.offset_data, bytes=info.size, height=height, width=width)
