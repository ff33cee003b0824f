import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from losses.pattern import FAINTEST, FLOOR, flat_detail, repetition


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def grid(side: int, levels: float) -> torch.Tensor:
    """Lines of a period of 4 pixels."""
    return (torch.arange(side) % 4 == 0).float().expand(1, 3, side, side) * levels / 255


def by_hand(sr: np.ndarray, hr: np.ndarray) -> float:
    """The definition, window by window."""
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256

    def details(picture: np.ndarray) -> np.ndarray:
        fine = picture - correlate(picture, kernel, mode="mirror")
        windows = [(y, x) for y in range(0, fine.shape[0] - 7, 4) for x in range(0, fine.shape[1] - 7, 4)]
        return np.array([np.sqrt((fine[y : y + 8, x : x + 8] ** 2).mean()) for y, x in windows])

    values = []
    for one, other in zip(sr.reshape(-1, *sr.shape[-2:]), hr.reshape(-1, *hr.shape[-2:]), strict=True):
        ours, theirs = details(one), details(other)
        values.append((FLOOR**2 / (FLOOR**2 + theirs**2) * np.maximum(ours - theirs, 0)).mean())
    return float(np.mean(values))


def test_equals_its_definition():
    sr, hr = 0.5 + 0.03 * noise(0, 2, 3, 24, 32), 0.5 + 0.02 * noise(1, 2, 3, 24, 32)
    assert flat_detail(sr, hr).item() == pytest.approx(by_hand(sr.double().numpy(), hr.double().numpy()), rel=1e-3)


def test_a_pattern_counts_in_the_sky_and_not_in_the_grass():
    sky, grass = torch.full((1, 3, 64, 64), 0.5), noise(0, 1, 3, 64, 64)
    assert flat_detail(sky + grid(64, 4), sky) > 20 * flat_detail(grass + grid(64, 4), grass)
    assert flat_detail(sky + grid(64, 4), sky) == pytest.approx(2 * flat_detail(sky + grid(64, 2), sky).item(), rel=0.02)


def test_a_pattern_does_not_hide_by_changing_sign_or_place():
    sky, pattern = torch.full((1, 3, 64, 64), 0.5), grid(64, 4)
    turns = torch.where(torch.arange(64) // 16 % 2 == 0, 1.0, -1.0)[:, None]
    plain = flat_detail(sky + pattern, sky).item()
    assert flat_detail(sky + turns * pattern, sky).item() == pytest.approx(plain, rel=0.15)
    assert flat_detail(sky + pattern.roll(2, dims=-1), sky).item() == pytest.approx(plain, rel=0.15)


def test_brightness_gradients_and_smoother_pictures_cost_nothing():
    sky = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64)
    assert flat_detail(sky + 0.1, sky) < 1e-6
    grass = noise(0, 1, 3, 64, 64)
    assert flat_detail(torch.full_like(grass, 0.5), grass) == 0


def test_gradient_takes_the_pattern_away_and_is_finite_where_all_is_flat():
    sky = torch.full((1, 3, 64, 64), 0.5)
    sr = (sky + grid(64, 4)).requires_grad_()
    before = flat_detail(sr, sky)
    before.backward()
    step = sr.grad * (2 / 255 / sr.grad.abs().max())
    assert flat_detail(sr - step, sky) < 0.8 * before
    flat = sky.clone().requires_grad_()
    flat_detail(flat, sky).backward()
    assert torch.isfinite(flat.grad).all()


def test_float32_and_errors():
    assert flat_detail(noise(0, 1, 3, 32, 32).bfloat16(), noise(1, 1, 3, 32, 32)).dtype == torch.float32
    with pytest.raises(ValueError, match="7x32 pixels are smaller than a window of 8 x 8"):
        flat_detail(noise(0, 1, 3, 32, 7), noise(1, 1, 3, 32, 7))
    with pytest.raises(ValueError, match="shape|and"):
        flat_detail(noise(0, 1, 3, 32, 32), noise(1, 2, 3, 32, 32))


def repetition_by_hand(sr: np.ndarray, hr: np.ndarray) -> float:
    """The definition, window by window."""
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    values = []
    for ours, theirs in zip(sr.reshape(-1, *sr.shape[-2:]), hr.reshape(-1, *hr.shape[-2:]), strict=True):
        fine = [picture - correlate(picture, kernel, mode="mirror") for picture in (ours, theirs)]
        for down, right in ((4, 0), (0, 4), (8, 0), (0, 8)):
            excess = []
            for y in range(0, ours.shape[0] - down - 15, 8):
                for x in range(0, ours.shape[1] - right - 15, 8):
                    r = []
                    for picture in fine:
                        a, b = picture[y : y + 16, x : x + 16], picture[y + down :, x + right :][:16, :16]
                        r.append(abs((a * b).mean()) / (((a**2).mean() + (b**2).mean()) / 2 + FAINTEST**2))
                    excess.append(max(r[0] - r[1], 0))
            values.append(np.mean(excess))
    return float(np.mean(values))


def test_repetition_equals_its_definition():
    sr = 0.5 + 0.03 * noise(0, 1, 3, 40, 32) + grid(64, 3)[..., :40, :32]
    hr = 0.5 + 0.02 * noise(1, 1, 3, 40, 32)
    assert repetition(sr, hr).item() == pytest.approx(repetition_by_hand(sr.double().numpy(), hr.double().numpy()), rel=1e-3)


def test_a_mesh_repeats_itself_however_faint_and_grain_does_not():
    sky, grain = torch.full((1, 3, 64, 64), 0.5), 0.02 * noise(0, 1, 3, 64, 64)
    faint, strong = repetition(sky + grid(64, 2), sky), repetition(sky + grid(64, 8), sky)
    assert strong > 0.9 and faint > 0.8 * strong
    assert repetition(sky + grain, sky + grain.flip(-1)) < 0.05
    turns = torch.where(torch.arange(64) // 16 % 2 == 0, 1.0, -1.0)[:, None]
    assert repetition(sky + turns * grid(64, 4), sky) > 0.5 * strong


def test_what_repeats_in_hr_may_repeat():
    fence = 0.5 + grid(64, 40)
    assert repetition(0.5 + grid(64, 60), fence) < 1e-3
    assert repetition(fence, torch.full_like(fence, 0.5)) > 0.9


def test_repetitions_gradient_takes_it_away_and_is_finite_where_all_is_flat():
    sky = torch.full((1, 3, 64, 64), 0.5)
    sr = (sky + grid(64, 4) + 0.01 * noise(0, 1, 3, 64, 64)).requires_grad_()
    before = repetition(sr, sky)
    before.backward()
    step = sr.grad * (1 / 255 / sr.grad.abs().max())
    assert repetition(sr - step, sky) < 0.9 * before
    flat = sky.clone().requires_grad_()
    repetition(flat, sky).backward()
    assert torch.isfinite(flat.grad).all()
    with pytest.raises(ValueError, match="16x24 pixels are smaller than 24 x 24"):
        repetition(sky[..., :24, :16], sky[..., :24, :16])
