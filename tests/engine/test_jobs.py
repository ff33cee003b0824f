from pathlib import Path

import pytest

from engine.jobs import OVERVIEW, make_set, output_names


def names(*relatives: str) -> list[str]:
    return [path.as_posix() for path in output_names(map(Path, relatives))]


def test_results_are_png_and_keep_sub_folders():
    assert names("a.jpg", "sub/a.jpg", "photo.final.webp", "UPPER.JPG") == ["a.png", "sub/a.png", "photo.final.png", "UPPER.png"]


def test_no_two_results_share_a_name():
    assert names("a.png", "a.jpg", "a.JPG", "a_jpg.png") == ["a.png", "a_jpg.png", "a_jpg_2.png", "a_jpg_png.png"]
    assert names("B.png", "b.png") == ["B.png", "b_png.png"], "B.png and b.png are one file on some disks"
    assert names("b.png", "B.png") == ["b.png", "B_png.png"]
    assert names(OVERVIEW) == ["comparison_overview_png.png"]


def test_a_result_may_not_replace_an_input(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="replace an input"):
        make_set(None, tmp_path, [(tmp_path / "a.png", Path("a.png"), None)])
    with pytest.raises(ValueError, match="replace an input"):
        make_set("set", tmp_path / "sub/..", [(Path("elsewhere/a.png"), Path("a.png"), tmp_path / "a.png")])
    jobs = make_set(None, tmp_path, [(tmp_path / "a.jpg", Path("a.jpg"), None)]).jobs
    assert jobs[0].output == Path("a.png")


def test_sheets_and_results_do_not_mix(tmp_path):
    with pytest.raises(ValueError, match="comparison"):
        make_set("set", tmp_path, [(Path("lr/comparison/a.png"), Path("comparison/a.png"), Path("hr/comparison/a.png"))])
