"""Blur kernels of Real-ESRGAN (arXiv 2107.10833, Sec. 3.2 and 3.3), drawn and built.

With q(x) = x^T S^-1 x, S = R diag(sigma_x^2, sigma_y^2) R^T and R the rotation by theta:
    Gaussian              exp(-q / 2)
    generalized Gaussian  exp(-q^beta / 2)
    plateau               1 / (1 + q^beta)
    sinc                  omega J1(omega r) / (2 pi r), the ideal circular low pass of cut-off omega
Every kernel is divided by its sum.
"""

import math
from dataclasses import dataclass

import numpy as np

from degradations.stage import DegradationStage


@dataclass(frozen=True, kw_only=True)
class DrawnKernel:
    """One blur kernel. `omega` belongs to "sinc" alone, the other numbers to the six Gaussian-like families."""

    family: str
    size: int
    sigma_x: float = 1.0
    sigma_y: float = 1.0
    theta: float = 0.0
    beta: float = 1.0
    omega: float = math.pi

    def __str__(self) -> str:
        if self.family == "sinc":
            return f"sinc {self.size}px cut-off {self.omega / math.pi:.2f} pi"
        sigma = f"sigma {self.sigma_x:.2f}"
        if self.family.endswith("aniso"):
            sigma += f"/{self.sigma_y:.2f} {math.degrees(self.theta):.0f} deg"
        beta = "" if self.family in ("iso", "aniso") else f" beta {self.beta:.2f}"
        return f"{self.family} {self.size}px {sigma}{beta}"


def pick(generator: np.random.Generator, outcomes: tuple[str, ...], probabilities: tuple[float, ...]) -> str:
    """One of `outcomes`, with the given probabilities (>= 0, sum 1); takes one uniform number from the generator."""
    cumulative = np.cumsum(probabilities)
    index = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return outcomes[min(index, len(outcomes) - 1)]


def _draw_size(generator: np.random.Generator, kernel_range: tuple[int, int]) -> int:
    smallest, largest = kernel_range
    return smallest + 2 * int(generator.integers((largest - smallest) // 2 + 1))


def _draw_beta(generator: np.random.Generator, beta_range: tuple[float, float]) -> float:
    """Below or above 1 with probability 1/2 each, uniform inside either part."""
    low, high = (beta_range[0], 1.0) if generator.random() < 0.5 else (1.0, beta_range[1])
    return float(generator.uniform(low, high))


def draw_sinc(generator: np.random.Generator, kernel_range: tuple[int, int], *, narrow_below: float = math.pi / 5) -> DrawnKernel:
    """A sinc kernel: omega uniform in [pi/3, pi] below size 13 (a small window cannot hold a lower cut-off), else in [narrow_below, pi]."""
    size = _draw_size(generator, kernel_range)
    lowest = math.pi / 3 if size < 13 else narrow_below
    return DrawnKernel(family="sinc", size=size, omega=float(generator.uniform(lowest, math.pi)))


def draw_kernel(generator: np.random.Generator, stage: DegradationStage) -> DrawnKernel:
    """The blur kernel of one pass (whether the pass blurs at all is decided by the caller)."""
    if generator.random() < stage.sinc_prob:
        return draw_sinc(generator, stage.kernel_range)
    family = pick(generator, stage.kernel_list, stage.kernel_prob)
    size = _draw_size(generator, stage.kernel_range)
    sigma_x = sigma_y = float(generator.uniform(*stage.blur_sigma))
    theta, beta = 0.0, 1.0
    if family.endswith("aniso"):
        sigma_y = float(generator.uniform(*stage.blur_sigma))
        theta = float(generator.uniform(-math.pi, math.pi))
    if family.startswith("generalized"):
        beta = _draw_beta(generator, stage.betag_range)
    elif family.startswith("plateau"):
        beta = _draw_beta(generator, stage.betap_range)
    return DrawnKernel(family=family, size=size, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta, beta=beta)


def build_kernel(drawn: DrawnKernel) -> np.ndarray:
    """(size, size) float64 kernel of sum 1. x runs right, y down; theta turns the sigma_x axis from +x towards +y."""
    axis = np.arange(drawn.size, dtype=np.float64) - (drawn.size - 1) / 2
    x, y = axis[None, :], axis[:, None]
    kernel = _sinc(np.hypot(x, y), drawn.omega) if drawn.family == "sinc" else _gaussian_like(x, y, drawn)
    return kernel / kernel.sum()


def _gaussian_like(x: np.ndarray, y: np.ndarray, drawn: DrawnKernel) -> np.ndarray:
    """The six families, not normalised; q is computed in the rotated frame, where S is diagonal."""
    cos, sin = math.cos(drawn.theta), math.sin(drawn.theta)
    along, across = x * cos + y * sin, y * cos - x * sin
    q = (along / drawn.sigma_x) ** 2 + (across / drawn.sigma_y) ** 2
    if drawn.family.startswith("plateau"):
        return 1.0 / (1.0 + q**drawn.beta)
    return np.exp(-0.5 * q**drawn.beta)  # beta is 1 for the plain Gaussians


def _sinc(radius: np.ndarray, omega: float) -> np.ndarray:
    """omega J1(omega r) / (2 pi r); its limit at r = 0 is omega^2 / (4 pi)."""
    safe = np.where(radius == 0.0, 1.0, radius)
    return np.where(radius == 0.0, omega**2 / (4 * math.pi), omega * _bessel_j1(omega * safe) / (2 * math.pi * safe))


def _bessel_j1(x: np.ndarray) -> np.ndarray:
    """Bessel function J1 from its integral (1/pi) int_0^pi cos(t - x sin t) dt (DLMF 10.9.2).

    The integrand continues evenly and 2 pi-periodically, so the trapezoid rule converges faster than any power of the step: with N steps
    its error is about J_(2N-1)(x), which is below rounding for N = x + 16. scipy.special.j1 gives the same kernels to 4e-15, but its import
    takes 0.3 s and 26 MiB of every process that makes training pictures, which needs scipy for nothing else.
    """
    steps = int(np.abs(x).max()) + 16
    t = np.linspace(0.0, math.pi, steps + 1)
    values, inverse = np.unique(x, return_inverse=True)  # a kernel grid holds each radius up to 8 times
    samples = np.cos(t - values[:, None] * np.sin(t))
    samples[:, [0, -1]] *= 0.5
    return (samples.sum(axis=1) / steps)[inverse].reshape(x.shape)
