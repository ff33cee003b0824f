"""Restores a picture of any size with the model.onnx beside this file; it needs onnxruntime, numpy and Pillow only.

python restore_onnx.py photo.jpg restored.png
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

TILE, OVERLAP = 256, 32  # pixels of the picture; a larger one is restored in tiles, so that memory is bounded


def cubic(size, scale):
    """(size * scale, size) weights of a bicubic enlargement with a = -0.75 and no antialiasing, as the network was trained."""
    at = (np.arange(size * scale) + 0.5) / scale - 0.5
    taps = np.floor(at).astype(int)[:, None] + np.arange(-1, 3)
    x, a = np.abs(at[:, None] - taps), -0.75
    weights = np.where(x <= 1, ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a)
    matrix = np.zeros((size * scale, size), np.float32)
    np.add.at(matrix, (np.arange(size * scale)[:, None], taps.clip(0, size - 1)), weights)
    return matrix


def restore(session, scale, rgb):
    """uint8 (h, w, 3) -> (h * scale, w * scale, 3)."""
    result = np.empty((rgb.shape[0] * scale, rgb.shape[1] * scale, 3), np.uint8)
    for top, left in np.ndindex(-(-rgb.shape[0] // TILE), -(-rgb.shape[1] // TILE)):
        top, left = top * TILE, left * TILE
        above, before = min(top, OVERLAP), min(left, OVERLAP)
        lr = rgb[top - above : top + TILE + OVERLAP, left - before : left + TILE + OVERLAP].transpose(2, 0, 1) / np.float32(127.5) - 1
        lr_up = (cubic(lr.shape[1], scale) @ lr @ cubic(lr.shape[2], scale).T).clip(-1, 1)[None]
        sr = session.run(["sr"], {"lr_up": lr_up})[0][0, :, above * scale :, before * scale :][:, : TILE * scale, : TILE * scale]
        place = result[top * scale :, left * scale :][: sr.shape[1], : sr.shape[2]]
        place[:] = ((sr + 1) * 127.5).round().transpose(1, 2, 0)
    return result


if __name__ == "__main__":
    source, target = sys.argv[1:]
    picture = ImageOps.exif_transpose(Image.open(source))
    if picture.mode[0] in "IF":
        sys.exit(f"{source}: mode {picture.mode}; this example restores 8 bit pictures, test_d3sr.py all kinds")
    session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=onnxruntime.get_available_providers())
    scale = int(session.get_modelmeta().custom_metadata_map["d3sr.scale"])
    result = Image.fromarray(restore(session, scale, np.asarray(picture.convert("RGB"))))
    if picture.mode in ("1", "L", "LA"):
        result = result.convert("L")
    if picture.has_transparency_data:
        result.putalpha(picture.convert("RGBA").getchannel("A").resize(result.size, Image.Resampling.BICUBIC))
    result.save(target, icc_profile=None if picture.mode == "CMYK" else picture.info.get("icc_profile"))
