import math

import pytest
import torch

from losses.adversarial import discriminator_loss, generator_adversarial_loss, gradient_penalty


def logits(seed: int) -> torch.Tensor:
    return 4 * torch.randn(3, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_equals_the_papers_formulas_in_float64():
    real, fake = logits(0), logits(1)
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    torch.testing.assert_close(generator_adversarial_loss(fake), -torch.log(d_fake).mean())
    torch.testing.assert_close(discriminator_loss(real, fake), -torch.log(1 - d_fake).mean() - torch.log(d_real).mean())


def test_gradients_equal_the_closed_form():
    real, fake = logits(0).requires_grad_(), logits(1).requires_grad_()
    discriminator_loss(real, fake).backward()
    torch.testing.assert_close(real.grad, (torch.sigmoid(real) - 1).detach() / real.numel())
    torch.testing.assert_close(fake.grad, torch.sigmoid(fake).detach() / fake.numel())


def test_each_expectation_is_its_own_mean():
    # 1 real vote and 75 fake ones: a mean over all of them together would be another number.
    real = torch.tensor([0.5], dtype=torch.float64)
    fake = logits(1)
    separate = discriminator_loss(real, torch.full_like(fake, -1e4)) + discriminator_loss(torch.full_like(real, 1e4), fake)
    torch.testing.assert_close(discriminator_loss(real, fake), separate)


def test_an_undecided_discriminator_costs_two_log_two():
    assert discriminator_loss(torch.zeros(2), torch.zeros(2)).item() == pytest.approx(2 * math.log(2))
    assert generator_adversarial_loss(torch.zeros(2)).item() == pytest.approx(math.log(2))


def test_the_penalty_is_the_mean_squared_length_at_each_position():
    assert gradient_penalty(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(5, 2, 7, 9)).item() == pytest.approx(25.0)
    half = torch.full((1, 2, 4, 4), 300.0, dtype=torch.float16)
    assert gradient_penalty(half).item() == 180_000, "beyond what half precision holds"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stable_for_huge_logits(dtype):
    value = torch.tensor(1e4).to(dtype).item()
    for sign, expected_g in ((1.0, 0.0), (-1.0, value)):
        fake = torch.full((4,), sign * value, dtype=dtype, requires_grad=True)
        real = torch.full((4,), -sign * value, dtype=dtype, requires_grad=True)
        loss = generator_adversarial_loss(fake)
        assert loss.item() == pytest.approx(expected_g)
        total = loss + discriminator_loss(real, fake)
        assert total.dtype == torch.float32
        total.backward()
        assert torch.isfinite(total) and fake.grad.isfinite().all() and real.grad.isfinite().all()


def test_the_generator_wants_high_and_the_discriminator_low_votes_for_fakes():
    low, high = torch.full((3,), -2.0), torch.full((3,), 2.0)
    assert generator_adversarial_loss(high) < generator_adversarial_loss(low)
    assert discriminator_loss(high, low) < discriminator_loss(high, high) < discriminator_loss(low, high)
