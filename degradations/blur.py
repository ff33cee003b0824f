"""Filtering with a kernel, and Real-ESRGAN's sharpening of HR images. Images are float32 (H, W, 3) RGB in [0, 1]."""

import cv2
import numpy as np


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """`image` filtered with an odd (k, k) kernel, borders reflected without repeating the edge pixel; same shape, float32, not clipped.

    This is correlation; all our kernels are point symmetric, so it equals convolution. Images smaller than the kernel are fine.
    """
    return cv2.filter2D(image, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)


def usm_sharpen(hr: np.ndarray, *, weight: float = 0.5, radius: int = 50, threshold: float = 10.0) -> np.ndarray:
    """Real-ESRGAN's unsharp mask on HR (arXiv 2107.10833, Sec. 3.4): add `weight` times the detail, but only where there is detail.

    Args:
        hr: float32 (H, W, 3) in [0, 1]; returned with the same shape and range.
        weight: how much of the residual hr - blurred is added.
        radius: size in pixels of the Gaussian window; an even one is enlarged by 1. Its sigma is OpenCV's 0.3 ((size - 1) / 2 - 1) + 0.8.
        threshold: residuals up to this many 8-bit levels stay as they are; the blurred mask makes the transition soft.
    """
    window = (radius | 1, radius | 1)
    residual = hr - cv2.GaussianBlur(hr, window, 0)
    mask = (np.abs(residual) * 255.0 > threshold).astype(np.float32)
    soft_mask = cv2.GaussianBlur(mask, window, 0)
    sharpened = np.clip(hr + np.float32(weight) * residual, 0.0, 1.0)
    return hr + soft_mask * (sharpened - hr)
