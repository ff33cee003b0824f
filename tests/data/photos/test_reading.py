"""What files hold beyond what Pillow reads by itself. Truth: tifffile, Pillow's encoders, pillow_heif, bytes put together by hand."""

import os
import struct
import threading
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, features

from data.image_files import kind_of
from data.image_io import image_size, read_image
from data.photos.photo import read_photo
from tests.odd_bytes import chunk, display_p3_profile, encoded, exif, png
from tests.odd_files import DEEP, GREY, NOISE, RGB

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def refusal(path: Path) -> str:
    """The reason for which all three readers refuse a file."""
    reasons = set()
    for reader in (read_photo, read_image, image_size):
        with pytest.raises(ValueError) as caught:
            reader(path)
        assert str(caught.value).startswith(f"{path}: ")
        reasons.add(str(caught.value).removeprefix(f"{path}: "))
    assert len(reasons) == 1, reasons
    return reasons.pop()


def both(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What restoring and training read; `image_size` agrees."""
    trained = read_image(path)
    assert image_size(path) == trained.shape[:2]
    return read_photo(path).pixels, trained


# Names and content


KINDS = {
    "PNG": png(RGB), "JPEG": encoded(RGB, "JPEG"), "WebP": encoded(RGB, "WEBP"), "BMP": encoded(RGB, "BMP"), "TIFF": encoded(RGB, "TIFF"),
    "GIF": encoded(RGB, "GIF"), "PPM": encoded(RGB, "PPM"), "JPEG 2000": encoded(RGB, "JPEG2000"), "ICO": encoded(RGB, "ICO"),
    "PDF": encoded(RGB, "PDF"), "DDS": encoded(RGB, "DDS"),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "AVIF": b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf",
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "MP4": b"\0\0\0\x1cftypisom\0\0\2\0isomiso2mp41", "MOV": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
    "CR2": b"II*\0\x10\0\0\0CR\2\0", "PSD": b"8BPS\0\1", "RAF": b"FUJIFILMCCD-RAW 0201", "SVG": b'<?xml version="1.0"?>\n<svg xmlns=',
    "MKV or WebM": b"\x1aE\xdf\xa3", "AVI": b"RIFF\0\0\0\0AVI LIST",
}  # fmt: skip


def test_files_are_called_by_what_they_are() -> None:
    assert {name: kind_of(data[:512]) for name, data in KINDS.items()} == {name: name for name in KINDS}
    assert kind_of(b"\xff\x0a\0\0") == "JPEG XL" and kind_of(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic") == "HEIC"
    for nothing in (b"", b"text", b"\0\0\0\x18ftypxxxx\0\0\0\0", b"<!DOCTYPE html>", bytes(100)):
        assert kind_of(nothing) is None


@pytest.mark.parametrize("name", ["JPEG 2000", "JPEG XL", "CR2", "CR3", "PSD", "PDF", "SVG", "MP4", "MOV"])
def test_what_is_not_read_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(KINDS[name])
    assert refusal(tmp_path / "a.png").startswith(f"{name}, which is not read")


def test_content_decides_whatever_the_name(tmp_path: Path) -> None:
    for name, data in {"a.png": "JPEG", "b.heic": "PNG", "c.jfif": "WebP", "d": "TIFF", "e.jpg": "BMP"}.items():
        (tmp_path / name).write_bytes(encoded(RGB, data.upper()))
        restored, trained = both(tmp_path / name)
        assert restored.shape == RGB.shape and np.abs(trained.astype(int) - RGB).mean() < 12


@pytest.mark.parametrize("reader", [read_photo, read_image, image_size])
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, reader) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    said: list[str] = []

    def attempt() -> None:
        for name in ("a.png", "b.png"):
            with pytest.raises(ValueError) as caught:
                reader(tmp_path / name)
            said.append(str(caught.value))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert [text.partition(": ")[2] for text in said] == ["not a regular file"] * 2


# AVIF and HEIC


@needs_avif
def test_avif_is_read_upright_with_its_profile_and_exif(tmp_path: Path) -> None:
    """Pillow writes the orientation as AVIF's own (irot, imir)."""
    for turn in range(1, 9):
        data = encoded(RGB, "AVIF", quality=100, subsampling="4:4:4", exif=exif(turn), icc_profile=display_p3_profile())
        (tmp_path / "a.avif").write_bytes(data)
        truth = encoded(RGB, "PNG", exif=exif(turn))
        (tmp_path / "a.png").write_bytes(truth)
        photo, trained = read_photo(tmp_path / "a.avif"), read_image(tmp_path / "a.avif")
        assert np.abs(photo.pixels.astype(int) - read_photo(tmp_path / "a.png").pixels).max() <= 3 and np.array_equal(photo.pixels, trained)
        assert image_size(tmp_path / "a.avif") == trained.shape[:2]
        assert photo.icc_profile == display_p3_profile() and b"Acme" in photo.exif and photo.notes == ()
    (tmp_path / "a.avif").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="broken"):
        read_photo(tmp_path / "a.avif")


@needs_avif
def test_colours_that_an_avif_names_by_numbers_are_carried(tmp_path: Path) -> None:
    data = encoded(RGB, "AVIF", quality=100)
    at = data.index(b"colrnclx") + 8
    (tmp_path / "a.avif").write_bytes(data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :])
    assert read_photo(tmp_path / "a.avif").colours == {b"cICP": bytes([12, 13, 0, 1])}
    (tmp_path / "a.avif").write_bytes(data)
    assert read_photo(tmp_path / "a.avif").colours == {}


def heic(array: np.ndarray, mode: str, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = BytesIO()
    size = array.shape[1::-1]
    pillow_heif.encode(mode, size, array.tobytes(), file, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return file.getvalue()


def test_heic_is_read_and_turned_once(tmp_path: Path) -> None:
    for turn in range(1, 9):
        (tmp_path / "a.heic").write_bytes(heic(RGB, "RGB", exif=exif(turn), icc_profile=display_p3_profile()))
        (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG", exif=exif(turn)))
        photo, trained = read_photo(tmp_path / "a.heic"), read_image(tmp_path / "a.heic")
        assert np.array_equal(photo.pixels, read_photo(tmp_path / "a.png").pixels) and np.array_equal(photo.pixels, trained)
        assert image_size(tmp_path / "a.heic") == trained.shape[:2]
        assert photo.icc_profile == display_p3_profile() and b"Acme" in photo.exif and photo.notes == ()


def test_heic_of_ten_bit_becomes_sixteen(tmp_path: Path) -> None:
    for mode, array in (("RGB;16", DEEP[:, :, :3]), ("RGBA;16", DEEP), ("I;16L", DEEP[:, :, :1])):
        ten = np.ascontiguousarray(array) >> 6
        (tmp_path / "a.heic").write_bytes(heic(ten << 6, mode))
        photo = read_photo(tmp_path / "a.heic")
        mine = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
        assert np.array_equal(mine, np.floor(ten * (65535 / 1023) + 0.5)) and photo.pixels.dtype == np.uint16
        assert np.abs(read_image(tmp_path / "a.heic")[:, :, 0] - ten[:, :, 0] * (255 / 1023)).max() <= 1


def test_without_pillow_heif_its_name_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "a.jpg").write_bytes(KINDS["HEIC"])
    assert refusal(tmp_path / "a.jpg") == "HEIC: pip install pillow-heif reads it"


def test_a_damaged_heic_is_broken(tmp_path: Path) -> None:
    data = heic(NOISE, "RGB")
    for cut in (30, len(data) // 2, len(data) - 9):
        (tmp_path / "a.heic").write_bytes(data[:cut])
        with pytest.raises(ValueError, match="broken"):
            read_photo(tmp_path / "a.heic")


# PNG chunks


LONG = b"x" * 2_000_000
TEXTS = {
    "plain": chunk(b"tEXt", b"workflow\0" + LONG),
    "packed": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG)),
    "unicode": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LONG)),
    "huge": chunk(b"tEXt", b"workflow\0" + bytes(17 << 20)),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_of_any_length_do_not_lose_the_picture(tmp_path: Path, kind: str) -> None:
    for before, behind in ((TEXTS[kind], b""), (b"", TEXTS[kind])):
        data = png(RGB, chunk(b"eXIf", exif(6)[6:]) + before)
        (tmp_path / "a.png").write_bytes(data[:-12] + behind + data[-12:])
        restored, trained = both(tmp_path / "a.png")
        assert np.array_equal(restored, np.rot90(RGB, -1)) and np.array_equal(restored, trained)
    notes = read_photo(tmp_path / "a.png").notes
    assert notes == (() if kind == "plain" else ("its text is too long to be kept: left out",))


def test_many_texts_do_not_lose_the_picture(tmp_path: Path) -> None:
    """More than Pillow's limit for all of them together, 64 MiB."""
    some = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))
    (tmp_path / "a.png").write_bytes(png(RGB, some * 70))
    restored, trained = both(tmp_path / "a.png")
    assert np.array_equal(restored, RGB) and np.array_equal(trained, RGB)


@pytest.mark.parametrize("name", ["tEXt", "gAMA", "pHYs", "iCCP", "eXIf", "tRNS", "prVt", "sRGB"])
def test_a_damaged_chunk_that_is_not_needed_does_not_lose_the_picture(tmp_path: Path, name: str) -> None:
    """Its checksum is wrong, so nothing of it counts (libpng's rule); chunks that are needed still do."""
    damaged = chunk(name.encode(), b"\0\1\0\2\0\3")[:-1] + b"\0"
    (tmp_path / "a.png").write_bytes(png(RGB, chunk(b"gAMA", struct.pack(">I", 100_000)) + damaged))
    restored, trained = both(tmp_path / "a.png")
    assert np.array_equal(restored, RGB) and np.array_equal(trained, RGB)
    photo = read_photo(tmp_path / "a.png")
    assert photo.notes == (f"its chunk {name} is damaged: left out",) and photo.alpha is None
    assert photo.colours == {b"gAMA": struct.pack(">I", 100_000)} and photo.icc_profile is None and photo.density is None
    critical = bytearray(png(RGB))
    critical[critical.index(b"IDAT") - 12 - 4] ^= 1  # in the header
    (tmp_path / "a.png").write_bytes(critical)
    assert "broken" in refusal(tmp_path / "a.png")


def padded(profile: bytes, length: int) -> bytes:
    """A profile made longer by a tag of noise, which nobody looks at."""
    noise = np.random.default_rng(1).bytes(length - len(profile) - 12)
    count = struct.unpack(">I", profile[128:132])[0]
    shifted = b"".join(
        struct.pack(">4sII", name, at + 12, size) for name, at, size in struct.iter_unpack(">4sII", profile[132 : 132 + 12 * count])
    )
    body = profile[132 + 12 * count :]
    entry = struct.pack(">4sII", b"nois", 144 + 12 * count + len(body), len(noise))
    return struct.pack(">I", length) + profile[4:128] + struct.pack(">I", count + 1) + shifted + entry + body + noise


def test_profiles_of_any_length_do_not_lose_the_picture(tmp_path: Path) -> None:
    for length, kept in ((1_400_000, True), (20 << 20, False)):
        profile = padded(display_p3_profile(), length)
        (tmp_path / "a.png").write_bytes(png(RGB, chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))))
        assert np.array_equal(read_image(tmp_path / "a.png"), RGB)
        photo = read_photo(tmp_path / "a.png")
        assert np.array_equal(photo.pixels, RGB) and photo.icc_profile == (profile if kept else None)
        assert photo.notes == (() if kept else ("its colour profile is too long to be kept: left out",))


RAW = {
    "exif": (b"Raw profile type exif", exif(6)),
    "app1": (b"Raw profile type APP1", exif(6)),
    "app1 xmp": (b"Raw profile type APP1", b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'),
}


@pytest.mark.parametrize("kind", RAW)
def test_metadata_in_hexadecimal_counts_like_any_other(tmp_path: Path, kind: str) -> None:
    name, block = RAW[kind]
    text = f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()
    for raw in (chunk(b"tEXt", name + b"\0" + text), chunk(b"zTXt", name + b"\0\0" + zlib.compress(text))):
        data = png(RGB)
        for file in (png(RGB, raw), data[:-12] + raw + data[-12:]):
            (tmp_path / "a.png").write_bytes(file)
            restored, trained = both(tmp_path / "a.png")
            assert np.array_equal(restored, np.rot90(RGB, -1)) and np.array_equal(trained, restored)
            if "xmp" not in kind:
                found = Image.Exif()
                found.load(read_photo(tmp_path / "a.png").exif)
                assert found[0x010F] == "Acme" and 0x0112 not in found
    (tmp_path / "a.png").write_bytes(png(RGB, raw + chunk(b"eXIf", exif(3)[6:])))
    assert np.array_equal(both(tmp_path / "a.png")[0], RGB[::-1, ::-1]) == ("xmp" not in kind or True)


# Pages


def test_the_largest_page_is_taken_and_said(tmp_path: Path) -> None:
    small, large = RGB[:5, :7], RGB
    make = [(271, "s", 0, "Acme", True)]
    for reduced in (0, 1):
        with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
            tif.write(small, photometric="rgb", metadata=None, subfiletype=reduced)
            tif.write(large, photometric="rgb", metadata=None, extratags=make)
        restored, trained = both(tmp_path / "a.tif")
        assert np.array_equal(restored, large) and np.array_equal(trained, large)
        photo = read_photo(tmp_path / "a.tif")
        assert photo.notes == ("2 pages: only the largest, number 2, is restored",) and b"Acme" in photo.exif
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as tif:
        for page in (large, small, large):
            tif.write(255 - page if page is large and tif.filehandle.tell() > 999 else page, photometric="rgb", metadata=None)
    assert np.array_equal(both(tmp_path / "a.tif")[0], large)
    assert read_photo(tmp_path / "a.tif").notes == ("3 pages: only the first is restored",)


def test_the_largest_picture_of_an_mpo_is_taken_and_said(tmp_path: Path) -> None:
    for first, second, note in ((RGB[:5, :7], RGB, ("2 pictures: only the largest, number 2, is restored",)), (RGB, RGB[:5, :7], ())):
        data = encoded(first, "MPO", quality=98, subsampling=0, save_all=True, append_images=[Image.fromarray(second)])
        (tmp_path / "a.jpg").write_bytes(data)
        restored, trained = both(tmp_path / "a.jpg")
        assert restored.shape == RGB.shape and np.abs(restored.astype(int) - RGB).max() <= 6 and np.array_equal(restored, trained)
        assert read_photo(tmp_path / "a.jpg").notes == note


def test_a_raw_file_is_not_restored_from_its_thumbnail(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, extratags=[(0xC612, "B", 4, b"\1\4\0\0", True)])
    assert "raw file" in refusal(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(RGB[:5, :7], photometric="rgb", metadata=None, subfiletype=1, subifds=1)
        tif.write(DEEP[:, :, 0], photometric="minisblack", metadata=None)
    assert "raw file" in refusal(tmp_path / "a.tif")


# JPEG without end


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_without_its_end_marker_is_read_with_a_note(tmp_path: Path, options: dict[str, object]) -> None:
    for array in (NOISE, NOISE[:, :, 0], RGB):
        data = encoded(array, "JPEG", quality=90, exif=exif(6), **options)
        (tmp_path / "whole.jpg").write_bytes(data)
        photo = read_photo(tmp_path / "whole.jpg")
        for missing in (1, 2):
            (tmp_path / "a.jpg").write_bytes(data[:-missing])
            restored, trained = both(tmp_path / "a.jpg")
            assert np.array_equal(restored, photo.pixels) and np.array_equal(trained, read_image(tmp_path / "whole.jpg"))
            assert read_photo(tmp_path / "a.jpg").notes == ("its end marker is missing, its pixels are all there",)
        for missing in (4, 5, 8, 20, 200, len(data) // 2):
            (tmp_path / "a.jpg").write_bytes(data[:-missing])
            for reader in (read_photo, read_image):
                with pytest.raises(ValueError, match="broken or truncated"):
                    reader(tmp_path / "a.jpg")


def test_a_progressive_jpeg_without_its_last_scans_is_truncated(tmp_path: Path) -> None:
    data = encoded(NOISE, "JPEG", progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 4
    for scan in scans[1:]:
        cut = data.rindex(b"\xff\xc4", 0, scan) if b"\xff\xc4" in data[scan - 400 : scan] else scan
        (tmp_path / "a.jpg").write_bytes(data[:cut])
        with pytest.raises(ValueError, match="broken or truncated"):
            read_photo(tmp_path / "a.jpg")


# Float TIFF


UNIT = DEEP / 65535


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_float_tiffs_in_0_to_1_are_read(tmp_path: Path, kind: str, channels: int, order: str) -> None:
    values = UNIT[:, :, :channels].astype(kind)
    options = {"photometric": "minisblack"} if channels == 1 else {"photometric": "rgb"}
    options |= {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    truth = np.floor(values.astype(np.float64) * 65535 + 0.5)
    for planar in (False, True) if channels > 1 else (False,):
        array = values.transpose(2, 0, 1) if planar else values.squeeze()
        layout = {"planarconfig": "separate" if planar else "contig"} if channels > 1 else {}
        tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, byteorder=order, **options, **layout)
        photo, trained = read_photo(tmp_path / "a.tif"), read_image(tmp_path / "a.tif")
        mine = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
        assert photo.pixels.dtype == np.uint16 and np.abs(mine - truth).max() <= (1 if kind == "float64" and channels == 1 else 0)
        assert np.abs(trained - np.broadcast_to(truth, (*truth.shape[:2], max(channels, 3)))[:, :, :3] / 257).max() <= 1
        assert image_size(tmp_path / "a.tif") == trained.shape[:2]


def test_compressed_float_tiffs_are_read_or_refused_by_kind(tmp_path: Path) -> None:
    turned = {"extratags": [(274, "H", 1, 6, True)], "photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", UNIT[:, :, :3].astype(np.float32), compression="zlib", **turned)
    restored, trained = both(tmp_path / "a.tif")
    assert np.abs(restored - np.rot90(DEEP[:, :, :3], -1).astype(int)).max() <= 1 and trained.shape == (28, 20, 3)
    tifffile.imwrite(tmp_path / "a.tif", UNIT[:, :, :3].astype(np.float16), compression="zlib", **turned)
    with pytest.raises(ValueError, match=r"a compressed or tiled TIFF of 16-bit float RGB, which is not read; save it uncompressed"):
        read_photo(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_float_tiffs_outside_of_0_to_1_are_refused_with_their_range(tmp_path: Path, kind: str, channels: int) -> None:
    values = np.repeat((UNIT[:, :, :1] * 0 + 0.5).astype(kind), channels, axis=2)
    for worst, said in ((37.25, "0.5..37.25"), (-2, "-2..0.5"), (np.nan, "nan..nan")):
        values[3, 4, 0] = worst
        tifffile.imwrite(tmp_path / "a.tif", values.squeeze(), photometric="minisblack" if channels == 1 else "rgb", metadata=None)
        for reader in (read_photo, read_image):
            with pytest.raises(ValueError, match=rf"its values lie in {said}, outside of 0\.\.1 \(.*float (grey|RGB)\); scale them"):
                reader(tmp_path / "a.tif")


# Bounds


def test_planes_are_read_alike_and_must_be_as_long_as_the_picture(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP[:, :, :3].transpose(2, 0, 1), photometric="rgb", planarconfig="separate", metadata=None)
    restored, trained = both(tmp_path / "a.tif")
    assert np.array_equal(restored, DEEP[:, :, :3]) and np.abs(trained - DEEP[:, :, :3] / 257.0).max() <= 1
    entries = [(256, 4, 1, 10), (257, 4, 1, 20), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3), (278, 4, 1, 1), (284, 3, 1, 2)]
    entries += [(258, 3, 3, 200), (273, 4, 60, 220), (279, 4, 60, 460)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    data = (b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)).ljust(200, b"\0")
    data += struct.pack("<3H", 16, 16, 16).ljust(20, b"\0") + bytes(240) + struct.pack("<60I", *[1 << 20] * 60)
    (tmp_path / "a.tif").write_bytes(data.ljust(1 << 20, b"\0"))
    for reader in (read_photo, read_image):
        with pytest.raises(ValueError, match="broken TIFF: its strips are 62914560 bytes, its pixels 1200"):
            reader(tmp_path / "a.tif")


def test_tags_and_tiles_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    entries = [(256, 4, 1, 10), (257, 4, 1, 20)] + [(tag, 1, 100_000, 8) for tag in range(300, 700)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(100_000)
    (tmp_path / "a.tif").write_bytes(data)
    assert refusal(tmp_path / "a.tif") == "broken TIFF: its tags claim to be 40.0 MB, the file has 0.1 MB"
    tifffile.imwrite(tmp_path / "a.tif", GREY[:, :, 0], photometric="minisblack", tile=(16, 16), metadata=None)
    data = (tmp_path / "a.tif").read_bytes()
    tag = data.index(struct.pack("<HH", 322, 3)) if struct.pack("<HH", 322, 3) in data else data.index(struct.pack("<HH", 322, 4))
    huge = struct.pack("<HHII", 322, 4, 1, 1 << 16) + struct.pack("<HHII", 323, 4, 1, 1 << 16)
    (tmp_path / "a.tif").write_bytes(data[:tag] + huge + data[tag + 24 :])
    assert "its tiles have 4295 megapixels" in refusal(tmp_path / "a.tif")


def test_sparse_files_are_not_read_whole(tmp_path: Path) -> None:
    """Each file is a picture with 4 GB of nothing behind it, or in its last chunk. More than 600 MB of memory would kill the process."""
    import resource  # late: Linux and macOS only, as sparse files

    deep = png(DEEP)
    idat = deep.index(b"IDAT") - 4
    long_chunk = deep[:idat] + struct.pack(">I", 2_000_000_000) + deep[idat + 4 :]
    private = deep[:idat] + struct.pack(">I4s", 2_000_000_000, b"prVt")
    files = {"a.png": deep, "b.png": long_chunk, "c.png": private, "a.tif": encoded(RGB, "TIFF"), "a.jpg": encoded(RGB, "JPEG")}
    files |= {"a.webp": encoded(RGB, "WEBP"), "b.jpg": encoded(NOISE, "JPEG")[:-9], "a.bmp": encoded(RGB, "BMP")}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        os.truncate(tmp_path / name, 4_000_000_000)
        for reader in (read_photo, read_image, image_size):
            try:
                reader(tmp_path / name)
            except ValueError as error:
                assert name in ("b.png", "c.png", "a.webp", "b.jpg"), error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000
