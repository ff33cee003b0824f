"""All kinds of sources give the same samples; start-up opens no image whose size is known; what changed since is found when it is read."""

import io
import os
import pickle
import sys
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader

from data import image_io, sources
from data.duplicates import perceptual_hash
from data.hr_crops import HRCrops, collate
from data.image_io import read_image
from data.loading import endless_batches
from data.manifest import Entry, measure_all, select, write_manifest
from data.paired import PairedCrops, PairedFolder
from data.pictures import NameTable, Picture, PictureTable, find_pictures, picture_sizes, usable_pictures
from data.sampler import ShardedSampler
from data.shards import index_path, shard_paths, write_index
from degradations.stage import Degradation
from tests.data.conftest import located


def crops(*roots: Path | str | tuple, **changes: object) -> HRCrops:
    sources = [root if isinstance(root, tuple) else (root, 1.0) for root in roots]
    return HRCrops(sources, **({"gt_size": 32, "scale": 4, "seed": 0} | changes))


def manifest_of(folder: Path, path: Path, **filters: object) -> Path:
    entries, *_ = measure_all([folder], path, workers=0)
    chosen = {"min_side": 0, "min_sharpness": 0.0, "drop_duplicates": False} | filters
    write_manifest(path, select(entries, **chosen)[0])
    return path


def tar_of(folder: Path, path: Path, names: list[str] | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names or sorted(file.name for file in folder.iterdir()):
            tar.add(folder / name, arcname=name)
    return path


def opens(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A list that grows with every image that is opened."""
    opened, real = [], image_io.open_image
    monkeypatch.setattr(image_io, "open_image", lambda path, file: opened.append(path) or real(path, file))
    return opened


def test_folder_manifest_and_shards_give_the_same_samples(folder: Path, tmp_path: Path) -> None:
    tar_of(folder, tmp_path / "a-0.tar", ["0.png", "1.png"])
    tar_of(folder, tmp_path / "a-1.tar", ["2.png", "3.png", "4.png"])
    write_index(tmp_path / "a-1.tar")
    roots = (folder, manifest_of(folder, tmp_path / "m.jsonl"), f"{tmp_path}/a-{{0..1}}.tar")
    datasets = [crops(root, degradation=Degradation(), usm=True) for root in roots]
    for n in range(12):
        truth, *others = (dataset[n] for dataset in datasets)
        assert all(torch.equal(item[key], truth[key]) for item in others for key in ("hr", "lr"))
        assert [Path(item["path"]).name for item in others] == [Path(truth["path"]).name] * 2
        assert others[0]["path"] == truth["path"] and ".tar/" in others[1]["path"]


def test_start_up_with_sizes_at_hand_opens_no_image(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = tar_of(folder, tmp_path / "s.tar")
    write_index(shard)
    manifest = manifest_of(folder, tmp_path / "m.jsonl")
    opened = opens(monkeypatch)
    dataset = crops(manifest, (shard, 2.0))
    assert opened == [] and len(dataset.pictures) == 10
    assert dataset[0]["hr"].shape == (3, 32, 32) and len(opened) == 1
    crops(folder)
    assert len(opened) == 6
    index_path(shard).unlink()
    crops(shard)
    assert len(opened) == 11, "without an index the headers are read"


def test_a_sample_is_decoded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = [crops(root, degradation=Degradation()) for root in (folder, tar_of(folder, tmp_path / "s.tar"))]
    decoded, real, opened = [], ImageFile.ImageFile.load, opens(monkeypatch)

    def load(image: ImageFile.ImageFile) -> object:
        if image.tile:
            decoded.append(image)
        return real(image)

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    for number, n in enumerate(range(5), start=1):
        for dataset in datasets:
            dataset[n]
        assert len(decoded) == len(opened) == 2 * number


def test_weights_hold_between_kinds(folder: Path, tmp_path: Path) -> None:
    shard = tar_of(folder, tmp_path / "s.tar")
    dataset = crops(manifest_of(folder, tmp_path / "m.jsonl"), (shard, 4.0))
    drawn = [".tar/" in dataset[n]["path"] for n in range(400)]
    assert sum(drawn) == pytest.approx(320, abs=36)  # 4.5 standard deviations


def test_only_what_a_manifest_does_not_leave_out_is_used(folder: Path, tmp_path: Path) -> None:
    path = manifest_of(folder, tmp_path / "m.jsonl", min_side=50)
    assert [Path(picture.name).name for picture in find_pictures(path)] == ["2.png", "3.png", "4.png"]
    with pytest.raises(ValueError, match="m.jsonl: no images in it that are not left out"):
        find_pictures(manifest_of(folder, path, min_side=99))
    dataset = crops(manifest_of(folder, path), gt_size=48)
    assert dataset.report().startswith("3 of 5 images usable\n  2 too small")


def test_a_manifest_can_be_moved_with_its_images(folder: Path, tmp_path: Path) -> None:
    manifest_of(folder, tmp_path / "m.jsonl")
    (tmp_path / "new").mkdir()
    for part in ("hr", "m.jsonl"):
        (tmp_path / part).rename(tmp_path / "new" / part)
    assert crops(tmp_path / "new" / "m.jsonl")[0]["path"].startswith(str(tmp_path / "new" / "hr"))


def test_what_changed_since_is_redrawn_and_named_when_it_is_read(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(folder, tmp_path / "m.jsonl")
    (folder / "1.png").unlink()
    Image.fromarray(located(64, 64)).save(folder / "3.png")
    dataset, told = crops(manifest), []
    batches = endless_batches(dataset, 5, ShardedSampler(), workers=0, device=torch.device("cpu"), warn=told.append)
    names = {Path(path).name for batch in islice(batches, 3) for path in batch["path"]}
    assert names == {"0.png", "2.png", "4.png"}
    assert any(f"{folder / '1.png'}: no such file" in line for line in told)
    assert any(f"{folder / '3.png'}: 64x64 pixels now, but 55x55 when the run started" in line for line in told)


def test_a_shard_that_breaks_later_is_redrawn_and_named(folder: Path, tmp_path: Path) -> None:
    for number in range(2):
        write_index(tar_of(folder, tmp_path / f"{number}.tar"))
    dataset = crops(*shard_paths(f"{tmp_path}/{{0,1}}.tar"))
    (tmp_path / "1.tar").unlink()
    items = [dataset[n] for n in range(10)]
    lines = [line for item in items for line in item["skipped"]]
    assert len(lines) >= 5 and all(line.startswith(f"{tmp_path}/1.tar/") and line.endswith("no such file") for line in lines)
    assert all(item["path"].startswith(f"{tmp_path}/0.tar/") for item in items)
    with open(tmp_path / "0.tar", "r+b") as file:
        file.truncate(700)
    with pytest.raises(ValueError, match="10 files in a row") as caught:
        dataset[0]
    assert "0.tar/0.png: broken or truncated image" in str(caught.value) or "not an image" in str(caught.value)


def test_shards_resume_to_the_sample_with_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    dataset = crops(tar_of(folder, tmp_path / "s.tar"), degradation=Degradation())

    def batches(workers: int, start: int, count: int) -> list[dict]:
        loader = DataLoader(dataset, batch_size=3, sampler=ShardedSampler(start=start), num_workers=workers, collate_fn=collate)
        return list(islice(loader, count))

    truth = batches(0, 0, 4)
    for workers, start in ((2, 0), (1, 6)):
        for found, expected in zip(batches(workers, start, 4 - start // 3), truth[start // 3 :], strict=True):
            assert all(torch.equal(found[key], expected[key]) for key in ("hr", "lr", "index")) and found["path"] == expected["path"]


def test_a_table_gives_back_what_was_put_in() -> None:
    pictures = [
        Picture("a/ü.png", "a/ü.png", size=(1, 2)),
        Picture("s.tar/\udcff.jpg", "s.tar", 1 << 40, 7, (3, 4)),
        Picture("b", "b", size=(5, 6)),
    ]
    table = PictureTable(pictures)
    assert list(table) == pictures and len(table) == 3 and table[0] == pictures[0] and table[-1] == pictures[-1]
    names = [picture.name for picture in pictures] + [""]
    assert list(NameTable(names)) == names and NameTable(names)[-2] == "b" and pictures[1] in table
    assert len(PictureTable([])) == len(NameTable([])) == 0
    for outside in (4, -5):
        with pytest.raises(IndexError):
            NameTable(names)[outside]


@pytest.mark.slow
def test_datasets_go_to_other_processes_whole_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first process of a training sends them to the others: the same items, and a bounded number of bytes for each picture."""
    for name, side in (("large", 48), ("small", 40)):
        Image.fromarray(located(side, side)).save(tmp_path / f"{name}.png")
    for root in ("hr", "lr"):
        (tmp_path / root).mkdir()
        for number in range(300):
            os.link(tmp_path / "large.png", tmp_path / root / f"{number:06d}.png")
            os.link(tmp_path / "small.png", tmp_path / root / f"a long name of a picture that is too small to be used, {number}.png")
    monkeypatch.chdir(tmp_path)
    numbers = {"gt_size": 48, "seed": 0}
    for dataset, used in (
        (HRCrops([("hr", 1.0), ("large.png", 2.0)], scale=4, degradation=Degradation(), usm=True, **numbers), 301),
        (PairedCrops("lr", "hr", scale=1, **numbers), 300),
        (PairedFolder("large.png", "large.png", 1), 1),
        (PairedFolder("lr", "hr", 1), 600),
    ):
        sent = pickle.dumps(dataset)
        assert len(sent) < 200 * used + 3000 + (150 * 300 if used == 600 else 0)
        received = pickle.loads(sent)
        for n in (0, 7, 299) if used > 1 else (0,):
            truth, item = dataset[n], received[n]
            assert item.keys() == truth.keys() and all(torch.equal(item[key], truth[key]) for key in ("hr", "lr"))
            assert all(item[key] == truth[key] for key in truth if key not in ("hr", "lr"))
        if not isinstance(dataset, PairedFolder):
            assert received.report() == dataset.report() and "300 too small" in received.report()


def known(total: int, first_width: int = 1) -> list[Picture]:
    """0.png, 1.png ... of height 5000 and width first_width, first_width + 1 ..."""
    return [Picture(f"{index}.png", f"{index}.png", size=(5000, first_width + index)) for index in range(total)]


def test_report_counts_all_and_names_the_first_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = known(10, 10) + [Picture(f"{index}.png", f"{index}.png") for index in (10, 11)]
    for picture in pictures[10:]:
        Path(picture.file).touch()
    usable, report = usable_pictures(pictures, picture_sizes(pictures), 17)
    assert usable == [7, 8, 9]
    assert report.splitlines() == [
        "3 of 12 images usable",
        "  7 too small (a side under 17 px), left out:",
        *[f"    {index}.png: {10 + index}x5000" for index in range(5)],
        "    ... and 2 more",
        "  2 unreadable, left out:",
        "    10.png: the file is empty (0 bytes)",
        "    11.png: the file is empty (0 bytes)",
    ]


@pytest.mark.parametrize("total", [0, 1, 31, 1000, 3001])
def test_every_file_is_looked_at_once_in_its_place(total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("data.pictures.image_size", lambda name, _: asked.append(name) or (int(name), 5000))
    pictures = [Picture(str(index), str(index)) for index in range(total)]
    assert picture_sizes(pictures) == [(index, 5000) for index in range(total)]
    assert sorted(asked, key=int) == [str(index) for index in range(total)]
    assert usable_pictures(pictures, picture_sizes(pictures), 1)[0] == list(range(1, total))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "delay", "shown"), [(Terminal, 0.0, True), (Terminal, sources.BAR_DELAY, False), (io.StringIO, 0.0, False)]
)
def test_a_long_look_shows_a_bar_on_a_terminal(stream: type, delay: float, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(sources, "BAR_DELAY", delay)
    picture_sizes(known(3000))
    assert ("image sizes: 100%" in sys.stderr.getvalue() and "3000/3000" in sys.stderr.getvalue()) == shown
    assert shown or sys.stderr.getvalue() == ""


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_box_is_a_part_of_the_whole_image(tmp_path: Path, mode: str, orientation: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(picture)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    (Image.fromarray(picture[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)).save(path, exif=exif)
    whole = read_image(path)
    part = read_image(path, size=whole.shape[:2], box=(3, 4, 10, 12))
    assert np.array_equal(part, whole[3:13, 4:16]) and part.dtype == np.uint8
    assert whole.shape == ((30, 20, 3) if orientation == 6 else (20, 30, 3))
    with pytest.raises(ValueError, match=rf"{path.name}: {whole.shape[1]}x{whole.shape[0]} pixels now, but 8x7 when the run started"):
        read_image(path, size=(7, 8), box=(3, 4, 10, 12))


def test_the_box_and_the_flip_are_those_that_the_stream_of_the_sample_gives(folder: Path, tmp_path: Path) -> None:
    """Truth: numpy's generator of [seed, n, 1], asked for top, left and flip in this order; and the pixels say where they come from."""
    tar_of(folder, tmp_path / "s.tar")
    for root in (folder, manifest_of(folder, tmp_path / "m.jsonl"), tmp_path / "s.tar"):
        dataset = crops(root, seed=3)
        for n in range(40):
            item, generator = dataset[n], np.random.default_rng([3, n, 1])
            number = int(Path(item["path"]).stem)
            top, left = generator.integers(40 + 5 * number - 32 + 1), generator.integers(70 - 5 * number - 32 + 1)
            truth = located(256, 256, number)[top : top + 32, left : left + 32]
            assert np.array_equal(item["hr"].permute(1, 2, 0).numpy(), truth[:, ::-1] if generator.random() < 0.5 else truth)


def test_manifest_entries_describe_what_is_drawn(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    image = read_image(folder / "0.png")
    luma = np.asarray(Image.fromarray(image).convert("L"))
    entries, *_ = measure_all([folder], path, workers=0)
    assert isinstance(entries[0], Entry) and (entries[0].height, entries[0].width) == image.shape[:2]
    differing = int(entries[0].perceptual_hash, 16) ^ int(perceptual_hash(luma), 16)
    assert differing.bit_count() <= 6  # Pillow's luma rounds otherwise than OpenCV's
