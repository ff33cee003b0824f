"""What test_d3sr.py writes and keeps: checked before anything is computed, whole after a power cut, left alone by other runs."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.image_io import write_image
from restoring.outcome import reason
from test_d3sr import main
from tests.restoring_script import write_option_file, write_weights

ROOT = Path(__file__).resolve().parents[1]
Disk = namedtuple("Disk", "total used free")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "nothing")


@pytest.fixture
def option_file(weights, tmp_path) -> Path:
    return write_option_file(tmp_path, weights)


@pytest.fixture
def idle(monkeypatch) -> None:
    """The network must not be asked."""

    def compute(*_: object) -> None:
        raise AssertionError("the network worked before the refusal")

    monkeypatch.setattr("restoring.worker.restore_with_alpha", compute)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3), np.uint8)


def run(option_file: Path, inputs: Path, output: Path, *changes: str) -> int:
    return main(["-opt", str(option_file), "-i", str(inputs), "-o", str(output), *(["--force_yml", *changes] if changes else [])])


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("form", "size", "limit"), [("jpg", (16400, 2), "65500"), ("webp", (5000, 64), "16383")])
def test_a_format_that_cannot_hold_the_result_is_refused_at_once(option_file, tmp_path, idle, capsys, form, size, limit):
    Image.new("RGB", size, (90, 120, 60)).save(tmp_path / "pano.png")
    assert run(option_file, tmp_path / "pano.png", tmp_path / "out", f"output.format={form}") == 1
    message = f"{4 * size[0]} x {4 * size[1]} is too large for {form}, whose sides end at {limit}; write png"
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["file/out", "/proc/1/out"])
def test_a_folder_that_cannot_be_written_is_one_line_before_any_weights(option_file, tmp_path, monkeypatch, capsys, output):
    write_image(tmp_path / "a.png", noise(6, 6))
    (tmp_path / "file").touch()
    monkeypatch.setattr("restoring.run.load", lambda *_: pytest.fail("weights were loaded"))
    assert run(option_file, tmp_path / "a.png", tmp_path / output) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / output}: nothing can be written there" in error and len(error.splitlines()) == 1


def test_a_full_disk_and_what_is_in_the_way_is_found_before_computing(option_file, tmp_path, idle, monkeypatch, capsys):
    write_image(tmp_path / "in/sub/a.png", noise(6, 6))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**9, 10**9, 24 * 24 * 3 // 20 - 1))
    assert run(option_file, tmp_path / "in", tmp_path / "out") == 1
    assert "the disk is full" in capsys.readouterr().err and not (tmp_path / "out").exists()
    monkeypatch.undo()
    (tmp_path / "out/sub/a.png").mkdir(parents=True)
    assert run(option_file, tmp_path / "in", tmp_path / "out") == 1
    assert "a folder of that name is in the way" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out/sub")
    (tmp_path / "out/sub").touch()
    assert run(option_file, tmp_path / "in", tmp_path / "out") == 1
    assert "nothing can be written there" in capsys.readouterr().err
    for folder in ("out", "missing"):
        assert run(option_file, tmp_path / "in/sub/a.png", tmp_path / folder, f"output.suffix={'x' * 300}") == 1
        assert "File name too long" in capsys.readouterr().err
    assert not (tmp_path / "missing").exists()


def test_a_disk_that_tells_nothing_of_its_room_is_believed(option_file, tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", noise(6, 6))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, 0))
    assert run(option_file, tmp_path / "a.png", tmp_path / "out") == 0


def test_what_a_power_cut_left_is_restored_anew_and_what_is_whole_stays(option_file, tmp_path, capsys):
    for name in "abcd":
        write_image(tmp_path / f"in/{name}.png", noise(6, 6, ord(name)))
    assert run(option_file, tmp_path / "in", tmp_path / "out") == 0
    whole = {name: (tmp_path / f"out/{name}.png").read_bytes() for name in "abcd"}
    (tmp_path / "out/a.png").write_bytes(b"")
    (tmp_path / "out/b.png").write_bytes(whole["b"][: len(whole["b"]) // 2])
    write_image(tmp_path / "out/c.png", noise(12, 24))
    times = (tmp_path / "out/d.png").stat().st_mtime_ns
    capsys.readouterr()
    assert run(option_file, tmp_path / "in", tmp_path / "out") == 0
    said = capsys.readouterr().err
    for name in "ab":
        assert f"{tmp_path / 'out' / name}.png: existed, but was not whole: restored anew" in said
    assert f"{tmp_path / 'out/c.png'}: existed with 24x12 pixels in place of 24x24: restored anew" in said
    assert "1 of 4 results existed and were kept" in said and "WARNING" not in said
    assert {name: (tmp_path / f"out/{name}.png").read_bytes() for name in "abcd"} == whole
    assert (tmp_path / "out/d.png").stat().st_mtime_ns == times


def test_a_huge_file_that_is_no_picture_is_not_read(option_file, tmp_path, monkeypatch, capsys):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(4 * 2**30)
    monkeypatch.setattr("restoring.worker.made_by", lambda *_: pytest.fail("4 GiB were read"))
    assert run(option_file, tmp_path / "a.png", tmp_path / "out") == 1
    assert "not an image" in capsys.readouterr().err


def test_leftovers_of_a_killed_run_go_and_other_files_stay(option_file, tmp_path):
    write_image(tmp_path / "in/sub/a.png", noise(6, 6))
    for name in (".0123456789abcdef.tmp", "sub/.0123456789abcdef.tmp", ".mine.tmp", "other/.0123456789abcdef.tmp"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("half")
    assert run(option_file, tmp_path / "in", tmp_path / "out") == 0
    assert names(tmp_path / "out") == [".mine.tmp", "other/.0123456789abcdef.tmp", "sub/a.png"]


def test_a_results_folder_that_is_removed_is_named(option_file, tmp_path, monkeypatch, capsys):
    for index in range(6):
        write_image(tmp_path / f"in/{index}.png", noise(6, 6, index))
    real = shutil.disk_usage

    def remove_once(path):
        if (tmp_path / "out/1.png").exists():
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            monkeypatch.setattr(shutil, "disk_usage", real)
        return real(tmp_path)

    monkeypatch.setattr(shutil, "disk_usage", remove_once)
    assert run(option_file, tmp_path / "in", tmp_path / "out") == 1
    summary = capsys.readouterr().err.partition("of 6 pictures failed:")[2]
    gone = [index for index in range(6) if not (tmp_path / f"out/{index}.png").exists()]
    lines = summary.strip().splitlines()
    assert gone and len(lines) == len(gone) and "its result was removed during the run" in summary
    for index, line in zip(gone, lines, strict=True):
        assert line.strip().startswith(f"{tmp_path / 'in' / str(index)}.png: ")


@pytest.mark.parametrize("name", ["new/result.webp", "result.JPEG", "result.png"])
def test_one_picture_is_written_to_the_file_that_is_named(option_file, tmp_path, capsys, name):
    write_image(tmp_path / "a.png", noise(6, 5))
    assert run(option_file, tmp_path / "a.png", tmp_path / "out" / name, "output.format=jpg", "output.suffix=_x4") == 0
    assert names(tmp_path / "out") == [name] and f"results in {tmp_path / 'out' / name}" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / name) as image:
        assert image.size == (20, 24) and image.format == {"webp": "WEBP", "JPEG": "JPEG", "png": "PNG"}[name.partition(".")[2]]
    assert run(option_file, tmp_path / "a.png", tmp_path / "out" / name) == 0
    assert "1 of 1 results existed and were kept" in capsys.readouterr().err


def test_a_folder_named_like_a_picture_is_a_folder(option_file, tmp_path):
    write_image(tmp_path / "a.png", noise(6, 6))
    (tmp_path / "out.png").mkdir()
    assert run(option_file, tmp_path / "a.png", tmp_path / "out.png") == 0
    assert names(tmp_path / "out.png") == ["a.png"]


@pytest.mark.parametrize(
    ("tile", "advised", "not_advised"),
    [("auto", "end other programs", "tile: auto"), (0, "set tile: auto", "less than"), (512, "tile: auto, or less than 512", "programs")],
)
def test_out_of_memory_advises_what_is_not_set_yet(tile, advised, not_advised):
    text = reason(torch.OutOfMemoryError("CUDA out of memory"), Path("a.png"), tile)
    assert text.startswith("a.png: out of memory; ") and advised in text and not_advised not in text


def test_a_disk_that_becomes_full_is_called_one():
    assert reason(OSError(errno.ENOSPC, "No space left on device"), Path("a.png"), 0) == "a.png: the disk is full (No space left on device)"
    denied = PermissionError(errno.EACCES, "Permission denied", ".1.tmp", None, "out/a.png")
    assert reason(denied, Path("a.png"), 0) == "a.png: Permission denied: out/a.png"


def scored(option_file: Path, folder: Path, name: str = "a") -> list[str]:
    """The arguments for one pair of pictures that are scored."""
    write_image(folder / f"lr/{name}.png", noise(12, 12))
    write_image(folder / f"hr/{name}.png", noise(48, 48, 1))
    sets = [f"datasets.test.set.dataroot_lq={folder / 'lr'}", f"datasets.test.set.dataroot_gt={folder / 'hr'}", "report=true"]
    return ["-opt", str(option_file), "-o", str(folder / "out"), "--force_yml", *sets]


@pytest.mark.parametrize("left", [0, 1, 3, 4])
def test_a_disk_that_is_full_when_scores_are_written_costs_the_scores_only(option_file, tmp_path, monkeypatch, capsys, left):
    arguments = scored(option_file, tmp_path)
    room, replace = [left + 2], os.replace  # the result and its sheet

    def full_later(source, target):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_later)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "scores or sheets could not be written (No space left on device)" in error and "Traceback" not in error
    files = ["a.png", "comparison/a.png", "comparison_overview.png", "metrics.json", "metrics.csv", "metrics.md"][: left + 2]
    assert names(tmp_path / "out") == sorted(files)
    monkeypatch.undo()
    assert main(arguments) == 0 and "index.html" in names(tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_a_name_that_is_no_unicode_is_restored_and_scored(option_file, tmp_path):
    assert main(scored(option_file, tmp_path, os.fsdecode(b"caf\xe9"))) == 0
    assert {os.fsencode(name) for name in names(tmp_path / "out")} >= {b"caf\xe9.png", b"metrics.md", b"metrics.csv", b"index.html"}
    assert "caf\\udce9.png" in (tmp_path / "out/metrics.csv").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_runs_into_one_folder_do_each_other_no_harm(option_file, tmp_path):
    for index in range(8):
        write_image(tmp_path / f"in/{index}.png", noise(24, 24, index))
    command = [sys.executable, str(ROOT / "test_d3sr.py"), "-opt", str(option_file), "-i", str(tmp_path / "in"), "-o"]
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda _: subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True), range(2))
        assert [(done.returncode, done.stderr) for done in runs if done.returncode] == []
    assert run(option_file, tmp_path / "in", tmp_path / "one") == 0
    assert names(tmp_path / "out") == names(tmp_path / "one")
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "one" / name).read_bytes() for name in names(tmp_path / "one"))
