"""How sure a mean over images is: percentile bootstrap, the same numbers for the same scores on every machine."""

from collections.abc import Sequence

import numpy as np

SEED, RESAMPLES, LEVEL = 0, 10_000, 0.95
_BLOCK = 250
"""Resamples drawn at once, so that thousands of images need no gigabytes; the numbers do not depend on it."""


def interval(values: Sequence[float], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float] | None:
    """The interval that holds `level` of the means of `resamples` samples, as many values each, drawn from `values` with replacement.

    It tells how much the mean hangs on the choice of images, and nothing about the noise of a training. None for fewer than two values.
    Lists of the same length are resampled alike, so the intervals of two methods on the same images can be compared.
    """
    if len(values) < 2:
        return None
    array, generator = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [
        array[generator.integers(0, len(array), (min(_BLOCK, resamples - done), len(array)))].mean(axis=1)
        for done in range(0, resamples, _BLOCK)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
