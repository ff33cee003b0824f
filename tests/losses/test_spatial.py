import numpy as np
import pytest
import torch
from torch import nn

from losses.edges import overshoot
from losses.pattern import flat_detail
from losses.spatial import EXTRA_LOSSES, spatial_loss
from options.training import TrainingOptions


class L1(nn.Module):
    def forward(self, sr, hr):
        return (sr - hr).abs().mean()


def test_equals_eq_8(pair):
    sr, hr = pair
    difference = (sr.double() - hr.double()).numpy()
    mse, distance = np.square(difference).mean(), np.abs(difference).mean()
    loss, parts = spatial_loss(sr, hr, L1(), perceptual_weight=0.3)
    assert loss.item() == pytest.approx(mse + 0.3 * distance, rel=1e-5)
    assert parts["mse"].item() == pytest.approx(mse, rel=1e-5)
    assert parts["perceptual"].item() == pytest.approx(distance, rel=1e-5)
    weighted, _ = spatial_loss(sr, hr, L1(), mse_weight=2.0, perceptual_weight=0.3)
    assert weighted.item() == pytest.approx(2 * mse + 0.3 * distance, rel=1e-5)


def test_without_a_perceptual_term(pair):
    loss, parts = spatial_loss(*pair, None, perceptual_weight=5.0)
    assert parts["perceptual"].item() == 0
    assert loss.item() == parts["mse"].item()


def test_gradient_reaches_sr_and_the_parts_are_detached(pair):
    sr = pair[0].requires_grad_()
    loss, parts = spatial_loss(sr, pair[1], L1(), perceptual_weight=1.0)
    loss.backward()
    assert sr.grad.abs().max() > 0
    assert not any(part.requires_grad for part in parts.values())


def test_extra_losses_are_added_by_weight_and_one_of_weight_0_is_not_computed(pair, monkeypatch):
    monkeypatch.setitem(EXTRA_LOSSES, "coherence", None)
    plain, _ = spatial_loss(*pair, L1(), perceptual_weight=0.3)
    loss, parts = spatial_loss(*pair, L1(), perceptual_weight=0.3, extra_weights={"pattern": 2.0, "coherence": 0.0, "overshoot": 0.5})
    assert loss.item() == pytest.approx(plain.item() + 2 * flat_detail(*pair).item() + 0.5 * overshoot(*pair).item(), rel=1e-6)
    assert list(parts) == ["mse", "perceptual", "pattern", "overshoot"]


def test_every_extra_loss_has_its_option_and_every_such_option_its_loss():
    others = {"adversarial", "mse", "r1"}
    weights = [name.removesuffix("_weight") for name in TrainingOptions.__dataclass_fields__ if name.endswith("_weight")]
    assert set(weights) - others == set(EXTRA_LOSSES)


def test_float32_for_bf16_pictures(pair):
    sr, hr = pair[0].bfloat16(), pair[1].bfloat16()
    loss, _ = spatial_loss(sr, hr, None, perceptual_weight=1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((sr.double() - hr.double()).square().mean().item(), rel=1e-5)


def test_pictures_of_two_shapes_are_refused(pair):
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\) and \(2, 3, 64, 64\)"):
        spatial_loss(pair[0][:1], pair[1], None, perceptual_weight=1.0)
