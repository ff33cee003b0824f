"""test_d3sr.py with a size to reach instead of a factor, and with factors below the network's own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image_io import read_image, write_image
from test_d3sr import main
from tests.restoring_script import write_option_file, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "nothing")


@pytest.fixture
def option_file(weights, tmp_path) -> Path:
    return write_option_file(tmp_path, weights)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Small, wide, high, large, and one that EXIF turns upright."""
    for name, (height, width) in {"small": (6, 10), "wide": (20, 30), "high": (30, 20), "large": (50, 70)}.items():
        write_image(tmp_path / f"in/{name}.png", noise(height, width))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(20, 30)).save(tmp_path / "in/turned.jpg", exif=exif)
    return tmp_path / "in"


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, (height, width, 3), np.uint8)


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.stem: read_image(path).shape[:2] for path in folder.glob("*.png")}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("long_side=60", {"small": (24, 40), "wide": (40, 60), "high": (60, 40), "turned": (60, 40), "large": (50, 70)}),
        ("short_side=24", {"small": (24, 40), "wide": (24, 36), "high": (36, 24), "turned": (36, 24), "large": (50, 70)}),
        ("width=40", {"small": (24, 40), "wide": (27, 40), "high": (60, 40), "turned": (60, 40), "large": (50, 70)}),
        ("height=33", {"small": (24, 40), "wide": (33, 50), "high": (33, 22), "turned": (33, 22), "large": (50, 70)}),
        ("megapixels=0.0024", {"small": (24, 40), "wide": (40, 60), "high": (60, 40), "turned": (60, 40), "large": (50, 70)}),
    ],
)
def test_every_picture_gets_the_size_as_far_as_the_network_goes(option_file, pictures, tmp_path, capsys, size, expected):
    assert main(["-opt", str(option_file), "-i", str(pictures), "-o", str(tmp_path / "out"), "--force_yml", f"size.{size}"]) == 0
    assert sizes(tmp_path / "out") == expected
    notes = [line for line in capsys.readouterr().err.splitlines() if "(x1)" in line or "size.beyond" in line]
    exactly = size in ("short_side=24", "width=40")  # of the small one, x4
    assert sorted(line.split(": ")[0].rpartition("/")[2] for line in notes) == (["large.png"] if exactly else ["large.png", "small.png"])


def test_asked_for_pictures_go_beyond_the_network(option_file, pictures, tmp_path, capsys):
    command = ["-opt", str(option_file), "-i", str(pictures / "small.png"), "-o", str(tmp_path / "out")]
    assert main([*command, "--force_yml", "size={long_side: 77, beyond: true}"]) == 0
    assert sizes(tmp_path / "out") == {"small": (46, 77)} and "size." not in capsys.readouterr().err


def test_results_of_another_size_are_recognised_and_those_of_the_same_kept(option_file, pictures, tmp_path, capsys):
    def said(*changes: str) -> str:
        capsys.readouterr()
        command = ["-opt", str(option_file), "-i", str(pictures), "-o", str(tmp_path / "out")]
        assert main([*command, *(["--force_yml", *changes] if changes else [])]) == 0
        return capsys.readouterr().err

    said("size.long_side=40")
    kept = said("size.long_side=40")
    assert "5 of 5 results existed and were kept" in kept and "WARNING" not in kept
    for changes in (["size.long_side=41"], ["size.width=40"], ["size={long_side: 40, beyond: true}"], []):
        told = said(*changes)
        anew = told.count("restored anew")
        assert f"WARNING: {5 - anew} of them were made from other pictures or with other settings" in told


def test_a_set_with_hr_has_its_factor_and_others_say_their_size(option_file, pictures, tmp_path, capsys):
    lr = [f"datasets.test.mine.dataroot_lq={pictures}", "size.long_side=44", "report=true"]
    command = ["-opt", str(option_file), "-o", str(tmp_path / "out")]
    for arguments in ([], ["--dry-run"]):
        assert main([*command, *arguments, "--force_yml", *lr, f"datasets.test.mine.dataroot_gt={pictures}"]) == 2
        error = capsys.readouterr().err
        assert error == (
            "test_d3sr.py: size: expected null with datasets.test.mine.dataroot_gt, since HR is scale times LR; set scale instead\n"
        )
    assert main([*command, "--dry-run", "--force_yml", *lr]) == 0
    assert "size: long_side 44, not scale" in capsys.readouterr().out
    assert main([*command, "--force_yml", *lr]) == 0
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "long_side 44" in page and "scale" not in page.split("<figure")[0].split("</style>")[-1]
    alone = [*command, "-i", str(pictures), "--force_yml", *lr, f"datasets.test.mine.dataroot_gt={pictures}"]
    assert main(alone) == 0, "pictures of the command line are not compared with HR"


@pytest.mark.parametrize("scale", [1, 2, 1.5])
def test_factors_below_the_networks_own_restore_only(option_file, pictures, tmp_path, scale):
    command = ["-opt", str(option_file), "-i", str(pictures), "-o", str(tmp_path / "out"), "--force_yml", f"scale={scale}"]
    assert main(command) == 0
    expected = {"small": (6, 10), "wide": (20, 30), "high": (30, 20), "turned": (30, 20), "large": (50, 70)}
    assert sizes(tmp_path / "out") == {name: (round(h * scale), round(w * scale)) for name, (h, w) in expected.items()}
    if scale == 1:  # the network that does nothing, on what is not enlarged
        result = read_image(tmp_path / "out/wide.png").astype(int)
        assert np.abs(result - read_image(pictures / "wide.png")).max() <= 1
