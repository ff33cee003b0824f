"""Random resizing. Real-ESRGAN resizes with torch's area / bilinear / bicubic without antialiasing; OpenCV's modes of these names are
the same functions (bicubic with a = -0.75), except that its "area" weighs fractional pixels by their true coverage."""

from dataclasses import dataclass

import cv2
import numpy as np

from degradations.kernels import pick
from degradations.stage import DegradationStage

RESIZE_MODES = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


@dataclass(frozen=True, kw_only=True)
class DrawnResize:
    """One resize to (height, width); `direction` ("up", "down", "keep", "final") and `factor` say how these were drawn."""

    direction: str
    factor: float
    mode: str
    height: int
    width: int

    def __str__(self) -> str:
        change = "" if self.direction == "final" else f"{self.direction} x{self.factor:.2f} "
        return f"{change}to {self.width}x{self.height} by {self.mode}"


def _draw_mode(generator: np.random.Generator) -> str:
    modes = tuple(RESIZE_MODES)
    return modes[int(generator.integers(len(modes)))]


def draw_resize(generator: np.random.Generator, stage: DegradationStage, base_size: tuple[int, int]) -> DrawnResize:
    """Up, down or keep relative to `base_size` (height, width); sides are rounded down as torch's interpolate does, but never below 1."""
    direction = pick(generator, ("up", "down", "keep"), stage.resize_prob)
    factor = 1.0
    if direction == "up":
        factor = float(generator.uniform(1.0, stage.resize_range[1]))
    elif direction == "down":
        factor = float(generator.uniform(stage.resize_range[0], 1.0))
    height, width = (max(1, int(side * factor)) for side in base_size)
    return DrawnResize(direction=direction, factor=factor, mode=_draw_mode(generator), height=height, width=width)


def draw_final_resize(generator: np.random.Generator, size: tuple[int, int]) -> DrawnResize:
    """The last resize, to exactly `size` (height, width), in a random mode."""
    return DrawnResize(direction="final", factor=1.0, mode=_draw_mode(generator), height=size[0], width=size[1])


def resize(image: np.ndarray, drawn: DrawnResize) -> np.ndarray:
    """float32 (H, W, 3) -> (height, width, 3), not clipped: bicubic overshoots. The size it already has returns the image itself."""
    if image.shape[:2] == (drawn.height, drawn.width):
        return image
    return cv2.resize(image, (drawn.width, drawn.height), interpolation=RESIZE_MODES[drawn.mode])
