"""The tests against scipy, against all exchanges written out, and against what they promise: few false alarms, real shifts found."""

import itertools

import numpy as np
import pytest
from scipy.stats import kstwobign

from engine.two_samples import compare, holm, smallest_rejected, swap_p_value


def ks_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    points = np.concatenate([a, b])
    return max(abs((a <= x).mean() - (b <= x).mean()) for x in points)


@pytest.mark.parametrize("ties", [False, True])
def test_swap_test_equals_all_exchanges(ties):
    generator = np.random.default_rng(2)
    a, b = generator.normal(0.6, 1, 9), generator.normal(0, 1, 9)
    if ties:
        a, b = a.round(), b.round()
    observed = ks_by_hand(a, b)
    reached = []
    for flips in itertools.product((False, True), repeat=9):
        reached.append(ks_by_hand(np.where(flips, b, a), np.where(flips, a, b)) >= observed - 1e-12)
    assert 0.02 < np.mean(reached) < 0.9
    assert swap_p_value(a, b, 20_000, seed=0) == pytest.approx(np.mean(reached), abs=0.012)


def test_no_more_false_alarms_than_promised():
    """Pairs that resemble each other, as two LR pictures of one crop do: the exact test keeps its level, the others stay below."""
    generator, alarms = np.random.default_rng(0), {"ks": 0, "mann_whitney": 0, "swap": 0}
    for _ in range(200):
        crop = generator.normal(0, 1, 50)
        found = compare(crop + generator.normal(0, 1, 50), crop + generator.normal(0, 1, 50), swaps=199)
        for test, p in found.p_values.items():
            alarms[test] += p <= 0.1
    assert 8 <= alarms["swap"] <= 34  # 20 expected at most, standard deviation 4.2; ties of the distance make it fewer
    assert alarms["ks"] < alarms["swap"] and alarms["mann_whitney"] < 20


@pytest.mark.parametrize(("shift", "spread"), [(0.5, 1.0), (0.0, 2.5)])
def test_other_distributions_are_found(shift, spread):
    generator = np.random.default_rng(1)
    found = compare(generator.normal(shift, spread, 300), generator.normal(0, 1, 300), swaps=999)
    assert found.p_values["ks"] < 0.001 and found.p_values["swap"] == 1 / 1000
    assert (found.p_values["mann_whitney"] < 0.001) == (shift > 0)  # a shift test sees no change of spread
    assert found.superiority == pytest.approx(0.5 if shift == 0 else 0.638, abs=0.05)  # Phi(0.5 / sqrt(2)) = 0.638


def test_distance_and_medians_by_hand():
    found = compare([1, 2, 3, 4], [3, 4, 5, 6])
    assert found.distance == 0.5 and found.medians == (2.5, 4.5)
    assert found.superiority == 2 / 16  # 4 > 3, and 3 = 3 and 4 = 4 count half
    same = compare([1, 2, 3], [3, 2, 1])
    assert same.distance == 0 and same.superiority == 0.5 and same.p_values["swap"] == 1


def test_samples_must_be_pairs():
    with pytest.raises(ValueError, match="same size"):
        compare([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least 2"):
        compare([1], [2])


def test_holm_by_hand():
    corrected = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.5})
    assert corrected == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.5})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("level", [0.05, 0.001])
def test_smallest_rejected_distance_is_kolmogorovs(level):
    distance = smallest_rejected(500, level)
    assert kstwobign.sf(distance * np.sqrt(500 / 2)) == pytest.approx(level, rel=0.01)
