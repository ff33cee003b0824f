"""Gaussian and Poisson (shot) noise of Real-ESRGAN (arXiv 2107.10833, Sec. 3.2), in colour or grey."""

from dataclasses import dataclass

import cv2
import numpy as np

from degradations.stage import DegradationStage


@dataclass(frozen=True, kw_only=True)
class DrawnNoise:
    """One noise. `level` is the standard deviation in 8-bit levels for "gaussian", the factor on the shot noise for "poisson"."""

    kind: str
    level: float
    grey: bool
    seed: int

    def __str__(self) -> str:
        name = "sigma" if self.kind == "gaussian" else "scale"
        return f"{self.kind} {name} {self.level:.2f} {'grey' if self.grey else 'colour'}"


def draw_noise(generator: np.random.Generator, stage: DegradationStage) -> DrawnNoise:
    """Kind, level and colour of one pass's noise, and the seed its pixels will come from."""
    kind = "gaussian" if generator.random() < stage.gaussian_noise_prob else "poisson"
    level_range = stage.noise_range if kind == "gaussian" else stage.poisson_scale_range
    level = float(generator.uniform(*level_range))
    grey = bool(generator.random() < stage.gray_noise_prob)
    return DrawnNoise(kind=kind, level=level, grey=grey, seed=int(generator.integers(2**63)))


def add_noise(image: np.ndarray, drawn: DrawnNoise) -> np.ndarray:
    """float32 (H, W, 3) plus the drawn noise, clipped to [0, 1]."""
    generator = np.random.default_rng(drawn.seed)
    noise = _gaussian(image, drawn, generator) if drawn.kind == "gaussian" else _poisson(image, drawn, generator)
    return np.clip(image + noise, 0.0, 1.0)  # grey noise is (H, W, 1) and is added to all three channels


def _gaussian(image: np.ndarray, drawn: DrawnNoise, generator: np.random.Generator) -> np.ndarray:
    shape = (*image.shape[:2], 1 if drawn.grey else image.shape[2])
    return generator.standard_normal(shape, dtype=np.float32) * np.float32(drawn.level / 255.0)


def _poisson(image: np.ndarray, drawn: DrawnNoise, generator: np.random.Generator) -> np.ndarray:
    """level * (Poisson(x N) / N - x) for the 8-bit picture x (its luma for grey); N = number of distinct values, up to a power of two.

    N stands for the photons at white: the fewer levels a picture uses, the noisier. The variance at x is level^2 x / N.
    """
    source = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if drawn.grey else image
    levels = np.rint(np.clip(source, 0.0, 1.0) * 255.0).astype(np.uint8)
    num_values = int(np.count_nonzero(np.bincount(levels.ravel(), minlength=256)))
    photons = 1 << (num_values - 1).bit_length()
    expected = levels * (photons / 255.0)
    return ((generator.poisson(expected) - expected) * (drawn.level / photons)).astype(np.float32)
