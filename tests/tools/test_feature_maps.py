"""Fig. 4: the maps are the trunk's own, scales are shared, and the figure holds what it should."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from data.image_io import write_image
from losses.dists import build_dists
from losses.features import BACKBONES
from losses.perceptual import build_perceptual
from losses.settings import PerceptualSettings
from losses.sobel import sobel
from tools.feature_maps import main
from tools.figures.feature_maps import NAMES, both_distances, coloured, feature_rows


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for seed, name in enumerate(("hr", "sr")):
        write_image(tmp_path / f"{name}.png", picture(seed))
    return [str(tmp_path / f"{name}.png") for name in ("hr", "sr")]


def test_maps_are_the_mean_activations_of_picture_and_edges() -> None:
    distance = build_perceptual(PerceptualSettings(type="ea_dists", weight=1, backbone="squeezenet1_1", backbone_weights="random"))
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    rows, edges = feature_rows(distance, image), sobel(image[None])
    trunk = build_dists("squeezenet1_1", "random", None).features
    for found, seen in ((rows.of_pictures, image[None]), (rows.of_edges, edges)):
        assert [tuple(one.shape) for one in found] == [tuple(tap.shape[2:]) for tap in trunk(seen)]
        for one, tap in zip(found, trunk(seen), strict=True):
            torch.testing.assert_close(one, tap[0].mean(0))
    torch.testing.assert_close(rows.edges, edges[0])


def test_ea_dists_is_dists_of_pictures_plus_dists_of_edges() -> None:
    distance = build_perceptual(PerceptualSettings(type="ea_dists", weight=1, backbone="squeezenet1_1", backbone_weights="random"))
    sr, hr = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    plain = build_dists("squeezenet1_1", "random", None)
    dists, ea_dists = both_distances(distance, sr, hr)
    assert dists == pytest.approx(float(plain(sr[None], hr[None])), rel=1e-5)
    assert ea_dists - dists == pytest.approx(float(plain(sobel(sr[None]), sobel(hr[None]))), rel=1e-4)


def test_maps_of_one_kind_share_a_scale_that_begins_at_zero() -> None:
    dark, bright = coloured([torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 4.0]])])
    table = np.round(matplotlib.colormaps["magma"](np.array([0.0, 1.0]))[:, :3] * 255)
    assert np.array_equal(dark[0, 0], table[0]) and np.array_equal(bright[0, 1], table[1])
    levels = [int(cell.sum()) for cell in (*dark[0], *bright[0])]
    assert levels == sorted(levels) and len(set(levels)) == 4
    assert np.array_equal(coloured([torch.zeros(2, 2)])[0][0, 0], table[0]), "a map of zeros is black"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", NAMES)
def test_the_figure_has_two_lines_a_picture_and_a_column_a_tap(files: list[str], tmp_path: Path, capsys, backbone: str) -> None:
    out = tmp_path / "figures/four"
    assert main([*files, "-o", str(out), "--backbone", backbone, "--weights", "random", "--labels", "HR", "tiny"]) == 0
    assert capsys.readouterr().out.split() == [f"{out}.{ending}" for ending in ("pdf", "svg", "png")]
    svg = out.with_suffix(".svg").read_text(encoding="utf-8")
    for text in ("input", *NAMES[backbone], "HR: DISTS", "HR: EA-DISTS adds", "tiny: DISTS", "tiny: EA-DISTS adds"):
        assert svg.count(f">{text}</text>") == 1
    assert svg.count("<image ") == 4 * (len(NAMES[backbone]) + 1)
    with Image.open(out.with_suffix(".png")) as sheet:
        assert sheet.width == 1650


def test_the_names_of_the_taps_are_as_many_as_the_taps() -> None:
    assert {name: len(taps) for name, taps in NAMES.items()} == {name: len(backbone.taps) for name, backbone in BACKBONES.items()}


@pytest.mark.slow
def test_distances_are_printed_where_alpha_and_beta_are_given(files: list[str], tmp_path: Path, capsys) -> None:
    weights = tmp_path / "dists.pth"
    torch.save({"alpha": torch.full((1, 1475, 1, 1), 0.1), "beta": torch.full((1, 1475, 1, 1), 0.1)}, weights)
    assert main([*files, "-o", str(tmp_path / "four"), "--weights", "random", "--dists_weights", str(weights), "--crop", "8,4,40,32"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("sr and hr: DISTS 0.") and ", EA-DISTS " in first
    dists, ea_dists = (float(text.split()[-1]) for text in first.split(": ")[1].split(","))
    assert ea_dists > dists > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--crop", "40,0,32,8"], "--crop: 40,0,32,8 leaves a picture of 64x48 pixels"),
        (["--crop", "a"], "--crop: expected left,top,width,height"),
        (["--labels", "x"], "--labels: expected 2 different ones, got x"),
        (["--weights", "nowhere.pth"], "there is no file nowhere.pth"),
        (["--width", "0"], "--width must be above 0"),
    ],
)
def test_mistakes_are_explained(files: list[str], tmp_path: Path, capsys, arguments: list[str], said: str) -> None:
    assert main([*files, "-o", str(tmp_path / "four"), "--backbone", "squeezenet1_1", "--weights", "random", *arguments]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "four.png").exists()


def test_pictures_of_different_sizes_are_named(files: list[str], tmp_path: Path, capsys) -> None:
    write_image(Path(files[1]), picture(1, 48, 60))
    assert main([*files, "-o", str(tmp_path / "four"), "--weights", "random"]) == 2
    assert "one size: hr 64x48, sr 60x48" in capsys.readouterr().err
