"""Basic EXIF as bytes. Entries are copied as they stand in the file, so that values keep their type, byte order and text encoding.

A block is `Exif\\0\\0` and a TIFF header with its directories, as Pillow's `info["exif"]` and a JPEG's APP1 segment hold it. Source: CIPA
DC-008 (Exif 2.32), section 4.5 and 4.6.
"""

import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from itertools import accumulate
from typing import BinaryIO

from PIL import Image

PREFIX = b"Exif\0\0"
LIMIT = 65_000
"""Bytes that a block may have: a JPEG's segment holds 65,533, and a Software entry may come on top."""

SOFTWARE = 0x0131
EXIF, GPS, INTEROP = 0x8769, 0x8825, 0xA005
_MAKER_NOTE, _WIDTH, _HEIGHT = 0x927C, 0xA002, 0xA003
_X_DENSITY, _Y_DENSITY, _DENSITY_UNIT = 0x011A, 0x011B, 0x0128
_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5
_INCH, _CENTIMETRE = 2, 3
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}

# What describes a picture. All else in the first directory describes how a file stores its pixels, or belongs to one program.
_MAIN_TAGS = frozenset(
    [0x010D, 0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x011D, 0x0128, SOFTWARE, 0x0132, 0x013B, 0x013C, 0x013E, 0x013F]
    + [0x4746, 0x4749, 0x8298, EXIF, GPS, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F]
)


@dataclass(frozen=True)
class _Entry:
    kind: int
    """EXIF's number of the type, a key of _TYPE_BYTES."""
    count: int
    """Values in `data`."""
    data: bytes
    """The values in the block's byte order."""


_Directory = dict[int, _Entry]


@dataclass(frozen=True)
class _Tags:
    order: str
    """struct's sign of the byte order, < or >."""
    main: _Directory = field(default_factory=dict)
    exif: _Directory = field(default_factory=dict)
    gps: _Directory = field(default_factory=dict)
    interop: _Directory = field(default_factory=dict)


def basic_exif(source: bytes | BinaryIO, at: int | None = None) -> bytes | None:
    """The describing entries of a block or of an open TIFF file: no thumbnail, no MakerNote, no orientation, nothing about storage.

    Entries that point outside of the source are left out; None if nothing is left or the source is no EXIF at all.

    at: where the directory begins, if it is not the first.
    """
    tags = _read(source, at)
    block = tags and (tags.main or tags.exif or tags.gps) and _write(tags)
    return block if block and len(block) <= LIMIT else None


def exif_for(
    block: bytes | None,
    height: int,
    width: int,
    software: str | None,
    density: tuple[float, float] | None = None,
    *,
    add_density: bool = False,
) -> bytes | None:
    """A `basic_exif` block for a picture of this size: PixelXDimension and PixelYDimension set where they were there, Software if given.

    density: pixels per inch, across and down. It takes the place of the block's own, and where there is none it comes in on `add_density`.
    """
    tags = _read(block) if block else None
    if tags is None and software is None:
        return None
    tags = tags or _Tags("<")
    tags = replace(tags, exif=tags.exif | _longs(tags.order, {_WIDTH: width, _HEIGHT: height}, tags.exif))
    if density and (add_density or _X_DENSITY in tags.main):
        ratios = zip((_X_DENSITY, _Y_DENSITY), density, strict=True)
        entries = {tag: _Entry(_RATIONAL, 1, _ratio(tags.order, value)) for tag, value in ratios}
        entries[_DENSITY_UNIT] = _Entry(_SHORT, 1, struct.pack(f"{tags.order}H", _INCH))
        tags = replace(tags, main=tags.main | entries)
    if software is not None:
        text = software.encode("ascii", "replace") + b"\0"
        tags = replace(tags, main=tags.main | {SOFTWARE: _Entry(_ASCII, len(text), text)})
    return _write(tags)


def exif_software(block: bytes) -> str | None:
    """The Software entry of a block, None if there is none."""
    tags = _read(block)
    entry = tags and tags.main.get(SOFTWARE)
    return entry.data.rstrip(b"\0").decode("utf-8", "replace") if entry else None


def exif_density(block: bytes) -> tuple[float, float] | None:
    """Pixels per inch, across and down, of a block; None if it does not say."""
    tags = _read(block)
    main = tags.main if tags else {}
    if not all(tag in main and main[tag].kind == _RATIONAL and main[tag].count == 1 for tag in (_X_DENSITY, _Y_DENSITY)):
        return None
    unit = main.get(_DENSITY_UNIT)
    number = struct.unpack(f"{tags.order}H", unit.data)[0] if unit and unit.kind == _SHORT and unit.count == 1 else _INCH
    ratios = [struct.unpack(f"{tags.order}2L", main[tag].data) for tag in (_X_DENSITY, _Y_DENSITY)]
    if number not in (_INCH, _CENTIMETRE) or any(below == 0 for _, below in ratios):
        return None
    x, y = (above / below * (2.54 if number == _CENTIMETRE else 1) for above, below in ratios)
    return x, y


def density_of(image: Image.Image, block: bytes | None) -> tuple[float, float] | None:
    """Pixels per inch, across and down, of an opened image as it is stored: by its own header, else by its EXIF; None if neither says."""
    info = image.info
    if image.format == "JPEG" and "jfif_density" in info:
        found = [value * {1: 1.0, 2: 2.54}.get(info["jfif_unit"], 0.0) for value in info["jfif_density"]]
    else:
        found = info.get("dpi", ()) if image.format in ("PNG", "BMP") else ()
    x, y = found if len(found) == 2 and min(found) >= 1 else (block and exif_density(block)) or (0.0, 0.0)
    return (float(x), float(y)) if min(x, y) >= 1 and max(x, y) <= 65535 else None


def _ratio(order: str, value: float) -> bytes:
    ratio = Fraction(value).limit_denominator(1000)
    return struct.pack(f"{order}2L", ratio.numerator, ratio.denominator)


def _read(source: bytes | BinaryIO, at: int | None = None) -> _Tags | None:
    """The entries worth keeping; None when the header is damaged."""
    if isinstance(source, bytes):
        source = BytesIO(source.removeprefix(PREFIX))
    source.seek(0)
    header = source.read(8)
    order = _ORDERS.get(header[:4])
    if order is None or len(header) < 8:
        return None
    where = header[4:] if at is None else struct.pack(f"{order}L", at)
    main = _directory(source, order, where, keep=_MAIN_TAGS)
    exif = _below(source, order, main, EXIF)
    return _Tags(order, main, exif, _below(source, order, main, GPS), _below(source, order, exif, INTEROP))


def _below(source: BinaryIO, order: str, parent: _Directory, pointer: int) -> _Directory:
    """The directory that an entry of another one, which is taken out, points at; empty if there is none."""
    entry = parent.pop(pointer, None)
    below = _directory(source, order, entry.data) if entry and len(entry.data) == 4 else {}
    return {tag: entry for tag, entry in below.items() if tag not in (EXIF, GPS, _MAKER_NOTE)}  # a copy's offsets would lead astray


def _directory(source: BinaryIO, order: str, where: bytes, keep: Container[int] = range(1 << 16)) -> _Directory:
    """The whole entries of the directory at an offset, of the tags to keep, as many as fit into LIMIT bytes."""
    source.seek(struct.unpack(f"{order}L", where)[0])
    start = source.read(2)
    table = source.read(12 * struct.unpack(f"{order}H", start)[0]) if len(start) == 2 else b""
    entries: _Directory = {}
    room = LIMIT
    for tag, kind, count, value in struct.iter_unpack(f"{order}HHL4s", table[: len(table) // 12 * 12]):
        size = count * _TYPE_BYTES.get(kind, 0)
        if tag not in keep or tag in entries or not 0 < size <= room:
            continue
        data = value[:size]
        if size > 4:
            source.seek(struct.unpack(f"{order}L", value)[0])
            data = source.read(size)
        if len(data) == size:
            entries[tag] = _Entry(kind, count, data)
            room -= size
    return entries


def _write(tags: _Tags) -> bytes:
    """The block of all directories, one behind the other."""
    order = tags.order
    main = tags.main | _longs(order, {EXIF: 0, GPS: 0}, {EXIF: tags.exif or tags.interop, GPS: tags.gps})
    exif = tags.exif | _longs(order, {INTEROP: 0}, {INTEROP: tags.interop})
    chain = [main, exif, tags.gps, tags.interop]
    at = list(accumulate(map(_size, chain), initial=8))
    main |= _longs(order, {EXIF: at[1], GPS: at[2]}, main)
    exif |= _longs(order, {INTEROP: at[3]}, exif)
    header = next(magic for magic, sign in _ORDERS.items() if sign == order) + struct.pack(f"{order}L", at[0])
    return PREFIX + header + b"".join(_directory_bytes(order, *pair) for pair in zip(chain, at, strict=False))


def _longs(order: str, numbers: dict[int, int], wanted: Mapping[int, object]) -> _Directory:
    """Entries of one 32-bit number each (offsets, sides), of those tags for which `wanted` holds something."""
    return {tag: _Entry(_LONG, 1, struct.pack(f"{order}L", number)) for tag, number in numbers.items() if wanted.get(tag)}


def _size(directory: _Directory) -> int:
    """Bytes of a directory and its values, each of which begins at an even offset; none for an empty one."""
    values = sum(len(entry.data) + len(entry.data) % 2 for entry in directory.values() if len(entry.data) > 4)
    return 2 + 12 * len(directory) + 4 + values if directory else 0


def _directory_bytes(order: str, directory: _Directory, offset: int) -> bytes:
    """A directory that begins at `offset`, in ascending order of tags as the standard asks, then the values of more than 4 bytes."""
    if not directory:
        return b""
    table, values = struct.pack(f"{order}H", len(directory)), b""
    for tag, entry in sorted(directory.items()):
        data = entry.data
        if len(data) > 4:
            data = struct.pack(f"{order}L", offset + 2 + 12 * len(directory) + 4 + len(values))
            values += entry.data + bytes(len(entry.data) % 2)
        table += struct.pack(f"{order}HHL4s", tag, entry.kind, entry.count, data)
    return table + bytes(4) + values
