"""T_L from latents whose noise level is known, and the two other averages against their definitions written out."""

import numpy as np
import pytest
import torch

from models.diffusion import forward_diffusion, predict_z0, scaled_linear_alphas_cumprod
from tests.tiny_models import noise_like
from tools.figures.noise_level import latent_powers, match_noise_level, nearest_timestep, omgsr_timestep, required_noise_rms

TABLE = scaled_linear_alphas_cumprod()


def unit_noise(*shape: int, seed: int) -> torch.Tensor:
    """Noise whose mean square is exactly 1 in every picture."""
    noise = noise_like(*shape, seed=seed).double()
    return noise / noise.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


def noised(timesteps: list[int], power: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """z_lr and z_hr, a picture per timestep: z_hr of that mean square, and the noise that the timestep adds to it."""
    z_hr = power**0.5 * unit_noise(len(timesteps), 4, 16, 16, seed=0)
    alpha_bar = TABLE.double()[timesteps].reshape(-1, 1, 1, 1)
    return z_hr + ((1 - alpha_bar) / alpha_bar).sqrt() * unit_noise(*z_hr.shape, seed=1), z_hr


@pytest.mark.parametrize("timestep", [0, 1, 100, 273, 399, 998, 999])
@pytest.mark.parametrize("power", [0.2, 1.0, 4.0])
def test_noise_of_a_timestep_is_found_whatever_the_power_of_the_signal(timestep: int, power: float) -> None:
    match = match_noise_level(latent_powers(*noised([timestep] * 2, power)), TABLE)
    assert match.timestep == match.omgsr_timestep == timestep and match.per_picture.tolist() == [timestep] * 2
    assert match.interval == (timestep, timestep) and match.alpha_bar == pytest.approx(TABLE[timestep].item())
    assert match.hr_rms == pytest.approx(power**0.5) and match.relative_error == pytest.approx(match.error_rms / power**0.5)
    snr = match.alpha_bar * power / (1 - match.alpha_bar)
    assert match.snr_db == pytest.approx(10 * np.log10(snr), abs=0.01)


def test_a_noised_latent_of_the_diffusion_is_found() -> None:
    z_hr = noise_like(2, 4, 64, 64, seed=2) * 1.5 + 0.3
    z_t = forward_diffusion(z_hr, 350, noise_like(2, 4, 64, 64, seed=3), TABLE)
    assert abs(match_noise_level(latent_powers(z_t / TABLE[350].sqrt(), z_hr), TABLE).timestep - 350) <= 3


def test_pictures_have_timesteps_of_their_own_and_the_error_s_mean_decides() -> None:
    timesteps = [50, 300, 700]
    match = match_noise_level(latent_powers(*noised(timesteps)), TABLE)
    assert match.per_picture.tolist() == timesteps and match.percentiles[50] == 300
    mean = np.mean([(1 - TABLE[t].item()) / TABLE[t].item() for t in timesteps])
    assert match.error_rms**2 == pytest.approx(mean) and match.timestep == min(range(1000), key=lambda t: abs(TABLE[t] - 1 / (1 + mean)))
    assert match.interval is not None and 50 <= match.interval[0] <= match.timestep <= match.interval[1] <= 700


def test_batches_make_no_difference() -> None:
    z_lr, z_hr = noised([10, 200, 400, 600, 900], 2.0)
    parts = [latent_powers(*pair) for pair in zip(z_lr.split(2), z_hr.split(2), strict=True)]
    assert np.array_equal(np.concatenate(parts), latent_powers(z_lr, z_hr))


def test_omgsr_averages_differences_of_ratios() -> None:
    z_lr, z_hr = noised([100, 250, 420, 500])
    weak = torch.tensor([0.3, 1.0, 3.0, 0.5]).reshape(-1, 1, 1, 1)
    z_lr, z_hr = z_lr - z_hr + weak * z_hr, weak * z_hr

    def mean_difference(t: int) -> float:
        signal = z_hr.square().mean(dim=(1, 2, 3))
        of_noised, of_lr = TABLE[t].double() * signal / (1 - TABLE[t].double()), signal / (z_lr - z_hr).square().mean(dim=(1, 2, 3))
        return (of_noised - of_lr).abs().mean().item()

    expected = min(range(1000), key=mean_difference)
    powers = latent_powers(z_lr, z_hr)
    flat = np.array([[1.0, 1.0, 0.0]])
    assert omgsr_timestep(powers, TABLE) == omgsr_timestep(np.concatenate([powers, flat]), TABLE) == expected


def test_the_required_noise_is_the_one_that_makes_eq_1_exact() -> None:
    z_hr = noise_like(2, 4, 8, 8, seed=4)
    z_lr = 0.4 * z_hr + 0.1 * noise_like(2, 4, 8, 8, seed=5) - 0.2
    alpha_bar = TABLE[300].item()
    noise = (z_lr - alpha_bar**0.5 * z_hr) / (1 - alpha_bar) ** 0.5
    torch.testing.assert_close(predict_z0(z_lr, noise, 300, TABLE), z_hr)
    assert required_noise_rms(latent_powers(z_lr, z_hr), alpha_bar) == pytest.approx(noise.square().mean().sqrt().item(), rel=1e-5)


def test_errors_beyond_the_schedule_take_its_ends() -> None:
    assert nearest_timestep(np.array([0.0, 1e-9, 1e9]), TABLE).tolist() == [0, 0, 999]


def test_one_picture_has_no_interval() -> None:
    assert match_noise_level(latent_powers(*noised([300])), TABLE).interval is None


@pytest.mark.parametrize(
    ("powers", "said"),
    [
        (np.empty((0, 3)), "no pictures"),
        (np.array([[1.0, 1.0, 0.5], [1.0, np.nan, np.nan]]), "not finite"),
        (np.array([[1.0, 1.0, 0.0]]), "are equal"),
    ],
)
def test_what_cannot_be_matched_is_refused(powers: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        match_noise_level(powers, TABLE)
