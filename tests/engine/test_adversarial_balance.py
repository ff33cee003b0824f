"""lambda_1 as a number or as a share of the spatial gradient, against the ratio written out."""

import math

import pytest
import torch

from engine.objectives import LARGEST, AdversarialBalance

CPU = torch.device("cpu")


def norms(spatial: float, adversarial: float) -> torch.Tensor:
    return torch.tensor([spatial, adversarial])


def test_a_fixed_weight_stays_what_it_is() -> None:
    balance = AdversarialBalance(CPU, weight=0.3)
    balance.observe(norms(1.0, 100.0))
    assert balance.weight.item() == pytest.approx(0.3) and balance.state_dict() == {}


def test_the_first_iteration_only_measures_and_from_then_on_the_ratio_holds() -> None:
    balance = AdversarialBalance(CPU, ratio=0.15)
    assert balance.weight == 0
    for _ in range(5):
        balance.observe(norms(2.0, 0.5))
        assert balance.weight.item() * 0.5 / 2.0 == pytest.approx(0.15)


def test_the_norms_are_running_means() -> None:
    """The mean of all at first, then decay 0.99."""
    balance, spatial, adversarial = AdversarialBalance(CPU, ratio=0.5), 0.0, 0.0
    for count in range(300):
        found = (1.0 + count % 3, 2.0 + count % 5)
        decay = min(0.99, count / (count + 1))
        spatial, adversarial = (decay * mean + (1 - decay) * new for mean, new in zip((spatial, adversarial), found, strict=True))
        balance.observe(norms(*found))
    assert balance.weight.item() == pytest.approx(0.5 * spatial / adversarial, rel=1e-4)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_is_passed_over(broken: float) -> None:
    balance = AdversarialBalance(CPU, ratio=0.2)
    balance.observe(norms(1.0, 1.0))
    before = balance.weight.item()
    balance.observe(norms(1.0, broken))
    balance.observe(norms(broken, 1.0))
    assert balance.weight.item() == before


def test_a_broken_first_measurement_leaves_no_trace() -> None:
    balance = AdversarialBalance(CPU, ratio=0.2)
    balance.observe(norms(math.nan, 1.0))
    assert balance.weight == 0
    for _ in range(3):
        balance.observe(norms(1.0, 1.0))
    assert balance.weight.item() == pytest.approx(0.2)


def test_a_silent_discriminator_is_not_amplified_without_end() -> None:
    balance = AdversarialBalance(CPU, ratio=0.2)
    balance.observe(norms(1.0, 0.0))
    assert balance.weight.item() == LARGEST


def test_a_saved_balance_goes_on_to_the_same_bits() -> None:
    saved = AdversarialBalance(CPU, ratio=0.1)
    for value in (0.3, 0.7, 1.1):
        saved.observe(norms(value, value / 3 + 0.1))
    resumed = AdversarialBalance(CPU, ratio=0.1)
    resumed.load_state_dict(saved.state_dict())
    for balance in (saved, resumed):
        balance.observe(norms(0.123, 0.456))
    assert torch.equal(saved.weight, resumed.weight)
    fixed = AdversarialBalance(CPU, weight=1.0)
    fixed.load_state_dict(saved.state_dict())
    assert fixed.weight == 1.0
