"""PNG files as Pillow reads them, but with chunks of any size, with their colours, and with EXIF wherever it is kept.

Pillow refuses a picture for a text or profile of more than 1 MiB. Its limits are globals, so they cannot be lifted for one file while
other threads read; here the chunks are read by other rules, which hold for our files only. Nor does a damaged chunk before the pixels
lose the picture if it can be shown without, as in libpng.
"""

import os
import struct
import zlib
from typing import BinaryIO

from PIL import ImageFile, PngImagePlugin

from data.image_files import DECODE_ERRORS

COLOUR_CHUNKS = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""What says how the numbers look, beside the profile -> its length (PNG, third edition, section 11.3.2)."""

CHUNK_LIMIT = 16 << 20
"""Bytes of a chunk that is no picture, or of a profile when it is unpacked. More is passed over."""

LONG_PROFILE, _LONG_TEXT = "colour profile is too long to be kept", "text is too long to be kept"
_ANCILLARY = 32
"""The bit of a name's first letter that says that the picture can be shown without the chunk."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_RAW_PROFILES = ("Raw profile type exif", "Raw profile type APP1")
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"


class _Stream(PngImagePlugin.PngStream):
    """Pillow's reader of chunks, one method a chunk."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.colours: dict[bytes, bytes] = {}
        self.passed_over: set[str] = set()

    def call(self, cid: bytes, pos: int, length: int) -> bytes | None:
        """Pillow's call of a chunk's method; None if the chunk was not read, and then the file stands behind its data."""
        if not self.im_tile and cid[0] & _ANCILLARY and not self._is_whole(cid, pos, length):
            return self._pass_over(f"chunk {cid.decode('ascii', 'replace')} is damaged", pos + length)
        if length > CHUNK_LIMIT and cid not in (b"IDAT", b"fdAT"):
            self._pass_over(_LONG_TEXT if cid in _TEXTS else LONG_PROFILE if cid == b"iCCP" else "", pos + length)
            if cid == b"iCCP":
                self.im_info["icc_profile"] = None
            return None
        if cid in COLOUR_CHUNKS:
            data = ImageFile._safe_read(self.fp, length)
            if length == COLOUR_CHUNKS[cid]:
                self.colours.setdefault(cid, data)
            return data
        if cid not in _TEXTS:
            return super().call(cid, pos, length)
        try:
            data = super().call(cid, pos, length)
        except ValueError:  # longer than Pillow takes, when it is unpacked
            return self._pass_over(_LONG_TEXT, pos + length)
        self._read_raw_profiles()
        return data

    def crc(self, cid: bytes, data: bytes | None) -> None:
        if data is None:
            self.fp.read(4)
        else:
            super().crc(cid, data)

    def chunk_iCCP(self, pos: int, length: int) -> bytes:  # noqa: N802  Pillow's name
        data = ImageFile._safe_read(self.fp, length)
        name, _, rest = data.partition(b"\0")
        unpack = zlib.decompressobj()
        try:
            profile = unpack.decompress(rest[1:], CHUNK_LIMIT)
            if unpack.unconsumed_tail:
                self.passed_over.add(LONG_PROFILE)
        except zlib.error:
            profile = None
        self.im_info["icc_profile"] = None if unpack.unconsumed_tail else profile
        return data

    def _is_whole(self, cid: bytes, pos: int, length: int) -> bool:
        """Whether a chunk's checksum is right; long ones, and one that the file ends in, are not looked at."""
        if length > CHUNK_LIMIT:
            return True
        self.fp.seek(pos)
        data, checksum = self.fp.read(length), self.fp.read(4)
        self.fp.seek(pos)
        return len(checksum) < 4 or struct.unpack(">I", checksum)[0] == zlib.crc32(data, zlib.crc32(cid))

    def _pass_over(self, what: str, end: int) -> None:
        self.passed_over |= {what} - {""}
        self.fp.seek(end)

    def _read_raw_profiles(self) -> None:
        """ImageMagick's EXIF and XMP of old, hexadecimal behind three lines, put where those of today stand, unless they are there."""
        for name in _RAW_PROFILES:
            try:
                block = bytes.fromhex("".join(self.im_info.pop(name, "").split("\n")[3:]))
            except ValueError:
                continue
            if block.startswith(_XMP_PREFIX):
                self.im_info.setdefault("xmp", block.removeprefix(_XMP_PREFIX))
            elif block:
                self.im_info.setdefault("exif", block)


class PngFile(PngImagePlugin.PngImageFile):
    """Pillow's PNG with this file's reader of chunks."""

    @property
    def png(self) -> _Stream | None:
        """The reader, which Pillow makes for itself when it opens a file; it is let go when the picture is decoded."""
        return self._stream

    @png.setter
    def png(self, stream: PngImagePlugin.PngStream | None) -> None:
        self._stream = None if stream is None else _Stream(stream.fp)
        self.chunks = self._stream or self.chunks

    @property
    def colours(self) -> dict[bytes, bytes]:
        """The chunks of COLOUR_CHUNKS that the file has before its pixels, by their names."""
        return self.chunks.colours

    @property
    def passed_over(self) -> set[str]:
        """What was too long or too damaged to be read so far, with the reason."""
        return self.chunks.passed_over

    def load_end(self) -> None:
        """What is left of the last chunk of pixels is passed over; Pillow reads it, and it can be as long as the file."""
        self.fp.seek(self._PngImageFile__idat, os.SEEK_CUR)
        self._PngImageFile__idat = 0
        super().load_end()


def read_png_tail(image: PngFile) -> None:
    """Let Pillow read EXIF and texts (which hold XMP, or EXIF of old) behind the pixels of an opened PNG, without decoding those.

    Pillow reads them when it has decoded the pixels, and in the same way: of an APNG those behind the first frame do not count.
    Damage is not reported: whoever decodes the pixels will find it.
    """
    file, at = image.fp, image.tile[0][2] - 8  # where the first IDAT begins
    try:
        at += _whole_idats(file, at)
        name = b""
        while name != b"IEND" and not (name == b"fcTL" and image.is_animated):
            file.seek(at)
            name, begin, length = image.png.read()
            if name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                image.png.call(name, begin, length)
            at = begin + length + 4
    except DECODE_ERRORS:
        pass


def _whole_idats(file: BinaryIO, at: int) -> int:
    """Bytes from the first IDAT, at `at`, to one of the last of its length; 0 where that is not found at once.

    Writers cut the pixels into pieces of one length (8 KiB, 64 KiB), so that a file of megabytes need not be read from piece to piece.
    """
    file.seek(at)
    head = file.read(8)
    step = struct.unpack(">L", head[:4])[0] + 12
    pieces = (file.seek(0, os.SEEK_END) - at) // step
    for number in range(pieces - 1, max(pieces - 4, 0), -1):
        file.seek(at + number * step)
        if file.read(8) == head:
            return number * step
    return 0
