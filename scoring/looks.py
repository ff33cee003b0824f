"""What an eye sees first and no distance does: how sharp edges are, how straight, what glows beside them, and what flat places show.

Distances and NIQE can improve while pictures get worse: a blurred picture with a fine canvas over it scores well. These five are rulers,
not losses. All but the last look at luma, in 8-bit levels, of uint8 pictures (H, W, 3) RGB of one size; where there is an edge, and what is
flat, says HR. Edges are the strongest 4 % of its gradients, above 6 levels a pixel. ValueError where HR has none, or nothing flat.
"""

import cv2
import numpy as np

STRONGEST, FAINTEST = 0.96, 6.0
FLATTEST = 0.4
FEWEST_EDGES, FEWEST_FLATS = 200, 500
BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16


def acutance(sr: np.ndarray, hr: np.ndarray) -> float:
    """Gradient at HR's edges, SR's over HR's, each the largest within two pixels: 1 is as sharp, less is blurred."""
    slope_sr, slope_hr = _slope(_luma(sr)), _slope(_luma(hr))
    edges = _edges(slope_hr)
    return float(_largest(slope_sr, 5)[edges].mean() / _largest(slope_hr, 5)[edges].mean())


def flat_texture(sr: np.ndarray, hr: np.ndarray) -> float:
    """Fine detail of SR (rms of what a 5 x 5 binomial blur takes away, in 7 x 7 windows) minus HR's, where HR is flat: 0 is as clean."""
    y_hr = _luma(hr)
    detail_sr, detail_hr = _detail(_luma(sr)), _detail(y_hr)
    flat = (detail_hr <= np.quantile(detail_hr, FLATTEST)) & (_largest(_slope(y_hr), 9) < FAINTEST)
    if flat.sum() <= FEWEST_FLATS:
        raise ValueError("HR has no flat places")
    return float(detail_sr[flat].mean() - detail_hr[flat].mean())


def roughness(sr: np.ndarray, hr: np.ndarray) -> float:
    """How much SR wobbles along HR's edges: 1 - the structure tensor's coherence (sigma 2 pixels); 0 for straight lines."""
    edges = _edges(_slope(_luma(hr)))
    gx, gy = _gradient(_luma(sr))
    xx, xy, yy = (cv2.GaussianBlur(product, (0, 0), 2) for product in (gx * gx, gx * gy, gy * gy))
    coherence = np.sqrt((xx - yy) ** 2 + 4 * xy * xy) / (xx + yy + 1e-3)
    return float(1 - coherence[edges].mean())


def overshoot(sr: np.ndarray, hr: np.ndarray) -> float:
    """Mean distance of SR from the range that HR spans within four pixels, within three pixels of HR's edges; halos, in levels."""
    return _outside(_luma(sr), _luma(hr), _beside_edges(hr))


def fringe(sr: np.ndarray, hr: np.ndarray) -> float:
    """The same of Cb and Cr, their mean: colours beside HR's edges that HR has not, in levels."""
    beside = _beside_edges(hr)
    chroma_sr, chroma_hr = (cv2.split(cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2YCrCb))[1:] for picture in (sr, hr))
    return float(np.mean([_outside(one_sr, one_hr, beside) for one_sr, one_hr in zip(chroma_sr, chroma_hr, strict=True)]))


LOOKS = {"acutance": acutance, "flat_texture": flat_texture, "roughness": roughness, "overshoot": overshoot, "fringe": fringe}

BEST_AT = {"acutance": 1.0, "flat_texture": 0.0}
"""Where HR itself is, of those that have worse scores on both sides: oversharpened and blurred, grainy and washed out. The others are
distances from zero, which is their best."""


def _beside_edges(hr: np.ndarray) -> np.ndarray:
    return _largest(_edges(_slope(_luma(hr))).astype(np.uint8), 7) > 0


def _outside(channel_sr: np.ndarray, channel_hr: np.ndarray, beside: np.ndarray) -> float:
    low, high = cv2.erode(channel_hr, np.ones((9, 9))), _largest(channel_hr, 9)
    return float(np.abs(channel_sr - np.clip(channel_sr, low, high))[beside].mean())


def _luma(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _gradient(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels per pixel, to the right and down."""
    return cv2.Sobel(y, cv2.CV_32F, 1, 0, ksize=3) / 8, cv2.Sobel(y, cv2.CV_32F, 0, 1, ksize=3) / 8


def _slope(y: np.ndarray) -> np.ndarray:
    return np.hypot(*_gradient(y))


def _edges(slope: np.ndarray) -> np.ndarray:
    edges = (slope >= np.quantile(slope, STRONGEST)) & (slope > FAINTEST)
    if edges.sum() <= FEWEST_EDGES:
        raise ValueError("HR has no strong edges")
    return edges


def _detail(y: np.ndarray) -> np.ndarray:
    return np.sqrt(cv2.blur((y - cv2.sepFilter2D(y, -1, BINOMIAL, BINOMIAL)) ** 2, (7, 7)))


def _largest(values: np.ndarray, size: int) -> np.ndarray:
    return cv2.dilate(values, np.ones((size, size)))
