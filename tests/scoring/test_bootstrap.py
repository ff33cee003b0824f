"""The interval against a loop over every resample, and against its formula where all resamples can be listed."""

import itertools

import numpy as np
import pytest
import scipy.stats

from scoring import bootstrap


def test_it_is_the_percentiles_of_means_of_resamples() -> None:
    values = np.random.default_rng(1).normal(27, 3, 40)
    generator = np.random.default_rng(7)
    means = sorted(sum(values[index] for index in generator.integers(0, 40, 40)) / 40 for _ in range(600))
    low, high = bootstrap.interval(values, resamples=600, seed=7)
    assert low == pytest.approx(means[14] + (means[15] - means[14]) * 0.975, rel=1e-12)  # 0.025 * 599 = 14.975
    assert high == pytest.approx(means[584] + (means[585] - means[584]) * 0.025, rel=1e-12)  # 0.975 * 599 = 584.025


def test_of_three_values_all_resamples_can_be_listed() -> None:
    values = [1.0, 2.0, 6.0]
    every = [sum(sample) / 3 for sample in itertools.product(values, repeat=3)]
    for level in (0.6, 0.9):
        expected = np.quantile(every, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        assert bootstrap.interval(values, level=level) == pytest.approx(expected, abs=1e-9)


def test_it_agrees_with_scipys() -> None:
    values = np.random.default_rng(2).gamma(2, 3, 100)
    reference = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(3))
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert bootstrap.interval(values) == pytest.approx(tuple(reference.confidence_interval), abs=0.05 * width)


def test_the_same_scores_give_the_same_interval_and_one_score_none() -> None:
    values = np.random.default_rng(4).normal(27, 3, 30).tolist()
    assert bootstrap.interval(values) == bootstrap.interval(np.array(values)) != bootstrap.interval(values, seed=1)
    assert bootstrap.interval([5.0]) is None and bootstrap.interval([]) is None
    assert bootstrap.interval([5.0, 5.0]) == (5.0, 5.0)
