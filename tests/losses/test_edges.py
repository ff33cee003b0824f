"""The losses against frayed edges and halos: their definitions written out, and what must and must not cost."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate, gaussian_filter, maximum_filter, minimum_filter, sobel

from losses.edges import FAINT, STRONG, lost_coherence, overshoot


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def outline(angle: float = 0.0, width: float = 2.0, size: int = 64) -> torch.Tensor:
    """A straight edge through the middle, (1, 3, size, size)."""
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    across = x * np.cos(angle) + y * np.sin(angle)
    return (0.2 + 0.6 * (across / width).sigmoid()).expand(1, 3, size, size)


def by_hand(sr: np.ndarray, hr: np.ndarray) -> float:
    """(3, H, W) each: coherence from the eigenvalues of every pixel's tensor."""
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256

    def coherence(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        luma = np.tensordot([0.299, 0.587, 0.114], picture, 1)
        x, y = (sobel(luma, axis=axis, mode="nearest") / 8 for axis in (1, 0))
        tensor = np.stack([x * x, x * y, x * y, y * y])
        for _ in range(4):
            tensor = np.stack([correlate(part, kernel, mode="mirror") for part in tensor])
        low, high = np.linalg.eigvalsh(tensor.transpose(1, 2, 0).reshape(*luma.shape, 2, 2)).transpose(2, 0, 1)
        return (high - low) / (high + low + FAINT**2), high + low

    (ours, _), (theirs, energy) = coherence(sr), coherence(hr)
    return float((theirs * energy / (energy + STRONG**2) * np.maximum(theirs - ours, 0)).mean())


def test_equals_its_definition() -> None:
    sr, hr = noise(0, 2, 3, 24, 32), 0.3 * noise(1, 2, 3, 24, 32) + torch.linspace(0, 0.7, 32)
    expected = np.mean([by_hand(one.double().numpy(), other.double().numpy()) for one, other in zip(sr, hr, strict=True)])
    assert lost_coherence(sr, hr).item() == pytest.approx(expected, rel=1e-3) and expected > 0.01


def test_the_window_is_a_gaussian_of_two_pixels() -> None:
    point = np.zeros((33, 33))
    point[16, 16] = 1
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    blurred = point
    for _ in range(4):
        blurred = correlate(blurred, kernel)
    assert np.abs(blurred - gaussian_filter(point, 2)).max() < 0.05 * blurred.max()


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 4, np.pi / 2])
def test_a_frayed_edge_costs_and_a_straight_one_does_not_however_blurred(angle: float) -> None:
    hr = outline(angle)
    rows = torch.arange(64)
    stairs = torch.where((rows // 4 % 2 == 0)[:, None], hr, hr.roll(3, dims=-1))
    grainy = hr + 0.3 * (noise(0, 1, 1, 64, 64) - 0.5)
    assert lost_coherence(hr, hr) == 0
    for straight in (outline(angle, width=4.0), outline(angle, width=1.0), hr.roll(2, dims=-1), 0.5 * hr):
        assert lost_coherence(straight, hr) < 0.1 * lost_coherence(grainy, hr)
    if angle != np.pi / 2:  # along its own direction nothing moves
        assert lost_coherence(stairs, hr) > 5 * lost_coherence(outline(angle, width=4.0), hr)


def test_where_hr_has_no_outline_nothing_costs() -> None:
    sky, grass = torch.full((1, 3, 64, 64), 0.5), noise(0, 1, 3, 64, 64)
    assert lost_coherence(grass, sky) == 0
    frayed = outline() + 0.3 * (noise(2, 1, 1, 64, 64) - 0.5)
    assert lost_coherence(noise(1, 1, 3, 64, 64), grass) < 0.4 * lost_coherence(frayed, outline()), "texture has little direction to lose"


def test_its_gradient_straightens_and_is_finite_where_all_is_flat() -> None:
    hr = outline(0.4)
    sr = (hr + 0.3 * (noise(0, 1, 1, 64, 64) - 0.5)).requires_grad_()
    optimizer = torch.optim.Adam([sr], 0.01)
    before = lost_coherence(sr, hr).item()
    for _ in range(20):
        optimizer.zero_grad()
        lost_coherence(sr, hr).backward()
        optimizer.step()
    assert lost_coherence(sr, hr) < 0.3 * before
    flat = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    lost_coherence(flat, outline(size=32)).backward()
    assert torch.isfinite(flat.grad).all()


def test_half_precision_counts_in_float32_and_shapes_must_agree() -> None:
    sr, hr = (outline() + 0.1 * noise(0, 1, 3, 64, 64)).half(), outline().half()
    assert lost_coherence(sr, hr).dtype == torch.float32
    with pytest.raises(ValueError, match="shape"):
        lost_coherence(sr, hr[..., :32])


def test_overshoot_is_the_distance_from_the_range_of_hr_nearby() -> None:
    sr, hr = 1.4 * noise(0, 2, 3, 24, 32) - 0.2, noise(1, 2, 3, 24, 32)
    expected = 0
    for channel in ([0.299, 0.587, 0.114], [0.701, -0.587, -0.114], [-0.299, -0.587, 0.886]):  # Y, R - Y, B - Y of BT.601
        one_sr, one_hr = (np.tensordot(images.numpy(), channel, axes=(1, 0)) for images in (sr, hr))
        high, low = maximum_filter(one_hr, (1, 9, 9), mode="nearest"), minimum_filter(one_hr, (1, 9, 9), mode="nearest")
        expected += np.abs(one_sr - np.clip(one_sr, low, high)).mean()
    assert overshoot(sr, hr).item() == pytest.approx(expected, rel=1e-5) and expected > 0.01


def test_a_halo_costs_and_sharpness_does_not() -> None:
    hr = outline(0.4, width=0.7)
    for fine in (hr, outline(0.4, width=0.2), outline(0.4, width=1.0), F.pad(hr, (2, 0, 0, 0), mode="replicate")[..., :-2]):
        assert overshoot(fine, hr) < 3e-4
    halo = (hr + 0.5 * (hr - torch.from_numpy(gaussian_filter(hr.numpy(), (0, 0, 3, 3))))).requires_grad_()
    cost = overshoot(halo, hr)
    assert cost > 1e-3
    cost.backward()
    brightness, grey = halo.grad.sum(dim=1), halo.detach()[:, 0]
    beyond = (grey > hr.max()) | (grey < hr.min())
    assert torch.equal(brightness.sign()[beyond], (grey - 0.5).sign()[beyond]), "each side is drawn back"
    with pytest.raises(ValueError, match="shape"):
        overshoot(hr, hr[..., :32])


def test_a_fringe_of_a_colour_that_hr_has_not_costs_though_each_of_rgb_stays_in_its_range() -> None:
    hr, later = outline(width=0.7), F.pad(outline(width=0.7), (2, 0, 0, 0), mode="replicate")[..., :-2]
    fringe = torch.cat([later[:, :2], hr[:, 2:]], dim=1)  # blue comes first
    assert overshoot(later, hr) < 3e-4 < 3e-3 < overshoot(fringe, hr)
