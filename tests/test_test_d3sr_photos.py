"""test_d3sr.py for people with photos: every kind of file, reruns, Ctrl-C, several processes, bounded memory."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.image_io import read_image, write_image
from data.photos.photo import read_photo, software_of
from models.generator import load_generator
from restoring.enlarged import BEFORE, framed
from restoring.host import physical_cores
from restoring.tiling import tile_ranges
from test_d3sr import main
from tests.odd_files import write_odd_files
from tests.restoring_script import write_option_file, write_weights

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "nothing")


@pytest.fixture
def option_file(weights, tmp_path) -> Path:
    return write_option_file(tmp_path, weights)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3), np.uint8)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(option_file: Path, inputs: Path, output: Path, *changes: str) -> int:
    return main(["-opt", str(option_file), "-i", str(inputs), "-o", str(output), *(["--force_yml", *changes] if changes else [])])


def test_a_folder_of_odd_files_finishes(option_file, tmp_path, capsys):
    expected = write_odd_files(tmp_path / "in")
    assert run(option_file, tmp_path / "in", tmp_path / "out", "scale=2", "tile=64", "tile_overlap=16", "max_megapixels=1") == 1
    errors = capsys.readouterr().err
    restored = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    refused = [name for name, odd in expected.items() if odd.reason and odd.listed]
    whole = [name for name, odd in expected.items() if not odd.reason and odd.listed]
    assert len(expected) >= 45 and len(refused) >= 10 and len(restored) == len(whole)
    summary = errors[errors.index("pictures failed:") :]
    assert f"{len(refused)} of {len(refused) + len(whole)} pictures failed:" in errors
    for name in refused:
        assert f"{tmp_path / 'in' / name}: {expected[name].reason}" in summary
    for name in whole:
        output = next(path for path in (tmp_path / "out" / name).parent.glob("*.png") if path.name in result_names(name))
        photo, odd = read_photo(output), expected[name]
        height, width, channels = odd.pixels.shape
        assert photo.pixels.shape == (2 * height, 2 * width, channels) and photo.pixels.dtype == odd.pixels.dtype
        assert (photo.alpha is None) == (odd.alpha is None)
        assert odd.note in errors


def result_names(name: str) -> set[str]:
    path = Path(name)
    return {f"{path.stem}.png", f"{path.stem}_{path.suffix[1:].lower()}.png"}


def test_depth_alpha_profile_and_exif_are_carried_over(option_file, tmp_path):
    from PIL import ImageCms

    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(noise(12, 20)).save(folder / "turned.jpg", exif=exif, icc_profile=profile, quality=95)
    for extension in ("png", "jpg", "webp"):
        out = tmp_path / extension
        assert run(option_file, folder, out, f"output.format={extension}", "output.suffix=_big", "output.quality=90") == 0
        with Image.open(out / f"turned_big.{extension}") as result:
            assert result.size == (48, 80), "upright: 12 x 20 turned"
            assert result.getexif()[0x010F] == "Camera" and result.getexif().get(0x0112, 1) == 1
            assert result.info["icc_profile"] == profile


def test_existing_results_are_kept_unless_told_otherwise(option_file, tmp_path, capsys):
    for name in ("a", "sub/b"):
        write_image(tmp_path / "in" / f"{name}.png", noise(6, 6, len(name)))
    out = tmp_path / "out"
    assert run(option_file, tmp_path / "in", out) == 0
    first = hashes(out)
    write_image(out / "a.png", noise(24, 24, 7))
    mine = (out / "a.png").read_bytes()
    times = {name: (out / name).stat().st_mtime_ns for name in first}
    write_image(tmp_path / "in/c.png", noise(6, 6, 5))
    capsys.readouterr()
    assert run(option_file, tmp_path / "in", out) == 0
    said = capsys.readouterr().err
    assert (
        "2 of 3 results existed and were kept" in said and "WARNING: 1 of them were made from other pictures or with other settings" in said
    )
    assert (out / "a.png").read_bytes() == mine and (out / "c.png").is_file()
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert run(option_file, tmp_path / "in", out, "color_fix=wavelet") == 0
    assert "WARNING: 3 of them" in capsys.readouterr().err, "other settings"
    assert run(option_file, tmp_path / "in", out, "output.overwrite=true") == 0
    assert "kept" not in capsys.readouterr().err
    assert {name: value for name, value in hashes(out).items() if name != "c.png"} == first


def test_kept_results_are_scored_again(option_file, tmp_path):
    write_image(tmp_path / "lr/a.png", noise(12, 12))
    write_image(tmp_path / "hr/a.png", noise(48, 48, 1))
    changes = [f"datasets.test.set.dataroot_lq={tmp_path / 'lr'}", f"datasets.test.set.dataroot_gt={tmp_path / 'hr'}"]
    scores = []
    for _ in range(2):
        assert main(["-opt", str(option_file), "-o", str(tmp_path / "out"), "--force_yml", *changes]) == 0
        scores.append((tmp_path / "out/metrics.csv").read_text())
    assert scores[0] == scores[1] and "a.png," in scores[0]


def test_results_below_the_inputs_are_not_restored_again(option_file, tmp_path):
    write_image(tmp_path / "in/a.png", noise(6, 6))
    for _ in range(2):
        assert run(option_file, tmp_path / "in", tmp_path / "in/out") == 0
    assert sorted(hashes(tmp_path / "in")) == ["a.png", "out/a.png"]


def test_a_result_names_its_settings_and_its_source(option_file, tmp_path):
    write_image(tmp_path / "a.png", noise(6, 6))
    write_image(tmp_path / "b.png", noise(6, 6, 1))
    assert run(option_file, tmp_path / "a.png", tmp_path / "out") == 0
    assert main(["-opt", str(option_file), "-i", str(tmp_path / "b.png"), "-o", str(tmp_path / "out")]) == 0
    one, two = (software_of(tmp_path / "out" / name) for name in ("a.png", "b.png"))
    assert one.startswith("D3SR ") and one.split("-")[0] == two.split("-")[0] and one != two


def script(option_file: Path, inputs: Path, output: Path, *changes: str, launcher: tuple[str, ...] = (sys.executable,)) -> list[str]:
    return [
        *launcher,
        str(ROOT / "test_d3sr.py"),
        "-opt",
        str(option_file),
        "-i",
        str(inputs),
        "-o",
        str(output),
        "--force_yml",
        "tile=0",
        *changes,
    ]


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_files(option_file, tmp_path):
    for index in range(5):
        write_image(tmp_path / f"in/{index}.png", noise(9 + index, 7, index))
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = subprocess.run(
        script(option_file, tmp_path / "in", tmp_path / "two", launcher=launcher), capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode != 0 and "1 of 6 pictures failed:" in done.stderr and done.stderr.count("pictures failed:") == 1
    assert run(option_file, tmp_path / "in", tmp_path / "one", "tile=0") == 1
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two") and len(hashes(tmp_path / "one")) == 5


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files_and_the_next_run_goes_on(option_file, tmp_path):
    for index in range(60):
        write_image(tmp_path / f"in/{index}.png", noise(160, 160, index))
    command = script(option_file, tmp_path / "in", tmp_path / "out")
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # Who starts pytest in the background hands down an ignored Ctrl-C.
    process = subprocess.Popen(command, **streams, cwd=tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list((tmp_path / "out").glob("*.png"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    assert "stopped" in error and "Traceback" not in error
    files = [path for path in (tmp_path / "out").iterdir()]
    assert 2 <= len(files) < 60 and all(path.suffix == ".png" and not path.name.startswith(".") for path in files)
    assert all(read_image(path).shape == (640, 640, 3) for path in files)


def test_a_full_disk_is_one_clear_failure_and_leaves_nothing_half_written(option_file, tmp_path, monkeypatch, capsys):
    write_image(tmp_path / "a.png", noise(6, 6))
    monkeypatch.setattr(os, "replace", lambda source, target: (_ for _ in ()).throw(OSError(28, "No space left on device", str(target))))
    assert run(option_file, tmp_path / "a.png", tmp_path / "out") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_report_writes_a_page(option_file, tmp_path):
    write_image(tmp_path / "in/a b.png", noise(9, 9))
    assert run(option_file, tmp_path / "in", tmp_path / "out", "report=true") == 0
    page = (tmp_path / "out/index.html").read_text()
    assert "a b.png" in page and "a%20b.png" in page


def test_device_on_the_command_line(option_file, tmp_path, capsys):
    write_image(tmp_path / "a.png", noise(6, 6))
    assert main(["-opt", str(option_file), "-i", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--device", "mps"]) == 2
    assert "device: mps was asked for" in capsys.readouterr().err


def peak_memory(option_file: Path, side: int, folder: Path) -> int:
    """Peak resident bytes of one run that makes a picture of side x side pixels."""
    write_image(folder / f"{side}.png", np.tile(noise(32, 32), (side // 128, side // 128, 1)))
    code = (
        "import resource, sys, test_d3sr\n"
        "status = test_d3sr.main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "sys.exit(status)"
    )
    arguments = script(option_file, folder / f"{side}.png", folder / "out", "tile=512", "tile_overlap=64")[2:]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts in other units elsewhere")
def test_memory_is_bounded_by_the_tile(option_file, tmp_path):
    small, large = (peak_memory(option_file, side, tmp_path) for side in (1024, 4096))
    picture = 4096 * 4096 * 3
    assert large <= 1.3 * small + picture, f"{large / 2**20:.0f} MiB for 4096 x 4096, {small / 2**20:.0f} MiB for 1024 x 1024"


@pytest.mark.slow
def test_the_small_model_leaves_no_seam_between_tiles():
    """Along every line between two tiles' middles the tiled picture steps no more than it does elsewhere."""
    generator = load_generator(str(ROOT / "weights/d3sr-tiny"))
    image = read_image(ROOT / "assets/coffee.png")[:90, :120]
    whole, tiled = (generator.upscale(image, tile=tile, tile_overlap=32).astype(float) for tile in (0, 128))
    changed = tiled - whole
    assert np.abs(changed).mean() > 0.1, "tiles have their own normalisation, or this test shows nothing"
    for axis in (0, 1):
        steps = np.abs(np.diff(changed, axis=axis)).mean(axis=(1 - axis, 2))
        blended = np.zeros(len(steps), bool)
        ranges = tile_ranges(len(framed(changed.shape[axis], 16)), 128, 32, 16)
        for (_, stop), (start, _) in pairwise(ranges):
            blended[start - BEFORE : stop - BEFORE] = True
        assert steps[blended].max() < 1.5 * steps[~blended].max()
        across_tiles, across_whole = (np.abs(np.diff(picture, axis=axis)).mean(axis=(1 - axis, 2)) for picture in (tiled, whole))
        assert (across_tiles[blended] < 1.2 * across_whole[blended].max()).all(), "no step that the whole picture does not have thereabouts"


def test_the_options_say_how_many_threads_compute_whatever_the_environment_says(option_file, tmp_path):
    write_image(tmp_path / "a.png", noise(6, 6))
    before = torch.get_num_threads()
    try:
        for asked, expected in (("2", 2), ("auto", physical_cores())):
            assert run(option_file, tmp_path / "a.png", tmp_path / "out", f"num_threads={asked}") == 0
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
