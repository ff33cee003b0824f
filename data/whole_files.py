"""Files and folders that appear whole or not at all, and what tells one file from another. It knows no pictures: everyone may use it."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

TEMPORARY, FORMER = ".tmp", ".former"
_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_PROBE = 2**20


class WriteError(ValueError):
    """The disk refuses, for now: it is full, say. What was there before is intact."""


def why_refused(error: BaseException) -> str:
    """What the system says of a write that failed, in a few words; a full disk is called one."""
    said = getattr(error, "strerror", None) or str(error)
    return f"the disk is full ({said})" if getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in said else said


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when it is complete, or leaves nothing: a temporary one in the same folder is renamed.

    Missing folders are created. Raises OSError when the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}{TEMPORARY}")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A whole file in UTF-8; errors as `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary folder beside `folder`, flushes it to the disk, and puts it in place of `folder`.

    A kill at any instant leaves either the whole folder or the former one.

    Raises:
        WriteError: the disk is full or the folder cannot be written; what was there before is intact.
    """
    temporary = folder.with_name(folder.name + TEMPORARY)
    try:
        put_back(folder)
        _clear(temporary)
        temporary.mkdir(parents=True)
        write(temporary)
        for path in (*temporary.rglob("*"), temporary):
            _flush(path)
        _put_in_place(temporary, folder)
        _flush(folder.parent)
    except (OSError, SafetensorError, RuntimeError) as error:  # the last two: a full disk in the words of save_file and of torch.save
        reason = why_refused(error if isinstance(error, OSError) else _probed(temporary) or error)
        raise WriteError(
            f"cannot write {folder}: {reason}. Free some space or choose another path; what was there before is intact"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already if all went well


def _probed(folder: Path) -> OSError | None:
    """What the system says to a little more in a folder, where a library says of a full disk only that it lost its place in a file."""
    try:
        (folder / "probe").write_bytes(bytes(_PROBE))
    except OSError as error:
        return error
    return None


def refuse_leftovers(folder: Path) -> None:
    """Before `write_folder` writes where a user may have folders of that name: raises ValueError where it would remove one."""
    for beside in (folder.with_name(folder.name + ending) for ending in (TEMPORARY, FORMER)):
        if beside.exists():
            raise ValueError(f"{beside} is in the way; if a run was killed while it wrote {folder}, remove it, else choose another folder")


def _put_in_place(temporary: Path, folder: Path) -> None:
    # Deleting the former folder in its place would take long enough for a kill to leave half of it.
    former = folder.with_name(folder.name + FORMER)
    _clear(former)
    if folder.exists():
        os.replace(folder, former)
    try:
        os.replace(temporary, folder)
    except OSError:
        if former.exists():
            os.replace(former, folder)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _clear(leftover: Path) -> None:
    """Removes a folder, or a link, never what the link leads to."""
    if leftover.is_symlink():
        leftover.unlink()
    shutil.rmtree(leftover, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Undoes what a kill between the two renames of `write_folder` left: the former folder, whole, but under its other name."""
    former = folder.with_name(folder.name + FORMER)
    if former.is_dir() and not former.is_symlink() and not folder.exists():
        os.replace(former, folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
