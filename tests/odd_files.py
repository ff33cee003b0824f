"""A folder of odd picture files, as people have them, with what is to be expected of each. All are made here, from seeded numbers."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.odd_bytes import INKS, chunk, cmyk_profile, display_p3_profile, encoded, exif, grey_profile, lab_to_srgb, png, png_of_rows

HEIGHT, WIDTH = 20, 28
_rows, _columns = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([60 + 6 * _rows, 30 + 7 * _columns, 200 - 3 * _rows - 3 * _columns], axis=2).astype(np.uint8)
"""Smooth, so that lossy formats keep it, and without symmetry, so that a turned copy is another picture."""
GREY = RGB[:, :, :1].copy()
_random = np.random.default_rng(3)
ALPHA = _random.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
DEEP = _random.integers(0, 65536, (HEIGHT, WIDTH, 4), dtype=np.uint16)
NOISE = _random.integers(0, 256, (64, 64, 3), dtype=np.uint8)

NOT_AN_IMAGE, BROKEN, REFUSED = "not an image", "broken or truncated image", "broken image, or of a kind that Pillow cannot read"
Corpus = dict[str, tuple[bytes, "Expected"]]


@dataclass(frozen=True, eq=False)
class Expected:
    """What reading a file gives: either `pixels` or a `reason`."""

    pixels: np.ndarray | None = None
    """(H, W, 1) or (H, W, 3), uint8 or uint16, upright; None for a file that is refused."""
    alpha: np.ndarray | None = None
    """(H, W), None for a file without."""
    tolerance: int = 0
    """By how many levels the pixels may differ (lossy formats)."""
    note: str = ""
    """Part of a note that reading gives; empty if it gives none."""
    reason: str = ""
    """How the reason for refusal begins, behind "path: "."""
    listed: bool = True
    """Whether `list_images` finds the file in its folder."""


def write_odd_files(folder: Path) -> dict[str, Expected]:
    """Write the corpus into a folder, which is made. Returns what to expect of each file by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, Expected] = {}
    for part in (_whole, _sixteen_bit, _one_pixel, _metadata, _several, _cmyk, _damaged):
        for name, (data, expected[name]) in part().items():
            (folder / name).write_bytes(data)
    for name, (options, array, expected[name]) in _TIFFS.items():
        tifffile.imwrite(folder / name, array, metadata=None, **options)
    (folder / "folder called x.png").mkdir()
    (folder / "dangling.png").symlink_to("gone.png")
    (folder / "link.png").symlink_to("rgb.png")
    expected["folder called x.png"] = Expected(reason="could not be opened", listed=False)
    expected["dangling.png"] = Expected(reason="no such file")
    expected["link.png"] = Expected(RGB)
    return expected


def _whole() -> Corpus:
    """Eight bits or fewer, in every kind of file and under every kind of name."""
    rgb, grey = Expected(RGB), Expected(GREY)
    bits = GREY > 110
    indices = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    palette, clear = NOISE[0:4].reshape(256, 3), ALPHA.reshape(-1)[:256]
    grey_key, key = GREY[4, 4, 0], RGB[7, 9]
    names = ("rgb.png", "with  spaces.png", "größe 写真 🙂.png", "UPPER CASE.PNG", "n" * 240 + ".png")
    corpus: Corpus = {name: (png(RGB), rgb) for name in names}
    corpus[".dotfile.png"] = (png(RGB), replace(rgb, listed=False))
    corpus["png called.jpg"] = (png(RGB), rgb)
    corpus["jpeg called.png"] = (encoded(RGB, "JPEG", quality=98, subsampling=0), replace(rgb, tolerance=4))
    corpus["progressive.jpeg"] = (encoded(RGB, "JPEG", quality=98, progressive=True), replace(rgb, tolerance=12))
    corpus["grey.jpg"] = (encoded(GREY[:, :, 0], "JPEG", quality=98), replace(grey, tolerance=3))
    corpus["lossless.webp"] = (encoded(RGB, "WEBP", lossless=True), rgb)
    corpus["lossy.webp"] = (encoded(RGB, "WEBP", quality=95), replace(rgb, tolerance=16))
    corpus["alpha.webp"] = (encoded(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True), Expected(RGB, ALPHA))
    corpus["rgb.bmp"] = (encoded(RGB, "BMP"), rgb)
    corpus["rgb.ppm"], corpus["grey.pgm"] = (encoded(RGB, "PPM"), rgb), (encoded(GREY[:, :, 0], "PPM"), grey)
    corpus["one bit.png"] = (encoded(bits[:, :, 0], "PNG"), Expected(bits * np.uint8(255)))
    corpus["one bit.tif"] = (encoded(bits[:, :, 0], "TIFF", compression="group4"), Expected(bits * np.uint8(255)))
    quarter = (_columns % 4 * 85).astype(np.uint8)[:, :, None]
    rows = [bytes([0b00011011] * (WIDTH // 4))] * HEIGHT
    two_bits = Expected(quarter, np.where(quarter[:, :, 0] == 170, 0, 255).astype(np.uint8))
    corpus["two bit with transparent grey.png"] = (png_of_rows(rows, WIDTH, 2, 0, chunk(b"tRNS", b"\0\2")), two_bits)
    corpus["grey alpha.png"] = (png(np.dstack([GREY, ALPHA])), Expected(GREY, ALPHA))
    corpus["rgba.png"] = (png(np.dstack([RGB, ALPHA])), Expected(RGB, ALPHA))
    corpus["opaque rgba.png"] = (png(np.dstack([RGB, ALPHA | 255])), Expected(RGB, ALPHA | 255))
    chunks = chunk(b"PLTE", palette.tobytes())
    rows = [row.tobytes() for row in indices]
    corpus["palette.png"] = (png_of_rows(rows, WIDTH, 8, 3, chunks), Expected(palette[indices]))
    clear_palette = Expected(palette[indices], clear[indices])
    corpus["palette with transparency.png"] = (png_of_rows(rows, WIDTH, 8, 3, chunks + chunk(b"tRNS", clear.tobytes())), clear_palette)
    alpha = np.where(GREY[:, :, 0] == grey_key, 0, 255).astype(np.uint8)
    corpus["transparent grey.png"] = (png(GREY, chunk(b"tRNS", struct.pack(">H", grey_key))), Expected(GREY, alpha))
    alpha = np.where((key == RGB).all(axis=2), 0, 255).astype(np.uint8)
    corpus["transparent colour.png"] = (png(RGB, chunk(b"tRNS", struct.pack(">3H", *key))), Expected(RGB, alpha))
    for name, shape in (("wide 5000 x 3.png", (3, 5000, 3)), ("tall 3 x 5000.png", (5000, 3, 3))):
        picture = np.resize(RGB, shape)
        corpus[name] = (png(picture), Expected(picture))
    return corpus


def _sixteen_bit() -> Corpus:
    """PNG and PPM; the TIFFs are in _TIFFS."""
    grey, rgb, alpha = DEEP[:, :, :1], DEEP[:, :, :3], DEEP[:, :, 3]
    key = np.where((rgb == rgb[5, 5]).all(axis=2), 0, 65535).astype(np.uint16)
    return {
        "grey 16.png": (png(grey), Expected(grey)),
        "grey alpha 16.png": (png(np.dstack([grey, alpha])), Expected(grey, alpha)),
        "rgb 16.png": (png(rgb), Expected(rgb)),
        "rgba 16.png": (png(DEEP), Expected(rgb, alpha)),
        "transparent colour 16.png": (png(rgb, chunk(b"tRNS", rgb[5, 5].astype(">u2").tobytes())), Expected(rgb, key)),
        "rgb 16.ppm": (b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + rgb.astype(">u2").tobytes(), Expected(rgb)),
        "rgb 10.ppm": (
            b"P6 %d %d 1023\n" % (WIDTH, HEIGHT) + (rgb >> 6).astype(">u2").tobytes(),
            Expected(np.floor((rgb >> 6) * (65535 / 1023) + 0.5).astype(np.uint16)),
        ),
    }


_premultiplied = np.dstack([np.floor(DEEP[:, :, :3] * (DEEP[:, :, 3:] / 65535) + 0.5), DEEP[:, :, 3:] * 1.0]).astype(np.uint16)
_unit = (DEEP[:, :, 0] / np.float32(65535)).astype(np.float32)
_lab = np.stack([80 - 2 * _rows, 20 - _columns, _rows - _columns], axis=2)
_lab_bytes = np.dstack([np.floor(_lab[:, :, :1] * 2.55 + 0.5), _lab[:, :, 1:]]).astype(np.int16).astype(np.uint8)  # a and b are signed
_grey16, _rgb16 = {"photometric": "minisblack"}, {"photometric": "rgb"}
_TIFFS: dict[str, tuple[dict[str, object], np.ndarray, Expected]] = {
    "grey 16.tif": (_grey16, DEEP[:, :, 0], Expected(DEEP[:, :, :1])),
    "grey 16 big endian.tif": (_grey16 | {"byteorder": ">"}, DEEP[:, :, 0], Expected(DEEP[:, :, :1])),
    "grey 16 white is zero.tif": ({"photometric": "miniswhite"}, 65535 - DEEP[:, :, 0], Expected(DEEP[:, :, :1])),
    "rgb 16.tif": (_rgb16, DEEP[:, :, :3], Expected(DEEP[:, :, :3])),
    "rgb 16 deflated.tif": (_rgb16 | {"compression": "zlib", "predictor": True}, DEEP[:, :, :3], Expected(DEEP[:, :, :3])),
    "rgb 16 turned.tif": (_rgb16 | {"extratags": [(274, "H", 1, 6, True)]}, np.rot90(DEEP[:, :, :3]).copy(), Expected(DEEP[:, :, :3])),
    "rgb 16 planes.tif": (_rgb16 | {"planarconfig": "separate"}, DEEP[:, :, :3].transpose(2, 0, 1).copy(), Expected(DEEP[:, :, :3])),
    "rgb 16 deflated planes.tif": (
        _rgb16 | {"planarconfig": "separate", "compression": "zlib"},
        DEEP[:, :, :3].transpose(2, 0, 1).copy(),
        Expected((DEEP[:, :, :3] >> 8).astype(np.uint8), note="16 bit read as 8 bit"),
    ),
    "rgba 16.tif": (_rgb16 | {"extrasamples": ["unassalpha"]}, DEEP, Expected(DEEP[:, :, :3], DEEP[:, :, 3])),
    "rgba 16 premultiplied.tif": (
        _rgb16 | {"extrasamples": ["assocalpha"]},
        np.where(DEEP[:, :, 3:] < 4096, np.uint16(0), _premultiplied),
        Expected(np.where(DEEP[:, :, 3:] < 4096, 0, DEEP[:, :, :3]), np.where(DEEP[:, :, 3] < 4096, 0, DEEP[:, :, 3]), tolerance=8),
    ),
    "int 32.tif": (_grey16, DEEP[:, :, 0].astype(np.int32), Expected(DEEP[:, :, :1])),
    "int 32 too large.tif": (_grey16, DEEP[:, :, 0].astype(np.int32) * 9, Expected(reason="its values lie in")),
    "float.tif": (_grey16, _unit, Expected(DEEP[:, :, :1])),
    "float too large.tif": (_grey16, _unit * 300, Expected(reason="its values lie in")),
    "float rgb.tif": (_rgb16, np.dstack([_unit] * 3), Expected(np.repeat(DEEP[:, :, :1], 3, axis=2))),
    "grey alpha 16.tif": (_grey16 | {"extrasamples": ["unassalpha"], "planarconfig": "contig"}, DEEP[:, :, :2], Expected(reason=REFUSED)),
    "lab.tif": ({"photometric": "cielab"}, _lab_bytes, Expected(lab_to_srgb(_lab), tolerance=2, note="LAB turned into sRGB")),
    "rgb 8 turned.tif": (_rgb16 | {"extratags": [(274, "H", 1, 8, True)]}, np.rot90(RGB, -1).copy(), Expected(RGB)),
}


def _one_pixel() -> Corpus:
    """1 x 1 of each kind."""
    corpus: Corpus = {}
    for dtype, bits in (("uint8", 8), ("uint16", 16)):
        for kind, channels in (("grey", 1), ("grey alpha", 2), ("rgb", 3), ("rgba", 4)):
            picture = DEEP[:1, :1, :channels].astype(dtype)
            colours = channels - (channels % 2 == 0)
            alpha = picture[:, :, -1] if colours < channels else None
            corpus[f"one pixel {kind} {bits}.png"] = (png(picture), Expected(picture[:, :, :colours], alpha))
    flat = np.full((1, 1, 3), (200, 120, 40), dtype=np.uint8)
    corpus["one pixel.jpg"] = (encoded(flat, "JPEG", quality=98, subsampling=0), Expected(flat, tolerance=3))
    corpus["one pixel.webp"] = (encoded(flat, "WEBP", lossless=True), Expected(flat))
    corpus["one pixel.gif"] = (encoded(flat, "GIF"), Expected(flat))
    return corpus


def _stored(orientation: int) -> np.ndarray:
    """RGB as a camera stores it that was held so that the file says `orientation` (Exif 2.32, 4.6.4 A, tag 274)."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    return np.ascontiguousarray(turns[orientation](RGB))


def _metadata() -> Corpus:
    """EXIF and profiles, good and bad."""
    corpus: Corpus = {}
    for turn in range(1, 9):
        jpeg = encoded(_stored(turn), "JPEG", quality=98, subsampling=0, exif=exif(turn))
        corpus[f"turned {turn}.jpg"] = (jpeg, Expected(RGB, tolerance=4))
    corpus["turned.png"] = (png(_stored(6), chunk(b"eXIf", exif(6, ">")[6:])), Expected(RGB))
    corpus["turned, 16 bit.png"] = (png(np.rot90(DEEP), chunk(b"eXIf", exif(6)[6:])), Expected(DEEP[:, :, :3], DEEP[:, :, 3]))
    corpus["turned.webp"] = (encoded(_stored(8), "WEBP", lossless=True, exif=exif(8)), Expected(RGB))
    corpus["damaged exif.png"] = (png(RGB, chunk(b"eXIf", b"garbage")), Expected(RGB))
    corpus["cut exif.jpg"] = (encoded(RGB, "JPEG", quality=98, subsampling=0, exif=exif(1)[:90]), Expected(RGB, tolerance=4))
    corpus["display p3.png"] = (encoded(RGB, "PNG", icc_profile=display_p3_profile()), Expected(RGB))
    corpus["grey profile.png"] = (encoded(GREY[:, :, 0], "PNG", icc_profile=grey_profile(1.8)), Expected(GREY))
    corpus["damaged profile.png"] = (encoded(RGB, "PNG", icc_profile=display_p3_profile()[:150]), Expected(RGB, note="profile is damaged"))
    corpus["torn profile.png"] = (png(RGB, chunk(b"iCCP", b"x\0\0not deflated")), Expected(RGB, note="profile is damaged"))
    foreign = encoded(GREY[:, :, 0], "JPEG", quality=98, icc_profile=display_p3_profile())
    corpus["grey with rgb profile.jpg"] = (foreign, Expected(GREY, tolerance=3, note="is for RGB"))
    corpus["rgb with grey profile.png"] = (encoded(RGB, "PNG", icc_profile=grey_profile(1.8)), Expected(RGB, note="is for GRAY"))
    return corpus


def _several() -> Corpus:
    """More than one picture in a file."""
    one = Expected(RGB)
    others = {"save_all": True, "append_images": [Image.fromarray(255 - RGB), Image.fromarray(RGB // 2)]}
    palette = np.array(Image.fromarray(RGB).quantize(64).convert("RGB"))
    frames = [Image.fromarray(picture).quantize(64) for picture in (palette, 255 - palette)]
    return {
        "animated.gif": (encoded(palette, "GIF", save_all=True, append_images=frames[1:]), Expected(palette, note="2 frames")),
        "animated.png": (encoded(RGB, "PNG", **others), replace(one, note="3 frames")),
        "animated.webp": (encoded(RGB, "WEBP", lossless=True, **others), replace(one, note="3 frames")),
        "three pages.tif": (encoded(RGB, "TIFF", **others), replace(one, note="3 pages")),
        "camera pair.jpg": (encoded(RGB, "MPO", quality=98, subsampling=0, **others), replace(one, tolerance=4)),
    }


def _cmyk() -> Corpus:
    """Truth: the plain rule 255 (1 - ink) (1 - black), and the definition of Lab for the full inks of a profile."""
    ink = np.dstack([RGB, GREY // 3])
    plain = np.floor(255 * (1 - ink[:, :, :3] / 255) * (1 - ink[:, :, 3:] / 255) + 0.5).astype(np.uint8)
    bands = np.repeat(np.repeat(np.array(list(INKS), dtype=np.uint8)[:, None] * 255, 16, axis=0), 16, axis=1)
    printed = lab_to_srgb(np.repeat(np.repeat(np.array(list(INKS.values()))[:, None], 16, axis=0), 16, axis=1))
    note = "CMYK turned into sRGB"
    jpeg = encoded(ink, "JPEG", "CMYK", quality=98)
    # YCCK: Y, Cb, Cr of the inks and black. Pillow stores 255 - v of each channel and says CMYK; a byte of Adobe's marker says otherwise.
    ycc = np.array(Image.fromarray(ink[:, :, :3]).convert("YCbCr"))
    ycck = bytearray(encoded(np.dstack([255 - ycc, ink[:, :, 3]]), "JPEG", "CMYK", quality=98))
    ycck[ycck.index(b"Adobe") + 11] = 2
    return {
        "cmyk adobe.jpg": (jpeg, Expected(plain, tolerance=6, note=note)),
        "ycck.jpg": (bytes(ycck), Expected(plain, tolerance=8, note=note)),
        "cmyk.tif": (encoded(ink, "TIFF", "CMYK"), Expected(plain, tolerance=1, note=note)),
        "cmyk with profile.jpg": (
            encoded(bands, "JPEG", "CMYK", quality=98, icc_profile=cmyk_profile()),
            Expected(printed, tolerance=6, note=note),
        ),
        "cmyk with profile.tif": (encoded(bands, "TIFF", "CMYK", icc_profile=cmyk_profile()), Expected(printed, tolerance=2, note=note)),
        "cmyk with rgb profile.jpg": (
            encoded(ink, "JPEG", "CMYK", quality=98, icc_profile=display_p3_profile()),
            Expected(plain, tolerance=6, note=note),
        ),
    }


def _damaged() -> Corpus:
    """Broken, empty, lying and dangerous."""
    corpus: Corpus = {}
    for form, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("TIFF", "tif"), ("BMP", "bmp"), ("GIF", "gif")):
        data = encoded(NOISE, form)
        corpus[f"truncated.{suffix}"] = (data[: len(data) // 2], Expected(reason="broken"))
    data = png(DEEP)
    corpus["truncated 16.png"] = (data[: len(data) // 2], Expected(reason=BROKEN))
    corpus["ends after 20 bytes.png"] = (data[:20], Expected(reason=BROKEN))
    corpus["empty.png"], corpus["empty.jpg"] = ((b"", Expected(reason="the file is empty (0 bytes)")),) * 2
    corpus["text.png"] = (b"not a picture at all\n", Expected(reason=NOT_AN_IMAGE))
    corpus["page.jpg"] = (b"<!DOCTYPE html><html>404</html>", Expected(reason=NOT_AN_IMAGE))
    broken = bytearray(png(RGB))
    broken[29] ^= 255
    corpus["broken header crc.png"] = (bytes(broken), Expected(reason=REFUSED))
    broken = bytearray(png(NOISE))
    broken[200:260] = bytes(60)
    corpus["broken data.png"] = (bytes(broken), Expected(reason=BROKEN))
    broken = bytearray(png(DEEP[:, :, :3]))
    broken[-13] ^= 255  # the checksum of the pixels, which are whole
    eight = (DEEP[:, :, :3] >> 8).astype(np.uint8)
    corpus["broken data crc 16.png"] = (bytes(broken), Expected(eight, note="16 bit read as 8 bit"))
    corpus["bomb.png"] = (png_of_rows([b"\0"], 60000, 1, 0, height=60000), Expected(reason="has 3600.0 megapixels, above max_megapixels"))
    corpus["bomb without data.png"] = (corpus["bomb.png"][0][:33], Expected(reason=REFUSED))
    bmp = bytearray(encoded(RGB, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    corpus["bomb.bmp"] = (bytes(bmp), Expected(reason="has 3600.0 megapixels"))
    header = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff\x3f\0" * 2
    corpus["bomb.webp"] = (b"RIFF" + struct.pack("<I", 4 + len(header)) + b"WEBP" + header, Expected(reason="too large for Pillow"))
    return corpus
