"""What a manifest says of an image, which filters leave it out, and how damage to the file is found."""

import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.duplicates import HASH_BITS, NEAR, near_copies, perceptual_hash
from data.manifest import Entry, file_of, manifest_path, measure, measure_all, read_manifest, select, write_manifest


def photo(seed: int, side: int = 160) -> Image.Image:
    """Smooth blobs with some detail, so that copies of it can be recognized."""
    noise = np.random.default_rng(seed).random((12, 12, 3), dtype=np.float32)
    detail = np.random.default_rng(seed + 1000).random((side, side, 1), dtype=np.float32)
    picture = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC) * 0.8 + detail * 0.1
    return Image.fromarray(np.uint8(np.clip(picture, 0, 1) * 255))


def entry(path: str, **changes: object) -> Entry:
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()
    values = {"bytes": 1, "mtime_ns": 1, "width": 64, "height": 64, "sha256": digest, "perceptual_hash": digest, "sharpness": 50.0}
    return Entry(path=path, **(values | changes))


def measured(root: Path, manifest: Path, workers: int = 0) -> tuple[list[Entry], int]:
    return measure_all([root], manifest, workers=workers)[:2]


def test_an_entry_says_what_the_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    photo(0).crop((0, 0, 160, 100)).save(tmp_path / "a.png", exif=exif)
    found = measure(str(tmp_path / "a.png"), "a.png")
    data, status = (tmp_path / "a.png").read_bytes(), (tmp_path / "a.png").stat()
    assert (found.width, found.height) == (100, 160), "upright"
    assert found.sha256 == hashlib.sha256(data).hexdigest() and (found.bytes, found.mtime_ns) == (len(data), status.st_mtime_ns)
    assert found.left_out == "" and len(found.perceptual_hash) * 4 == HASH_BITS


def test_sharpness_is_the_variance_of_the_laplacian(tmp_path: Path) -> None:
    """A grey checkerboard of levels 0 and a: the Laplacian of 4 neighbours is 4a and -4a, so its variance is 16 a^2."""
    for level in (1, 10, 255):
        board = np.uint8(np.indices((10, 12)).sum(0) % 2 * level)
        Image.fromarray(board).save(tmp_path / "a.png")
        assert measure(str(tmp_path / "a.png"), "a.png").sharpness == pytest.approx(16 * level**2, rel=1e-4)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    assert measure(str(tmp_path / "a.png"), "a.png").sharpness == 0.0


def test_unreadable_files_are_entries_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    photo(0).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-500])
    found = {name: measure(str(tmp_path / name), name).left_out for name in ("empty.png", "cut.jpg", "gone.png")}
    assert found["empty.png"] == "unreadable: the file is empty (0 bytes)" and found["gone.png"] == "unreadable: no such file"
    assert found["cut.jpg"].startswith("unreadable: broken or truncated image")


def test_a_pipe_is_an_entry_with_its_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert measure(str(tmp_path / "pipe.png"), "pipe.png").left_out == "unreadable: not a regular file"


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, manifest = tmp_path / "hr", tmp_path / "m.jsonl"
    root.mkdir()
    for number in (10, 2, 1):
        photo(number, 40).save(root / f"{number}.png")
    (root / "bad.png").write_text("text")
    entries, num_read = measured(root, manifest)
    assert num_read == 4 and [e.path for e in entries] == ["hr/1.png", "hr/2.png", "hr/10.png", "hr/bad.png"]
    write_manifest(manifest, select(entries, min_side=99, min_sharpness=0, drop_duplicates=True)[0])
    read = []
    monkeypatch.setattr("data.manifest.measure", lambda file, path: read.append(path) or measure(file, path))
    assert measured(root, manifest)[1] == 1 and read == ["hr/bad.png"], "what was unreadable may be readable now"
    photo(7, 40).save(root / "2.png")
    (root / "10.png").unlink()
    photo(8, 40).save(root / "3.png")
    entries, num_read = measured(root, manifest)
    assert read[1:] == ["hr/2.png", "hr/3.png", "hr/bad.png"] and num_read == 3
    assert [e.path for e in entries] == ["hr/1.png", "hr/2.png", "hr/3.png", "hr/bad.png"]
    assert entries[1] == measure(str(root / "2.png"), "hr/2.png")


def test_near_copies_are_recognized_and_different_pictures_are_not(tmp_path: Path) -> None:
    names = []
    for seed in range(6):
        picture = photo(seed)
        for copy, options in ((picture, {}), (picture.resize((100, 100), Image.Resampling.LANCZOS), {}), (picture, {"quality": 60})):
            names.append(tmp_path / f"{len(names):02d}.{'jpg' if options else 'png'}")
            copy.save(names[-1], **options)
    entries = [measure(str(name), name.name) for name in names]
    judged, found = select(entries, min_side=0, min_sharpness=0, drop_duplicates=True)
    assert found == {"near duplicate": 12, "duplicate": 0}
    assert [e.left_out for e in judged] == [
        "" if n % 3 == 0 else f"near duplicate: of {names[n - n % 3].name}" for n in range(18)
    ]  # fmt: skip


def test_hashes_are_near_up_to_15_bits_wherever_they_differ() -> None:
    generator = np.random.default_rng(0)
    for count, near in ((0, True), (NEAR, True), (NEAR + 1, False), (NEAR + 30, False)):
        for _ in range(40):
            bits = generator.integers(0, 2, HASH_BITS)
            other = bits.copy()
            other[generator.choice(HASH_BITS, count, replace=False)] ^= 1
            hashes = [np.packbits(hash_bits).tobytes().hex() for hash_bits in (bits, other)]
            assert near_copies(hashes, [1, 1]) == ({1: 0} if near else {})
    for equal_band in range(16):
        other = "".join("0000" if band == equal_band else "0100" for band in range(16))
        assert near_copies(["0" * 64, other], [1, 1]) == {1: 0}, "15 bits in 15 of 16 bands"
    assert near_copies(["0" * 64] * 3, [5, 9, 9]) == {2: 1, 0: 1}, "the largest is kept, then the earliest"


def test_perceptual_hash_against_the_dct_written_out() -> None:
    luma = np.asarray(photo(3, 64).convert("L"))
    index = np.arange(64)
    basis = np.cos(np.pi * (2 * index[None] + 1) * index[:16, None] / 128)
    basis[0] /= np.sqrt(2)
    lowest = (basis @ luma @ basis.T).ravel()
    assert perceptual_hash(luma) == np.packbits(lowest > np.median(lowest[1:])).tobytes().hex()


def test_filters_come_one_after_the_other() -> None:
    same = {"sha256": "a" * 64, "perceptual_hash": "b" * 64}
    entries = [
        entry("small.png", height=31, **same),
        entry("soft.png", sharpness=4.9, **same),
        entry("bad.png", width=0, height=0, left_out="unreadable: no such file"),
        entry("first.png", **same),
        entry("copy.png", **same),
        entry("near.png", perceptual_hash="b" * 63 + "0"),
        entry("other.png", left_out="too small: by an earlier run"),
    ]
    judged, found = select(entries, min_side=32, min_sharpness=5, drop_duplicates=True)
    assert [e.left_out for e in judged] == [
        "too small: 64x31", "blurred: sharpness 4.9", "unreadable: no such file", "", "duplicate: of first.png",
        "near duplicate: of first.png", "",
    ]  # fmt: skip
    kept, found_too = select(judged, min_side=32, min_sharpness=5, drop_duplicates=False)
    assert [e.why for e in kept] == ["too small", "blurred", "unreadable", "", "", "", ""] and found == found_too
    assert found == {"too small": 1, "blurred": 1, "unreadable": 1, "duplicate": 1, "near duplicate": 1}


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    entries = [entry("a.png"), entry("ü/\udcff.jpg", left_out="blurred: sharpness 1")]
    write_manifest(tmp_path / "m.jsonl", entries)
    assert read_manifest(tmp_path / "m.jsonl") == entries
    header = json.loads((tmp_path / "m.jsonl").read_text().splitlines()[0])
    assert header == {"format": "d3sr-manifest", "records": 2, "version": 1, "used": 1, "left_out": {"blurred": 1}}


DAMAGE = [
    (lambda lines: lines[:-1], "1 of 2 lines are there; make it again with tools/manifest.py"),
    (lambda lines: [*lines[:-1], lines[-1][:30]], "line 3: damaged"),
    (lambda lines: [*lines[:-1], "[1]"], "line 3: expected one JSON object"),
    (lambda lines: [*lines[:-1], '{"path": "a"}'], "line 3: expected path, bytes, mtime_ns, width.*; got path"),
    (lambda lines: [*lines[:-1], lines[-1].replace("64", '"64"', 1)], "line 3: width: expected int, got '64'"),
    (lambda lines: lines[1:], "not a file of tools/manifest.py"),
    (lambda lines: [], "not a file of tools/manifest.py"),
    (lambda lines: [lines[0].replace('"version": 1', '"version": 2'), *lines[1:]], "version 2, this code reads version 1"),
    (lambda lines: [lines[0][:-5]], "line 1: damaged"),
]


@pytest.mark.parametrize(("change", "problem"), DAMAGE)
def test_damage_is_named(tmp_path: Path, change: object, problem: str) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [entry("a.png"), entry("b.png")])
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=f"m.jsonl.*{problem}"):
        read_manifest(path)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone.jsonl: could not be read"):
        read_manifest(tmp_path / "gone.jsonl")


def test_paths_are_relative_to_the_manifest_even_behind_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    manifest, image = tmp_path / "link" / "m.jsonl", tmp_path / "hr" / "a.png"
    assert manifest_path(image, manifest) == "../hr/a.png"
    assert file_of(entry("../hr/a.png"), manifest) == str(image)


def test_a_manifest_is_refused_where_it_would_lack_images_and_says_what_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "hr").mkdir()
    photo(0).save(tmp_path / "hr" / "a.png")
    (tmp_path / "hr" / "b.mov").touch()
    assert measure_all([tmp_path / "hr"], tmp_path / "m.jsonl", workers=0)[2] == "1 passed over: .mov 1"
    os.mkfifo(tmp_path / "hr" / "pipe.png")
    with pytest.raises(ValueError, match=r"1 places cannot be read, so the manifest would lack images:\n  .*pipe.png: not a regular file"):
        measured(tmp_path / "hr", tmp_path / "m.jsonl")
    assert measure(str(tmp_path / "hr" / "pipe.png"), "pipe.png").left_out == "unreadable: not a regular file"


def test_a_sparse_giant_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(5 << 30)
    assert measure(str(tmp_path / "a.png"), "a.png").left_out == "unreadable: 5.4 GB are too many for a picture"
