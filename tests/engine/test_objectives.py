"""What each player minimises, against the formulas written out; who receives gradients; and noise that depends on the sample only."""

import pytest
import torch
from torch import Tensor, nn

from engine.objectives import FAKE, GENERATOR_STEP, REAL, Draw, discriminator_objective, draw, frozen, generator_objective, sample_seed
from models.diffusion import scaled_linear_alphas_cumprod
from models.noising import NOISINGS, DiffusionGAN, NoiseAware

ALPHAS = scaled_linear_alphas_cumprod()
SHAPE = (3, 4, 6)


class Judge(nn.Module):
    """logits = sum_c w_c z_c + t / 1000."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
        self.fixed = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        return self.fixed * torch.einsum("c,nchw->nhw", self.weight, z) + timesteps.view(-1, 1, 1) / 1000


def latents(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def noised(z: Tensor, seen: Draw) -> Tensor:
    """Eq. 4 by hand."""
    alpha_bar = ALPHAS[seen.timesteps].view(-1, 1, 1, 1)
    return alpha_bar**0.5 * z + (1 - alpha_bar) ** 0.5 * seen.noise


@pytest.mark.parametrize("noising", [NoiseAware(), NoiseAware(20, 980), DiffusionGAN()], ids=["all", "range", "diffusion_gan"])
def test_a_batch_is_drawn_like_its_parts(noising: NoiseAware) -> None:
    state = torch.get_rng_state()
    whole = draw(noising, 7, [3, 4, 5, 6], REAL, latents(0))
    assert torch.equal(state, torch.get_rng_state()), "the global random state was used"
    torch.manual_seed(99)
    parts = [draw(noising, 7, indices, REAL, latents(1, 2)) for indices in ([3, 5], [4, 6])]
    assert torch.equal(whole.noise[[0, 2, 1, 3]], torch.cat([part.noise for part in parts]))
    assert torch.equal(whole.timesteps[[0, 2, 1, 3]], torch.cat([part.timesteps for part in parts]))


def test_seeds_samples_and_purposes_have_streams_of_their_own() -> None:
    drawn = [
        draw(NoiseAware(), seed, [index], tag, latents(0, 1)) for seed in (0, 1) for index in (0, 1) for tag in (GENERATOR_STEP, REAL, FAKE)
    ]
    assert len({d.noise[0, 0, 0, 0].item() for d in drawn}) == len(drawn)
    assert len({d.timesteps.item() for d in drawn}) >= len(drawn) - 1, "12 draws of 1000: a coincidence is possible, two are not"
    assert len({sample_seed(s, i, t) for s in range(5) for i in range(50) for t in (1, 2, 3, 17, 18, 19, 64, 65)}) == 5 * 50 * 8
    assert 0 <= min(sample_seed(s, 2**40, 3) for s in range(100)) <= max(sample_seed(s, 2**40, 3) for s in range(100)) < 2**63


def test_noise_can_be_that_of_another_purpose() -> None:
    z, indices = latents(0), [0, 1, 2, 3]
    real, fake = (draw(NoiseAware(), 0, indices, tag, z) for tag in (REAL, FAKE))
    own_time = draw(NoiseAware(), 0, indices, FAKE, z, noise_tag=REAL)
    own_noise = draw(NoiseAware(), 0, indices, REAL, z, noise_tag=FAKE)
    assert torch.equal(own_time.timesteps, fake.timesteps) and torch.equal(own_time.noise, real.noise)
    assert torch.equal(own_noise.timesteps, real.timesteps) and torch.equal(own_noise.noise, fake.noise)
    assert not torch.equal(real.timesteps, fake.timesteps) and not torch.equal(real.noise, fake.noise)


def test_timesteps_are_uniform_with_both_ends_and_noise_is_standard_normal() -> None:
    drawn = draw(NoiseAware(10, 14), 0, range(2000), REAL, latents(0))
    counts = torch.bincount(drawn.timesteps, minlength=15)
    assert counts[:10].sum() == 0 and counts.sum() == 2000
    assert (counts[10:] - 400).abs().max() < 5 * (400 * 0.8) ** 0.5, "five standard deviations of a binomial"
    assert drawn.noise.shape == (2000, *SHAPE) and drawn.noise.dtype == torch.float32
    count = drawn.noise.numel()
    assert drawn.noise.mean().abs() < 5 / count**0.5
    assert (drawn.noise.var() - 1).abs() < 5 * (2 / count) ** 0.5
    neighbours = (drawn.noise[:-1] * drawn.noise[1:]).mean()
    assert neighbours.abs() < 5 / count**0.5, "samples are not independent"


def test_frozen_puts_back_what_it_found() -> None:
    judge = Judge()
    with frozen(judge):
        assert not any(p.requires_grad for p in judge.parameters())
    assert (judge.weight.requires_grad, judge.fixed.requires_grad) == (True, False)
    with pytest.raises(KeyError), frozen(judge):
        raise KeyError
    assert (judge.weight.requires_grad, judge.fixed.requires_grad) == (True, False)


@pytest.mark.parametrize("kind", ["noise_aware", "vanilla"])
def test_the_generator_minimises_eq_2_and_the_discriminator_learns_nothing_from_it(kind: str) -> None:
    judge, noising = Judge(), NOISINGS[kind]()
    z_hat = latents(1).requires_grad_()
    seen = draw(noising, 0, range(4), GENERATOR_STEP, z_hat)
    with frozen(judge):
        loss, logits = generator_objective(judge, noising, z_hat, seen, ALPHAS)
    loss.backward()
    assert judge.weight.grad is None and judge.fixed.grad is None

    mine = z_hat.detach().clone().requires_grad_()
    shown = mine if kind == "vanilla" else noised(mine, seen)
    expected = judge(shown, seen.timesteps).detach()
    torch.testing.assert_close(logits, expected)
    likelihood = -torch.log(torch.sigmoid(judge(shown, seen.timesteps).double())).mean()
    likelihood.backward()
    torch.testing.assert_close(loss, likelihood.detach().float())
    torch.testing.assert_close(z_hat.grad, mine.grad)
    assert z_hat.grad.abs().min() > 0 and not logits.requires_grad


def test_the_discriminator_minimises_eq_3_and_the_generator_learns_nothing_from_it() -> None:
    judge, noising = Judge(), NoiseAware()
    weight = nn.Parameter(torch.tensor(1.5))
    z_hat, z_hr = weight * latents(1), latents(2)
    real, fake = (draw(noising, 0, range(4), tag, z_hr) for tag in (REAL, FAKE))
    loss, real_logits, fake_logits = discriminator_objective(judge, noising, z_hr, z_hat, real, fake, ALPHAS)
    loss.backward()
    assert weight.grad is None and judge.fixed.grad is None

    mine = Judge()
    expected_real, expected_fake = mine(noised(z_hr, real), real.timesteps), mine(noised(z_hat.detach(), fake), fake.timesteps)
    torch.testing.assert_close(real_logits, expected_real.detach())
    torch.testing.assert_close(fake_logits, expected_fake.detach())
    expected = -torch.log(1 - torch.sigmoid(expected_fake.double())).mean() - torch.log(torch.sigmoid(expected_real.double())).mean()
    expected.backward()
    torch.testing.assert_close(loss.detach(), expected.detach().float())
    torch.testing.assert_close(judge.weight.grad, mine.weight.grad)


@pytest.mark.parametrize("player", ["g", "d"])
def test_a_step_moves_the_logits_the_players_way(player: str) -> None:
    """Signs, independent of any formula: D pulls real above fake; G pulls fake up and leaves real alone."""
    judge, noising = Judge(), NoiseAware(50, 50)
    z_hat, z_hr = latents(1).requires_grad_(), latents(2) + 1
    seen = draw(noising, 0, range(4), REAL, z_hr)

    def votes() -> tuple[float, float]:
        return tuple(generator_objective(judge, noising, z, seen, ALPHAS)[1].mean().item() for z in (z_hr, z_hat))

    real, fake = votes()
    if player == "g":
        with frozen(judge):
            generator_objective(judge, noising, z_hat, seen, ALPHAS)[0].backward()
        z_hat = z_hat.detach() - z_hat.grad
        assert votes()[0] == real and votes()[1] > fake
    else:
        discriminator_objective(judge, noising, z_hr, z_hat, seen, seen, ALPHAS)[0].backward()
        with torch.no_grad():
            judge.weight -= 0.1 * judge.weight.grad
        assert votes()[0] - votes()[1] > real - fake
