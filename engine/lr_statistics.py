"""What an LR picture looks like, in ten numbers: what tools/compare_degradations.py compares between two degradation models.

Pictures are float32 (h, w, 3) RGB in [0, 1]; numbers are of 8-bit levels. Luma is ITU-R BT.601's.
"""

import cv2
import numpy as np

NORMAL_MAD = 0.6744897501960817
"""Median of |x| for x of N(0, 1)."""

STATISTICS = {
    "sharpness": "log10 of 1 + variance of the luma's Laplacian",
    "noise": "standard deviation of white noise with the same median of |diagonal Haar band| of the luma, 8-bit levels",
    "blockiness": "log2 of the luma's mean step across the borders of 8 x 8 blocks over its mean step elsewhere",
    "distance": "PSNR to the bicubic LR, dB",
    **{f"mean {channel}": f"mean of {channel}, 8-bit levels" for channel in ("red", "green", "blue")},
    **{f"std {channel}": f"standard deviation of {channel}, 8-bit levels" for channel in ("red", "green", "blue")},
}
"""Statistic -> what it is."""


def lr_statistics(lr: np.ndarray, bicubic: np.ndarray) -> dict[str, float]:
    """All of STATISTICS for one LR picture; `bicubic` is the LR of the same HR by bicubic resizing alone, same shape and range."""
    luma = cv2.cvtColor(lr, cv2.COLOR_RGB2GRAY) * 255.0
    means, stds = lr.mean((0, 1)) * 255.0, lr.std((0, 1)) * 255.0
    values = [sharpness(luma), noise_level(luma), blockiness(luma), psnr(lr, bicubic), *means, *stds]
    return {name: float(value) for name, value in zip(STATISTICS, values, strict=True)}


def sharpness(luma: np.ndarray) -> float:
    """log10(1 + variance of the Laplacian); the 1 keeps flat pictures finite."""
    return float(np.log10(1.0 + cv2.Laplacian(luma, cv2.CV_32F).var()))


def noise_level(luma: np.ndarray) -> float:
    """Donoho's robust estimate: the median of |diagonal Haar coefficient| over that of N(0, 1). Edges hardly move a median."""
    height, width = (side // 2 * 2 for side in luma.shape)
    a, b = luma[:height:2, :width:2], luma[:height:2, 1:width:2]
    c, d = luma[1:height:2, :width:2], luma[1:height:2, 1:width:2]
    return float(np.median(np.abs(a - b - c + d)) / 2.0 / NORMAL_MAD)


def blockiness(luma: np.ndarray, block: int = 8) -> float:
    """log2 of mean |step| across block borders over mean |step| elsewhere, rows and columns together; 0 = no grid.

    The grid begins at the top left corner, where that of a JPEG file does. 1e-3 levels are added to both, for flat pictures.
    """
    across, elsewhere = [], []
    for steps in (np.abs(np.diff(luma, axis=1)), np.abs(np.diff(luma, axis=0)).T):
        on_border = np.arange(1, steps.shape[1] + 1) % block == 0
        across.append(steps[:, on_border].ravel())
        elsewhere.append(steps[:, ~on_border].ravel())
    return float(np.log2((np.concatenate(across).mean() + 1e-3) / (np.concatenate(elsewhere).mean() + 1e-3)))


def psnr(picture: np.ndarray, reference: np.ndarray) -> float:
    """Over all channels, in dB, of pictures in [0, 1]; at most 100."""
    return float(-10.0 * np.log10(max(np.mean((picture.astype(np.float64) - reference) ** 2), 1e-10)))
