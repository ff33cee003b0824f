"""Optimizers, learning-rate schedules and the moving average of what trains."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def build_adamw(
    parameters: dict[str, nn.Parameter], *, learning_rate: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """AdamW over the named parameters, in one fused kernel where the device has it."""
    values = list(parameters.values())
    fused = all(value.device.type in ("cpu", "cuda") for value in values)
    return torch.optim.AdamW(values, lr=learning_rate, weight_decay=weight_decay, betas=betas, eps=eps, fused=fused)


def learning_rate_factor(
    iteration: int, total_iter: int, *, type: str, warmup_iter: int, milestones: tuple[int, ...], gamma: float
) -> float:
    """What the optimizers' learning rates are multiplied with at `iteration` (from 0): linear warm-up, then the schedule."""
    warmup = min(1.0, (iteration + 1) / warmup_iter) if warmup_iter else 1.0
    if type == "cosine":
        return warmup * 0.5 * (1.0 + math.cos(math.pi * iteration / total_iter))
    if type == "multistep":
        return warmup * gamma ** sum(iteration >= milestone for milestone in milestones)
    return warmup


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The same learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


class MovingAverage:
    """Exponential moving average of named parameters, in float32; `decay` grows from 0.1 so that the start is soon forgotten."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float):
        self.parameters = parameters
        self.decay = decay
        self.averages: dict[str, Tensor] = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """averages <- decay averages + (1 - decay) parameters."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(list(self.averages.values()), [p.detach() for p in self.parameters.values()], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the averages inside, and its own weights again afterwards."""
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(own[name])


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, grad_clip: float | None) -> tuple[float, bool]:
    """One optimizer step on the gradients at hand, clipped; they are cleared afterwards. A step with a NaN or inf is not taken.

    Returns:
        The gradient's norm before clipping, and whether the step was taken.
    """
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if grad_clip is None else grad_clip).item()  # a CPU-GPU synchronisation
    finite = math.isfinite(norm)
    if finite:
        scaler.step(optimizer)
    scaler.update()  # fp16: lowers the loss scale where `unscale_` met an inf
    optimizer.zero_grad(set_to_none=True)
    return norm, finite
