"""Are two samples drawn from one distribution? Tests for pairs of numbers that belong to the same picture.

With F and G the two empirical distribution functions, the Kolmogorov-Smirnov distance is max |F - G|, 0 to 1. scipy's two tests take
the samples for independent; values of one picture resemble each other, which makes these tests cautious (they reject too rarely). The swap
test knows the pairs: if both distributions are the same for every picture, the two values of any pair can change places. That it does, at
random, for all pairs, many times over, and counts how often the distance becomes as large as it is. It is exact, whatever the pictures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TESTS = ("ks", "mann_whitney", "swap")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One statistic of both samples."""

    medians: tuple[float, float]
    distance: float
    """Kolmogorov-Smirnov distance, 0..1."""
    superiority: float
    """Probability that a value of the first sample is the larger one (ties count half); 1/2 = no shift."""
    p_values: dict[str, float]
    """By the names of TESTS: scipy's ks_2samp and mannwhitneyu, and the swap test of the distance."""


def compare(first: Sequence[float], second: Sequence[float], *, swaps: int = 9999, seed: int = 0) -> Comparison:
    """Compares two samples of equal size n, paired by their position; two-sided tests.

    Raises:
        ValueError: fewer than two pairs, or samples of different size.
    """
    from scipy.stats import ks_2samp, mannwhitneyu

    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"expected two samples of the same size, at least 2, got {a.shape} and {b.shape}")
    ks, shift = ks_2samp(a, b, method="asymp"), mannwhitneyu(a, b)
    return Comparison(
        medians=(float(np.median(a)), float(np.median(b))),
        distance=float(ks.statistic),
        superiority=float(shift.statistic) / len(a) ** 2,
        p_values={"ks": float(ks.pvalue), "mann_whitney": float(shift.pvalue), "swap": swap_p_value(a, b, swaps, seed)},
    )


def swap_p_value(a: np.ndarray, b: np.ndarray, swaps: int, seed: int) -> float:
    """(1 + swaps whose distance reaches that of the samples) / (1 + swaps)."""
    pooled = np.concatenate([a, b])
    order = np.argsort(pooled, kind="stable")
    last_of_ties = np.append(np.diff(pooled[order]) > 0, True)
    pair, sign = order % len(a), np.where(order < len(a), 1, -1).astype(np.int32)

    def reach(flips: np.ndarray) -> np.ndarray:
        """n times the distance, for each row of (m, n) numbers +1 (as it is) or -1 (swapped)."""
        return np.abs(np.cumsum(flips[:, pair] * sign, axis=1)[:, last_of_ties]).max(axis=1)

    observed = reach(np.ones((1, len(a)), np.int32))[0]
    generator, reached = np.random.default_rng(seed), 0
    for start in range(0, swaps, 500):
        flips = generator.integers(2, size=(min(500, swaps - start), len(a)), dtype=np.int32) * 2 - 1
        reached += int((reach(flips) >= observed).sum())
    return (1 + reached) / (1 + swaps)


def smallest_rejected(n: int, level: float) -> float:
    """The Kolmogorov-Smirnov distance from which on `ks` rejects two samples of n values each at `level` (for large n)."""
    return math.sqrt(-math.log(level / 2) / n)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: p-values that hold for all tests together, with no assumption on how the tests depend on each other."""
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - rank)))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}
