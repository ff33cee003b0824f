"""The numbers of Real-ESRGAN's second-order degradation (Wang et al., arXiv 2107.10833), under Real-ESRGAN's own key names.

`Degradation()` is the x4plus setting that OSEDiff and D3SR train with. Objects are frozen and check themselves: a wrong value is a
`ValueError` that begins with the key's name.
"""

import math
from dataclasses import dataclass

KERNEL_FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def _check_range(name: str, pair: tuple[float, float], low: float, high: float = math.inf, *, around_one: bool = False) -> None:
    if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
        bounds = f">= {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{name}: expected [low, high], both {bounds} and low <= high, got {list(pair)}")
    if around_one and not pair[0] <= 1.0 <= pair[1]:
        raise ValueError(f"{name}: values are drawn below and above 1, so the range must contain 1, got {list(pair)}")


def _check_probability(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: expected a probability between 0 and 1, got {value}")


def _check_distribution(name: str, probabilities: tuple[float, ...], outcomes: tuple[str, ...]) -> None:
    if len(probabilities) != len(outcomes):
        raise ValueError(f"{name}: expected {len(outcomes)} probabilities, one each for {', '.join(outcomes)}, got {list(probabilities)}")
    if not all(p >= 0.0 for p in probabilities) or not math.isclose(sum(probabilities), 1.0, abs_tol=1e-6):
        raise ValueError(f"{name}: probabilities must be >= 0 and sum to 1, got {list(probabilities)} (sum {sum(probabilities):g})")


@dataclass(frozen=True, kw_only=True)
class DegradationStage:
    """One pass: blur, resize, noise, JPEG. The defaults are x4plus's first pass; see `Degradation.stages` for its second."""

    blur_prob: float = 1.0
    """Probability that this pass blurs at all (x4plus: 1, then 0.8)."""
    sinc_prob: float = 0.1
    """Probability that the blur kernel is a sinc (ringing) filter instead of one of `kernel_list`."""
    kernel_list: tuple[str, ...] = KERNEL_FAMILIES
    """Blur kernel families to draw from."""
    kernel_prob: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Probability of each family of `kernel_list`; sums to 1."""
    kernel_range: tuple[int, int] = (7, 21)
    """Smallest and largest kernel size in pixels, both odd and inclusive; every odd size between is equally likely."""
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    """Range of the kernels' standard deviations, in pixels."""
    betag_range: tuple[float, float] = (0.5, 4.0)
    """Shape exponent of the generalized Gaussian kernels: below or above 1 with probability 1/2 each (1 = Gaussian)."""
    betap_range: tuple[float, float] = (1.0, 2.0)
    """Shape exponent of the plateau kernels, drawn likewise."""
    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Probabilities of resizing up, down, or keeping the size; they sum to 1."""
    resize_range: tuple[float, float] = (0.15, 1.5)
    """Smallest "down" and largest "up" factor; contains 1."""
    gaussian_noise_prob: float = 0.5
    """Probability of Gaussian noise; otherwise the noise is Poisson."""
    noise_range: tuple[float, float] = (1.0, 30.0)
    """Range of the Gaussian noise's standard deviation, in 8-bit grey levels (0..255)."""
    poisson_scale_range: tuple[float, float] = (0.05, 3.0)
    """Range of the factor on the Poisson (shot) noise; 1 is the noise of one photon per level."""
    gray_noise_prob: float = 0.4
    """Probability that the noise is the same in all three channels."""
    jpeg_prob: float = 1.0
    """Probability of JPEG compression (Real-ESRGAN has no such key: it always compresses; 0 allows bicubic-only pairs)."""
    jpeg_range: tuple[int, int] = (30, 95)
    """Range of the JPEG quality (1..100), both inclusive."""

    def __post_init__(self) -> None:
        for name in ("blur_prob", "sinc_prob", "gaussian_noise_prob", "gray_noise_prob", "jpeg_prob"):
            _check_probability(name, getattr(self, name))
        self._check_kernels()
        _check_distribution("resize_prob", self.resize_prob, ("up", "down", "keep"))
        _check_range("resize_range", self.resize_range, 0.01, around_one=True)
        _check_range("noise_range", self.noise_range, 0.0, 255.0)
        _check_range("poisson_scale_range", self.poisson_scale_range, 0.0)
        _check_range("jpeg_range", self.jpeg_range, 1, 100)
        if any(quality != int(quality) for quality in self.jpeg_range):
            raise ValueError(f"jpeg_range: JPEG qualities are whole numbers, got {list(self.jpeg_range)}")

    def _check_kernels(self) -> None:
        for family in self.kernel_list:
            if family not in KERNEL_FAMILIES:
                raise ValueError(f"kernel_list: unknown kernel {family!r}; known: {', '.join(KERNEL_FAMILIES)} (sinc has sinc_prob)")
        _check_distribution("kernel_prob", self.kernel_prob, tuple(self.kernel_list))
        _check_range("kernel_range", self.kernel_range, 3)
        if any(size % 2 != 1 for size in self.kernel_range):
            raise ValueError(f"kernel_range: kernel sizes must be odd, got {list(self.kernel_range)}")
        _check_range("blur_sigma", self.blur_sigma, 0.01)
        _check_range("betag_range", self.betag_range, 0.01, around_one=True)
        _check_range("betap_range", self.betap_range, 0.01, around_one=True)


_X4PLUS_SECOND_PASS = DegradationStage(
    blur_prob=0.8,
    blur_sigma=(0.2, 1.5),
    resize_prob=(0.3, 0.4, 0.3),
    resize_range=(0.3, 1.2),
    noise_range=(1.0, 25.0),
    poisson_scale_range=(0.05, 2.5),
)


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """The whole pipeline: the passes in order, then in random order JPEG and (resize to HR / scale, final sinc)."""

    stages: tuple[DegradationStage, ...] = (DegradationStage(), _X4PLUS_SECOND_PASS)
    """The passes. Real-ESRGAN has two; one gives a first-order degradation. A key left out of a pass takes x4plus's first-pass value."""
    final_sinc_prob: float = 0.8
    """Probability of a sinc (ringing) filter at the end; its size is drawn from the last pass's `kernel_range`."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages: expected at least one pass (Real-ESRGAN has two), got none")
        _check_probability("final_sinc_prob", self.final_sinc_prob)
