"""Where boxes and crops lie, checked in the pixels of the figure itself."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.figures.crop_figure import GAP, LINE, MARGIN, Block, busiest_box, draw_crops, lay_out
from tools.figures.figures import PICTURE_DPI, fitting_size, text_width

COLOURS = [(0, 120, 0), (0, 0, 180), (200, 200, 0), (120, 0, 160), (0, 200, 200)]
RED = (230, 0, 45)


def plain(colour: tuple[int, int, int], height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def block(crops: int, box=(20, 10, 24, 16)) -> Block:
    pictures = {f"method {number}": plain((50, 70, 30)) for number in range(crops)}
    left, top, width, height = box
    for picture, colour in zip(pictures.values(), COLOURS, strict=False):
        picture[top : top + height, left : left + width] = colour
    return Block(title="a picture", whole=plain((150, 110, 90)), box=box, crops=pictures)


def area(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the pixels of one colour."""
    rows, columns = np.nonzero((np.abs(sheet.astype(int) - colour) <= 2).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.slow
def test_the_box_is_where_it_should_be_and_the_crops_show_it_alone(tmp_path: Path) -> None:
    files = draw_crops(tmp_path / "figure", [block(5)], 5.5)
    assert [file.name for file in files] == ["figure.pdf", "figure.svg", "figure.png"]
    sheet = read(files[2])
    assert sheet.shape[1] == round(5.5 * PICTURE_DPI)
    left, top, right, bottom = area(sheet, (150, 110, 90))
    pixel = (right - left) / 80  # of the whole picture, on the sheet
    assert (bottom - top) / 60 == pytest.approx(pixel, rel=0.01)
    box = area(sheet, RED)
    expected = (left + 20 * pixel, top + 10 * pixel, left + 44 * pixel, top + 26 * pixel)
    assert box == pytest.approx(expected, abs=4), "the line is drawn on the box's edge"
    for colour in COLOURS:
        x, y, x_end, y_end = area(sheet, colour)
        assert (x_end - x) / (y_end - y) == pytest.approx(24 / 16, rel=0.01)
        assert (sheet[y + 1 : y_end - 1, x + 1 : x_end - 1] == colour).all(), "nothing but the box is in the crop"
    assert not (np.abs(sheet.astype(int) - (50, 70, 30)) <= 2).all(axis=2).any(), "something beside the box is shown"


def test_crops_stand_in_rows_without_overlap_and_end_with_the_picture(tmp_path: Path) -> None:
    sheet = read(draw_crops(tmp_path / "figure", [block(5)], 5.5)[2])
    areas = [area(sheet, colour) for colour in COLOURS]
    for one, other in itertools.combinations(areas, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert areas[0][1] == areas[1][1] == areas[2][1] < areas[3][1] == areas[4][1]
    assert areas[0][0] == areas[3][0] and areas[2][2] == pytest.approx(sheet.shape[1] - MARGIN * PICTURE_DPI, abs=2)
    whole = area(sheet, (150, 110, 90))
    assert (areas[0][1], areas[3][3]) == pytest.approx((whole[1], whole[3]), abs=2)


@pytest.mark.parametrize(("crops", "rows"), [(1, 1), (3, 1), (4, 2), (7, 2), (7, 3)])
def test_a_layout_fills_the_width_and_its_parts_add_up(crops: int, rows: int) -> None:
    layout = lay_out(block(crops), 5.0, rows, lines=2)
    assert layout.whole[0] + layout.columns * (GAP + layout.crop[0]) == pytest.approx(5.0)
    assert rows * (layout.crop[1] + 2 * LINE) + (rows - 1) * GAP == pytest.approx(layout.height)
    assert layout.whole[0] / layout.whole[1] == pytest.approx(80 / 60) and layout.crop[0] / layout.crop[1] == pytest.approx(1.5)


@pytest.mark.slow
def test_labels_are_text_and_below_their_picture(tmp_path: Path) -> None:
    files = draw_crops(tmp_path / "figure", [block(2), block(3)], 5.5)
    svg = files[1].read_text(encoding="utf-8")
    assert [svg.count(f">{text}</text>") for text in ("a picture", "method 0", "method 2")] == [2, 2, 1]
    assert re.search(rb"/Type\s*/Font", files[0].read_bytes()), "the PDF has no text"
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in draw_crops(tmp_path / "figure", [block(2), block(3)], 5.5)] == before


def test_long_labels_get_smaller_and_too_long_ones_are_refused(tmp_path: Path) -> None:
    assert fitting_size([("short", 3.0)], 7.0) == 7.0
    size = fitting_size([("a label that is rather long", 1.0)], 7.0)
    assert size < 7.0 and text_width("a label that is rather long", size) == pytest.approx(0.95, rel=0.02)
    long = block(3)
    long.crops["x" * 200] = long.crops.pop("method 0")
    with pytest.raises(ValueError, match="x' does not fit into .* inches"):
        draw_crops(tmp_path / "figure", [long], 5.5)


def test_a_box_outside_of_the_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a picture: the box 60,10,24,16 leaves the picture of 80x60 pixels"):
        draw_crops(tmp_path / "figure", [Block(title="a picture", whole=plain(RED), box=(60, 10, 24, 16), crops={"a": plain(RED)})], 5.5)


def test_the_busiest_box_is_where_pictures_differ() -> None:
    one, other = plain((90, 90, 90)), plain((90, 90, 90))
    other[30:38, 50:58] = (180, 90, 10)
    left, top, width, height = busiest_box([one, other], 12, 10)
    assert (width, height) == (12, 10) and left <= 50 and left + 12 >= 58 and top <= 30 and top + 10 >= 38
    assert busiest_box([other], 20, 20)[:2] != (0, 0)
    with pytest.raises(ValueError, match="81x10 pixels does not fit"):
        busiest_box([one], 81, 10)
