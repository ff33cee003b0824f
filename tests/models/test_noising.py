"""What each kind of discriminator is shown, and at which timesteps."""

from collections import Counter

import pytest
import torch
from diffusers import DDPMScheduler

from models.diffusion import scaled_linear_alphas_cumprod
from models.noising import NOISINGS, DiffusionGAN, NoiseAware, Vanilla
from tests.tiny_models import SCHEDULE, noise_like

DRAWS = 20_000
TABLE = scaled_linear_alphas_cumprod()


def draws(noising: NoiseAware, count: int = DRAWS) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return [noising.draw_timestep(generator) for _ in range(count)]


def test_there_are_the_three_kinds_of_table_6():
    assert list(NOISINGS.items()) == [("noise_aware", NoiseAware), ("vanilla", Vanilla), ("diffusion_gan", DiffusionGAN)]
    assert [kind().adaptive for kind in NOISINGS.values()] == [False, False, True]


# Noise-aware


def test_noise_aware_draws_the_whole_range_by_default():
    drawn = torch.tensor(draws(NoiseAware())).double()
    assert drawn.min() < 5 and drawn.max() > 994
    assert drawn.mean().item() == pytest.approx(499.5, abs=4 * 288.7 / DRAWS**0.5)
    counts = torch.histc(drawn, 20, 0, 1000)
    expected = DRAWS / 20
    assert ((counts - expected).square() / expected).sum() < 43.8  # chi squared with 19 degrees of freedom, p = 0.001


def test_noise_aware_range_includes_both_ends():
    counts = Counter(draws(NoiseAware(20, 22), 3000))
    assert set(counts) == {20, 21, 22} and min(counts.values()) > 900
    assert set(draws(NoiseAware(7, 7), 10)) == {7}


def test_noise_aware_shows_eq_4():
    z, noise, timesteps = noise_like(3, 4, 8, 8), noise_like(3, 4, 8, 8, seed=1), torch.tensor([0, 500, 999])
    expected = DDPMScheduler(**SCHEDULE).add_noise(z, noise, timesteps)
    torch.testing.assert_close(NoiseAware().show(z, timesteps, noise, TABLE), expected)


@pytest.mark.parametrize("kind", [NoiseAware, Vanilla])
def test_kinds_that_do_not_adapt_have_no_state(kind):
    noising = kind()
    noising.observe(1.0)
    assert noising.state_dict() == {}
    noising.load_state_dict({})


# Vanilla


def test_vanilla_shows_clean_latents_at_timestep_0():
    z = noise_like(2, 4, 8, 8)
    assert set(draws(Vanilla(), 100)) == {0}
    assert Vanilla().show(z, torch.zeros(2, dtype=torch.long), noise_like(2, 4, 8, 8, seed=1), TABLE) is z


# Diffusion-GAN


@pytest.mark.parametrize("strength", [0.0, 0.05])
def test_diffusion_gan_draws_half_clean_and_the_rest_in_proportion_to_t(strength):
    noising = DiffusionGAN()
    noising.strength = strength
    limit = noising.limit
    counts = Counter(draws(noising))
    assert set(counts) == set(range(limit + 1))
    expected = {0: DRAWS / 2} | {t: DRAWS / 2 * t / (limit * (limit + 1) / 2) for t in range(1, limit + 1)}
    statistic = sum((counts[t] - expected[t]) ** 2 / expected[t] for t in expected)
    assert statistic < limit + 4 * (2 * limit) ** 0.5  # chi squared with `limit` degrees of freedom, four sigma


def test_diffusion_gan_shows_timestep_0_clean_and_the_rest_by_eq_4():
    z, noise, timesteps = noise_like(3, 4, 8, 8), noise_like(3, 4, 8, 8, seed=1), torch.tensor([0, 1, 700])
    shown = DiffusionGAN().show(z, timesteps, noise, TABLE)
    assert torch.equal(shown[0], z[0])
    torch.testing.assert_close(shown[1:], DDPMScheduler(**SCHEDULE).add_noise(z[1:], noise[1:], timesteps[1:]))


def test_diffusion_gan_gradient_reaches_clean_and_noised_latents():
    z = noise_like(2, 4, 2, 2).requires_grad_()
    DiffusionGAN().show(z, torch.tensor([0, 700]), noise_like(2, 4, 2, 2, seed=1), TABLE).sum().backward()
    torch.testing.assert_close(z.grad[0], torch.ones(4, 2, 2))
    torch.testing.assert_close(z.grad[1], TABLE[700].sqrt().expand(4, 2, 2))


def test_diffusion_gan_limit_follows_the_discriminator():
    """Overfitting (signs of real logits above 0.6) asks for more noise, otherwise less; one step per four updates."""
    noising = DiffusionGAN()
    assert noising.limit == 10
    for _ in range(3):
        noising.observe(1.0)
    assert noising.strength == 0
    noising.observe(1.0)
    assert noising.strength == pytest.approx(4 / 2500)
    for sign in (1.0, 0.4, 0.4, 0.4):  # mean 0.55
        noising.observe(sign)
    assert noising.strength == pytest.approx(0)
    for _ in range(8):
        noising.observe(-1.0)
    assert noising.strength == 0 and noising.limit == 10


def test_diffusion_gan_reaches_the_whole_range_after_2500_updates_and_stays():
    noising = DiffusionGAN()
    for _ in range(2500):
        noising.observe(1.0)
    assert noising.limit == 999
    for _ in range(40):
        noising.observe(1.0)
    assert noising.limit == 999 and max(draws(noising, 2000)) <= 999


def test_diffusion_gan_goes_on_from_its_state():
    running = DiffusionGAN()
    for i in range(102):
        running.observe(1.0 if i % 3 else 0.9)
    resumed = DiffusionGAN()
    resumed.observe(-1.0)  # what it held before is forgotten
    resumed.load_state_dict(running.state_dict())
    for sign in (1.0, 0.1, 1.0, 0.2, 0.3):
        running.observe(sign)
        resumed.observe(sign)
        assert resumed.state_dict() == running.state_dict()
    assert all(isinstance(value, float) for value in running.state_dict().values())
