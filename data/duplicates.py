"""Which images are the same picture: exact copies by the hash of their file, near ones by a perceptual hash."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

HASH_BITS = 256
NEAR = 15
"""Bits in which the perceptual hashes of one picture, saved again or resized, may differ. In 150 photos the largest distance to a copy
(JPEG quality 50, half the size, two thirds at quality 75, 8 % brighter) was 10, the smallest between different photos 96."""
_BAND_BITS = 16  # 256 / 16 = 16 bands: of two hashes that differ in 15 bits, at least one band is equal


def perceptual_hash(luma: np.ndarray) -> str:
    """64 hex digits of a uint8 (H, W) picture: which of the 16x16 lowest DCT coefficients of its 64x64 version lie above their median."""
    small = cv2.resize(luma, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[:16, :16].ravel()
    return np.packbits(lowest > np.median(lowest[1:])).tobytes().hex()


def exact_copies(file_hashes: Sequence[str]) -> dict[int, int]:
    """Index of each later file with the hash of an earlier one -> index of the first."""
    first: dict[str, int] = {}
    copies = {}
    for index, file_hash in enumerate(file_hashes):
        if first.setdefault(file_hash, index) != index:
            copies[index] = first[file_hash]
    return copies


def near_copies(hashes: Sequence[str], num_pixels: Sequence[int]) -> dict[int, int]:
    """Index of each picture within NEAR bits of one that is kept -> index of that one. Of two copies the larger is kept, then the earlier.

    Only pictures that share a band of bits are compared, which misses no pair: 100,000 pictures take seconds.
    """
    copies: dict[int, int] = {}
    kept: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for index in sorted(range(len(hashes)), key=lambda index: (-num_pixels[index], index)):
        bits = int(hashes[index], 16)
        bands = list(_bands(bits))
        close = (other for band in bands for other, other_bits in kept[band] if (bits ^ other_bits).bit_count() <= NEAR)
        original = next(close, None)
        if original is not None:
            copies[index] = original
            continue
        for band in bands:
            kept[band].append((index, bits))
    return copies


def _bands(bits: int) -> Iterator[tuple[int, int]]:
    """(number of the band, its bits)."""
    for number in range(HASH_BITS // _BAND_BITS):
        yield number, bits >> number * _BAND_BITS & (1 << _BAND_BITS) - 1
