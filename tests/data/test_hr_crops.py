import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.hr_crops import HRCrops, collate
from data.image_io import to_unit_range
from data.sampler import ShardedSampler
from degradations.blur import usm_sharpen
from degradations.stage import Degradation
from tests.data.conftest import located


def crops(root: Path, *, degradation: Degradation | None = None, **changes: object) -> HRCrops:
    arguments = {"gt_size": 32, "scale": 4, "seed": 0, "use_hflip": True, "usm": False} | changes
    return HRCrops([(root, 1.0)], degradation=degradation, **arguments)


def locate(hr: torch.Tensor) -> tuple[int, int, int, bool]:
    """(file, top, left, flipped) read from the pixels of a crop of a located picture; fails unless all of it is an exact sub-image."""
    pixels = hr.permute(1, 2, 0).numpy()
    flipped = bool(pixels[0, 0, 1] > pixels[0, -1, 1])
    upright = pixels[:, ::-1] if flipped else pixels
    top, left, file = (int(value) for value in upright[0, 0])
    assert np.array_equal(upright, located(256, 256, file)[top : top + 32, left : left + 32])
    return file, top, left, flipped


def test_items_are_sub_images_and_say_where_from(folder: Path) -> None:
    dataset = crops(folder)
    for n in range(40):
        item = dataset[n]
        file, top, left, _ = locate(item["hr"])
        assert item["hr"].shape == (3, 32, 32) and item["hr"].dtype == torch.uint8
        assert item["path"] == str(folder / f"{file}.png") and item["index"] == n and item["skipped"] == [] and "lr" not in item
        assert top <= 40 + 5 * file - 32 and left <= 70 - 5 * file - 32


def test_every_position_occurs_and_half_are_flipped(tmp_path: Path) -> None:
    Image.fromarray(located(34, 33)).save(tmp_path / "a.png")
    dataset = crops(tmp_path)
    places = [locate(dataset[n]["hr"]) for n in range(600)]
    for top in range(3):
        for left in range(2):
            assert sum(place[1:3] == (top, left) for place in places) == pytest.approx(100, abs=40)  # 4.4 standard deviations
    assert sum(place[3] for place in places) == pytest.approx(300, abs=55)  # 4.5 standard deviations
    unflipped = crops(tmp_path, use_hflip=False)
    assert [locate(unflipped[n]["hr"]) for n in range(60)] == [(*place[:3], False) for place in places[:60]]


@pytest.mark.slow
def test_item_n_is_the_same_with_any_number_of_workers_and_after_a_restart(folder: Path) -> None:
    dataset = crops(folder, degradation=Degradation(), usm=True)

    def batches(workers: int, start: int, count: int) -> list[dict]:
        sampler = ShardedSampler(start=start)
        return list(islice(DataLoader(dataset, batch_size=3, sampler=sampler, num_workers=workers, collate_fn=collate), count))

    truth = batches(0, 0, 4)
    for workers, start in ((1, 0), (2, 0), (2, 6), (0, 9)):
        for found, expected in zip(batches(workers, start, 4 - start // 3), truth[start // 3 :], strict=True):
            assert all(torch.equal(found[key], expected[key]) for key in ("hr", "lr", "index"))
            assert found["path"] == expected["path"]
    assert len({tuple(batch["hr"].flatten()[:50].tolist()) for batch in truth}) == 4


def test_ranks_together_see_what_one_process_sees(folder: Path) -> None:
    dataset = crops(folder, degradation=Degradation())
    single = [dataset[n] for n in range(4, 12)]
    for rank in range(2):
        mine = [crops(folder, degradation=Degradation())[n] for n in islice(ShardedSampler(rank=rank, world_size=2, start=4), 4)]
        for found, expected in zip(mine, single[rank::2], strict=True):
            assert torch.equal(found["lr"], expected["lr"]) and found["index"] == expected["index"]


def test_global_random_state_has_no_influence(folder: Path) -> None:
    dataset = crops(folder, degradation=Degradation())
    first = dataset[3]
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(first["lr"], dataset[3]["lr"]) and torch.equal(first["hr"], dataset[3]["hr"])


def test_crops_and_degradations_follow_seed_and_n(tmp_path: Path) -> None:
    Image.fromarray(located(60, 60)).save(tmp_path / "a.png")
    places = [[locate(dataset[n]["hr"]) for n in range(5)] for dataset in (crops(tmp_path, seed=0), crops(tmp_path, seed=1))]
    assert places[0] != places[1]
    Image.fromarray(located(32, 32)).save(tmp_path / "a.png")
    datasets = [crops(tmp_path, seed=seed, use_hflip=False, degradation=Degradation()) for seed in (0, 1)]
    items = [dataset[n] for dataset in datasets for n in range(3)]
    assert all(torch.equal(item["hr"], items[0]["hr"]) for item in items)
    assert len({tuple(item["lr"].flatten().tolist()) for item in items}) == 6


def test_lr_is_a_small_8_bit_picture_of_its_own_hr(tmp_path: Path) -> None:
    """Black left of an edge, white right of it: LR is bright on the side where HR is, whatever the crop, the flip and the degradation."""
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:, 32:] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    dataset = crops(tmp_path, degradation=Degradation())
    flipped = 0
    for n in range(60):
        assert dataset[n]["lr"].shape == (3, 8, 8) and dataset[n]["lr"].dtype == torch.uint8
        hr, lr = (to_unit_range(dataset[n][key]) for key in ("hr", "lr"))
        if abs(hr.mean() - 0.5) < 0.2:
            bright_left = hr[..., :16].mean() > hr[..., 16:].mean()
            assert bright_left == (lr[..., :4].mean() > lr[..., 4:].mean())
            flipped += int(bright_left)
    assert 5 <= flipped <= 30


def test_usm_sharpens_the_target(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((60, 60)).save(tmp_path / "a.png")
    plain, sharp = (to_unit_range(crops(tmp_path, usm=usm)[0]["hr"]) for usm in (False, True))
    expected = torch.from_numpy(usm_sharpen(plain.permute(1, 2, 0).numpy())).permute(2, 0, 1)
    assert torch.allclose(sharp, expected, atol=0.501 / 255), "to the nearest of 256 levels"
    assert sharp.diff(dim=2).abs().mean() > 1.05 * plain.diff(dim=2).abs().mean()


def test_weights_are_respected_between_folders_lists_and_files(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "f" if number < 2 else tmp_path).mkdir(exist_ok=True)
        Image.fromarray(located(32, 32, number)).save((tmp_path / "f" if number < 2 else tmp_path) / f"{number}.png")
    (tmp_path / "list.txt").write_text("2.png (32,32,3)\n")
    sources = [(tmp_path / "f", 1.0), (str(tmp_path / "list.txt"), 2.0), (tmp_path / "3.png", 6.0)]
    dataset = HRCrops(sources, gt_size=32, scale=4, seed=0, degradation=None)
    drawn = np.bincount([locate(dataset[n]["hr"])[0] for n in range(1000)], minlength=4)
    assert np.abs(drawn - [100, 100, 200, 600]).max() < 60


def test_bad_files_are_counted_named_and_left_out(folder: Path) -> None:
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("hello")
    Image.fromarray(located(31, 80)).save(folder / "low.png")
    (folder / "l.txt").write_text("gone.png\n0.png\n")
    dataset = HRCrops([(folder, 1.0), (folder / "l.txt", 1.0)], gt_size=32, scale=4, seed=0, degradation=None)
    assert len(dataset.pictures) == 6
    report = dataset.report()
    assert report.startswith("6 of 10 images usable\n  1 too small (a side under 32 px), left out:")
    for line in ("low.png: 80x31", "3 unreadable", "empty.png: the file is empty", "text.jpg: not an image", "gone.png: no such file"):
        assert line in report
    assert {Path(dataset[n]["path"]).name for n in range(12)} == {f"{number}.png" for number in range(5)}


def test_pipes_are_left_out_and_what_is_passed_over_is_reported(folder: Path) -> None:
    """A loader that opened the pipe would wait for ever."""
    os.mkfifo(folder / "pipe.png")
    (folder / "film.mov").touch()
    (folder / "l.txt").write_text("pipe.png\n0.png\n\0\n")
    dataset = HRCrops([(folder, 1.0), (folder / "l.txt", 1.0)], gt_size=32, scale=4, seed=0, degradation=None)
    report = dataset.report()
    assert report.startswith("6 of 7 images usable\n  1 unreadable, left out:\n    ") and f"{folder}/pipe.png: not a regular file" in report
    assert f"{folder}: 1 places could not be read, left out:\n  {folder}/pipe.png: not a regular file" in report
    assert f"{folder}: 1 passed over: .mov 1" in report and "l.txt, line 3: no name of a file" in report


def test_a_file_that_breaks_later_is_named_in_the_batch_and_redrawn(folder: Path) -> None:
    dataset = crops(folder)
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) * 2 // 3])
    Image.fromarray(located(20, 20)).save(folder / "4.png")
    items = [dataset[n] for n in range(10)]
    batch = collate(items)
    broken = (str(folder / "2.png: "), str(folder / "4.png: "))
    assert len(batch["skipped"]) >= 4 and all(line.startswith(broken) for line in batch["skipped"])
    assert {Path(path).name for path in batch["path"]} <= {"0.png", "1.png", "3.png"}
    assert batch["hr"].shape == (10, 3, 32, 32) and batch["index"].tolist() == list(range(10)) and "lr" not in batch
    assert [item["path"] for item in items] == [dataset[n]["path"] for n in range(10)]


def test_unusable_sources_and_numbers_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)hr: no usable training image; lower gt_size \(64\).*5 too small"):
        crops(folder, gt_size=64)
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        crops(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="multiple of scale"):
        crops(folder, gt_size=30)
    with pytest.raises(ValueError, match="manual_seed"):
        crops(folder, seed=-1)
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight"):
            HRCrops([(folder, weight)], gt_size=32, scale=4, seed=0, degradation=None)
    with pytest.raises(ValueError, match="dataroot_gt"):
        HRCrops([], gt_size=32, scale=4, seed=0, degradation=None)
