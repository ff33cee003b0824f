"""What PNG's colour chunks say, as an ICC profile for formats that hold nothing else."""

import struct

import numpy as np

_SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_PRIMARIES = {
    1: (_SRGB_PRIMARIES, _D65),
    4: ((0.67, 0.33, 0.21, 0.71, 0.14, 0.08), _C),
    5: ((0.64, 0.33, 0.29, 0.60, 0.15, 0.06), _D65),
    6: ((0.630, 0.340, 0.310, 0.595, 0.155, 0.070), _D65),
    7: ((0.630, 0.340, 0.310, 0.595, 0.155, 0.070), _D65),
    9: ((0.708, 0.292, 0.170, 0.797, 0.131, 0.046), _D65),
    11: ((0.680, 0.320, 0.265, 0.690, 0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320, 0.265, 0.690, 0.150, 0.060), _D65),
}
"""ITU-T H.273's number -> x, y of red, green and blue, and of white (table 2)."""
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_VIDEO_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES: dict[int, tuple[float, ...]] = {
    1: _VIDEO_CURVE, 6: _VIDEO_CURVE, 14: _VIDEO_CURVE, 15: _VIDEO_CURVE, 4: (2.2,), 5: (2.8,), 8: (1.0,), 13: _SRGB_CURVE
}  # fmt: skip
"""H.273's number -> parameters of ICC's parametric curves of type 0 or 3 (table 3). PQ (16) and HLG (18) have none."""
_LIKE_SRGB = ((1, 13), (1, 1), (1, 6), (2, 2), (1, 2), (2, 13))
"""Primaries and curve of pictures that everybody shows as sRGB; 2 is unspecified."""
_SRGB_GAMMA = 45455  # PNG's number for 1 / 2.2


def says_srgb(cicp: bytes) -> bool:
    """Whether a cICP chunk, or the first bytes of one, says what holds without it."""
    return (cicp[0], cicp[1]) in _LIKE_SRGB


def profile_of(chunks: dict[bytes, bytes], icc_profile: bytes | None, mode: str) -> tuple[bytes | None, str]:
    """(ICC profile, note) for pixels of a mode (L or RGB) with PNG's colour chunks; what counts is cICP, iCCP, sRGB, gAMA and cHRM,
    in that order (PNG, third edition, section 4.3). No profile stands for sRGB.

    The note says what became of the chunks, empty where nothing is lost or changed.
    """
    cicp = chunks.get(b"cICP")
    if cicp:
        if says_srgb(cicp):
            return None, ""
        if cicp[0] in _PRIMARIES and cicp[1] in _CURVES:
            return _profile(*_PRIMARIES[cicp[0]], _CURVES[cicp[1]], mode), "its colour chunk (cICP) turned into a colour profile"
        what = {16: " (PQ, HDR)", 18: " (HLG, HDR)"}.get(cicp[1], "")
        return icc_profile, f"its colour chunk cICP{what} left out, so its colours look different; write png to keep them"
    if icc_profile or b"sRGB" in chunks:
        return icc_profile, ""
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
    points = np.array(struct.unpack(">8I", chunks[b"cHRM"])) / 100_000 if b"cHRM" in chunks else None
    srgb = points is None or np.abs(points - (*_D65, *_SRGB_PRIMARIES)).max() < 0.002
    if srgb and (gamma == 0 or abs(gamma - _SRGB_GAMMA) < 500):
        return None, ""
    curve = _SRGB_CURVE if gamma == 0 else (100_000 / gamma,)
    white, primaries = (_D65, _SRGB_PRIMARIES) if srgb else (tuple(points[:2]), tuple(points[2:]))
    try:
        if min(*primaries, *white) > 0:
            return _profile(primaries, white, curve, mode), "its colour chunks (gAMA, cHRM) turned into a colour profile"
    except (np.linalg.LinAlgError, struct.error):  # points in a line, numbers beyond those of ICC
        pass
    return None, "its colour chunks (gAMA, cHRM) left out: they describe no colours"


def _profile(primaries: tuple[float, ...], white: tuple[float, float], curve: tuple[float, ...], mode: str) -> bytes:
    """An ICC profile, version 4 (ICC.1:2022): a matrix and one curve for RGB, the curve alone for L."""
    parametric = b"para" + struct.pack(">IHH", 0, 0 if len(curve) == 1 else 3, 0) + _fixed(*curve)
    d50 = np.array([0.9642, 1.0, 0.8249])
    tags = {b"desc": _text("made from PNG's colour chunks"), b"cprt": _text("no copyright"), b"wtpt": b"XYZ " + bytes(4) + _fixed(*d50)}
    if mode == "L":
        tags[b"kTRC"] = parametric
    else:
        adapt = _bradford(_xyz(*white), d50)
        columns = np.stack([_xyz(*primaries[at : at + 2]) for at in (0, 2, 4)], axis=1)
        matrix = adapt @ (columns * np.linalg.solve(columns, _xyz(*white)))
        tags[b"chad"] = b"sf32" + bytes(4) + _fixed(*adapt.flatten())
        tags |= {name: b"XYZ " + bytes(4) + _fixed(*column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), parametric)
    table, body, begin = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, begin + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    space = b"GRAY" if mode == "L" else b"RGB "
    header = struct.pack(">I4xI4s4s4s12x4s28x", begin + len(body), 0x04400000, b"mntr", space, b"XYZ ", b"acsp") + _fixed(*d50)
    return header.ljust(128, b"\0") + table + body


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _text(text: str) -> bytes:
    return b"mluc" + struct.pack(">3I4sII", 0, 1, 12, b"enUS", 2 * len(text), 28) + text.encode("utf-16-be")


def _xyz(x: float, y: float) -> np.ndarray:
    """CIE XYZ of a chromaticity, Y = 1."""
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _bradford(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The linear Bradford adaptation from one white to another (ICC.1:2022, annex E)."""
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    return np.linalg.inv(cones) @ np.diag((cones @ target) / (cones @ source)) @ cones
