"""The two players' losses (Eq. 2 and 3) on logits: D = sigmoid(logit), -log D = softplus(-logit), -log(1 - D) = softplus(logit)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_adversarial_loss(fake_logits: Tensor) -> Tensor:
    """L_G = -E[log D(F(z_hat, t))] (Eq. 2).

    fake_logits: any shape, one vote per sample and region. Returns the scalar mean, at least float32; finite for every finite logit.
    """
    return F.softplus(-_at_least_float32(fake_logits)).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """L_D = -E[log(1 - D(F(z_hat, t)))] - E[log D(F(z_hr, t))] (Eq. 3).

    real_logits, fake_logits: any shapes; each expectation is a mean of its own. Returns a scalar, 2 log 2 for an undecided D.
    """
    return F.softplus(_at_least_float32(fake_logits)).mean() + F.softplus(-_at_least_float32(real_logits)).mean()


def gradient_penalty(gradient: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018, Eq. 9) before its weight gamma / 2: the mean squared length of D's gradient at real samples.

    gradient: (N, C, h, w), of the sum of all votes; lengths are taken over channels, at each position, so that the crop's size does not
    matter. Returns a scalar, at least float32.
    """
    return _at_least_float32(gradient).square().sum(1).mean()


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
