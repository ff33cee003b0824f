from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.hr_crops import collate
from data.paired import PairedCrops, PairedFolder
from data.sampler import ShardedSampler

SIZES = {"b/2.png": (48, 64), "b/10.png": (32, 32), "a.png": (80, 40)}


def make_pair(root: Path, name: str, height: int, width: int) -> None:
    """Random HR, and LR as the mean of each 4x4 block, so that alignment can be checked exactly."""
    generator = np.random.default_rng([height, width])
    hr = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    lr = hr.reshape(height // 4, 4, width // 4, 4, 3).mean(axis=(1, 3))
    for folder, image in (("HR", hr), ("LR", np.floor(lr + 0.5).astype(np.uint8))):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / folder / name)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for name, (height, width) in SIZES.items():
        make_pair(tmp_path, name, height, width)
    return tmp_path


def crops(root: Path, gt_size: int = 16, **changes: object) -> PairedCrops:
    return PairedCrops(root / "LR", root / "HR", gt_size=gt_size, **({"scale": 4, "seed": 0} | changes))


def test_whole_pairs_by_name_in_natural_order(pairs: Path) -> None:
    (pairs / "HR" / "b" / "10.png").rename(pairs / "HR" / "b" / "10.bmp")
    dataset = PairedFolder(pairs / "LR", pairs / "HR", 4)
    assert [dataset[i]["name"] for i in range(len(dataset))] == ["a", "b/2", "b/10"]
    for i, name in enumerate(["a.png", "b/2.png", "b/10.png"]):
        item = dataset[i]
        assert item["hr"].shape == (3, *SIZES[name]) and item["path"] == str(pairs / "LR" / name)
        assert torch.allclose(torch.nn.functional.avg_pool2d(item["hr"], 4), item["lr"], atol=0.51 / 255)


def test_lr_alone(pairs: Path) -> None:
    dataset = PairedFolder(pairs / "LR", None, 4)
    assert len(dataset) == 3 and set(dataset[0]) == {"lr", "name", "path"}


def test_missing_and_extra_partners_are_named(pairs: Path) -> None:
    (pairs / "HR" / "a.png").rename(pairs / "HR" / "c.png")
    for build in (lambda: PairedFolder(pairs / "LR", pairs / "HR", 4), lambda: crops(pairs)):
        with pytest.raises(ValueError, match=r"(?s)2 files have no partner.*LR/a\.png: no HR.*HR/c\.png: no LR"):
            build()


def test_the_same_name_twice_is_named(pairs: Path) -> None:
    Image.open(pairs / "HR" / "a.png").save(pairs / "HR" / "a.bmp")
    with pytest.raises(ValueError, match=r"unique.*\n.*HR/a\.bmp and .*HR/a\.png"):
        PairedFolder(pairs / "LR", pairs / "HR", 4)


def test_the_same_name_in_another_folder_is_another_picture(pairs: Path) -> None:
    make_pair(pairs, "b/a.png", 16, 16)
    assert len(PairedFolder(pairs / "LR", pairs / "HR", 4)) == 4


def test_sizes_that_do_not_match_are_named(pairs: Path) -> None:
    for name in ("a.png", "b/2.png"):
        image = Image.open(pairs / "LR" / name)
        image.crop((0, 0, image.width, image.height - 1)).save(pairs / "LR" / name)
    for build in (lambda: PairedFolder(pairs / "LR", pairs / "HR", 4), lambda: crops(pairs)):
        with pytest.raises(ValueError, match=r"exactly 4 times LR; 2 pairs") as error:
            build()
        assert "HR/a.png: LR 10x19, HR 40x80\n" in str(error.value) and "HR/b/2.png: LR 16x11, HR 64x48" in str(error.value)
    with pytest.raises(ValueError, match="3 pairs are not"):
        PairedFolder(pairs / "HR", pairs / "HR", 2)


def test_pairs_rotated_by_exif_match_by_what_is_shown(pairs: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder in ("LR", "HR"):
        image = Image.open(pairs / folder / "a.png")
        image.transpose(Image.Transpose.ROTATE_90).save(pairs / folder / "a.png", exif=exif if folder == "LR" else None)
    with pytest.raises(ValueError, match="1 pairs are not"):
        PairedFolder(pairs / "LR", pairs / "HR", 4)


def test_an_unreadable_picture_stops_a_validation_and_is_left_out_of_training(pairs: Path) -> None:
    (pairs / "LR" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 unreadable(?s:.*)LR/a\.png: the file is empty"):
        PairedFolder(pairs / "LR", pairs / "HR", 4)
    report = crops(pairs).report()
    assert report.startswith("2 of 3 images usable") and "LR/a.png: the file is empty" in report


@pytest.mark.slow
def test_crops_are_aligned_flipped_together_and_parts_of_their_pictures(pairs: Path) -> None:
    dataset = crops(pairs)
    sources = {name: cv2.imread(str(pairs / "HR" / name))[:, :, ::-1] for name in SIZES}
    flips = 0
    for n in range(60):
        item = dataset[n]
        assert item["hr"].shape == (3, 16, 16) and item["lr"].shape == (3, 4, 4) and item["index"] == n and item["skipped"] == []
        assert item["hr"].dtype == item["lr"].dtype == torch.uint8
        assert torch.allclose(torch.nn.functional.avg_pool2d(item["hr"].double(), 4), item["lr"].double(), atol=0.501)
        crop = item["hr"].permute(1, 2, 0).numpy()
        source = sources[Path(item["path"]).relative_to(pairs / "HR").as_posix()]
        windows = np.lib.stride_tricks.sliding_window_view(source, (16, 16, 3))
        straight, mirrored = ((windows == version).all(axis=(2, 3, 4, 5)).any() for version in (crop, crop[:, ::-1]))
        assert straight != mirrored
        flips += mirrored
    assert flips == pytest.approx(30, abs=17)  # 4.4 standard deviations
    assert len({tuple(dataset[n]["hr"].flatten()[:9].tolist()) for n in range(60)}) > 40
    unflipped = crops(pairs, use_hflip=False)
    assert sum(torch.equal(unflipped[n]["hr"], dataset[n]["hr"]) for n in range(60)) == 60 - flips


def test_crops_come_in_epochs_and_do_not_depend_on_workers(pairs: Path) -> None:
    dataset = crops(pairs)
    assert len({dataset[n]["path"] for n in range(3)}) == 3
    for workers in (0, 2):
        loader = DataLoader(dataset, batch_size=2, sampler=ShardedSampler(start=5), num_workers=workers, collate_fn=collate)
        for step, batch in enumerate(islice(loader, 3)):
            for row in range(2):
                truth = dataset[5 + 2 * step + row]
                assert torch.equal(batch["hr"][row], truth["hr"]) and torch.equal(batch["lr"][row], truth["lr"])


def test_small_pairs_are_left_out_and_pairs_that_break_later_redrawn(pairs: Path) -> None:
    dataset = crops(pairs, gt_size=40)
    assert "HR/b/10.png: 32x32" in dataset.report() and len({dataset[n]["path"] for n in range(4)}) == 2
    make_pair(pairs, "a.png", 32, 32)
    items = [dataset[n] for n in range(6)]
    assert all(item["path"].endswith("b/2.png") for item in items)
    lines = collate(items)["skipped"]
    assert len(lines) >= 3 and all("LR/a.png: 8x8 pixels now, but 10x20 when the run started" in line for line in lines)
    with pytest.raises(ValueError, match=r"(?s)no usable training pair; lower gt_size \(84\).*3 too small"):
        crops(pairs, gt_size=84)


def test_pairs_of_known_names_are_said_in_the_report(pairs: Path) -> None:
    for path in sorted((pairs / "LR").rglob("*.png")):
        path.rename(path.with_name(f"{path.stem}x4.png"))
    said = "LR and HR are paired as '{}x4' and '{}' (filename_tmpl, filename_tmpl_gt)"
    dataset, whole = crops(pairs), PairedFolder(pairs / "LR", pairs / "HR", 4)
    assert dataset.report() == f"3 of 3 images usable\n{said}" and whole.report() == said
    assert [whole[i]["name"] for i in range(3)] == ["ax4", "b/2x4", "b/10x4"], "results keep LR's names"
    templates = ("{}x4", "{}")
    assert PairedFolder(pairs / "LR", pairs / "HR", 4, templates).report() == ""
    assert torch.equal(crops(pairs, templates=templates)[0]["lr"], dataset[0]["lr"])
