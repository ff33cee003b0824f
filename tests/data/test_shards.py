"""Shards by webdataset's own writer and by plain `tar`, read at random; their indexes; and what is refused."""

import io
import itertools
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from braceexpand import braceexpand
from PIL import Image

from data.image_io import read_image
from data.pictures import find_pictures, picture_sizes, read_picture
from data.shards import _number_of_names, index_path, read_index, scan_shard, shard_paths, write_index, write_shards
from tests.data.conftest import located


def encoded(number: int, kind: str = "png", side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(located(side, side + 8, number)).save(buffer, kind)
    return buffer.getvalue()


def tar_with(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def names(shard: Path) -> list[str]:
    return [member.name for member in scan_shard(shard)]


def bytes_at(shard: Path, offset: int, count: int) -> bytes:
    return shard.read_bytes()[offset : offset + count]


def test_shards_of_webdatasets_writer_are_read(tmp_path: Path) -> None:
    """Every common kind of image, with what usually lies beside it."""
    kinds = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp", "bmp": "bmp", "tiff": "tiff"}
    with webdataset.ShardWriter(f"{tmp_path}/%03d.tar", maxcount=4, verbose=0, encoder=False) as writer:
        for number, (extension, kind) in enumerate(kinds.items()):
            extra = {"json": b"{}", "txt": b"a caption", "cls": b"1", "__url__": "ignored"}
            writer.write({"__key__": f"set/{number:04d}", extension: encoded(number, kind), **extra})
    pictures = find_pictures(f"{tmp_path}/{{000..001}}.tar")
    assert [Path(picture.name).name for picture in pictures] == [f"{n:04d}.{extension}" for n, extension in enumerate(kinds)]
    assert pictures == find_pictures(tmp_path), "a folder of shards is the same"
    for number, picture in enumerate(pictures):
        assert [picture.size] == picture_sizes([picture]) == [(32, 40)]
        crop = read_picture(picture, (3, 5, 16, 16))
        assert np.abs(crop.astype(int) - located(32, 40, number)[3:19, 5:21]).max() <= 12, picture.name  # JPEG and WebP lose a little


def test_shards_of_plain_tar_are_read(tmp_path: Path) -> None:
    """In all its formats, with a path of more than 100 characters, which each of them stores in its own way."""
    folder, deep = tmp_path / "hr", "long-" * 18
    (folder / deep).mkdir(parents=True)
    for number, name in enumerate(("a.png", f"{deep}/b with space.png", "ü.png", ".hidden.png", "._a.png", "notes.txt")):
        (folder / name).write_bytes(encoded(number))
    (folder / "link.png").symlink_to("a.png")
    for format in ("gnu", "posix", "ustar"):
        shard = tmp_path / f"{format}.tar"
        subprocess.run(["tar", f"--format={format}", "-cf", shard, "-C", folder, "."], check=True)
        expected = {"./a.png": 0, f"./{deep}/b with space.png": 1, "./ü.png": 2}
        members = {member.name: member for member in scan_shard(shard)}
        assert members.keys() == expected.keys()
        for name, number in expected.items():
            assert bytes_at(shard, members[name].offset, members[name].bytes) == encoded(number)


def test_one_image_of_a_key_is_chosen_and_two_are_refused(tmp_path: Path) -> None:
    shard = tar_with(tmp_path / "s.tar", {"a.mask.png": b"", "b.hr.PNG": b"", "a.JPG": b"", "a.json": b"", "d.1/c.x/e.webp": b"", "f": b""})
    assert names(shard) == ["a.JPG", "b.hr.PNG", "d.1/c.x/e.webp"]
    for pair in (("a.png", "a.jpg"), ("d/a.one.png", "d/a.two.png"), ("photo.v2.jpg", "photo.v3.jpg")):
        with pytest.raises(ValueError, match=f"s.tar: several images of one key, {', '.join(pair)}; a sample is one image"):
            scan_shard(tar_with(shard, dict.fromkeys(pair, b"")))


def test_webdataset_finds_the_same_samples_in_what_is_written(tmp_path: Path) -> None:
    files = []
    for number, (extension, kind) in enumerate((("JPG", "jpeg"), ("png", "png"), ("webp", "webp"), ("png", "png"), ("jpeg", "jpeg"))):
        files.append(tmp_path / f"{number}.dotted.{extension}")
        files[-1].write_bytes(encoded(number, kind, side=100))
    size = len(files[0].read_bytes()) + 1
    images = [(str(file), {"path": file.name}) for file in files]
    written = write_shards(images, tmp_path / "out" / "100%", size)
    assert len(written) > 1 and all(shard.is_file() and index_path(shard).is_file() for shard in written)
    samples = list(webdataset.WebDataset([str(shard) for shard in written], shardshuffle=False))
    assert [json.loads(sample["json"]) for sample in samples] == [about for _, about in images]
    pictures = find_pictures(tmp_path / "out" / "100%")
    for number, (sample, picture, file) in enumerate(zip(samples, pictures, files, strict=True)):
        assert sample["__key__"] == f"{number:08d}" and picture.name.endswith(f"/{number:08d}{file.suffix.lower()}")
        assert sample[file.suffix[1:].lower()] == file.read_bytes() == bytes_at(Path(picture.file), picture.offset, picture.num_bytes)
        assert picture.size == (100, 108)
        crop = read_picture(picture, (0, 8, 100, 100))
        assert np.array_equal(crop, read_image(file)[:, 8:])
    again = write_shards(images, tmp_path / "again", size)
    assert [shard.read_bytes() for shard in again] == [shard.read_bytes() for shard in written], "the same images give the same bytes"


def test_shards_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    good = tmp_path / "a.png"
    good.write_bytes(encoded(0))
    with pytest.raises(ValueError, match="gone.png: no such file"):
        write_shards([(str(good), {}), (str(tmp_path / "gone.png"), {})], tmp_path / "out", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]
    (tmp_path / "out.tmp").mkdir()
    with pytest.raises(ValueError, match="out.tmp is in the way"):
        write_shards([(str(good), {})], tmp_path / "out", 1)
    (tmp_path / "out.tmp").rmdir()
    write_shards([(str(good), {})], tmp_path / "out", 1)
    with pytest.raises(ValueError, match="out: already there"):
        write_shards([(str(good), {})], tmp_path / "out", 1)


def test_the_index_is_what_a_scan_finds_and_is_not_trusted_for_another_tar(tmp_path: Path) -> None:
    shard = tar_with(tmp_path / "s.tar", {"a.png": encoded(0), "b.png": b"broken", "c.txt": b"x"})
    assert read_index(shard) is None
    assert write_index(shard) == 2 and read_index(shard) == scan_shard(shard)
    assert [(member.height, member.width) for member in scan_shard(shard)] == [(32, 40), (0, 0)]
    pictures = find_pictures(shard)
    assert pictures[1].size is None
    sizes = picture_sizes(pictures)
    assert sizes[0] == (32, 40) and re.match(f"{re.escape(str(shard))}/b.png: not an image", sizes[1])
    tar_with(shard, {f"{number}.png": encoded(number, side=200) for number in range(9)})
    assert read_index(shard) is None and len(find_pictures(shard)) == 9


def test_an_index_with_the_wrong_place_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    shard = tar_with(tmp_path / "s.tar", {"a.png": encoded(0, side=32), "b.png": encoded(1, side=33)})
    write_index(shard)
    tar_with(shard, {"b.png": encoded(1, side=33), "a.png": encoded(0, side=32)})
    assert read_index(shard) is not None, "both tars are of one size"
    with pytest.raises(ValueError, match="41x33 pixels now, but 40x32"):
        read_picture(find_pictures(shard)[0], (0, 0, 16, 16))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    shard = tar_with(tmp_path / "s.tar", {"a.png": encoded(0, side=200), "b.png": encoded(1, side=200)})
    write_index(shard)
    index = index_path(shard)
    index.write_bytes(b"".join(index.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(ValueError, match="s.tar.index: 1 of 2 lines are there; make it again with tools/manifest.py --index"):
        find_pictures(shard)
    index.unlink()
    shard.write_bytes(shard.read_bytes()[:900])
    with pytest.raises(ValueError, match="s.tar: not a whole tar file"):
        find_pictures(shard)
    shard.write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match="s.tar: not a whole tar file"):
        find_pictures(shard)


def test_roots_are_told_apart_and_wrong_ones_refused(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        tar_with(tmp_path / f"{number:03d}.tar", {"a.png": encoded(number)})
    assert [path.name for path in shard_paths(f"{tmp_path}/{{008..010}}.tar")] == ["008.tar", "009.tar", "010.tar"]
    assert [path.name for path in shard_paths(f"{tmp_path}/0{{10,08}}.tar")] == ["010.tar", "008.tar"]
    assert len(shard_paths(tmp_path)) == 3 and shard_paths(tmp_path / "list.txt") == []
    (tmp_path / "literal{1}.tar").write_bytes((tmp_path / "008.tar").read_bytes())
    assert shard_paths(tmp_path / "literal{1}.tar") == [tmp_path / "literal{1}.tar"]
    for root, problem in (
        (f"{tmp_path}/{{007..012}}.tar", "3 of 6 shards are missing"),
        (f"{tmp_path}/{{007..012.tar", "not a brace notation"),
        ("https://host/{0..9}.tar", "not behind a URL"),
        ("pipe:aws s3 cp s3://bucket/0.tar", "not behind a URL"),
        (f"{tmp_path}/000.tar.gz", "a compressed tar cannot be read at random"),
    ):
        with pytest.raises(ValueError, match=problem):
            shard_paths(root)
    (tmp_path / "sub").mkdir()
    assert len(shard_paths(tmp_path)) == 4
    (tmp_path / "sub" / "a.png").write_bytes(encoded(0))
    with pytest.raises(ValueError, match="holds both shards"):
        shard_paths(tmp_path)


def test_braces_are_counted_before_they_become_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truth of what is allowed: braceexpand itself, which holds all names in memory."""
    for text in ("a", "{0..9}", "{00..20..3}x{a,b,c}", "x{a{0..4},b{1,2}{3,4},c}", "{a}{1..3}", "{-3..3}", "{../a,../b}{9..1}", "{a..e}"):
        count = len(list(braceexpand(text)))
        assert _number_of_names(text) == (52 if text == "{a..e}" else count)
    monkeypatch.setattr("data.shards.braceexpand", lambda text: pytest.fail(f"expanded {text}"))
    digit = "{0..9}"
    for text in ("{0..20000000}", digit * 7, f"{{{digit * 7},x}}", "{a,b}" * 40, "{0..1" + "0" * 200 + "}", "{a..z}" * 4, "{" * 99):
        with pytest.raises(ValueError, match="these braces name more than 300,000 shards"):
            shard_paths(f"{tmp_path}/{text}.tar")


def test_an_index_that_points_out_of_its_tar_is_refused(tmp_path: Path) -> None:
    shard = tar_with(tmp_path / "s.tar", {"a.png": encoded(0)})
    write_index(shard)
    index, header = index_path(shard), index_path(shard).read_text().splitlines()[0]
    good = json.loads(index.read_text().splitlines()[1])
    for key, value in itertools.product(("offset", "bytes", "height", "width"), (-1, 10**18, 10**30)):
        if key in ("height", "width") and value == 10**18:
            continue  # found when the picture is read
        index.write_text(header + "\n" + json.dumps(good | {key: value}) + "\n")
        with pytest.raises(ValueError, match=r"s\.tar\.index, line 2: .*(outside of the tar|expected int, got)"):
            find_pictures(shard)
    index.write_text(header + "\n" + "[" * 100_000 + "\n")
    with pytest.raises(ValueError, match=r"s\.tar\.index, line 2: damaged"):
        find_pictures(shard)


def test_absurd_tar_headers_are_a_damaged_tar(tmp_path: Path) -> None:
    shard = tmp_path / "s.tar"
    for size, kind in itertools.product((10**18, 10**25, -512, -(10**6)), (b"0", b"x", b"L")):
        info = tarfile.TarInfo("a.png")
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[124:136] = (b"\x80" if size >= 0 else b"\xff") + (size % 256**11).to_bytes(11, "big")  # GNU's way for large numbers
        header[156:157] = kind
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        shard.write_bytes(bytes(header) + bytes(512) + info.tobuf() + bytes(1024))
        with pytest.raises(ValueError, match="s.tar: not a whole tar file"):
            scan_shard(shard)
    chained = tarfile.TarInfo("x")
    chained.type = tarfile.GNUTYPE_LONGNAME
    shard.write_bytes(chained.tobuf(tarfile.GNU_FORMAT) * 5000 + bytes(1024))
    with pytest.raises(ValueError, match="s.tar: not a whole tar file"):
        scan_shard(shard)


def test_a_member_too_long_for_a_picture_is_not_read(tmp_path: Path) -> None:
    shard = tar_with(tmp_path / "s.tar", {"a.png": encoded(0)})
    picture = find_pictures(shard)[0]._replace(num_bytes=3 << 30, size=None)
    assert picture_sizes([picture]) == [f"{picture.name}: 3.2 GB are too many for a picture"]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    """A pipe that nobody writes to: to open it is to wait for ever."""
    shard = tar_with(tmp_path / "s.tar", {"a.png": encoded(0)})
    for name in ("t.tar", "s.tar.index", "m.jsonl"):
        os.mkfifo(tmp_path / name)
    assert shard_paths(tmp_path) == [shard] and len(find_pictures(shard)) == 1
    with pytest.raises(ValueError, match="m.jsonl: not a regular file"):
        find_pictures(tmp_path / "m.jsonl")
