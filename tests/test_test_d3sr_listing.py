"""What test_d3sr.py says of files that it passes over or cannot list, and of pairs whose names differ."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.image_io import write_image
from test_d3sr import main
from tests.data.test_listing import locked
from tests.restoring_script import write_option_file, write_weights

PICTURE = np.full((4, 4, 3), 128, dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "nothing")


@pytest.fixture
def option_file(weights: Path, tmp_path: Path) -> str:
    return str(write_option_file(tmp_path, weights))


def results(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_what_is_passed_over_is_one_line_and_what_cannot_be_listed_a_failure(option_file, tmp_path, monkeypatch, capsys):
    for name in ("open/a.png", "shut/b.png"):
        write_image(tmp_path / "in" / name, PICTURE)
    cv2.imwrite(str(tmp_path / "in/c.jpg"), PICTURE)
    (tmp_path / "in/c.jpg").rename(tmp_path / "in/c.jfif")
    for name in ("d.mov", "e.MOV", "f.psd", "notes.txt"):
        (tmp_path / "in" / name).touch()
    os.mkfifo(tmp_path / "in/pipe.png")
    locked(monkeypatch, tmp_path / "in" / "shut")
    command = ["-opt", option_file, "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "input: 2 pictures" in said and "3 passed over: .mov 2, .psd 1" in said and f"CANNOT BE READ: {tmp_path}/in/shut" in said
    assert main(command) == 1
    assert results(tmp_path / "out") == ["c.png", "open/a.png"]
    *_, passed_over, summary, first, second = capsys.readouterr().err.splitlines()
    assert passed_over == "3 passed over: .mov 2, .psd 1" and summary == "2 of 4 pictures failed:"
    assert {first.strip(), second.strip()} == {
        f"{tmp_path}/in/shut: could not be opened (Permission denied)",
        f"{tmp_path}/in/pipe.png: not a regular file",
    }


def test_lines_that_are_no_names_fail_and_the_others_are_done(option_file, tmp_path, capsys):
    write_image(tmp_path / "p/a.png", PICTURE)
    (tmp_path / "l.txt").write_text(f"# mine\np\\a.png\nb\0.png\n{'x' * 5000}\ngone.png\n")
    assert main(["-opt", option_file, "-i", str(tmp_path / "l.txt"), "-o", str(tmp_path / "out")]) == 1
    assert results(tmp_path / "out") == ["p/a.png"]
    said = capsys.readouterr().err
    assert "3 of 4 pictures failed" in said and "l.txt, line 3: no name" in said and "l.txt, line 4: too long" in said
    assert "gone.png: no such file" in said


def test_pairs_by_known_names_and_by_templates(option_file, tmp_path, capsys):
    for name in ("a", "b"):
        write_image(tmp_path / f"LR/{name}_LR4.png", PICTURE)
        write_image(tmp_path / f"HR/{name}_HR.png", PICTURE.repeat(4, 0).repeat(4, 1))
    roots = [f"datasets.test.s.dataroot_lq={tmp_path}/LR", f"datasets.test.s.dataroot_gt={tmp_path}/HR"]
    templates = ["datasets.test.s.filename_tmpl='{}_LR4'", "datasets.test.s.filename_tmpl_gt='{}_HR'"]
    for out, more, line in (("x", [], True), ("y", templates, False)):
        assert main(["-opt", option_file, "-o", str(tmp_path / out), "--force_yml", *roots, *more]) == 0
        assert {"a_LR4.png", "b_LR4.png"} <= set(results(tmp_path / out)) and (tmp_path / out / "metrics.json").is_file()
        assert ("LR and HR are paired as '{}_LR4' and '{}_HR'" in capsys.readouterr().err) == line
