"""What each player minimises, against the formulas written out; who receives gradients; and noise that depends on the sample only."""

import pytest
import torch
from torch import Tensor, nn

from engine.objectives import Draw, Draws, discriminator_objective, draw, frozen, generator_objective, sample_seed
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

    def forward(self, z: Tensor, timesteps: Tensor) -> list[Tensor]:
        return [self.fixed * torch.einsum("c,nchw->nhw", self.weight, z) + timesteps.view(-1, 1, 1) / 1000]


class DeepJudge(Judge):
    """Judges a second depth, one position of it, by the mean of the first."""

    def forward(self, z: Tensor, timesteps: Tensor) -> list[Tensor]:
        (votes,) = super().forward(z, timesteps)
        return [votes, 3 * votes.mean((1, 2), keepdim=True)]


def latents(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def noised(z: Tensor, seen: Draw) -> Tensor:
    """Eq. 4 by hand."""
    alpha_bar = ALPHAS[seen.timesteps].view(-1, 1, 1, 1)
    return alpha_bar**0.5 * z + (1 - alpha_bar) ** 0.5 * seen.noise


CPU = torch.device("cpu")


def drawn(indices: list[int], seed: int = 7, noising: NoiseAware | None = None, **shared: bool) -> Draws:
    return draw(noising or NoiseAware(), seed, indices, SHAPE, CPU, **shared)


@pytest.mark.parametrize("noising", [NoiseAware(), NoiseAware(20, 980), DiffusionGAN()], ids=["all", "range", "diffusion_gan"])
def test_a_batch_is_drawn_like_its_parts(noising: NoiseAware) -> None:
    state = torch.get_rng_state()
    whole = drawn([3, 4, 5, 6], noising=noising).real
    assert torch.equal(state, torch.get_rng_state()), "the global random state was used"
    torch.manual_seed(99)
    parts = [drawn(indices, noising=noising).real for indices in ([3, 5], [4, 6])]
    assert torch.equal(whole.noise[[0, 2, 1, 3]], torch.cat([part.noise for part in parts]))
    assert torch.equal(whole.timesteps[[0, 2, 1, 3]], torch.cat([part.timesteps for part in parts]))


def test_seeds_samples_and_purposes_have_streams_of_their_own() -> None:
    apart = {"share_timesteps": False, "share_noise": False}
    uses = [use for seed in (0, 1) for index in (0, 1) for use in vars(drawn([index], seed, **apart)).values()]
    assert len(uses) == 12 and len({use.noise[0, 0, 0, 0].item() for use in uses}) == 12
    assert len({use.timesteps.item() for use in uses}) >= 11, "12 draws of 1000: a coincidence is possible, two are not"
    assert len({sample_seed(s, i, t) for s in range(5) for i in range(50) for t in (1, 2, 3, 17, 18, 19, 64, 65)}) == 5 * 50 * 8
    assert 0 <= min(sample_seed(s, 2**40, 3) for s in range(100)) <= max(sample_seed(s, 2**40, 3) for s in range(100)) < 2**63


@pytest.mark.parametrize("timesteps", [True, False])
@pytest.mark.parametrize("noise", [True, False])
def test_real_and_generated_share_what_they_are_told_to(timesteps: bool, noise: bool) -> None:
    seen, apart = drawn([0, 1], share_timesteps=timesteps, share_noise=noise), drawn([0, 1], share_timesteps=False, share_noise=False)
    assert torch.equal(seen.real.timesteps, seen.fake.timesteps) == timesteps and torch.equal(seen.real.noise, seen.fake.noise) == noise
    assert torch.equal(seen.fake.timesteps, (seen.real if timesteps else apart.fake).timesteps)
    assert torch.equal(seen.fake.noise, (seen.real if noise else apart.fake).noise)
    for one, other in ((seen.real, apart.real), (seen.generator_step, apart.generator_step)):
        assert torch.equal(one.noise, other.noise) and torch.equal(one.timesteps, other.timesteps)


def test_timesteps_are_uniform_with_both_ends_and_noise_is_standard_normal() -> None:
    real = drawn(list(range(2000)), 0, NoiseAware(10, 14)).real
    counts = torch.bincount(real.timesteps, minlength=15)
    assert counts[:10].sum() == 0 and counts.sum() == 2000
    assert (counts[10:] - 400).abs().max() < 5 * (400 * 0.8) ** 0.5, "five standard deviations of a binomial"
    assert real.noise.shape == (2000, *SHAPE) and real.noise.dtype == torch.float32
    count = real.noise.numel()
    assert real.noise.mean().abs() < 5 / count**0.5
    assert (real.noise.var() - 1).abs() < 5 * (2 / count) ** 0.5
    neighbours = (real.noise[:-1] * real.noise[1:]).mean()
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
    seen = drawn([0, 1, 2, 3], noising=noising).generator_step
    with frozen(judge):
        loss, (logits,) = generator_objective(judge, noising, z_hat, seen, ALPHAS)
    loss.backward()
    assert judge.weight.grad is None and judge.fixed.grad is None

    mine = z_hat.detach().clone().requires_grad_()
    shown = mine if kind == "vanilla" else noised(mine, seen)
    expected = judge(shown, seen.timesteps)[0].detach()
    torch.testing.assert_close(logits, expected)
    likelihood = -torch.log(torch.sigmoid(judge(shown, seen.timesteps)[0].double())).mean()
    likelihood.backward()
    torch.testing.assert_close(loss, likelihood.detach().float())
    torch.testing.assert_close(z_hat.grad, mine.grad)
    assert z_hat.grad.abs().min() > 0 and not logits.requires_grad


def test_the_discriminator_minimises_eq_3_and_the_generator_learns_nothing_from_it() -> None:
    judge, noising = Judge(), NoiseAware()
    weight = nn.Parameter(torch.tensor(1.5))
    z_hat, z_hr = weight * latents(1), latents(2)
    both = drawn([0, 1, 2, 3], share_timesteps=False, share_noise=False)
    real, fake = both.real, both.fake
    loss, (real_logits,), (fake_logits,) = discriminator_objective(judge, noising, z_hr, z_hat, real, fake, ALPHAS)
    loss.backward()
    assert weight.grad is None and judge.fixed.grad is None

    mine = Judge()
    (expected_real,), (expected_fake,) = mine(noised(z_hr, real), real.timesteps), mine(noised(z_hat.detach(), fake), fake.timesteps)
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
    seen = drawn([0, 1, 2, 3], noising=noising).real

    def votes() -> tuple[float, float]:
        return tuple(generator_objective(judge, noising, z, seen, ALPHAS)[1][0].mean().item() for z in (z_hr, z_hat))

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


def test_depths_count_alike() -> None:
    """However many regions each has: the loss is the mean of the depths' own losses."""
    judge, noising, z_hat, z_hr = DeepJudge(), NoiseAware(), latents(1), latents(2)
    seen = drawn([0, 1, 2, 3]).real
    near, far = judge(noised(z_hat, seen), seen.timesteps)
    loss, logits = generator_objective(judge, noising, z_hat, seen, ALPHAS)
    expected = -(torch.log(torch.sigmoid(near)).mean() + torch.log(torch.sigmoid(far)).mean()) / 2
    torch.testing.assert_close(loss, expected)
    assert [tuple(of_depth.shape) for of_depth in logits] == [(4, 4, 6), (4, 1, 1)]
    loss, real_logits, fake_logits = discriminator_objective(judge, noising, z_hr, z_hat, seen, seen, ALPHAS)
    depths = zip(judge(noised(z_hr, seen), seen.timesteps), (near, far), strict=True)
    expected = -sum(torch.log(torch.sigmoid(r)).mean() + torch.log(torch.sigmoid(-f)).mean() for r, f in depths) / 2
    torch.testing.assert_close(loss, expected)
    assert len(real_logits) == len(fake_logits) == 2 and torch.equal(fake_logits[1], far.detach())
