"""Which files are meant: the pictures below folders, single files, and the lines of lists. Nothing here opens a picture."""

import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from data.image_files import reason

_JPEG = (".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".pjpeg", ".pjp")
_OF_SITES = tuple(f"{jpeg}{mark}{size}" for jpeg in (".jpg", ".jpeg") for mark in "_-:" for size in ("large", "orig", "medium", "small"))
_OTHERS = (".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".gif", ".avif", ".avifs")
IMAGE_EXTENSIONS = frozenset((*_JPEG, *_OF_SITES, *_OTHERS))
"""How the names of pictures end, in small letters. What a file holds decides when it is read."""
HEIC_EXTENSIONS = frozenset((".heic", ".heif", ".hif", ".heics", ".heifs"))
"""Pictures too, where the package pillow-heif is installed."""
LARGEST_FILE = 1 << 31
"""Bytes: no file of one picture is longer, so that nobody reads a longer one whole."""
_SIDE_FILES = frozenset(
    (".txt", ".md", ".rst", ".html", ".htm", ".css", ".js", ".json", ".jsonl", ".yml", ".yaml", ".csv", ".tsv", ".xml", ".xmp", ".aae")
    + (".thm", ".db", ".ini", ".log", ".url", ".lnk", ".index", ".py", ".sh")
)

_LIST_SIZE = re.compile(r"\s+\(\d+\s*,\s*\d+(\s*,\s*\d+)?\)$")
_UNUSUAL = re.compile(r"""[#\\"'`,]""")
_COMMENT = re.compile(r"(^|\s)#.*")
_LONGEST_NAME, _LONGEST_PATH = 255, 4096  # bytes: what file systems and Linux take
_KINDS_SHOWN = 8


@dataclass(frozen=True)
class ImageFile:
    """An image to read, and where its result belongs: `relative` is the path below the folder (or list) that was given."""

    path: Path
    relative: Path


@dataclass(frozen=True)
class Listing:
    """What was found."""

    files: list[ImageFile] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """How many files of folders are no candidates, by their endings; without side files (texts, tables, pages, settings)."""
    failures: list[str] = field(default_factory=list)
    """ "path: reason" of sub-folders that cannot be listed, of pipes and devices under pictures' names, of lines that can be no names."""

    def remark(self) -> str:
        """What was passed over, by kind, in one line; empty if nothing was."""
        if not self.passed_over:
            return ""
        kinds = sorted(self.passed_over.items(), key=lambda kind: (-kind[1], kind[0]))
        rest = sum(count for _, count in kinds[_KINDS_SHOWN:])
        shown = [f"{kind} {count}" for kind, count in kinds[:_KINDS_SHOWN]] + ([f"others {rest}"] if rest else [])
        advice = "; pip install pillow-heif reads HEIC" if HEIC_EXTENSIONS & self.passed_over.keys() else ""
        return f"{self.passed_over.total()} passed over: {', '.join(shown)}{advice}"


def list_images(paths: str | Path | Sequence[str | Path]) -> Listing:
    """All images named by files, folders (recursive, natural order, no hidden files) and `.txt` lists (see `read_list`), in that order.

    In folders the names' endings tell what is an image (IMAGE_EXTENSIONS); of the other files all but side files are counted. A file
    that is named itself is taken whatever its name, as are those of lists: who reads it says what it is.

    Raises: ValueError when a path does not exist, a list cannot be read, or nothing but failures or not even these are found.
    """
    found = Listing()
    for given in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(given)
        if given == "":  # of a shell variable that is not set; as a path it would be the working directory
            raise ValueError("an empty name; give an image, a folder of images or a .txt list")
        if os.path.isdir(path):
            part = _list_folder(path)
        elif not os.path.isfile(path):
            special = "neither a file nor a folder (a pipe or a device)" if os.path.exists(path) else "no such file or folder"
            raise ValueError(f"{path}: {special}; give an image, a folder of images or a .txt list")
        else:
            part = read_list(path) if path.suffix.lower() == ".txt" else Listing([ImageFile(path, Path(path.name))])
        if not part.files and not part.failures:
            raise ValueError(f"{path}: no images in it; {part.remark() or 'looked for .png, .jpg, .webp, .tif and the like'}")
        found.files.extend(part.files)
        found.passed_over.update(part.passed_over)
        found.failures.extend(part.failures)
    if found.failures and not found.files:
        raise ValueError("\n  ".join(["no images found:", *found.failures, found.remark()]).rstrip())
    return found


def is_image_name(name: str) -> bool:
    """Whether a file of a folder or an archive is taken for an image, by its name; hidden ones are not."""
    ending = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and (ending in IMAGE_EXTENSIONS or (ending in HEIC_EXTENSIONS and reads_heic()))


@cache
def reads_heic() -> bool:
    """Whether the package that reads HEIC is installed."""
    return find_spec("pillow_heif") is not None


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts img2 before img10, folder by folder, the same on every machine."""
    text = path.as_posix()
    parts = re.findall(r"\d+|\D+", text.replace("/", "\0").lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], text


def read_list(path: str | Path) -> Listing:
    """The files that a list names, one a line: `name` or BasicSR's meta-info `name (h,w,c)`; blank lines are skipped.

    The list is UTF-8, or UTF-16 with its mark (as PowerShell writes it). A line counts as it stands where a file of that name is there.
    Otherwise `# comments` and quotes around a name are dropped, and backslashes are slashes. Relative names are below the list's folder,
    or below the folder above it when the first is found there only (Real-ESRGAN's layout: DF2K/meta_info/list.txt names DF2K/HR/0001.png
    as HR/0001.png). Files are not checked here; reading them says what is wrong. Lines that can be no name of a file (too long, or with a
    NUL) are failures.

    Raises: ValueError when the list itself cannot be read, or holds pairs (see `read_pairs`).
    """
    found, names = Listing(), []
    for number, fields in _lines(Path(path)):
        if len(fields) > 1:
            raise ValueError(
                f"{path}, line {number}: a pair, '{fields[0]}' and '{fields[1]}', where one name is expected; a list of pairs (HR, LR), as "
                "of BasicSR and Real-ESRGAN, is given as dataroot_gt and as dataroot_lq"
            )
        _take(found, names, path, number, fields[0])
    return _placed(Path(path), names, found)


def read_pairs(path: str | Path) -> tuple[Listing, Listing] | None:
    """(HR files, LR files) of a list of pairs as of Real-ESRGAN, `hr.png, lq.png` a line; None if its first line is no pair.

    Names are those of `read_list`. Raises: ValueError when the list cannot be read, or a line is no pair of possible names.
    """
    sides: tuple[tuple[Listing, list[str]], ...] = ((Listing(), []), (Listing(), []))
    for number, fields in _lines(Path(path)):
        if len(fields) == 1 and not sides[0][1]:
            return None
        for (found, names), name in zip(sides, fields, strict=False):
            _take(found, names, path, number, name)
        wrong = sides[0][0].failures + sides[1][0].failures
        if wrong or len(fields) == 1:
            raise ValueError(wrong[0] if wrong else f"{path}, line {number}: expected a pair 'hr.png, lq.png' as above, got '{fields[0]}'")
    return tuple(_placed(Path(path), names, found) for found, names in sides) if sides[0][1] else None


def _list_folder(root: Path) -> Listing:
    """What is below a folder; linked folders are entered, each real folder once."""
    found, images, seen, waiting = Listing(), [], set(), [Path()]
    while waiting:
        below = waiting.pop()
        real = os.path.realpath(root / below)
        if real in seen:
            continue
        seen.add(real)
        subfolders = []
        try:
            with os.scandir(root / below) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        _sort_in(entry, below, found, images, subfolders)
        except OSError as error:
            found.failures.append(f"{root / below}: {reason(root / below, error)}")
        waiting += [below / name for name in sorted(subfolders, reverse=True)]
    found.files.extend(ImageFile(root / relative, relative) for relative in sorted(images, key=natural_key))
    return found


def _sort_in(entry: os.DirEntry[str], below: Path, found: Listing, images: list[Path], subfolders: list[str]) -> None:
    """What one entry of a folder is. The folder itself knows that of all but links, so that no file is looked at."""
    try:
        regular = entry.is_file()
        if not regular and entry.is_dir():
            subfolders.append(entry.name)
        elif is_image_name(entry.name):
            if regular or not os.path.exists(entry.path):  # a link to nothing is a picture that cannot be read
                images.append(below / entry.name)
            else:
                found.failures.append(f"{entry.path}: not a regular file")  # to open a pipe is to wait for its other end
        elif regular:
            ending = os.path.splitext(entry.name)[1].lower()
            if ending not in _SIDE_FILES:
                proper = re.fullmatch(r"\.[a-z0-9_-]{1,12}", ending)
                found.passed_over[ending if proper else "other endings" if ending else "without ending"] += 1
    except OSError as error:
        found.failures.append(f"{entry.path}: {reason(entry.path, error)}")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number, the one name in it or the two of a pair) of each line of a list that holds something. Raises ValueError as `read_list`."""
    try:
        with path.open("rb") as file:
            encoding = "utf-16" if file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"
        lines = path.read_text(encoding=encoding).split("\n")
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{path}: not a readable list of image names in UTF-8 ({error})") from error
    for number, line in enumerate(lines, start=1):
        name = _LIST_SIZE.sub("", line.strip())
        if _UNUSUAL.search(name) and not any(os.path.exists(folder / name) for folder in (path.parent, path.parent.parent)):
            name = _LIST_SIZE.sub("", _COMMENT.sub("", name).strip()).replace("\\", "/")
            fields = [_unquoted(part) for part in name.split(",")]
            if len(fields) == 2 and all(os.path.splitext(part)[1].lower() in IMAGE_EXTENSIONS | HEIC_EXTENSIONS for part in fields):
                yield number, fields
                continue
            name = _unquoted(name)
        if name:
            yield number, [name]


def _unquoted(name: str) -> str:
    name = name.strip()
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'`" else name


def _take(found: Listing, names: list[str], path: str | Path, number: int, name: str) -> None:
    """Adds a name of a list to the names, or what is wrong with it to the failures."""
    if "\0" in name:
        found.failures.append(f"{path}, line {number}: no name of a file, since it holds a NUL")
    elif len(os.fsencode(name)) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in name.split("/")):
        found.failures.append(f"{path}, line {number}: too long for the name of a file: {name[:40]}...")
    else:
        names.append(name)


def _placed(path: Path, texts: Sequence[str], found: Listing) -> Listing:
    """The names of a list as files, added to what was found."""
    names = [Path(text) for text in texts]
    first = next((name for name in names if not name.is_absolute()), None)
    above = first is not None and not os.path.exists(path.parent / first) and os.path.exists(path.parent.parent / first)
    folder = path.parent.parent if above else path.parent
    found.files.extend(ImageFile(folder / name, Path(name.name) if name.is_absolute() or ".." in name.parts else name) for name in names)
    return found
