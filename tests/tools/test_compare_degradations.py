"""The comparison with BasicSR on a stand-in for its clone: files of the same names, functions of the same names made of our operations.

So both sides draw from the same distributions if, and only if, the pipeline calls the functions in the right order with the right numbers.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

from degradations.stage import Degradation, DegradationStage
from tools import compare_degradations
from tools.compare_degradations import ROOT, bicubic_lr, main, parse_args
from tools.peers import speed
from tools.peers.basicsr import FILES, MOVED, BasicSRPipeline, load_functions, real_jpeg, seed_all

DEGRADATIONS = """
import numpy as np
import torch
from torchvision.transforms.functional_tensor import rgb_to_grayscale  # as the release of 2022 has it

from degradations.kernels import DrawnKernel, build_kernel, draw_kernel
from degradations.noise import DrawnNoise, add_noise
from degradations.stage import DegradationStage


def random_mixed_kernels(kernel_list, kernel_prob, kernel_size, sigma_x_range, sigma_y_range, rotation_range, betag_range, betap_range,
                         noise_range):
    stage = DegradationStage(sinc_prob=0, kernel_list=kernel_list, kernel_prob=kernel_prob, kernel_range=(kernel_size, kernel_size),
                             blur_sigma=sigma_x_range, betag_range=betag_range, betap_range=betap_range)
    return build_kernel(draw_kernel(np.random.default_rng(np.random.randint(2**31)), stage))


def circular_lowpass_kernel(cutoff, kernel_size, pad_to=0):
    return build_kernel(DrawnKernel(family="sinc", size=kernel_size, omega=cutoff))


def bivariate_Gaussian(size, sigma_x, sigma_y, theta, isotropic):
    family, across = ("iso", sigma_x) if isotropic else ("aniso", sigma_y)
    return build_kernel(DrawnKernel(family=family, size=size, sigma_x=sigma_x, sigma_y=across, theta=theta))


def bivariate_generalized_Gaussian(size, sigma_x, sigma_y, theta, beta, isotropic):
    family, across = ("generalized_iso", sigma_x) if isotropic else ("generalized_aniso", sigma_y)
    return build_kernel(DrawnKernel(family=family, size=size, sigma_x=sigma_x, sigma_y=across, theta=theta, beta=beta))


def bivariate_plateau(size, sigma_x, sigma_y, theta, beta, isotropic):
    family, across = ("plateau_iso", sigma_x) if isotropic else ("plateau_aniso", sigma_y)
    return build_kernel(DrawnKernel(family=family, size=size, sigma_x=sigma_x, sigma_y=across, theta=theta, beta=beta))


def _add(kind, image, level_range, gray_prob, clip, rounds):
    assert clip and not rounds
    noisy = []
    for picture in image:
        drawn = DrawnNoise(kind=kind, level=STRENGTH * np.random.uniform(*level_range), grey=bool(np.random.uniform() < gray_prob),
                           seed=np.random.randint(2**31))
        noisy.append(torch.from_numpy(add_noise(picture.permute(1, 2, 0).numpy(), drawn)).permute(2, 0, 1))
    return torch.stack(noisy)


def random_add_gaussian_noise_pt(image, sigma_range, gray_prob, clip, rounds):
    return _add("gaussian", image, sigma_range, gray_prob, clip, rounds)


def random_add_poisson_noise_pt(image, scale_range, gray_prob, clip, rounds):
    return _add("poisson", image, scale_range, gray_prob, clip, rounds)


STRENGTH = 1.0
"""

FILTER = """
import numpy as np
import torch
from degradations.blur import blur


def filter2D(image, kernels):
    image.view(1, -1, *image.shape[2:])  # BasicSR's goes through such a view, which the channels must not be last for
    pictures = [blur(picture.permute(1, 2, 0).numpy(), kernel.numpy()) for picture, kernel in zip(image, kernels, strict=True)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
"""

JPEG = """
import torch
from tools.peers.basicsr import real_jpeg


class DiffJPEG:
    def __init__(self, differentiable):
        assert not differentiable

    def __call__(self, image, quality):
        compressed = real_jpeg(image, quality if torch.is_tensor(quality) else torch.tensor([float(quality)]))
        return compressed.contiguous(memory_format=torch.channels_last)
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    root = tmp_path / "BasicSR"
    for file, text in zip(FILES, (DEGRADATIONS, FILTER, JPEG), strict=True):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "coffee", "cat"):
        Image.fromarray(getattr(data, name)()[::2, ::2]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(autouse=True)
def less_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_degradations, "SWAPS", 999)
    monkeypatch.setattr(compare_degradations, "STAGE_CROPS", 3)


def change(clone: Path, file: str, old: str, new: str) -> None:
    path = next(clone.rglob(file))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def run(clone: Path, photos: Path, out: Path, *more: object) -> int:
    arguments = ("--basicsr", clone, "--data", photos, "--gt_size", 80, "-o", out, *more)
    return main([str(argument) for argument in arguments])


def test_the_same_operations_agree_and_the_report_says_how_it_came_about(clone: Path, photos: Path, tmp_path: Path) -> None:
    assert run(clone, photos, tmp_path / "out", "--crops", 80) == 0
    document = json.loads((tmp_path / "out/degradations.json").read_text())
    text = (tmp_path / "out/degradations.md").read_text()
    assert document["differ"] == [] and document["tests"] == 30 and document["crops"] == 80
    assert "**They agree**: none of the 30 tests rejects at level 0.05" in text
    assert all(row["ks_distance"] < 0.25 and 0.38 < row["superiority"] < 0.62 for row in document["statistics"].values())
    apart = {row["operation"]: row["mean"] for row in document["operations"]}
    assert all(apart[name] == 0 for name in apart if name.startswith("blur") or name in ("JPEG 30", "JPEG 60", "JPEG 95"))
    assert apart["JPEG 30, turned"] > 0.1  # libjpeg's luma table is not symmetric
    assert apart["resize down by a factor, bilinear"] > 0.2 > 0.01 > apart["resize down, bilinear"]
    assert apart["resize down, area"] > 0.2 > 0.01 > apart["resize down, bicubic"]
    assert document["basicsr_commit"] == "not a git clone" and document["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "--crops 80" in document["command"] and document["command"] in text


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("degradations.py", "STRENGTH = 1.0", "STRENGTH = 2.5", "noise"),
        ("img_process_util.py", ".permute(0, 3, 1, 2)", ".permute(0, 3, 1, 2) * 0.8", "mean red"),
        ("diffjpeg.py", "real_jpeg(image, quality", "real_jpeg(image, 0 * quality + 3", "blockiness"),
    ],
)
def test_a_fault_on_one_side_is_named(clone, photos, tmp_path, capsys, file, old, new, named) -> None:
    change(clone, file, old, new)
    assert run(clone, photos, tmp_path / "out", "--crops", 80) == 1
    assert named in json.loads((tmp_path / "out/degradations.json").read_text())["differ"]
    assert "**They differ** at level 0.05" in capsys.readouterr().out


def test_real_jpeg_takes_the_place_of_diffjpeg(clone, photos, tmp_path) -> None:
    change(clone, "diffjpeg.py", "real_jpeg(image, quality", "real_jpeg(image, 0 * quality + 3")
    assert run(clone, photos, tmp_path / "out", "--crops", 40, "--real_jpeg") == 0
    assert "- jpeg_of_basicsr: ours" in (tmp_path / "out/degradations.md").read_text()


def test_a_seed_gives_the_same_report(clone, photos, tmp_path) -> None:
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(clone, photos, tmp_path / out, "--crops", 4, "--seed", seed)
    a, b, c = (json.loads((tmp_path / out / "degradations.json").read_text())["statistics"] for out in "abc")
    assert a == b != c


def load(clone: Path) -> dict[str, Callable]:
    return load_functions(clone)


def test_the_clone_is_imported_by_path_whatever_torchvision_this_is(clone: Path) -> None:
    before = dict(sys.modules)
    assert sorted(load(clone)) == sorted(name for names in FILES.values() for name in names)
    assert MOVED not in sys.modules or MOVED in before
    assert not any(name == "basicsr" or name.startswith("basicsr.") for name in sys.modules)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: shutil.rmtree(root),
            "basicsr/data/degradations.py: no such file; expected a clone of https://github.com/XPixelGroup",
        ),
        (lambda root: (root / "basicsr/utils/diffjpeg.py").unlink(), "diffjpeg.py: no such file"),
        (lambda root: change(root, "img_process_util.py", "filter2D", "filter"), "img_process_util.py: has no filter2D"),
        (
            lambda root: change(root, "diffjpeg.py", "import torch\n", "import not_installed\n"),
            "diffjpeg.py: cannot be imported here: No module",
        ),
    ],
)
def test_an_unfit_clone_is_explained(clone, photos, tmp_path, capsys, spoil, message) -> None:
    spoil(clone)
    assert run(clone, photos, tmp_path / "out") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--gt_size", 72), "--gt_size 72: BasicSR's filter needs crops of at least 74 pixels here"),
        (("--gt_size", 600), "no usable training image"),
        (("-opt", "nowhere.yml"), "nowhere.yml"),
        (("--speed", "--crops", 31), "expected at least 32"),
        (("--force_yml", "degradation.final_sinc_prob=2"), "final_sinc_prob"),
    ],
)
def test_mistakes_end_with_one_line(clone, photos, tmp_path, capsys, more, message) -> None:
    assert run(clone, photos, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("compare_degradations.py: ") and message in error and not (tmp_path / "out").exists()


def test_a_range_without_width_is_refused(clone: Path) -> None:
    flat = DegradationStage(blur_sigma=(1.0, 1.0))
    with pytest.raises(ValueError, match="blur_sigma: .*low < high"):
        BasicSRPipeline(load(clone), Degradation(stages=(flat,)), 4)


@pytest.mark.parametrize("arguments", [["--crops", "1"], ["--level", "0"], ["--seed", "-1"], ["--gt_size", "96", "128"]])
def test_impossible_numbers_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--basicsr", "a", "--data", "b", "-o", "c", *arguments])


NOTHING = DegradationStage(blur_prob=0, resize_prob=(0, 0, 1), gaussian_noise_prob=1, noise_range=(0, 0), jpeg_prob=0)


def test_everything_switched_off_is_one_resize(clone: Path) -> None:
    hr = torch.from_numpy(data.astronaut()[:96, :96].astype(np.float32) / 255).permute(2, 0, 1)[None]
    pipeline = BasicSRPipeline(load(clone), Degradation(stages=(NOTHING, NOTHING), final_sinc_prob=0), 4)
    expected = [(F.interpolate(hr, (24, 24), mode=mode) * 255).round().clamp(0, 255) / 255 for mode in ("area", "bilinear", "bicubic")]
    found = set()
    for seed in range(12):
        seed_all(seed)
        lr = pipeline(hr)
        found |= {number for number, picture in enumerate(expected) if torch.allclose(lr, picture, atol=1e-6)}
        assert any(torch.allclose(lr, picture, atol=1e-6) for picture in expected)
    assert found == {0, 1, 2}


def test_a_batch_shares_what_is_done_but_not_the_numbers(clone: Path) -> None:
    hr = torch.full((6, 3, 96, 96), 0.5)
    hr[..., 48:] = 0.7
    stage = DegradationStage(blur_prob=1, resize_prob=(0, 0, 1), gaussian_noise_prob=1, noise_range=(2, 30), gray_noise_prob=0, jpeg_prob=0)
    seed_all(0)
    lr = BasicSRPipeline(load(clone), Degradation(stages=(stage,), final_sinc_prob=0), 1)(hr)
    assert lr.shape == hr.shape
    noises = lr[..., :40].std(dim=(1, 2, 3)) * 255
    assert noises.max() > 2 * noises.min()  # six levels of [2, 30]


def test_real_jpeg_is_each_pictures_own_quality() -> None:
    hr = torch.from_numpy(data.astronaut()[:96, 100:196].astype(np.float32) / 255).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    fine, coarse = (real_jpeg(hr, torch.tensor([95.2, 10.0])) - hr).abs().mean(dim=(1, 2, 3))
    assert coarse > 2 * fine > 0


def test_bicubic_lr_is_pillows() -> None:
    hr = data.coffee()[:64, :96]
    expected = np.asarray(Image.fromarray(hr).resize((24, 16), Image.Resampling.BICUBIC)) / 255
    assert np.allclose(bicubic_lr(hr.astype(np.float32) / 255, 4), expected)


def test_speed_is_samples_per_second_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that the work itself moves: 0.5 s for one of ours, 2 s for a call of BasicSR's pipeline, 1 s for a sample of the loader."""
    now = [0.0]

    def takes(seconds: float) -> Callable:
        def work(*_: object) -> np.ndarray:
            now[0] += seconds
            return np.zeros((1, 1, 3), np.float32)

        return work

    monkeypatch.setattr(speed.time, "process_time", lambda: now[0])
    monkeypatch.setattr(speed, "degrade", takes(0.5))
    crops = [torch.zeros(3, 8, 8)] * 50
    found = speed.measure(crops, takes(1.0), takes(2.0), Degradation(), 4, 0)
    assert (found.gt_size, found.batches) == (8, 2)  # 50 crops are 3 batches of 16, the first of which warms up
    assert (found.ours, found.basicsr_one, found.basicsr_batch, found.loader) == (2.0, 0.5, 8.0, 1.0)
    assert (found.ratio_one, found.ratio_batch) == (4.0, 0.25)


def test_speed_report(clone, photos, tmp_path) -> None:
    assert run(clone, photos, tmp_path / "out", "--speed", "--crops", 32, "--gt_size", 96, 80) == 0
    document = json.loads((tmp_path / "out/speed.json").read_text())
    assert [size["gt_size"] for size in document["sizes"]] == [96, 80]
    for size in document["sizes"]:
        assert sum(size["profile"].values()) == pytest.approx(1) and all(share > 0 for share in size["profile"].values())
        assert size["ratio_one"] == pytest.approx(size["ours"] / size["basicsr_one"])  # one batch: the median is its own
    text = (tmp_path / "out/speed.md").read_text()
    assert text.startswith("# Speed beside BasicSR") and "| 96 |" in text and "| 80 |" in text


def test_help_imports_nothing_heavy() -> None:
    script = ROOT / "tools/compare_degradations.py"
    code = f"import runpy, sys; sys.argv = ['compare', '--help']; runpy.run_path({str(script)!r}, run_name='__main__')"
    watch = f"import atexit, sys; atexit.register(lambda: print(sorted({{'torch', 'cv2', 'numpy', 'scipy'}} & set(sys.modules)))); {code}"
    finished = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, cwd="/", env=os.environ, check=True)
    assert "--basicsr CLONE" in finished.stdout and finished.stdout.strip().endswith("[]")
