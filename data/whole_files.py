"""Files and folders that appear whole or not at all, and what tells one file from another. It knows no pictures: everyone may use it."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None

TEMPORARY, FORMER = ".tmp", ".former"
_OURS = re.compile(r"\.[0-9a-f]{16}\.tmp")  # names that `whole_file` makes up
_NO_FOLDERS = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # Windows and some network disks flush files only
_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_PROBE = 2**20


class WriteError(ValueError):
    """The disk refuses, for now: it is full, say. What was there before is intact."""


def why_refused(error: BaseException) -> str:
    """What the system says of a write that failed, in a few words; a full disk is called one."""
    said = getattr(error, "strerror", None) or str(error)
    return f"the disk is full ({said})" if getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in said else said


def why_no_tensors(error: BaseException) -> str:
    """What is wrong with a file of weights, in one line. Of a pickle torch says at length how to run its code all the same: not here."""
    if isinstance(error, UnpicklingError):
        return "it holds something else than tensors, or would run code, which no file may"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when it is complete, or leaves nothing: a temporary one in the same folder is renamed.

    Its bytes reach the disk before the name does, so that a power cut leaves the whole file or the former one, too. The temporary name
    cannot be guessed and is never a link's; several processes may write one path, and the last one's file stays. Missing folders are
    created. Raises OSError when the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _temporary_file(path.parent)
    temporary = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl:
                os.replace(temporary, path)  # while it is locked
        if not fcntl:
            os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files that `whole_file` left in a folder when its process was killed. Those being written, and others', stay.

    Whoever writes one holds a lock on it, which ends with the process. On a disk that knows no locks nothing is removed.
    """
    for path in folder.glob(f".*{TEMPORARY}"):
        if _OURS.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with suppress(OSError):  # locked, or gone already
                if fcntl:
                    with open(path, "r+b") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()
                else:
                    path.unlink()


def _temporary_file(folder: Path) -> BinaryIO:
    """A new file under a new name, locked; where `remove_leftovers` of another process was between the two, another one."""
    while True:
        file = open(folder / f".{secrets.token_hex(8)}{TEMPORARY}", "xb")  # noqa: SIM115  the caller closes it
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(file.name):
                return file
        except BlockingIOError:
            pass
        except OSError:  # a disk that knows no locks
            return file
        file.close()


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the first above it that exists: where it would be created."""
    return next((folder for folder in (path, *path.absolute().parents) if folder.exists()), path)


def require_writable(folder: Path) -> None:
    """Raises ValueError where no file could be created in a folder, or the folder not be created. Leaves nothing behind."""
    try:
        descriptor, name = tempfile.mkstemp(dir=nearest_folder(folder))
        os.close(descriptor)
        os.unlink(name)
    except OSError as error:
        raise ValueError(f"{folder}: nothing can be written there ({error.strerror}); choose another folder") from error


def write_text(path: Path, text: str) -> None:
    """A whole file in UTF-8; errors as `whole_file`. Of a file name that is no valid Unicode the odd bytes become escapes: \\udcff."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


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
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (is_folder and error.errno in _NO_FOLDERS):
            raise


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
