"""Eq. 1 and Eq. 4 against numbers by hand and against diffusers' schedulers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from models.diffusion import forward_diffusion, predict_z0, scaled_linear_alphas_cumprod
from tests.tiny_models import SCHEDULE, noise_like

HAND = torch.tensor([1.0, 0.64])
"""alpha_bar with whole square roots: sqrt(0.64) = 0.8, sqrt(1 - 0.64) = 0.6."""


@pytest.fixture(scope="module")
def table():
    return scaled_linear_alphas_cumprod()


def test_the_schedule_is_stable_diffusions(table):
    assert table.shape == (1000,) and table.dtype == torch.float32
    assert torch.equal(table, DDPMScheduler(**SCHEDULE).alphas_cumprod)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(table.numpy(), np.cumprod(1 - betas), rtol=2e-5)


@pytest.mark.parametrize(
    ("timestep", "alpha_bar"),
    [(100, 0.8942), (200, 0.7537), (249, 0.6754), (299, 0.5922), (399, 0.4261), (499, 0.2777), (749, 0.0566), (999, 0.00466)],
)
def test_the_schedule_has_the_published_values(table, timestep, alpha_bar):
    assert table[timestep].item() == pytest.approx(alpha_bar, abs=5e-5 if timestep < 999 else 5e-6)


def test_another_schedule_follows_its_numbers():
    other = {"beta_start": 0.001, "beta_end": 0.02, "num_train_timesteps": 50}
    expected = DDPMScheduler(**other, beta_schedule="scaled_linear").alphas_cumprod
    assert torch.equal(scaled_linear_alphas_cumprod(50, 0.001, 0.02), expected)


def test_forward_diffusion_by_hand():
    z, noise = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), -1.0)
    z_t = forward_diffusion(z, torch.tensor([0, 1]), noise, HAND)
    torch.testing.assert_close(z_t.flatten(), torch.tensor([2.0, 0.8 * 2.0 - 0.6]))


def test_predict_z0_by_hand():
    z_t, noise_pred = torch.full((2, 1, 1, 1), 1.0), torch.full((2, 1, 1, 1), 0.5)
    torch.testing.assert_close(predict_z0(z_t, noise_pred, torch.tensor([0, 1]), HAND).flatten(), torch.tensor([1.0, (1 - 0.3) / 0.8]))
    torch.testing.assert_close(predict_z0(z_t, noise_pred, 1, HAND).flatten(), torch.tensor([0.875, 0.875]))


def test_forward_diffusion_is_diffusers_add_noise(table):
    z, noise, timesteps = noise_like(4, 4, 8, 8), noise_like(4, 4, 8, 8, seed=1), torch.tensor([0, 17, 399, 999])
    expected = DDPMScheduler(**SCHEDULE).add_noise(z, noise, timesteps)
    torch.testing.assert_close(forward_diffusion(z, timesteps, noise, table), expected)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_predict_z0_is_what_diffusers_schedulers_predict(table, kind):
    scheduler = kind(**SCHEDULE, clip_sample=False)
    scheduler.set_timesteps(1000)
    z_t, noise_pred = noise_like(2, 4, 8, 8), noise_like(2, 4, 8, 8, seed=1)
    for timestep in (1, 399, 999):
        expected = scheduler.step(noise_pred, timestep, z_t, generator=torch.Generator().manual_seed(0)).pred_original_sample
        torch.testing.assert_close(predict_z0(z_t, noise_pred, timestep, table), expected)


def test_predict_z0_is_what_the_euler_scheduler_predicts(table):
    scheduler = EulerDiscreteScheduler(**SCHEDULE)
    scheduler.set_timesteps(timesteps=[399])
    z_t, noise_pred = noise_like(2, 4, 8, 8), noise_like(2, 4, 8, 8, seed=1)
    # Euler's own samples are z_t / sqrt(alpha_bar): signal of variance 1, noise of variance sigma^2.
    expected = scheduler.step(noise_pred, scheduler.timesteps[0], z_t / table[399].sqrt()).pred_original_sample
    torch.testing.assert_close(predict_z0(z_t, noise_pred, 399, table), expected, rtol=1e-4, atol=1e-4)


def test_predict_z0_inverts_forward_diffusion(table):
    timesteps = torch.arange(0, 1000, 37)
    z, noise = noise_like(len(timesteps), 4, 4, 4), noise_like(len(timesteps), 4, 4, 4, seed=1)
    z_t = forward_diffusion(z, timesteps, noise, table)
    torch.testing.assert_close(predict_z0(z_t, noise, timesteps, table), z, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(table, dtype):
    z_t, noise = noise_like(2, 4, 4, 4).to(dtype), noise_like(2, 4, 4, 4, seed=1).to(dtype)
    for function, arguments in ((forward_diffusion, (z_t, 999, noise, table)), (predict_z0, (z_t, noise, 999, table))):
        result = function(*arguments)
        assert result.dtype == torch.float32
        assert torch.equal(result, function(*[a.float() if isinstance(a, torch.Tensor) else a for a in arguments]))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(result, function(*arguments))


def test_gradients_are_the_coefficients(table):
    z_t, noise_pred = noise_like(1, 4, 2, 2).requires_grad_(), noise_like(1, 4, 2, 2, seed=1).requires_grad_()
    predict_z0(z_t, noise_pred, 399, table).sum().backward()
    alpha_bar = table[399].item()
    torch.testing.assert_close(z_t.grad, torch.full_like(z_t, alpha_bar**-0.5))
    torch.testing.assert_close(noise_pred.grad, torch.full_like(z_t, -(((1 - alpha_bar) / alpha_bar) ** 0.5)))
