"""Real JPEG compression, through OpenCV's encoder (libjpeg-turbo, 4:2:0 chroma)."""

import cv2
import numpy as np


def jpeg_compress(image: np.ndarray, quality: int) -> np.ndarray:
    """float32 (H, W, 3) RGB -> rounded to 8 bit, encoded at `quality` (1..100), decoded: float32 in [0, 1] on the grid k / 255."""
    rgb = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    encoded_ok, buffer = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded_ok:
        raise RuntimeError(f"OpenCV could not encode a {bgr.shape[1]}x{bgr.shape[0]} picture as JPEG of quality {quality}")
    decoded = cv2.cvtColor(cv2.imdecode(buffer, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return decoded.astype(np.float32) / np.float32(255.0)
