import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from scoring.metrics import build_metric
from scoring.report import (
    ImageScores,
    comparison_sheet,
    image_table,
    mean_scores,
    mean_table,
    means_table,
    picture_sheet,
    score_image,
    write_report,
)

METRICS = [
    SimpleNamespace(name="psnr", type="psnr", lower_better=False, best_at=None, options={"color_space": "ycbcr"}),
    SimpleNamespace(name="niqe", type="niqe", lower_better=True, best_at=None, options={}),
]
ROWS = [
    ImageScores(image="a.png", scores={"ours": {"psnr": 30.0, "niqe": 4.0}, "bicubic": {"psnr": 28.0, "niqe": 9.0}}),
    ImageScores(image="sub/b|c.png", scores={"ours": {"psnr": 20.0, "niqe": None}, "bicubic": {"psnr": 24.0, "niqe": None}}),
]


def test_every_method_is_scored_ours_first_and_gaps_are_told():
    def metric(picture, hr):
        if picture is BICUBIC:
            raise ValueError("too small")
        return float(picture.mean() + hr.mean())

    metric.name = "sum"
    messages = []
    pictures = {"bicubic": BICUBIC, "ours": plain(2, 2, (3, 3, 3)), "HR": plain(2, 2, (4, 4, 4))}
    row = score_image("a.png", pictures, [metric], messages.append)
    assert list(row.scores.items()) == [("ours", {"sum": 7.0}), ("bicubic", {"sum": None})]
    assert messages == ["not scored: a.png (bicubic): too small"]


def test_means_leave_out_what_could_not_be_scored():
    assert mean_scores(ROWS) == {"ours": {"psnr": 25.0, "niqe": 4.0}, "bicubic": {"psnr": 26.0, "niqe": 9.0}}
    assert mean_scores([ROWS[1]])["ours"] == {"psnr": 20.0, "niqe": None}


def test_mean_table_has_arrows_and_the_best_in_bold():
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in mean_table(ROWS, METRICS).splitlines()]
    assert lines[0] == ["mean of 2", "psnr ↑", "niqe ↓"]
    assert lines[2:] == [["ours", "25.0000", "**4.0000**"], ["bicubic", "**26.0000**", "9.0000"]]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_means_table_marks_best_and_second_best_by_their_direction():
    means = {"a": {"psnr": 30.0, "niqe": 4.0}, "b": {"psnr": 28.0, "niqe": 3.0}, "c": {"psnr": 29.0, "niqe": 5.0}, "HR": {"niqe": 1.0}}
    heading, _, *lines = cells(means_table(means, METRICS, "title", unmarked=["HR"]))
    assert heading == ["title", "psnr ↑", "niqe ↓"]
    assert lines == [
        ["a", "**30.0000**", "<u>4.0000</u>"],
        ["b", "28.0000", "**3.0000**"],
        ["c", "<u>29.0000</u>", "5.0000"],
        ["HR", "–", "1.0000"],
    ]


def test_a_score_that_can_be_too_high_or_too_low_is_best_where_hr_is() -> None:
    metrics = [build_metric(name, name) for name in ("acutance", "flat_texture", "fringe")]
    means = {
        "blurred": {"acutance": 0.5, "flat_texture": -0.6, "fringe": 0.3},
        "good": {"acutance": 0.9, "flat_texture": 0.1, "fringe": 0.2},
        "sharpened": {"acutance": 1.3, "flat_texture": 0.4, "fringe": 0.1},
    }
    heading, _, *lines = cells(means_table(means, metrics, "title"))
    assert heading == ["title", "acutance → 1", "flat_texture → 0", "fringe ↓"]
    assert lines == [
        ["blurred", "0.5000", "-0.6000", "0.3000"],
        ["good", "**0.9000**", "**0.1000**", "<u>0.2000</u>"],
        ["sharpened", "<u>1.3000</u>", "<u>0.4000</u>", "**0.1000**"],
    ]


def test_image_table_has_a_line_per_image_and_escapes_bars():
    lines = image_table(ROWS, METRICS).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")][1:-1] == [
        "image",
        "psnr ↑ ours",
        "psnr ↑ bicubic",
        "niqe ↓ ours",
        "niqe ↓ bicubic",
    ]
    assert "sub/b\\|c.png" in lines[3] and lines[3].count("–") == 2
    assert len({len(line) for line in lines}) == 1


def test_report_files_agree_with_each_other(tmp_path):
    write_report(tmp_path / "new", ROWS, METRICS, {"scale": 4})
    document = json.loads((tmp_path / "new/metrics.json").read_text(encoding="utf-8"))
    assert document["protocol"] == {"scale": 4}
    assert set(document["libraries"]) == {"pyiqa", "torch", "numpy"}
    assert document["metrics"]["niqe"] == {"type": "niqe", "lower_better": True, "options": {}}
    assert document["mean"] == mean_scores(ROWS)
    assert document["images"][1]["scores"]["ours"] == {"psnr": 20.0, "niqe": None}
    with open(tmp_path / "new/metrics.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["image", "psnr", "niqe", "bicubic_psnr", "bicubic_niqe"]
    assert lines[1:] == [
        ["a.png", "30.0", "4.0", "28.0", "9.0"],
        ["sub/b|c.png", "20.0", "", "24.0", ""],
        ["mean", "25.0", "4.0", "26.0", "9.0"],
    ]
    text = (tmp_path / "new/metrics.md").read_text(encoding="utf-8")
    assert mean_table(ROWS, METRICS) in text and image_table(ROWS, METRICS) in text and "- scale: 4" in text
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["metrics.csv", "metrics.json", "metrics.md"]


def plain(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


BICUBIC = plain(2, 2, (1, 1, 1))
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


def columns_of(sheet: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.flatnonzero((sheet == colour).all(axis=2).any(axis=0))


def test_comparison_sheet_shows_whole_pictures_in_order_below_dark_labels():
    sheet = comparison_sheet([plain(100, 150, colour) for colour in COLOURS], ["bicubic", "ours", "HR"])
    assert sheet.dtype == np.uint8
    areas = [(sheet == colour).all(axis=2).sum() for colour in COLOURS]
    assert areas == [15000, 15000, 15000]
    assert columns_of(sheet, COLOURS[0]).max() < columns_of(sheet, COLOURS[1]).min() < columns_of(sheet, COLOURS[2]).min()
    first_row = np.flatnonzero((sheet == COLOURS[0]).all(axis=2).any(axis=1)).min()
    for colour in COLOURS:
        label = sheet[:first_row, columns_of(sheet, colour)]
        assert label.min() < 80, "no ink above the picture"
        assert (sheet[0] == 255).all(), "a label touches the edge"


def test_comparison_sheet_is_bounded():
    sheet = comparison_sheet([plain(900, 1200, colour) for colour in COLOURS], ["bicubic", "ours", "HR"], max_side=1000)
    assert sheet.shape[1] <= 1000
    assert len(columns_of(sheet, COLOURS[2])) == pytest.approx(322, abs=2)
    tall = comparison_sheet([plain(3000, 30, colour) for colour in COLOURS], ["bicubic", "ours", "HR"], max_side=1000)
    assert tall.shape[0] <= 1000


def test_picture_sheet_shows_the_middle_and_takes_different_sizes():
    large = plain(700, 500, (9, 9, 9))
    large[350 - 10 : 350 + 10, 250 - 10 : 250 + 10] = (250, 0, 250)
    sheet = picture_sheet(
        [[large, large], [plain(3, 5, (0, 200, 0)), plain(3, 5, (0, 0, 200))]], ["ours", "HR"], ["x" * 500, "b.png"], cell=200
    )
    assert (sheet == (250, 0, 250)).all(axis=2).sum() == 2 * 400
    assert (sheet == (9, 9, 9)).all(axis=2).sum() == 2 * (200 * 200 - 400)
    assert (sheet == (0, 200, 0)).all(axis=2).sum() == 15
    assert sheet.shape[1] <= 2 * (200 + 8) + 8


def test_rows_must_have_a_picture_for_each_label():
    with pytest.raises(ValueError, match="bicubic, ours"):
        picture_sheet([[plain(4, 4, COLOURS[0])]], ["bicubic", "ours"])


ODD = "sub/two\nlines\x1b[2J\udcff <b>|=.png"


def test_a_name_that_is_no_unicode_and_one_that_acts_are_shown_escaped_in_every_file(tmp_path):
    rows = [ImageScores(image=ODD, scores=ROWS[0].scores)]
    write_report(tmp_path, rows, METRICS, {"dataroot_lq": f"<i>{ODD}"})
    texts = {name: (tmp_path / f"metrics.{name}").read_text(encoding="utf-8") for name in ("json", "csv", "md")}
    assert [text for text in texts.values() if "\x1b" in text] == []
    assert texts["csv"].splitlines()[1].startswith("sub/two\\nlines\\x1b[2J\\udcff <b>|=.png,30.0,")
    assert "| sub/two lines\\x1b[2J\\udcff &lt;b&gt;\\|=.png |" in texts["md"] and "- dataroot_lq: &lt;i&gt;sub/two" in texts["md"]
    assert json.loads(texts["json"])["images"][0]["image"] == ODD, "JSON has an escape of its own for it, which is read back"


def test_a_sheet_is_drawn_whatever_its_names_hold():
    sheet = picture_sheet([[plain(4, 4, COLOURS[0])] * 2], ["bicubic", ODD], [ODD])
    assert (sheet == COLOURS[0]).all(axis=2).sum() == 2 * 16
