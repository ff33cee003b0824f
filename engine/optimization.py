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


def load_moments(optimizer: torch.optim.Optimizer, moments: dict) -> None:
    """Puts the saved `state` of an AdamW into one that was just built; weight decay, betas, eps and learning rate stay its own.

    Each moment gets the memory layout of its parameter: fused kernels walk through both side by side and take the same layout for granted,
    but a saved moment may have another, that of a sharded network for one.
    """
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    for parameter, state in optimizer.state.items():
        for name, moment in state.items():
            if moment.shape == parameter.shape and moment.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)


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


def clip_gradients(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, grad_clip: float | None) -> Tensor:
    """Clips the gradients at hand. Returns their norm before, a scalar on their device: nothing waits for it here."""
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, math.inf if grad_clip is None else grad_clip)


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, norm: float) -> bool:
    """One optimizer step on clipped gradients of that norm; they are cleared afterwards. With a NaN or inf the step is not taken.

    Returns:
        Whether it was taken.
    """
    finite = math.isfinite(norm)
    if finite:
        scaler.step(optimizer)
    scaler.update()  # fp16: lowers the loss scale where `unscale_` met an inf
    optimizer.zero_grad(set_to_none=True)
    return finite
