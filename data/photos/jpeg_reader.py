"""JPEG files without their end marker, which Pillow takes for truncated, and the pictures of an MPO."""

import re
from io import BytesIO

import numpy as np
from PIL import Image, JpegImagePlugin

from data.image_files import DECODE_ERRORS, bounded_bytes

_END = b"\xff\xd9"
_FILLERS = (b"", b"\x55" * 64, b"\xaa" * 64)
"""What is put between the data and the missing marker. libjpeg itself goes on with zeros."""
_ALL = frozenset(range(64))
"""The coefficients of a block."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FRAMES, _SCAN, _FINISH = (0xC0, 0xC1, 0xC2), 0xDA, 0xD9


def without_end(image: Image.Image) -> Image.Image | None:
    """The picture of an opened JPEG that lacks its end marker and nothing else; None for a file that lacks more, or anything else.

    Whether the pixels are all there is seen by putting other data behind them, which must change nothing.
    """
    if image.format != "JPEG" or image.fp is None:
        return None
    image.fp.seek(0)
    data = bounded_bytes(image.fp, image.width * image.height * 4).removesuffix(_END[:1])  # half of a marker
    if not _has_all_scans(data):
        return None
    pictures = []
    for filler in _FILLERS:
        try:
            with JpegImagePlugin.JpegImageFile(BytesIO(data + filler + _END)) as image:
                pictures.append(image.copy())
        except DECODE_ERRORS:
            return None
    first = np.asarray(pictures[0])
    return pictures[0] if all(np.array_equal(first, np.asarray(picture)) for picture in pictures[1:]) else None


def pictures_of_mpo(image: JpegImagePlugin.JpegImageFile) -> list[tuple[int, int]]:
    """(pixels, where it begins in the file) of each picture in an opened JPEG, as far as they are whole (CIPA DC-007).

    Pillow's own class for them says of one picture what it knows of those before it.
    """
    found = [(image.width * image.height, 0)]
    try:
        header = image._getmp() or {0xB002: [None]}
        for entry in header[0xB002][1:]:
            begin = entry["DataOffset"] + image.info["mpoffset"]
            image.fp.seek(begin)
            other = JpegImagePlugin.JpegImageFile(image.fp, "")
            found.append((other.width * other.height, begin))
    except DECODE_ERRORS:
        pass
    return found


def _has_all_scans(data: bytes) -> bool:
    """Whether there is a scan for the last bit of every coefficient of every component, and no end marker (ITU-T T.81, B.2 and G.1)."""
    seen: dict[int, set[int]] = {}
    at = 2
    while match := _MARKER.search(data, at):
        marker, begin = data[match.start() + 1], match.end()
        at = begin + int.from_bytes(data[begin : begin + 2], "big")
        segment = data[begin + 2 : at]
        if marker == _FINISH:
            return False
        if marker in _FRAMES and len(segment) >= 6:
            seen = {component: set() for component in segment[6::3]}
        if marker == _SCAN and len(segment) >= 4:
            first, last, bits = segment[-3:]
            for component in segment[1:-3:2]:
                seen.setdefault(component, set()).update(range(first, last + 1) if bits & 15 == 0 else ())
    return bool(seen) and all(found >= _ALL for found in seen.values())
