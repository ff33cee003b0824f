"""Colours and resolution from file to file. Truth: bytes by hand, Pillow's reading, littleCMS, and the formulas of the colour spaces."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from data.photos.photo import Photo, read_photo, write_photo
from data.photos.png_colors import profile_of
from tests.data.photos.test_reading import padded
from tests.odd_bytes import chunk, display_p3_profile, encoded, exif, grey_profile, png
from tests.odd_files import DEEP, GREY, RGB

SRGB_POINTS = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_POINTS = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
CHUNKS = {
    b"cICP": bytes([12, 13, 0, 1]), b"gAMA": struct.pack(">I", 100_000), b"cHRM": struct.pack(">8I", *P3_POINTS), b"sRGB": b"\1",
    b"mDCV": struct.pack(">8H2I", *[1] * 8, 10_000_000, 1), b"cLLI": struct.pack(">2I", 4_000_000, 1_000_000),
}  # fmt: skip


def chunks_of(data: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        found[name] = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + found[name])
        at += 12 + length
    return found


def colours(*names: bytes) -> bytes:
    return b"".join(chunk(name, CHUNKS[name]) for name in names)


@pytest.mark.parametrize("array", [RGB, GREY, DEEP], ids=["rgb", "grey", "rgba 16"])
def test_pngs_colour_chunks_go_from_png_to_png(tmp_path: Path, array: np.ndarray) -> None:
    for names in ((), (b"cICP",), (b"gAMA",), (b"gAMA", b"cHRM"), (b"sRGB", b"gAMA", b"cHRM"), (b"cICP", b"mDCV", b"cLLI")):
        (tmp_path / "a.png").write_bytes(png(array, colours(*names)))
        photo = read_photo(tmp_path / "a.png")
        assert write_photo(tmp_path / "b.png", photo) == () and photo.notes == ()
        found = chunks_of((tmp_path / "b.png").read_bytes())
        assert {name: data for name, data in found.items() if name in CHUNKS} == {name: CHUNKS[name] for name in names}
        with Image.open(tmp_path / "b.png") as image:
            image.load()
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(display_p3_profile()))
    (tmp_path / "a.png").write_bytes(png(RGB, profile + colours(b"cICP", b"sRGB")))
    write_photo(tmp_path / "b.png", read_photo(tmp_path / "a.png"))
    found = chunks_of((tmp_path / "b.png").read_bytes())
    assert b"iCCP" in found and b"cICP" in found and b"sRGB" not in found  # a file has iCCP or sRGB, not both


def linear(levels: np.ndarray) -> np.ndarray:
    """Of sRGB's curve (IEC 61966-2-1)."""
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def nonlinear(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.clip(light, 0, None) ** (1 / 2.4) - 0.055)


P3_TO_SRGB = np.array([[1.2249401, -0.2249404, 0.0], [-0.0420569, 1.0420571, 0.0], [-0.0196376, -0.0786361, 1.0982735]])
"""Linear Display P3 to linear sRGB, both under D65 (CSS Color 4)."""
INSIDE = np.array([[120, 130, 110], [200, 190, 180], [60, 70, 90], [255, 255, 255], [0, 0, 0]], dtype=np.uint8)


def shown(path: Path) -> np.ndarray:
    """A file's colours in sRGB as littleCMS shows them by its profile, (pixels, 3) in 0..255, of its first row."""
    with Image.open(path) as image:
        rgb = ImageCms.profileToProfile(image, BytesIO(image.info["icc_profile"]), ImageCms.createProfile("sRGB"), outputMode="RGB")
        return np.asarray(rgb)[4, 4::16].astype(float)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_colour_chunks_become_a_profile_where_there_are_none(tmp_path: Path, suffix: str) -> None:
    wide = np.repeat(np.repeat(INSIDE[None], 16, axis=0), 16, axis=1)
    truths = {
        (b"cICP",): nonlinear(linear(INSIDE / 255) @ P3_TO_SRGB.T),
        (b"gAMA",): nonlinear(INSIDE / 255),
        (b"gAMA", b"cHRM"): nonlinear(INSIDE / 255 @ P3_TO_SRGB.T),
        (b"cHRM",): nonlinear(linear(INSIDE / 255) @ P3_TO_SRGB.T),
        (b"cICP", b"gAMA", b"sRGB"): nonlinear(linear(INSIDE / 255) @ P3_TO_SRGB.T),
    }
    for names, truth in truths.items():
        (tmp_path / "a.png").write_bytes(png(wide, colours(*names)))
        notes = write_photo(tmp_path / f"a.{suffix}", read_photo(tmp_path / "a.png"), quality=100)
        assert len(notes) == 1 and "turned into a colour profile" in notes[0]
        assert np.abs(shown(tmp_path / f"a.{suffix}") - truth * 255).max() <= 5, names


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_what_says_srgb_needs_neither_profile_nor_note(tmp_path: Path, suffix: str) -> None:
    usual = chunk(b"gAMA", struct.pack(">I", 45455))
    for extra in (b"", colours(b"sRGB"), usual, usual + chunk(b"cHRM", struct.pack(">8I", *SRGB_POINTS)), chunk(b"cICP", b"\1\x0d\0\1")):
        (tmp_path / "a.png").write_bytes(png(RGB, extra))
        assert write_photo(tmp_path / f"a.{suffix}", read_photo(tmp_path / "a.png")) == ()
        assert "icc_profile" not in Image.open(tmp_path / f"a.{suffix}").info


def test_what_cannot_become_a_profile_is_left_out_with_a_note(tmp_path: Path) -> None:
    for data, said in ((bytes([9, 16, 0, 1]), "cICP (PQ, HDR) left out"), (bytes([9, 18, 0, 1]), "cICP (HLG, HDR) left out")):
        (tmp_path / "a.png").write_bytes(png(RGB, chunk(b"cICP", data)))
        notes = write_photo(tmp_path / "a.jpg", read_photo(tmp_path / "a.png"))
        assert len(notes) == 1 and said in notes[0] and np.abs(read_photo(tmp_path / "a.jpg").pixels.astype(int) - RGB).max() < 12
    odd = [{b"gAMA": b"\1"}, {b"cICP": b"\1"}, {b"cHRM": bytes(32), b"gAMA": bytes(4)}, {b"gAMA": bytes(4)}, {b"gAMA": b"\0\0\0\1"}]
    for chunks in (*odd, {b"cHRM": b"\xff" * 32}):
        (tmp_path / "a.png").write_bytes(png(RGB, b"".join(chunk(name, data) for name, data in chunks.items())))
        write_photo(tmp_path / "a.jpg", read_photo(tmp_path / "a.png"))


def test_profiles_made_for_grey_are_grey() -> None:
    profile, _ = profile_of({b"gAMA": struct.pack(">I", 55556)}, None, "L")
    grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    rgb = ImageCms.profileToProfile(grey, BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert np.abs(np.asarray(rgb)[0, :, 1] - 255 * nonlinear((np.arange(256) / 255) ** 1.8)).max() <= 2


def test_a_profile_that_png_readers_refuse_is_not_written(tmp_path: Path) -> None:
    long = padded(display_p3_profile(), 1_400_000)
    (tmp_path / "a.jpg").write_bytes(encoded(RGB, "JPEG", quality=100, subsampling=0, icc_profile=long))
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.icc_profile == long
    assert write_photo(tmp_path / "a.png", photo) == ("its colour profile of 1.4 MB is too long for PNG: turned into sRGB",)
    with Image.open(tmp_path / "a.png") as image:
        assert "icc_profile" not in image.info
        truth = ImageCms.profileToProfile(Image.fromarray(photo.pixels), BytesIO(display_p3_profile()), ImageCms.createProfile("sRGB"))
        assert np.abs(np.asarray(image).astype(int) - np.asarray(truth)).max() <= 2
    for suffix in ("jpg", "webp"):
        assert write_photo(tmp_path / f"b.{suffix}", photo) == () and read_photo(tmp_path / f"b.{suffix}").icc_profile == long
    for other, profile in ((DEEP[:, :, :3], long), (GREY, padded(grey_profile(1.8), 1_400_000))):
        assert "left out" in write_photo(tmp_path / "c.png", Photo(other, icc_profile=profile))[0]
        with Image.open(tmp_path / "c.png") as image:
            image.load()
            assert "icc_profile" not in image.info
    just = padded(display_p3_profile(), (1 << 20) - 4)
    assert write_photo(tmp_path / "d.png", Photo(RGB, icc_profile=just)) == ()
    assert Image.open(tmp_path / "d.png").info["icc_profile"] == just


def with_density(form: str, **options: object) -> bytes:
    return encoded(RGB, form, dpi=(300, 150), **options)


def resolution_tags(x: int, y: int, unit: int) -> bytes:
    tags = Image.Exif()
    tags[0x011A], tags[0x011B], tags[0x0128], tags[0x010F] = x, y, unit, "Acme"
    return tags.tobytes()


FROM = {
    "jfif.jpg": lambda: with_density("JPEG"), "a.png": lambda: with_density("PNG"), "a.tif": lambda: with_density("TIFF"),
    "a.bmp": lambda: with_density("BMP"), "exif.jpg": lambda: encoded(RGB, "JPEG", exif=resolution_tags(300, 150, 2)),
    "exif.webp": lambda: encoded(RGB, "WEBP", exif=resolution_tags(300, 150, 2)),
    "cm.jpg": lambda: encoded(RGB, "JPEG").replace(b"JFIF\0\1\1\0\0\1\0\1", b"JFIF\0\1\1\2" + struct.pack(">2H", 118, 59)),
}  # fmt: skip


@pytest.mark.parametrize("name", FROM)
def test_resolution_is_carried_over_as_the_same_number(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FROM[name]())
    photo = read_photo(tmp_path / name)
    assert photo.density == pytest.approx((300, 150), rel=2e-3)
    for suffix in ("png", "jpg", "webp"):
        write_photo(tmp_path / f"out.{suffix}", photo, software="D3SR")
        with Image.open(tmp_path / f"out.{suffix}") as image:
            tags = image.getexif()
            if suffix != "webp":
                assert image.info["dpi"] == pytest.approx((300, 150), rel=2e-3)
            if suffix == "webp" or 0x011A in tags:
                assert (float(tags[0x011A]), float(tags[0x011B])) == pytest.approx((300, 150), rel=2e-3) and tags[0x0128] == 2
    assert chunks_of((tmp_path / "out.png").read_bytes())[b"pHYs"] == struct.pack(">2IB", *(round(d / 0.0254) for d in photo.density), 1)


def test_resolution_turns_with_the_picture_and_header_and_exif_agree(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags.load(resolution_tags(72, 72, 2))
    tags[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(RGB, "JPEG", exif=tags.tobytes(), dpi=(300, 150)))
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.density == (150, 300)
    write_photo(tmp_path / "b.jpg", photo)
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.info["dpi"] == (150, 300) and (image.getexif()[0x011A], image.getexif()[0x011B]) == (150, 300)
        assert image.getexif()[0x010F] == "Acme"


def test_no_resolution_is_made_up(tmp_path: Path) -> None:
    nothing = {
        "a.png": png(RGB), "b.png": png(RGB, chunk(b"pHYs", struct.pack(">2IB", 2, 3, 0))), "a.jpg": encoded(RGB, "JPEG"),
        "a.tif": encoded(RGB, "TIFF"), "b.jpg": encoded(RGB, "JPEG", exif=exif()), "c.png": png(RGB, chunk(b"pHYs", bytes(8) + b"\1")),
        "d.jpg": encoded(RGB, "JPEG", exif=resolution_tags(300, 300, 1)),
    }  # fmt: skip
    for name, data in nothing.items():
        (tmp_path / name).write_bytes(data)
        photo = read_photo(tmp_path / name)
        assert photo.density is None, name
        for suffix in ("png", "jpg", "webp"):
            write_photo(tmp_path / f"out.{suffix}", photo, software="D3SR")
            with Image.open(tmp_path / f"out.{suffix}") as image:
                assert image.info.get("jfif_unit", 0) == 0 and (suffix == "jpg" or "dpi" not in image.info or name == "d.jpg")
                assert ExifTags.Base.XResolution not in image.getexif() or name == "d.jpg"
