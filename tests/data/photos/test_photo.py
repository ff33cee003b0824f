import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, JpegImagePlugin

from data.listing import list_images
from data.photos import png_writer
from data.photos.photo import OUTPUT_FORMATS, Photo, read_photo, software_of, write_photo
from data.photos.tiff_reader import eight_bit
from tests.odd_bytes import chunk, display_p3_profile, encoded, exif, grey_profile, png
from tests.odd_files import ALPHA, DEEP, GREY, RGB, Expected, write_odd_files

KINDS = {
    "grey": Photo(GREY),
    "grey alpha": Photo(GREY, ALPHA),
    "rgb": Photo(RGB),
    "rgba": Photo(RGB, ALPHA),
    "grey 16": Photo(DEEP[:, :, :1]),
    "grey alpha 16": Photo(DEEP[:, :, :1], DEEP[:, :, 3]),
    "rgb 16": Photo(DEEP[:, :, :3]),
    "rgba 16": Photo(DEEP[:, :, :3], DEEP[:, :, 3]),
}
COLOUR_TYPES = {"grey": 0, "grey alpha": 4, "rgb": 2, "rgba": 6}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Expected]]:
    folder = tmp_path_factory.mktemp("corpus") / "odd"
    return folder, write_odd_files(folder)


def problem(path: Path, expected: Expected) -> str:
    """In which way reading a file is not as expected; empty if it is."""
    try:
        read = read_photo(path)
    except ValueError as error:
        said = str(error).removeprefix(f"{path}: ")
        return "" if expected.reason and said.startswith(expected.reason) and str(error) != said else f"refused: {error}"
    truth = expected.pixels
    if truth is None:
        return f"read, but: {expected.reason}"
    if (read.pixels.shape, read.pixels.dtype) != (truth.shape, truth.dtype):
        return f"{read.pixels.dtype} {read.pixels.shape}, not {truth.dtype} {truth.shape}"
    if np.abs(read.pixels.astype(np.int64) - truth).max() > expected.tolerance:
        return "other pixels"
    if (read.alpha is None) != (expected.alpha is None) or (read.alpha is not None and not np.array_equal(read.alpha, expected.alpha)):
        return "other alpha"
    if bool(read.notes) != bool(expected.note) or expected.note not in " ".join(read.notes):
        return f"notes: {read.notes}"
    return "" if read.pixels.flags.writeable and read.pixels.flags.c_contiguous else "not an array of its own"


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_every_odd_file_is_read_or_refused_for_its_reason(odd: tuple[Path, dict[str, Expected]]) -> None:
    folder, corpus = odd
    assert len(corpus) >= 45
    found = {name: problem(folder / name, expected) for name, expected in corpus.items()}
    assert {name: text for name, text in found.items() if text} == {}


def test_the_corpus_is_listed_as_it_says(odd: tuple[Path, dict[str, Expected]]) -> None:
    folder, corpus = odd
    assert {file.path.name for file in list_images(folder).files} == {name for name, expected in corpus.items() if expected.listed}


def test_other_readers_see_the_same_sixteen_bit(odd: tuple[Path, dict[str, Expected]]) -> None:
    folder, corpus = odd
    for name in ("grey 16.tif", "grey 16 big endian.tif", "rgb 16.tif", "rgba 16.tif", "rgb 16 planes.tif", "int 32.tif"):
        truth = tifffile.imread(folder / name)
        truth = truth.transpose(1, 2, 0) if "planes" in name else truth
        read = read_photo(folder / name)
        mine = read.pixels if read.alpha is None else np.dstack([read.pixels, read.alpha])
        assert np.array_equal(mine.squeeze(), truth), name


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_threads_read_under_limits_of_their_own_and_pillows_limit_stays(odd: tuple[Path, dict[str, Expected]], monkeypatch) -> None:
    """Pillow's limit is put below every file: it must neither refuse nor warn (WebP and GIF have a check of their own inside)."""
    folder, corpus = odd
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    names = [name for name, e in corpus.items() if e.pixels is not None and e.pixels.size > 99 and not name.endswith((".webp", ".gif"))]

    def read(job: int) -> str:
        path, limit = folder / names[job % len(names)], (1e-5, 1)[job // len(names) % 2]
        if limit == 1:
            return problem(path, corpus[path.name])
        with pytest.raises(ValueError, match=r"has 0\.0 megapixels, above max_megapixels \(1e-05\); raise it") as caught:
            read_photo(path, limit)
        return "" if str(caught.value).startswith(str(path)) else str(caught.value)

    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        assert set(pool.map(read, range(4 * len(names)))) == {""}
    assert Image.MAX_IMAGE_PIXELS == 300


def test_the_limit_is_the_headers_megapixels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(np.zeros((1000, 1200, 1), dtype=np.uint8)))
    assert read_photo(tmp_path / "a.png", 1.2).pixels.shape == (1000, 1200, 1)
    with pytest.raises(
        ValueError, match=r"a\.png: has 1\.2 megapixels, above max_megapixels \(1\.19\); raise it if the machine has the memory"
    ):
        read_photo(tmp_path / "a.png", 1.19)


def test_pipes_and_closed_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png: not a regular file"):
        read_photo(tmp_path / "pipe.png")
    (tmp_path / "closed.png").write_bytes(png(RGB))
    (tmp_path / "closed.png").chmod(0)
    if not os.access(tmp_path / "closed.png", os.R_OK):  # root reads everything
        with pytest.raises(ValueError, match=r"closed\.png: could not be opened \(Permission denied\)"):
            read_photo(tmp_path / "closed.png")


def test_a_first_page_is_read_whatever_follows(tmp_path: Path) -> None:
    data = bytearray(encoded(RGB, "TIFF"))
    directory = struct.unpack("<I", data[4:8])[0]
    following = directory + 2 + 12 * struct.unpack("<H", data[directory : directory + 2])[0]
    data[following : following + 4] = struct.pack("<I", 9)
    (tmp_path / "a.tif").write_bytes(data)
    read = read_photo(tmp_path / "a.tif")
    assert np.array_equal(read.pixels, RGB) and read.notes in [
        ("several pages: only the first is restored",),
        ("2 pages: only the first is restored",),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_of_any_kind_is_a_value_error(odd: tuple[Path, dict[str, Expected]], tmp_path: Path) -> None:
    folder, corpus = odd
    random = np.random.default_rng(11)
    for name in [name for name, expected in corpus.items() if expected.pixels is not None and len(name) < 99 and "link" not in name]:
        data = bytearray((folder / name).read_bytes())
        for _ in range(4):
            data[random.integers(8, min(400, len(data)))] = random.integers(0, 256)
        path = tmp_path / f"damaged{Path(name).suffix}"
        path.write_bytes(data)
        try:
            read_photo(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
        software_of(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_half_of_a_plane_is_no_picture(odd: tuple[Path, dict[str, Expected]], tmp_path: Path) -> None:
    for name in ("rgb 16 planes.tif", "rgb 16.tif", "rgb 16 deflated.tif"):
        data = (odd[0] / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-700])
        with pytest.raises(ValueError, match="broken"):
            read_photo(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_png_keeps_everything(tmp_path: Path, kind: str) -> None:
    path, profile = tmp_path / "sub" / "a.PNG", grey_profile(1.8) if kind.startswith("grey") else display_p3_profile()
    photo = replace(KINDS[kind], icc_profile=profile, exif=exif())
    assert write_photo(path, photo) == ()
    data = path.read_bytes()
    assert data[24:26] == bytes([16 if "16" in kind else 8, COLOUR_TYPES[kind.removesuffix(" 16")]])  # bit depth and colour type
    read = read_photo(path)
    assert np.array_equal(read.pixels, photo.pixels) and read.pixels.dtype == photo.pixels.dtype and read.notes == ()
    assert (read.alpha is None and photo.alpha is None) or np.array_equal(read.alpha, photo.alpha)
    assert read.icc_profile == profile and ExifTags.Base.Make in Image.open(path).getexif()
    others = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # grey with alpha comes as B, G, R, A
    truth = photo.pixels if photo.alpha is None else np.dstack([np.broadcast_to(photo.pixels, (*photo.alpha.shape, 3)), photo.alpha])
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[truth.shape[2]]
    assert np.array_equal(others.reshape(truth.shape), truth[:, :, order])


def test_png_in_many_blocks_of_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    for shape in ((900, 700, 3), (3, 400_000, 1), (5000, 3, 3)):
        pixels = random.integers(0, 256, shape, dtype=np.uint8)
        write_photo(tmp_path / "a.png", Photo(pixels))
        with Image.open(tmp_path / "a.png") as image:
            assert np.array_equal(np.asarray(image).reshape(shape), pixels)
    ramp = np.add.outer(np.arange(300), np.arange(400)).astype(np.uint16)[:, :, None] * 90
    write_photo(tmp_path / "ramp.png", Photo(ramp))
    assert (tmp_path / "ramp.png").stat().st_size < ramp.nbytes / 20  # the filter works


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_lossy_formats_keep_what_they_can_and_say_the_rest(tmp_path: Path, kind: str, suffix: str) -> None:
    photo = KINDS[kind]
    if "16" in kind:  # smooth, as the 8-bit ones are
        base = KINDS[kind.removesuffix(" 16")]
        photo = Photo(base.pixels * np.uint16(257) - np.uint16(100), None if base.alpha is None else base.alpha * np.uint16(257))
    notes = " ".join(write_photo(tmp_path / f"a.{suffix}", photo, quality=98))
    jpeg, alpha = suffix != "webp", "alpha" in kind or "rgba" in kind
    assert ("16 bit written as 8 bit" in notes) == ("16" in kind)
    assert ("transparency laid over white" in notes) == (jpeg and alpha)
    assert ("grey written as RGB" in notes) == (not jpeg and "grey" in kind)
    read = read_photo(tmp_path / f"a.{suffix}")
    truth = KINDS[kind.removesuffix(" 16")].pixels.astype(np.float64)
    if jpeg and alpha:
        cover = ALPHA[:, :, None] / 255
        truth = truth * cover + 255 * (1 - cover)
        assert read.alpha is None
    elif alpha:
        assert np.array_equal(read.alpha, ALPHA)
        read, truth = replace(read, pixels=np.where(ALPHA[:, :, None] > 0, read.pixels, 0)), np.where(ALPHA[:, :, None] > 0, truth, 0)
    assert read.pixels.shape[2] == (1 if jpeg and "grey" in kind else 3)
    assert np.abs(read.pixels - truth).mean() < 2 and read.pixels.dtype == np.uint8
    if jpeg and "rgb" in kind:
        with Image.open(tmp_path / f"a.{suffix}") as image:
            assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4


def test_quality_is_heard(tmp_path: Path) -> None:
    for suffix in ("jpg", "webp"):
        sizes = []
        for quality in (30, 60, 90):
            write_photo(tmp_path / f"a.{suffix}", KINDS["rgb"], quality=quality)
            sizes.append((tmp_path / f"a.{suffix}").stat().st_size)
        assert sizes == sorted(set(sizes))


def test_sixteen_bit_is_rounded_to_eight() -> None:
    levels = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(eight_bit(levels), np.floor(levels / 257 + 0.5))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", OUTPUT_FORMATS)
def test_exif_is_kept_without_thumbnail_maker_note_and_orientation(tmp_path: Path, suffix: str, order: str) -> None:
    (tmp_path / "in.jpg").write_bytes(encoded(RGB, "JPEG", exif=exif(6, order)))
    photo = read_photo(tmp_path / "in.jpg")
    assert photo.pixels.shape == (28, 20, 3) and b"secret" not in photo.exif
    write_photo(tmp_path / f"a.{suffix}", Photo(np.repeat(photo.pixels, 4, axis=0), exif=photo.exif), software="D3SR 1.0")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        tags, block = image.getexif(), image.info["exif"]
        sub, gps, interop = (tags.get_ifd(ifd) for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop))
        assert not tags.get_ifd(ExifTags.IFD.IFD1)
    assert {tag: value for tag, value in tags.items() if tag not in (0x8769, 0x8825)} == {
        0x010F: "Acme", 0x0131: "D3SR 1.0", 0x013B: "José Ñandú".encode().decode("latin-1"), 0x8298: "© J. Ñ.".encode().decode("latin-1")
    }  # fmt: skip
    assert "José Ñandú\0".encode() in block
    assert {tag: value for tag, value in sub.items() if tag != 0xA005} == {
        0x8827: 400, 0x9000: b"0232", 0x9204: pytest.approx(-1 / 3), 0x9286: b"ASCII\0\0\0hello", 0xA002: 20, 0xA003: 112
    }  # fmt: skip
    assert gps == {0: b"\2\3\0\0", 1: "N", 2: (48, 51, 30)} and interop == {1: "R98"}


def test_exif_of_a_tiff_is_what_describes_the_picture(tmp_path: Path) -> None:
    tags = [(271, "s", 0, "Acme", True), (33432, "s", 0, "me", True), (700, "B", 4, b"xmp!", True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, software="scanner", extratags=tags)
    photo = read_photo(tmp_path / "a.tif")
    loaded = Image.Exif()
    loaded.load(photo.exif)
    assert dict(loaded) == {271: "Acme", 282: 1.0, 283: 1.0, 296: 1, 305: "scanner", 33432: "me"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_counts_as_none(tmp_path: Path) -> None:
    endless = b"II*\0\x08\0\0\0" + struct.pack("<HHHIIHHII", 65535, 0x010F, 2, 4_000_000_000, 8, 0x8769, 4, 1, 8) + bytes(9)
    for block in (b"garbage", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\0", endless, b""):
        (tmp_path / "a.png").write_bytes(png(RGB, chunk(b"eXIf", block)))
        photo = read_photo(tmp_path / "a.png")
        assert np.array_equal(photo.pixels, RGB) and photo.exif is None and software_of(tmp_path / "a.png") is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_only_the_damaged_and_the_huge_entries_of_exif_are_left_out(tmp_path: Path) -> None:
    make = struct.pack("<HHI4s", 0x010F, 2, 4, b"Cam")
    entries = [
        make,
        struct.pack("<HHII", 0x0131, 2, 9, 900_000),
        struct.pack("<HHII", 0x013B, 99, 1, 0),
        struct.pack("<HHII", 0x8298, 2, 70_000, 62),
    ]
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 4) + b"".join(entries) + bytes(4) + b"x" * 70_000
    (tmp_path / "a.png").write_bytes(png(RGB, chunk(b"eXIf", block)))
    assert read_photo(tmp_path / "a.png").exif == b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + make + bytes(4)


def test_software(tmp_path: Path) -> None:
    for suffix in (*OUTPUT_FORMATS, "jpeg"):
        for kind in ("rgb", "grey 16"):
            write_photo(tmp_path / f"a.{suffix}", KINDS[kind], software="D3SR 1.0 (tiny)")
            assert software_of(tmp_path / f"a.{suffix}") == "D3SR 1.0 (tiny)"
        write_photo(tmp_path / f"a.{suffix}", KINDS["rgb"])
        assert software_of(tmp_path / f"a.{suffix}") is None
        assert read_photo(tmp_path / f"a.{suffix}").exif is None
    (tmp_path / "text.png").write_text("no picture")
    for name in ("gone.png", "text.png", "."):
        assert software_of(tmp_path / name) is None
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, software="scanner")
    assert software_of(tmp_path / "a.tif") == "scanner"


def test_profiles_go_with_the_pixels_they_belong_to(odd: tuple[Path, dict[str, Expected]], tmp_path: Path) -> None:
    carried = {"display p3.png": display_p3_profile(), "grey profile.png": grey_profile(1.8)}
    dropped = ("damaged profile.png", "torn profile.png", "grey with rgb profile.jpg", "rgb with grey profile.png")
    for name in (*carried, *dropped, "cmyk with profile.jpg", "cmyk with profile.tif", "cmyk with rgb profile.jpg", "lab.tif"):
        photo = read_photo(odd[0] / name)
        assert photo.icc_profile == carried.get(name), name
        for suffix in OUTPUT_FORMATS if name in carried else ():
            write_photo(tmp_path / f"a.{suffix}", photo)
            kept = name == "display p3.png" or suffix != "webp"
            assert read_photo(tmp_path / f"a.{suffix}").icc_profile == (photo.icc_profile if kept else None)


def test_webp_turns_grey_into_srgb_by_its_profile(tmp_path: Path) -> None:
    linear = (np.array([40, 128, 220]) / 255) ** 1.8
    truth = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    for level, value in zip((40, 128, 220), truth, strict=True):
        write_photo(tmp_path / "a.webp", Photo(np.full((16, 16, 1), level, dtype=np.uint8), icc_profile=grey_profile(1.8)), quality=100)
        assert np.abs(read_photo(tmp_path / "a.webp").pixels - value).max() <= 2


@pytest.mark.parametrize("suffix", OUTPUT_FORMATS)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photo(tmp_path / f"old.{suffix}", KINDS["rgb"])
    before = (tmp_path / f"old.{suffix}").read_bytes()
    real_save, real_chunk = Image.Image.save, png_writer._write_chunk

    def full_disk(file: BytesIO, name: bytes, data: bytes) -> None:
        real_chunk(file, name, data)
        if name == b"IDAT":
            raise OSError(28, "No space left on device")

    def save(self: Image.Image, file: BytesIO, **options: object) -> None:
        real_save(self, file, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(png_writer, "_write_chunk", full_disk)
    monkeypatch.setattr(Image.Image, "save", save)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="No space left"):
            write_photo(tmp_path / f"{name}.{suffix}", KINDS["grey 16"])
    assert [path.name for path in tmp_path.iterdir()] == [f"old.{suffix}"] and (tmp_path / f"old.{suffix}").read_bytes() == before


def test_the_same_photo_gives_the_same_bytes(tmp_path: Path) -> None:
    jobs = [(kind, suffix, copy) for kind in KINDS for suffix in OUTPUT_FORMATS for copy in range(3)]

    def write(job: tuple[str, str, int]) -> Path:
        kind, suffix, copy = job
        photo = replace(KINDS[kind], exif=exif(), icc_profile=grey_profile(2.2) if "grey" in kind else display_p3_profile())
        write_photo(tmp_path / str(copy) / f"{kind}.{suffix}", photo, software="D3SR")
        return tmp_path / str(copy) / f"{kind}.{suffix}"

    with ThreadPoolExecutor(4) as pool:
        checksums = [zlib.crc32(path.read_bytes()) for path in pool.map(write, jobs)]
    assert all(len(set(checksums[start : start + 3])) == 1 for start in range(0, len(jobs), 3))
    assert len(set(checksums)) == len(jobs) // 3


def test_what_cannot_be_written_is_said_before_a_file_is_touched(tmp_path: Path) -> None:
    wide = Photo(np.zeros((1, 16_384, 1), dtype=np.uint8))
    wider = Photo(np.zeros((65_501, 1, 1), dtype=np.uint8))
    cases = [("a.webp", wide, 95, "16384 x 1 is too large for webp, whose sides end at 16383"), ("a.jpg", wider, 95, "65500"),
             ("a.tif", KINDS["rgb"], 95, "written as png, jpg, webp"), ("a", KINDS["rgb"], 95, "written as"),
             ("a.jpg", KINDS["rgb"], 0, "quality"), ("a.png", KINDS["rgb"], 101, "quality")]  # fmt: skip
    for name, photo, quality, text in cases:
        with pytest.raises(ValueError, match=rf"{name}: .*{text}"):
            write_photo(tmp_path / name, photo, quality=quality)
    assert not list(tmp_path.iterdir())
    write_photo(tmp_path / "a.webp", Photo(wide.pixels[:, 1:]))
    write_photo(tmp_path / "a.jpg", Photo(wider.pixels[1:]))


def test_a_photo_is_what_it_says() -> None:
    for pixels, alpha in (
        (RGB[:, :, 0], None),
        (RGB[:, :, :2], None),
        (RGB / 255, None),
        (RGB[:0], None),
        (RGB, ALPHA[1:]),
        (RGB, DEEP[:, :, 3]),
    ):
        with pytest.raises(ValueError, match="expected"):
            Photo(pixels, alpha)
