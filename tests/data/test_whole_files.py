import errno
import json
import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.whole_files import nearest_folder, remove_leftovers, require_writable, whole_file, write_folder, write_text

ROOT = Path(__file__).resolve().parents[2]


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    """Told from the system calls: what a power cut may lose is what was not flushed by then."""
    flushed, calls = os.fsync, []

    def fsync(descriptor):
        size = os.fstat(descriptor).st_size
        calls.append("flush folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else f"flush {size} bytes")
        flushed(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda source, target, do=os.replace: (calls.append("rename"), do(source, target)))
    with whole_file(tmp_path / "a.bin") as file:
        file.write(bytes(1000))
    assert calls == ["flush 1000 bytes", "rename", "flush folder"]


@pytest.mark.parametrize("refused", ["write", "fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch, refused):
    (tmp_path / "a.txt").write_text("former")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if refused != "write":
        monkeypatch.setattr(os, refused, full)
    with pytest.raises(OSError, match="No space left"), whole_file(tmp_path / "a.txt") as file:
        file.write(b"new")
        if refused == "write":
            full()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "former"


def test_a_disk_that_cannot_flush_folders_is_good_enough(tmp_path, monkeypatch):
    flushed = os.fsync

    def files_only(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        flushed(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write_text(tmp_path / "a.txt", "text")
    write_folder(tmp_path / "folder", lambda folder: (folder / "a.txt").write_text("text"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "a.txt", "folder"]


def test_temporary_names_are_not_followed_as_links(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    for name in (".metrics.json.tmp", "metrics.json.tmp", ".feedfeedfeedfeed.tmp", "metrics.json"):
        (out / name).symlink_to(tmp_path / "mine.txt")
    write_text(out / "metrics.json", "{}")
    assert (out / "metrics.json").read_text() == "{}" and not (out / "metrics.json").is_symlink()
    monkeypatch.setattr(secrets, "token_hex", lambda count: "feed" * 4)  # guessed after all
    with pytest.raises(FileExistsError):
        write_text(out / "metrics.json", "new")
    assert (tmp_path / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("ending", [".tmp", ".former"])
def test_the_temporary_folder_is_no_link_either(tmp_path, ending):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file.txt").write_text("precious")
    (tmp_path / "state").mkdir()
    (tmp_path / f"state{ending}").symlink_to(tmp_path / "mine", target_is_directory=True)
    write_folder(tmp_path / "state", lambda folder: (folder / "file.txt").write_text("new"))
    assert (tmp_path / "state/file.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file.txt"]
    assert (tmp_path / "mine/file.txt").read_text() == "precious"


WRITER = """
import sys, time
from pathlib import Path
from data.whole_files import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    others = {".notes.tmp", ".0123456789abcdef.tmp.bak", "0123456789abcdef.tmp", "a.png", ".fedcba9876543210.tmp"}
    for name in others:
        (tmp_path / name).write_text("of others")
    (tmp_path / ".fedcba9876543210.tmp").unlink()
    os.mkfifo(tmp_path / ".fedcba9876543210.tmp")
    (tmp_path / ".0000000000000000.tmp").mkdir()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "a.txt"], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"writing\n"
        before = {path.name for path in tmp_path.iterdir()}
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == before, "its process is alive"
    finally:
        writer.kill()
        writer.communicate()
    assert {path.name for path in tmp_path.iterdir()} == before, "a kill cannot clean up"
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others | {".0000000000000000.tmp"}
    remove_leftovers(tmp_path / "absent")


def test_many_writers_of_one_path_do_no_harm(tmp_path):
    texts = [str(number) * 10_000 for number in range(4)]
    with ThreadPoolExecutor(len(texts)) as pool:
        written = [pool.submit(write_text, tmp_path / "a.txt", text) for text in texts * 5]
        while not all(future.done() for future in written):
            remove_leftovers(tmp_path)  # as another run does when it starts
            assert not (tmp_path / "a.txt").exists() or (tmp_path / "a.txt").read_text() in texts
        assert all(future.exception() is None for future in written)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_system_without_locks_writes_and_cleans_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("data.whole_files.fcntl", None)  # Windows, which itself keeps open files from being removed
    (tmp_path / ".0123456789abcdef.tmp").write_text("half")
    write_text(tmp_path / "a.txt", "text")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "text"


def test_a_disk_without_locks_keeps_leftovers_and_writes_all_the_same(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".0123456789abcdef.tmp").write_text("perhaps being written")
    write_text(tmp_path / "a.txt", "text")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".0123456789abcdef.tmp", "a.txt"]


def test_a_name_that_is_no_unicode_is_written_as_an_escape(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_text(tmp_path / "a.json", json.dumps({"image": name, "other": "é"}, ensure_ascii=False))
    assert b"caf\\udce9.png" in (tmp_path / "a.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"image": name, "other": "é"}


def test_where_nothing_can_be_written_is_known_before(tmp_path, monkeypatch):
    require_writable(tmp_path / "new/folder")
    assert list(tmp_path.iterdir()) == [] and nearest_folder(tmp_path / "new/folder") == tmp_path
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file/folder", Path("/proc/1/folder")):
        with pytest.raises(ValueError, match="nothing can be written there .*choose another folder"):
            require_writable(folder)
