"""Sizes come from headers alone, whatever the format and wherever it says which way up the picture is. Truth: the decoded picture."""

import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, WebPImagePlugin

from data.hr_crops import HRCrops
from data.image_io import image_size, read_image
from data.shards import scan_shard
from tests.odd_bytes import chunk, encoded, exif

HEIGHT, WIDTH = 24, 40
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def png(before: bytes = b"", behind: bytes = b"", piece: int = 100, pixels: bytes | None = None) -> bytes:
    """A PNG whose pixels lie in IDAT chunks of `piece` bytes, the last one shorter; chunks before and behind them."""
    header = WIDTH.to_bytes(4, "big") + HEIGHT.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS)) if pixels is None else pixels
    pieces = b"".join(chunk(b"IDAT", data[at : at + piece]) for at in range(0, len(data), piece))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pieces + behind + chunk(b"IEND", b"")


def profile(turn: int) -> bytes:
    """ImageMagick's text of old: the EXIF block in hexadecimal."""
    return f"\nexif\n{len(exif(turn)):8}\n{exif(turn).hex()}\n".encode()


def xmp(turn: int) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{turn}"/></x:xmpmeta>'.encode()


def animation(turn: int, behind: bytes) -> bytes:
    """An APNG of two frames whose EXIF stands right before the first chunk of this name behind the pixels."""
    first, second = (Image.fromarray(pixels) for pixels in (PIXELS, 255 - PIXELS))
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True, append_images=[second])
    data = file.getvalue()
    at = data.index(behind, data.index(b"IDAT")) - 4
    return data[:at] + chunk(b"eXIf", exif(turn)[6:]) + data[at:]


NAME = b"Raw profile type exif"
PNG_CHUNKS: dict[str, Callable[[int], bytes]] = {
    "exif": lambda turn: chunk(b"eXIf", exif(turn, ">")[6:]),
    "text": lambda turn: chunk(b"tEXt", NAME + b"\0" + profile(turn)),
    "packed text": lambda turn: chunk(b"zTXt", NAME + b"\0\0" + zlib.compress(profile(turn))),
    "unicode text": lambda turn: chunk(b"iTXt", NAME + b"\0\0\0\0\0" + profile(turn)),
    "xmp": lambda turn: chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(turn)),
}
FILES: dict[str, Callable[[int], bytes]] = {
    "exif.jpg": lambda turn: encoded(PIXELS, "JPEG", exif=exif(turn)),
    "xmp.jpg": lambda turn: encoded(PIXELS, "JPEG", xmp=xmp(turn)),
    "lossy.webp": lambda turn: encoded(PIXELS, "WEBP", exif=exif(turn)),
    "lossless.webp": lambda turn: encoded(PIXELS, "WEBP", lossless=True, exif=exif(turn, ">")),
    "xmp.webp": lambda turn: encoded(PIXELS, "WEBP", xmp=xmp(turn)),
    "a.tif": lambda turn: encoded(PIXELS, "TIFF", exif=_tag(turn)),
    "packed.tif": lambda turn: encoded(PIXELS, "TIFF", exif=_tag(turn), compression="tiff_lzw"),
    "a.bmp": lambda turn: encoded(PIXELS, "BMP"),
    "a.ppm": lambda turn: encoded(PIXELS, "PPM"),
    "a.gif": lambda turn: encoded(PIXELS, "GIF"),
    "behind the first frame.png": lambda turn: animation(turn, b"fcTL"),
    "behind the last frame.png": lambda turn: animation(turn, b"IEND"),
    "twice.png": lambda turn: png(PNG_CHUNKS["exif"](9 - turn), PNG_CHUNKS["exif"](turn)),
    **{f"{name} before.png": lambda turn, make=make: png(before=make(turn)) for name, make in PNG_CHUNKS.items()},
    **{f"{name} behind.png": lambda turn, make=make: png(behind=make(turn)) for name, make in PNG_CHUNKS.items()},
}
UPRIGHT = ("a.bmp", "a.ppm", "a.gif", "behind the last frame.png")


def _tag(turn: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags


@pytest.fixture
def nothing_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = lambda *_: pytest.fail("a picture was decoded")  # noqa: E731
    for kind in (ImageFile.ImageFile, *ImageFile.ImageFile.__subclasses__()):
        if "load" in vars(kind):
            monkeypatch.setattr(kind, "load", forbidden)
    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "_get_next", forbidden)


def decoded_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image)).shape[:2]


@pytest.mark.parametrize("name", FILES)
def test_sizes_are_those_of_the_decoded_picture_and_nothing_is_decoded(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    paths = []
    for turn in range(1, 9):
        paths.append(tmp_path / f"{turn} {name}")
        paths[-1].write_bytes(FILES[name](turn))
    truth = [decoded_size(path) for path in paths]
    assert truth == [(HEIGHT, WIDTH)] * 4 + [(HEIGHT, WIDTH) if name in UPRIGHT else (WIDTH, HEIGHT)] * 4
    assert [read_image(path).shape[:2] for path in paths] == truth
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for path in paths:
            tar.add(path, arcname=path.name)
    request.getfixturevalue("nothing_decodes")
    assert [image_size(path) for path in paths] == truth
    assert [image_size("in memory", io.BytesIO(path.read_bytes())) for path in paths] == truth
    assert [(member.height, member.width) for member in scan_shard(tmp_path / "s.tar")] == truth


@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("tail", [b"", b"x" * 450], ids=["", "long tail"])
def test_exif_is_found_behind_pieces_of_any_length(piece: int, tail: bytes, nothing_decodes: None) -> None:
    data = png(behind=chunk(b"tEXt", b"Comment\0" + tail) + PNG_CHUNKS["exif"](6), piece=piece)
    assert image_size("a.png", io.BytesIO(data)) == (WIDTH, HEIGHT)
    uneven = png(behind=PNG_CHUNKS["exif"](6), piece=piece).replace(b"eXIf", b"IDAT", 1)  # one longer piece more, and EXIF nowhere
    assert image_size("a.png", io.BytesIO(uneven)) == (HEIGHT, WIDTH)


def test_a_large_png_is_not_read_from_piece_to_piece() -> None:
    class Counting(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            return super().read(size)

    reads = []
    for length in (10_000, 1_000_000):
        file = Counting(png(behind=PNG_CHUNKS["exif"](6), piece=1000, pixels=bytes(length)))
        assert image_size("a.png", file) == (WIDTH, HEIGHT)
        reads.append(file.reads)
    assert reads[0] == reads[1] < 40


@pytest.mark.parametrize("number", [0, 9, 65535])
def test_a_number_that_exif_does_not_know_is_upright(number: int, tmp_path: Path) -> None:
    for name in ("exif.jpg", "a.tif", "exif before.png", "exif behind.png", "lossy.webp"):
        (tmp_path / name).write_bytes(FILES[name](number))
        assert image_size(tmp_path / name) == decoded_size(tmp_path / name) == (HEIGHT, WIDTH)


def test_an_orientation_that_is_text_is_upright(tmp_path: Path) -> None:
    entry = b"\x12\x01\x02\0\2\0\0\0" + b"6\0\0\0"  # ASCII instead of SHORT
    block = b"II*\0\x08\0\0\0" + b"\1\0" + entry + bytes(4)
    for name, data in (("a.png", png(before=chunk(b"eXIf", block))), ("a.jpg", encoded(PIXELS, "JPEG", exif=b"Exif\0\0" + block))):
        (tmp_path / name).write_bytes(data)
        assert image_size(tmp_path / name) == decoded_size(tmp_path / name) == read_image(tmp_path / name).shape[:2] == (HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["exif.jpg", "lossy.webp", "lossless.webp", "a.tif", "packed.tif", "a.bmp", "a.ppm", "a.gif"])
def test_garbage_in_place_of_pixels_does_not_matter(name: str) -> None:
    data = bytearray(FILES[name](6))
    middle = slice(len(data) // 2, len(data) // 2 + 200)
    data[middle] = np.random.default_rng(1).bytes(200)
    assert image_size(name, io.BytesIO(data)) == image_size(name, io.BytesIO(FILES[name](6)))


def test_damage_behind_the_header_is_found_when_the_picture_is_read(tmp_path: Path) -> None:
    """The scan at the start lets it pass; then it is named, and another picture is taken."""
    (tmp_path / "whole.png").write_bytes(png())
    broken = {
        "garbage.png": png(behind=PNG_CHUNKS["exif"](6), pixels=np.random.default_rng(2).bytes(3000)),
        "cut.png": png()[:900],
        "cut in a chunk's header.png": png()[: png().index(b"IDAT", 200) + 2],
        "zeros.png": png()[:900] + bytes(5000),
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        assert image_size(tmp_path / name) == ((WIDTH, HEIGHT) if name == "garbage.png" else (HEIGHT, WIDTH))
        with pytest.raises(ValueError, match=f"{name}: broken or truncated image"):
            read_image(tmp_path / name)
    dataset = HRCrops([(tmp_path, 1.0)], gt_size=16, scale=4, seed=0)
    assert dataset.report() == "5 of 5 images usable"
    items = [dataset[n] for n in range(10)]
    assert {Path(item["path"]).name for item in items} == {"whole.png"}
    assert {line.split(": ")[0] for item in items for line in item["skipped"]} == {str(tmp_path / name) for name in broken}


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_damage_to_exif_is_none_to_the_picture(tmp_path: Path) -> None:
    """Whether it stands before or behind the pixels; and a wrong checksum behind them is read over, as Pillow does."""
    wrong_sum = PNG_CHUNKS["exif"](6)[:-4] + b"\0\0\0\0"
    cases = {b"garbage": (HEIGHT, WIDTH), exif(6)[6:30]: (HEIGHT, WIDTH)}
    for block, size in cases.items():
        for place in ("before", "behind"):
            (tmp_path / "a.png").write_bytes(png(**{place: chunk(b"eXIf", block)}))
            assert image_size(tmp_path / "a.png") == read_image(tmp_path / "a.png").shape[:2] == size
    (tmp_path / "a.png").write_bytes(png(behind=wrong_sum))
    assert image_size(tmp_path / "a.png") == decoded_size(tmp_path / "a.png") == (WIDTH, HEIGHT)
