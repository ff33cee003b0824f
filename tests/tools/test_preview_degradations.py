"""The sheet: HR first, every LR pixel intact and unhidden, the options obeyed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage import data

from degradations.blur import usm_sharpen
from degradations.second_order import degrade
from degradations.stage import Degradation, DegradationStage
from tools.figures.degradations import MARGIN, build_sheet, centre_crop
from tools.preview_degradations import main, parse_args

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(data.astronaut()[:150, 100:301]).save(path)  # 150 x 201
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def holds(sheet: np.ndarray, picture: np.ndarray) -> bool:
    """Whether `picture` stands somewhere in the sheet, pixel for pixel."""
    height, width = picture.shape[:2]
    corners = np.argwhere((sheet[: -height + 1, : -width + 1] == picture[0, 0]).all(-1))
    return any(np.array_equal(sheet[y : y + height, x : x + width], picture) for y, x in corners)


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    return np.kron(np.rint(image * 255).astype(np.uint8), np.ones((factor, factor, 1), np.uint8))


def test_sheet_of_a_photo(photo, tmp_path, capsys):
    out = tmp_path / "new" / "sheet.png"
    main([str(photo), "-o", str(out), "-n", "3", "--seed", "5", "--crop", "120"])
    assert str(out) in capsys.readouterr().out
    sheet = read(out)
    hr = data.astronaut()[15:135, 140:260].astype(np.float32) / 255  # the centre 120 x 120; shown at twice its size
    assert np.array_equal(sheet[MARGIN : MARGIN + 240, MARGIN : MARGIN + 240], enlarged(hr, 2))
    for index in range(3):
        assert holds(sheet, enlarged(degrade(hr, np.random.default_rng([5, index])), 8))
    beside = sheet[:, MARGIN + 240 : MARGIN + 240 + 100]
    assert (beside.min(axis=(1, 2)) < 80).sum() > 20  # dark text on white


def test_examples_do_not_depend_on_their_number():
    hr = data.astronaut()[:64, 128:192].astype(np.float32) / 255
    small, large = (build_sheet(hr, Degradation(), scale=4, num=num, seed=0) for num in (1, 4))
    lr = enlarged(degrade(hr, np.random.default_rng([0, 0])), 16)
    assert holds(small, lr) and holds(large, lr)
    assert not holds(build_sheet(hr, Degradation(), scale=4, num=1, seed=1), lr)
    assert np.array_equal(small, build_sheet(hr, Degradation(), scale=4, num=1, seed=0))


def test_text_is_never_cut_off():
    """The margin to the right of and below every cell stays white, also with the longest texts."""
    plateau = DegradationStage(sinc_prob=0, kernel_list=("generalized_aniso",), kernel_prob=(1.0,))
    sheet = build_sheet(np.full((40, 40, 3), 0.5, np.float32), Degradation(stages=(plateau, plateau)), scale=4, num=5, seed=0)
    cell_width, cell_height = sheet.shape[1] // 3, sheet.shape[0] // 2
    for column in range(1, 4):
        assert (sheet[:, column * cell_width - MARGIN : column * cell_width] == 255).all()
    for row in range(1, 3):
        assert (sheet[row * cell_height - MARGIN : row * cell_height] == 255).all()


def test_options_give_degradation_scale_and_usm(photo, tmp_path):
    weak = DegradationStage(jpeg_range=(95, 95), noise_range=(1, 1), gaussian_noise_prob=1)
    degradation = Degradation(stages=(weak, weak))
    stage = {"jpeg_range": [95, 95], "noise_range": [1, 1], "gaussian_noise_prob": 1}
    changes = {"scale": 2, "datasets": {"train": {"gt_usm": True}}, "degradation": {"stages": [stage, stage]}}
    options = tmp_path / "my.yml"
    options.write_text(yaml.safe_dump({"base": str(ROOT / "options" / "train.yml"), **changes}))
    out = tmp_path / "sheet.png"
    main([str(photo), "-o", str(out), "-n", "1", "--crop", "100", "-opt", str(options)])
    hr = usm_sharpen(data.astronaut()[25:125, 150:250].astype(np.float32) / 255)
    assert holds(read(out), enlarged(degrade(hr, np.random.default_rng([0, 0]), degradation, 2), 6))


def test_centre_crop():
    image = np.arange(10 * 21 * 3).reshape(10, 21, 3)
    assert np.array_equal(centre_crop(image, 256, 4), image[1:9, :20])
    assert np.array_equal(centre_crop(image, 5, 4), image[3:7, 8:12])
    with pytest.raises(ValueError, match="smaller than scale 4"):
        centre_crop(image, 3, 4)


@pytest.mark.parametrize("arguments", [["missing.png"], ["photo.png", "--crop", "2"], ["photo.png", "-o", "sheet.jpg"]])
def test_mistakes_end_with_one_line(photo, monkeypatch, arguments):
    monkeypatch.chdir(photo.parent)
    with pytest.raises(SystemExit, match="^error: "):
        main(arguments)
    assert sorted(path.name for path in photo.parent.iterdir()) == ["photo.png"]


def test_impossible_numbers_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse_args(["photo.png", "-n", "0"])
    assert "-n and --crop must be at least 1" in capsys.readouterr().err


def test_help_as_a_script_imports_nothing_heavy():
    script = str(ROOT / "tools/preview_degradations.py")
    code = f"import runpy, sys; sys.argv = ['preview', '--help']; runpy.run_path({script!r}, run_name='__main__')"
    watch = f"import atexit, sys; atexit.register(lambda: print(sorted({{'torch', 'cv2', 'numpy', 'PIL'}} & set(sys.modules)))); {code}"
    finished = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, cwd="/", check=True)
    assert "IMAGE" in finished.stdout and finished.stdout.strip().endswith("[]")


@pytest.mark.slow
def test_runs_as_a_script_from_anywhere(photo, tmp_path):
    command = [sys.executable, str(ROOT / "tools/preview_degradations.py"), "photo.png", "-n", "1", "--crop", "32"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert read(tmp_path / "sheet.png").ndim == 3
