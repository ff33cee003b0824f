"""The learnable text embedding before training."""

import pytest
import torch

from models.prompt import initial_prompt


def test_zeros_are_zeros():
    assert torch.equal(initial_prompt(7, 5, "zeros", 0.02, 0), torch.zeros(7, 5))


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_normal_has_the_wished_spread(std):
    prompt = initial_prompt(77, 1024, "normal", std, 0)
    assert prompt.shape == (77, 1024) and prompt.dtype == torch.float32
    assert prompt.std().item() == pytest.approx(std, rel=0.02) and abs(prompt.mean().item()) < 0.02 * std


def test_normal_depends_on_the_seed_only():
    first, same, other = (initial_prompt(7, 5, "normal", 1.0, seed) for seed in (3, 3, 4))
    assert torch.equal(first, same) and not torch.equal(first, other)
