from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image_io import write_image
from tools.compare_crops import main


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    """Two images of 96 x 64 pixels: HR, LR, two methods that differ in one corner of the second."""
    generator = np.random.default_rng(0)
    for name in ("a", "sub/b"):
        hr = generator.integers(80, 120, (64, 96, 3), dtype=np.uint8)
        write_image(tmp_path / "hr" / f"{name}.png", hr)
        write_image(tmp_path / "lr" / f"{name}.png", hr[::4, ::4])
        write_image(tmp_path / "one" / f"{name}.png", hr)
        hr = hr.copy()
        hr[40:56, 70:86] = 255 if name == "sub/b" else hr[40:56, 70:86]
        write_image(tmp_path / "two" / f"{name}_x4.png", hr)
    return {root: tmp_path / root for root in ("hr", "lr", "one", "two", "out/figure")}


def draw(roots: dict[str, Path], *more: str) -> int:
    methods = [f"One & only={roots['one']}", f"two={roots['two']}"]
    return main(["--results", *methods, "--suffix", "two=_x4", "-o", str(roots["out/figure"]), *more])


@pytest.mark.slow
def test_all_pictures_are_labelled_in_order_and_boxes_are_told(roots: dict[str, Path], capsys) -> None:
    assert (
        draw(
            roots,
            "--hr",
            str(roots["hr"]),
            "--lr",
            str(roots["lr"]),
            "--images",
            "sub/b",
            "a",
            "--boxes",
            "auto",
            "0,8,32,24",
            "--box_size",
            "20",
        )
        == 0
    )
    first, second, *files = capsys.readouterr().out.splitlines()
    left, top, width, height = (int(number) for number in first.removeprefix("sub/b: box ").split(","))
    assert (width, height) == (20, 20) and left <= 70 and left + 20 >= 86 and top <= 40 and top + 20 >= 56, "not where the methods differ"
    assert second == "a: box 0,8,32,24"
    assert files == [str(roots["out/figure"].with_suffix(ending)) for ending in (".pdf", ".svg", ".png")]
    svg = roots["out/figure"].with_suffix(".svg").read_text(encoding="utf-8")
    places = [svg.index(f">{text}</text>") for text in ("b", "LR (bicubic)", "One &amp; only", "two", "HR", "a")]
    assert places == sorted(places)
    with Image.open(roots["out/figure"].with_suffix(".png")) as picture:
        assert picture.width == 1650


def test_lr_can_be_shown_in_its_own_pixels_and_figures_be_narrow(roots: dict[str, Path]) -> None:
    assert (
        draw(roots, "--lr", str(roots["lr"]), "--lr_as", "pixels", "--width", "3.25", "--images", "a", "--rows", "1", "--box_size", "16")
        == 0
    )
    svg = roots["out/figure"].with_suffix(".svg").read_text(encoding="utf-8")
    assert ">LR</text>" in svg and "bicubic" not in svg
    with Image.open(roots["out/figure"].with_suffix(".png")) as picture:
        assert picture.width == 975


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images", "c"], "--images: c is not in"),
        (["--images", "a", "--boxes", "1,2,3"], "--boxes: expected left,top,width,height in pixels or auto, got '1,2,3'"),
        (["--images", "a", "--boxes", "90,0,20,20"], "a: the box 90,0,20,20 leaves the picture of 96x64 pixels"),
        (["--images", "a", "--boxes", "auto", "auto"], "--boxes: expected one for each of 1 images, got 2"),
        (["--images", "a", "--box_size", "65"], "a box of 65x65 pixels does not fit"),
        (["--width", "0"], "--width must be above 0"),
        (["--suffix", "three=_x"], "--suffix: three is none of"),
        (["--results", "HR=elsewhere"], "HR is a label of its own"),
    ],
)
def test_mistakes_are_explained(roots: dict[str, Path], capsys, arguments: list[str], said: str) -> None:
    assert draw(roots, *arguments) == 2
    assert said in capsys.readouterr().err and not roots["out/figure"].with_suffix(".png").exists()


def test_pictures_of_another_size_are_named(roots: dict[str, Path], capsys) -> None:
    write_image(roots["one"] / "a.png", np.zeros((64, 95, 3), np.uint8))
    assert draw(roots, "--images", "a", "--box_size", "16") == 2
    assert "a: One & only has 95x64 pixels, two 96x64" in capsys.readouterr().err
