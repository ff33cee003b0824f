"""Files put together by hand, byte by byte from the specifications: PNG, ICC profiles, EXIF. They owe nothing to the code under test."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG's number


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_rows(rows: list[bytes], width: int, depth: int, colour_type: int, extra: bytes = b"", height: int | None = None) -> bytes:
    """A PNG without filters. extra: chunks between header and pixels; height: what the header says, if not the number of rows."""
    header = struct.pack(">IIBBBBB", width, len(rows) if height is None else height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png(array: np.ndarray, extra: bytes = b"") -> bytes:
    """A PNG of uint8 or uint16 (H, W, 1..4)."""
    rows = [row.astype(array.dtype.newbyteorder(">")).tobytes() for row in array]
    return png_of_rows(rows, array.shape[1], 8 * array.itemsize, COLOUR_TYPES[array.shape[2]], extra)


def encoded(array: np.ndarray, form: str, mode: str | None = None, **options: object) -> bytes:
    """Pillow's file of an array; options are those of its `save`."""
    file = BytesIO()
    Image.fromarray(array, mode).save(file, format=form, **options)
    return file.getvalue()


def icc_profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ", device: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2 (ICC.1:2001-04): header, table of tags, tags."""
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    size = at + len(body)
    illuminant = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)  # D50
    header = struct.pack(">I4sI4s4s4s12s4s", size, bytes(4), 0x02400000, device, space, connection, bytes(12), b"acsp")
    return (header + bytes(28) + illuminant).ljust(128, b"\0") + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def display_p3_profile() -> bytes:
    """RGB with Display P3's primaries (adapted to D50) and gamma 2.2."""
    primaries = {b"rXYZ": (0.5151, 0.2412, -0.0011), b"gXYZ": (0.2919, 0.6922, 0.0419), b"bXYZ": (0.1572, 0.0666, 0.7841)}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(2.2))
    return icc_profile(b"RGB ", {b"wtpt": _xyz(0.9642, 1, 0.8249), **{name: _xyz(*xyz) for name, xyz in primaries.items()}, **curves})


def grey_profile(gamma: float) -> bytes:
    return icc_profile(b"GRAY", {b"wtpt": _xyz(0.9642, 1, 0.8249), b"kTRC": _gamma(gamma)})


INKS = {
    (1, 0, 0, 0): (60.0, -20.0, -30.0),
    (0, 1, 0, 0): (50.0, 60.0, 0.0),
    (0, 0, 1, 0): (80.0, 0.0, 60.0),
    (0, 0, 0, 0): (100.0, 0.0, 0.0),
}
"""Full inks (C, M, Y, K) -> their Lab in `cmyk_profile`; any other mixture of full inks is black."""


def cmyk_profile() -> bytes:
    """CMYK inks by a table of the 16 mixtures of full inks (lut8Type), relative colorimetric; the perceptual table is duller."""
    corners = [INKS.get((c, m, y, k), (0.0, 0.0, 0.0)) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = bytes(round(value) for L, a, b in corners for value in (L * 2.55, a + 128, b + 128))
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + table + 3 * ramp
    perceptual = lut.replace(table, bytes(round(value * 0.8) for value in table))
    return icc_profile(b"CMYK", {b"A2B0": perceptual, b"A2B1": lut}, connection=b"Lab ", device=b"prtr")


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """CIELAB (..., 3) under D50 to uint8 sRGB, by the definition (CIE 15) and Lindbloom's matrix, which adapts D50 to sRGB's white."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1.0, 0.8249)
    matrix = [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    linear = np.clip(xyz @ np.array(matrix).T, 0, 1)
    return np.floor(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) + 0.5).astype(np.uint8)


def exif(orientation: int | None = None, order: str = "<") -> bytes:
    """A camera's EXIF with prefix: make, artist in UTF-8, ISO, negative exposure bias, MakerNote, pixel sizes, GPS, Interop, thumbnail."""
    main = [(0x010F, 2, b"Acme\0"), (0x0131, 2, b"Firmware 1.0\0"), (0x013B, 2, "José Ñandú\0".encode()), (0x8298, 2, "© J. Ñ.\0".encode())]
    main += [(0x0112, 3, struct.pack(f"{order}H", orientation))] if orientation else []
    bias, rational = struct.pack(f"{order}2i", -1, 3), struct.pack(f"{order}6I", 48, 1, 51, 1, 30, 1)
    sub = [(0x8827, 3, struct.pack(f"{order}H", 400)), (0x9000, 7, b"0232"), (0x9204, 10, bias), (0x9286, 7, b"ASCII\0\0\0hello")]
    sub += [(0x927C, 7, b"secret maker note"), (0xA002, 4, struct.pack(f"{order}I", 99)), (0xA003, 3, struct.pack(f"{order}H", 77))]
    gps = [(0x0000, 1, b"\2\3\0\0"), (0x0001, 2, b"N\0"), (0x0002, 5, rational)]
    interop = [(0x0001, 2, b"R98\0")]
    thumbnail = [(0x0103, 3, struct.pack(f"{order}H", 6)), (0x0201, 4, bytes(4)), (0x0202, 4, bytes(4))]
    blank, at = (4, bytes(4)), 8
    main += [(0x8769, *blank), (0x8825, *blank)]
    sub += [(0xA005, *blank)]
    starts = []
    for entries in (main, sub, gps, interop, thumbnail):
        starts.append(struct.pack(f"{order}I", at))
        at += len(_directory(entries, order, 0, bytes(4)))
    pointers = {0x8769: starts[1], 0x8825: starts[2], 0xA005: starts[3]}
    data = (b"II*\0" if order == "<" else b"MM\0*") + starts[0]
    for entries, start in zip((main, sub, gps, interop, thumbnail), starts, strict=True):
        filled = [(tag, kind, pointers.get(tag, value)) for tag, kind, value in entries]
        data += _directory(filled, order, struct.unpack(f"{order}I", start)[0], starts[4] if entries is main else bytes(4))
    return b"Exif\0\0" + data


def _directory(entries: list[tuple[int, int, bytes]], order: str, offset: int, following: bytes) -> bytes:
    table, values = struct.pack(f"{order}H", len(entries)), b""
    for tag, kind, value in sorted(entries):
        count = len(value) // {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}[kind]
        where = struct.pack(f"{order}I", offset + 6 + 12 * len(entries) + len(values))
        table += struct.pack(f"{order}HHI4s", tag, kind, count, value if len(value) <= 4 else where)
        values += value if len(value) > 4 else b""
    return table + following + values
