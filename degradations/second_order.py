"""Real-ESRGAN's second-order degradation (arXiv 2107.10833, Sec. 3), one picture at a time: `degrade(hr, generator) -> lr`.

`draw` takes all randomness from the generator and returns plain numbers; `apply` uses nothing but those. So the LR picture is a pure
function of (HR picture, generator state), and what happened to a picture can be printed.

    every pass    blur -> resize -> noise -> JPEG; the first resizes relative to HR, later ones relative to HR / scale
    the end       the last pass's JPEG and (resize to HR / scale, sinc) come in random order; clip, round to 8 bit
"""

import math
from dataclasses import dataclass

import numpy as np

from degradations.blur import blur
from degradations.jpeg import jpeg_compress
from degradations.kernels import DrawnKernel, build_kernel, draw_kernel, draw_sinc
from degradations.noise import DrawnNoise, add_noise, draw_noise
from degradations.resize import DrawnResize, draw_final_resize, draw_resize, resize
from degradations.stage import Degradation, DegradationStage

FINAL_ORDERS = ("resize, jpeg", "jpeg, resize")


@dataclass(frozen=True, kw_only=True)
class DrawnStage:
    """One pass as drawn; None means that the operation is left out."""

    kernel: DrawnKernel | None
    resize: DrawnResize
    noise: DrawnNoise
    jpeg_quality: int | None

    def lines(self) -> list[str]:
        """What happens, one operation a line, in order."""
        blur_line = f"blur {self.kernel}" if self.kernel else "no blur"
        jpeg_line = f"jpeg {self.jpeg_quality}" if self.jpeg_quality else "no jpeg"
        return [blur_line, f"resize {self.resize}", f"noise {self.noise}", jpeg_line]


@dataclass(frozen=True, kw_only=True)
class DrawnDegradation:
    """Everything `apply` needs; `str()` is a short text for people, `repr()` is complete."""

    hr_size: tuple[int, int]
    stages: tuple[DrawnStage, ...]
    final_resize: DrawnResize
    final_sinc: DrawnKernel | None
    final_order: str

    def __str__(self) -> str:
        text = []
        for number, stage in enumerate(self.stages, start=1):
            text += [f"pass {number}", *(f"  {line}" for line in stage.lines())]
        end = [f"  resize {self.final_resize}", f"  filter {self.final_sinc}" if self.final_sinc else "  no final filter"]
        before = len(text) if self.final_order == "jpeg, resize" else len(text) - 1
        return "\n".join(text[:before] + end + text[before:])


def _draw_stage(generator: np.random.Generator, stage: DegradationStage, base_size: tuple[int, int]) -> DrawnStage:
    """One pass; its resize factor is relative to `base_size` (height, width)."""
    kernel = draw_kernel(generator, stage) if generator.random() < stage.blur_prob else None
    resize_to = draw_resize(generator, stage, base_size)
    noise = draw_noise(generator, stage)
    lowest, highest = stage.jpeg_range
    quality = int(generator.integers(lowest, highest + 1)) if generator.random() < stage.jpeg_prob else None
    return DrawnStage(kernel=kernel, resize=resize_to, noise=noise, jpeg_quality=quality)


def draw(generator: np.random.Generator, degradation: Degradation, hr_size: tuple[int, int], scale: int) -> DrawnDegradation:
    """Draws all parameters for an HR picture of `hr_size` (height, width); `scale` = HR side / LR side.

    Raises:
        ValueError: a side of HR is 0 or not a multiple of `scale`.
    """
    height, width = hr_size
    if scale < 1 or height < 1 or width < 1 or height % scale or width % scale:
        raise ValueError(f"HR is {width}x{height}, but both sides must be positive multiples of scale {scale}: crop it first")
    lr_size = (height // scale, width // scale)
    base_sizes = [hr_size] + [lr_size] * (len(degradation.stages) - 1)
    stages = tuple(_draw_stage(generator, stage, base) for stage, base in zip(degradation.stages, base_sizes, strict=True))
    has_sinc = generator.random() < degradation.final_sinc_prob
    return DrawnDegradation(
        hr_size=(height, width),
        stages=stages,
        final_resize=draw_final_resize(generator, lr_size),
        final_sinc=draw_sinc(generator, degradation.stages[-1].kernel_range, narrow_below=math.pi / 3) if has_sinc else None,
        final_order=FINAL_ORDERS[int(generator.integers(2))],
    )


def _resize_and_sinc(image: np.ndarray, drawn: DrawnDegradation) -> np.ndarray:
    image = resize(image, drawn.final_resize)
    return blur(image, build_kernel(drawn.final_sinc)) if drawn.final_sinc else image


def apply(hr: np.ndarray, drawn: DrawnDegradation) -> np.ndarray:
    """Degrades `hr`, float32 (H, W, 3) RGB in [0, 1], exactly as drawn: float32 (H / scale, W / scale, 3) on the grid k / 255.

    Raises:
        ValueError: `hr` is not float (H, W, 3), or not of the size the parameters were drawn for.
    """
    if hr.ndim != 3 or hr.shape[2] != 3 or not np.issubdtype(hr.dtype, np.floating):
        raise ValueError(f"hr must be a float (H, W, 3) array in [0, 1], got {hr.dtype} {hr.shape}")
    if hr.shape[:2] != drawn.hr_size:
        raise ValueError(f"hr has (height, width) {hr.shape[:2]}, but the parameters were drawn for {drawn.hr_size}")
    image = np.ascontiguousarray(hr, dtype=np.float32)  # flipped crops arrive with negative strides
    for number, stage in enumerate(drawn.stages, start=1):
        if stage.kernel:
            image = blur(image, build_kernel(stage.kernel))
        image = add_noise(resize(image, stage.resize), stage.noise)
        if number == len(drawn.stages) and drawn.final_order == "resize, jpeg":
            image = _resize_and_sinc(image, drawn)
        if stage.jpeg_quality:
            image = jpeg_compress(image, stage.jpeg_quality)
    if drawn.final_order == "jpeg, resize":
        image = _resize_and_sinc(image, drawn)
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.float32) / np.float32(255.0)


def degrade(hr: np.ndarray, generator: np.random.Generator, degradation: Degradation | None = None, scale: int = 4) -> np.ndarray:
    """`hr` float32 (H, W, 3) RGB in [0, 1] -> `lr` float32 (H / scale, W / scale, 3) on the grid k / 255. None = x4plus settings."""
    return apply(hr, draw(generator, degradation or Degradation(), hr.shape[:2], scale))
