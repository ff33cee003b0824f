"""tools/manifest.py from its command line: a manifest that training reads, the same with any number of workers, and shards of it."""

import os
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.pictures import find_pictures
from data.shards import index_path
from tests.data.conftest import located
from tools.manifest import main, shard_bytes


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six noisy pictures 40 px wide, one of them twice, one small, one flat, one broken."""
    root = tmp_path / "hr"
    (root / "sub").mkdir(parents=True)
    for number in range(6):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / f"{number}.png")
    (root / "sub" / "copy.png").write_bytes((root / "3.png").read_bytes())
    Image.fromarray(located(20, 40)).save(root / "small.png")
    Image.fromarray(located(40, 40)).save(root / "soft.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return root


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def test_manifest_and_summary(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "m.jsonl"
    command = (pictures, pictures / "sub", "-o", manifest, "--min-side", 32, "--min-sharpness", 5, "--workers", 0)
    assert run(*command) == 0
    shown = capsys.readouterr().out
    for line in (
        "images      10, 0.0 megapixels (10 read, the others unchanged)",
        "used        6,",
        "1 unreadable\n  hr/broken.jpg: broken or truncated image",
        "1 too small (a side under 32 px)\n  hr/small.png: 40x20",
        "1 blurred (sharpness under 5)\n  hr/soft.png: sharpness",
        "1 exact duplicates\n  hr/sub/copy.png: of hr/3.png",
        "sharpness   1% ",
        f"wrote {manifest}",
    ):
        assert line in shown, shown
    assert [Path(picture.name).name for picture in find_pictures(manifest)] == [f"{number}.png" for number in range(6)]
    first = manifest.read_bytes()
    assert run(*command) == 0 and manifest.read_bytes() == first
    assert "(1 read, the others unchanged)" in capsys.readouterr().out
    assert run(*command, "--duplicates", "keep") == 0 and len(find_pictures(manifest)) == 7
    assert "1 exact duplicates, kept" in capsys.readouterr().out


def test_the_number_of_workers_changes_nothing(pictures: Path, tmp_path: Path) -> None:
    manifests = []
    for workers in (0, 2):
        assert run(pictures, "-o", tmp_path / f"{workers}.jsonl", "--min-side", 32, "--workers", workers) == 0
        manifests.append((tmp_path / f"{workers}.jsonl").read_bytes())
    assert manifests[0] == manifests[1]


def test_a_failure_leaves_the_former_manifest(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.jsonl"
    run(pictures, "-o", manifest, "--min-side", 32, "--workers", 0)
    first = manifest.read_bytes()

    def full(*names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run(pictures, "-o", manifest, "--workers", 0) == 2
    assert "manifest.py: [Errno 28] No space left on device" in capsys.readouterr().err
    assert manifest.read_bytes() == first and {path.name for path in tmp_path.iterdir()} == {"hr", "m.jsonl"}


def test_shards_of_what_is_used(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards"
    command = (pictures, "-o", tmp_path / "m.jsonl", "--min-side", 32, "--min-sharpness", 5, "--workers", 0, "--shards", out)
    assert run(*command, "--shard-size", "9kB") == 0
    assert "wrote 3 shard(s) of 6 images, with their indexes" in capsys.readouterr().out
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["00000.tar", "00001.tar", "00002.tar"]
    found = find_pictures(f"{out}/{{00000..00002}}.tar")
    assert [picture.size for picture in found] == [(40, 40)] * 6
    assert run(*command) == 2 and "shards: already there" in capsys.readouterr().err
    for shard in out.glob("*.tar"):
        index_path(shard).unlink()
    assert run("--index", out) == 0 and "00000.tar: 2 images indexed" in capsys.readouterr().out
    assert find_pictures(out) == found and len(list(out.glob("*.index"))) == 3


def test_mistakes_are_one_line(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"a": 1}\n')
    for args, problem in (
        ((tmp_path / "gone", "-o", tmp_path / "m.jsonl"), "gone: no such file or folder"),
        ((pictures, "-o", other, "--workers", 0), "other.jsonl: not a file of tools/manifest.py"),
        (("--index", tmp_path / "hr"), "hr: no shards"),
        (
            (pictures, "-o", tmp_path / "m.jsonl", "--workers", 0, "--min-side", 999, "--shards", tmp_path / "s"),
            "no image is left to write",
        ),
    ):
        assert run(*args) == 2
        error = capsys.readouterr().err
        assert problem in error and error.startswith("manifest.py: ") and error.count("\n") == 1 and "Traceback" not in error
    assert other.read_text() == '{"a": 1}\n'
    for args in ([], ["hr"], ["hr", "-o", "m.csv"], ["hr", "-o", "m.jsonl", "--index", "a.tar"], ["--index", "a.tar", "--shards", "s"]):
        with pytest.raises(SystemExit):
            main(args)


def test_sizes_of_shards() -> None:
    sizes = {"1GB": 10**9, "500MB": 5 * 10**8, "2GiB": 2**31, "1.5k": 1500, "7": 7, "3 tb": 3 * 10**12}
    assert {text: shard_bytes(text) for text in sizes} == sizes
    for text in ("", "GB", "0", "-1GB", "1 GBit", "nan"):
        with pytest.raises(ArgumentTypeError, match="expected a size"):
            shard_bytes(text)
