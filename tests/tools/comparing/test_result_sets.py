from pathlib import Path

import numpy as np
import pytest

from data.image_io import write_image
from tools.comparing.result_sets import Crop, check_sizes, match_folders


def folder(root: Path, *names: str, size: tuple[int, int] = (6, 8)) -> Path:
    for name in names:
        write_image(root / f"{name}.png", np.zeros((*size, 3), np.uint8))
    return root


def test_pictures_match_by_name_whatever_the_order_and_the_suffix(tmp_path: Path) -> None:
    hr = folder(tmp_path / "hr", "a2", "a10", "sub/b")
    sets = match_folders({"HR": hr, "mine": folder(tmp_path / "mine", "sub/b_x4", "a10_x4", "a2_x4")}, {"mine": "_x4"})
    assert sets.names == ["a2", "a10", "sub/b"] and sets.problems() == []
    assert sets.files["mine"]["sub/b"] == tmp_path / "mine/sub/b_x4.png" and sets.files["HR"]["a2"] == hr / "a2.png"


def test_missing_and_extra_pictures_are_named(tmp_path: Path) -> None:
    folders = {
        "HR": folder(tmp_path / "hr", "a", "b", "c"),
        "one": folder(tmp_path / "one", "a", "b", "c", "d"),
        "two": folder(tmp_path / "two", "a_out", "c_out", "b"),
    }
    sets = match_folders(folders, {"two": "_out"})
    assert sets.names == ["a", "c"]
    assert sets.missing == {"HR": [], "one": [], "two": ["b"]} and sets.extra == {"HR": [], "one": ["d"], "two": ["b"]}
    assert sets.problems() == ["two: 1 missing:\n  b", "one: 1 extra:\n  d", "two: 1 extra:\n  b"]


def test_names_that_are_no_results_are_left_out(tmp_path: Path) -> None:
    mine = folder(tmp_path / "mine", "a", "overview", "sheets/a")
    sets = match_folders({"HR": folder(tmp_path / "hr", "a"), "mine": mine}, ignore=lambda name: name.startswith(("overview", "sheets/")))
    assert sets.problems() == []


def test_folders_without_a_common_name_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"HR has a; mine has a_out.*NAME=SUFFIX"):
        match_folders({"HR": folder(tmp_path / "hr", "a"), "mine": folder(tmp_path / "mine", "a_out")})


@pytest.mark.parametrize(
    ("crop", "window"),
    [
        (Crop(), (0, 0, 10, 13)),
        (Crop(border=2), (2, 2, 6, 9)),
        (Crop(centre=4), (3, 4, 4, 4)),
        (Crop(border=3, centre=4), (3, 4, 4, 4)),
    ],
)
def test_a_crop_is_where_it_should_be(crop: Crop, window: tuple[int, int, int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (10, 13, 3), dtype=np.uint8)
    top, left, height, width = window
    assert crop.window(10, 13) == window
    assert np.array_equal(crop.of(picture), picture[top : top + height, left : left + width])


def test_pictures_of_other_sizes_or_too_small_are_named(tmp_path: Path) -> None:
    folders = {"HR": folder(tmp_path / "hr", "a", "b"), "mine": folder(tmp_path / "mine", "a")}
    folder(tmp_path / "mine", "b", size=(6, 9))
    sets = match_folders(folders)
    with pytest.raises(ValueError, match=r"1 pictures cannot be compared:\n  b: HR 8x6, mine 9x6$"):
        check_sizes(sets, ["HR", "mine"], Crop())
    with pytest.raises(ValueError, match=r"2 pictures.*\n  a: 8x6 pixels leave less than 7 pixels within a border of 0\n"):
        check_sizes(sets, ["HR"], Crop(centre=7))
    with pytest.raises(ValueError, match="less than a pixel within a border of 3"):
        check_sizes(sets, ["HR"], Crop(border=3))
    check_sizes(sets, ["HR"], Crop(border=2, centre=2))
