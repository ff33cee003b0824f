"""Transparency: colours that nobody sees must not bleed into those that one sees, and opaque must stay opaque."""

import cv2
import numpy as np


def fill_hidden_colors(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """pixels (H, W, C) with the colours below alpha = 0 replaced by smooth continuations of the visible ones; the others are untouched.

    alpha: (H, W). Editors leave black (or anything) below full transparency; enlarging would draw it in as a fringe. The filling is a
    pyramid of weighted means (Gortler et al. 1996, pull-push), from the coarsest level down. Without a visible pixel nothing changes.
    """
    visible = (alpha > 0).astype(np.float32)
    if visible.all() or not visible.any():
        return pixels
    filled = _pull_push(pixels.astype(np.float32) * visible[..., None], visible)
    levels = np.floor(filled + 0.5).clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return np.where(visible[..., None] > 0, pixels, levels)


def _pull_push(weighted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(H, W, C) float32 colours everywhere, from colours times weight and weight (H, W) in [0, 1]."""
    height, width = weight.shape
    if height == 1 and width == 1:
        return weighted / max(float(weight[0, 0]), 1e-6)
    half = ((width + 1) // 2, (height + 1) // 2)
    channels = weighted.shape[2]
    mean = cv2.resize(weighted, half, interpolation=cv2.INTER_AREA).reshape(half[1], half[0], channels)
    seen = cv2.resize(weight, half, interpolation=cv2.INTER_AREA).reshape(half[1], half[0])
    sure = np.minimum(1, 4 * seen)  # one visible pixel of four is enough for the coarse one to count in full
    coarse = _pull_push(mean * (sure / np.maximum(seen, 1e-6))[..., None], sure)
    below = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)
    return weighted + (1 - weight[..., None]) * below


def within_neighbours(enlarged: np.ndarray, small: np.ndarray) -> np.ndarray:
    """enlarged (H, W) held between the least and the largest value of the 3 x 3 pixels of small (h, w) around each of its pixels."""
    height, width = enlarged.shape
    rows, columns = (
        np.minimum((np.arange(side) + 0.5) * (of / side), of - 1).astype(np.intp)
        for side, of in zip((height, width), small.shape, strict=True)
    )
    kernel = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(small, kernel), cv2.dilate(small, kernel)
    held = np.empty_like(enlarged)
    for top in range(0, height, 1024):  # in strips, because the two bounds are as large as the result
        strip = np.ix_(rows[top : top + 1024], columns)
        held[top : top + 1024] = enlarged[top : top + 1024].clip(low[strip], high[strip])
    return held
