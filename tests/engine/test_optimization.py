"""Optimizer, schedules, moving average and the guarded step, against torch's own and against formulas written out."""

import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from engine.optimization import MovingAverage, build_adamw, clip_gradients, learning_rate_factor, load_moments, set_learning_rate, update

NO_SCHEDULE = {"warmup_iter": 0, "milestones": (), "gamma": 0.5}


def no_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in (("a", (3, 4)), ("b", (5,)))}


def give_gradients(values: dict[str, nn.Parameter], factor: float = 1.0, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in values.values():
        value.grad = factor * torch.randn(value.shape, generator=generator)


def clip_and_update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, grad_clip: float | None) -> tuple[float, bool]:
    """The gradient's norm, and whether the step was taken."""
    norm = clip_gradients(optimizer, scaler, grad_clip).item()
    return norm, update(optimizer, scaler, norm)


def test_adamw_is_the_published_one() -> None:
    values, settings = parameters(), {"learning_rate": 0.1, "weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 1e-3}
    expected = {name: value.detach().double() for name, value in values.items()}
    mean, square = ({name: torch.zeros_like(value) for name, value in expected.items()} for _ in range(2))
    optimizer = build_adamw(values, **settings)
    for step in (1, 2, 3):
        give_gradients(values, seed=step)
        for name, value in values.items():
            gradient = value.grad.double()
            mean[name] = 0.8 * mean[name] + 0.2 * gradient
            square[name] = 0.95 * square[name] + 0.05 * gradient**2
            ratio = mean[name] / (1 - 0.8**step) / ((square[name] / (1 - 0.95**step)).sqrt() + 1e-3)
            expected[name] = expected[name] - 0.1 * 0.3 * expected[name] - 0.1 * ratio
        optimizer.step()
    for name, value in values.items():
        torch.testing.assert_close(value.detach().double(), expected[name], rtol=1e-5, atol=1e-6)
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(values.values())


def factors_of(scheduler_of: type, total: int, **settings: object) -> list[float]:
    """What one of torch's schedulers makes of a learning rate of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler, factors = scheduler_of(optimizer, **settings), []
    for _ in range(total):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"type": "constant"}, [1.0] * 20),
        ({"type": "cosine"}, factors_of(lr_scheduler.CosineAnnealingLR, 20, T_max=20)),
        ({"type": "multistep", "milestones": (5, 12)}, factors_of(lr_scheduler.MultiStepLR, 20, milestones=[5, 12], gamma=0.5)),
        ({"type": "constant", "warmup_iter": 8}, factors_of(lr_scheduler.LinearLR, 20, start_factor=1 / 8, total_iters=7)),
    ],
    ids=["constant", "cosine", "multistep", "warmup"],
)
def test_schedules_are_torchs(schedule: dict, expected: list[float]) -> None:
    found = [learning_rate_factor(iteration, 20, **NO_SCHEDULE | schedule) for iteration in range(20)]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("type", ["cosine", "multistep"])
def test_warm_up_multiplies_the_schedule(type: str) -> None:
    schedule = NO_SCHEDULE | {"type": type, "milestones": (2, 9)}
    for iteration in range(12):
        plain, warm = (learning_rate_factor(iteration, 12, **schedule | {"warmup_iter": n}) for n in (0, 4))
        assert warm == pytest.approx(plain * min(1, (iteration + 1) / 4))


def test_a_learning_rate_reaches_every_group() -> None:
    values = list(parameters().values())
    optimizer = torch.optim.SGD([{"params": values[:1]}, {"params": values[1:], "lr": 3.0}], lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_the_moving_average_follows_its_formula() -> None:
    values = parameters()
    average = MovingAverage(values, decay=0.9)
    expected = {name: value.detach().double() for name, value in values.items()}
    for iteration in range(200):
        with torch.no_grad():
            for value in values.values():
                value += 0.01 * (iteration + 1)
        average.update(iteration)
        decay = min(0.9, (1 + iteration) / (10 + iteration))
        expected = {name: decay * expected[name] + (1 - decay) * value.detach().double() for name, value in values.items()}
    for name, value in expected.items():
        torch.testing.assert_close(average.averages[name].double(), value, rtol=1e-5, atol=1e-5)
        assert not average.averages[name].requires_grad and average.averages[name].dtype == torch.float32


def test_the_average_is_applied_and_taken_back_to_the_bit() -> None:
    values = parameters()
    values["b"].data[0] = -0.0
    average = MovingAverage(values, decay=0.5)
    with torch.no_grad():
        values["a"].mul_(1 / 3)
    own = {name: value.detach().clone() for name, value in values.items()}
    kept = {name: value.clone() for name, value in average.averages.items()}
    with pytest.raises(KeyError), average.applied():
        assert all(torch.equal(values[name], average.averages[name]) for name in values)
        with torch.no_grad():
            values["a"].zero_()
        raise KeyError
    for name, value in values.items():
        assert value.detach().numpy().tobytes() == own[name].numpy().tobytes()
        assert torch.equal(average.averages[name], kept[name]) and value.requires_grad


@pytest.mark.parametrize("grad_clip", [None, 0.5, 1e6])
def test_gradients_are_clipped_as_torch_does(grad_clip: float | None) -> None:
    ours, theirs = parameters(), parameters()
    give_gradients(ours)
    give_gradients(theirs)
    length = math.sqrt(sum(p.grad.double().square().sum().item() for p in theirs.values()))
    optimizers = [torch.optim.SGD(values.values(), lr=1.0) for values in (ours, theirs)]
    norm, taken = clip_and_update(optimizers[0], no_scaler(), grad_clip)
    if grad_clip is not None:
        torch.nn.utils.clip_grad_norm_(list(theirs.values()), grad_clip)
    optimizers[1].step()
    assert taken and norm == pytest.approx(length, rel=1e-6)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]) and ours[name].grad is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("grad_clip", [None, 1.0])
@pytest.mark.parametrize("fp16", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(bad: float, grad_clip: float | None, fp16: bool) -> None:
    values = parameters()
    optimizer = build_adamw(values, learning_rate=0.1, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-8)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=fp16)
    scaler.scale(torch.ones(()))
    give_gradients(values, 16.0 if fp16 else 1.0)
    clip_and_update(optimizer, scaler, grad_clip)
    before = {name: value.detach().clone() for name, value in values.items()}
    moments = [moment.clone() for state in optimizer.state.values() for moment in state.values()]
    give_gradients(values)
    values["b"].grad[2] = bad
    norm, taken = clip_and_update(optimizer, scaler, grad_clip)
    assert not math.isfinite(norm) and not taken
    assert all(torch.equal(values[name], before[name]) and values[name].grad is None for name in values)
    assert all(torch.equal(new, old) for new, old in zip((m for s in optimizer.state.values() for m in s.values()), moments, strict=True))
    assert scaler.get_scale() == (8.0 if fp16 else 1.0)


def test_a_scaled_loss_gives_the_step_of_the_plain_one() -> None:
    results = []
    for scaler, factor in ((no_scaler(), 1.0), (torch.amp.GradScaler("cpu", init_scale=1024.0), 1024.0)):
        values = parameters()
        optimizer = build_adamw(values, learning_rate=0.1, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8)
        scaler.scale(torch.ones(()))
        for seed in (1, 2):
            give_gradients(values, factor, seed)
            norm, taken = clip_and_update(optimizer, scaler, 1.0)
            assert taken
        results.append((norm, values))
    assert results[0][0] == pytest.approx(results[1][0])
    for name, value in results[0][1].items():
        torch.testing.assert_close(value, results[1][1][name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("saved", "now"), [(torch.contiguous_format, torch.channels_last), (torch.channels_last, torch.contiguous_format)])
def test_moments_of_another_layout_go_on_as_they_were(saved: torch.memory_format, now: torch.memory_format) -> None:
    """A state of a sharded network (contiguous) resumed whole (channels_last), or the other way: the next steps are the same."""
    settings = {"learning_rate": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}
    start = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))

    def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, seeds: range) -> None:
        for seed in seeds:
            gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
            weight.grad = torch.empty_like(weight).copy_(gradient)
            optimizer.step()

    weights = {layout: nn.Parameter(start.clone(memory_format=layout)) for layout in (saved, now)}
    whole, before = (build_adamw({"weight": weights[layout]}, **settings) for layout in (now, saved))
    steps(whole, weights[now], range(1, 5))
    steps(before, weights[saved], range(1, 3))

    resumed = nn.Parameter(torch.empty_like(start, memory_format=now).copy_(weights[saved].detach()))
    optimizer = build_adamw({"weight": resumed}, **settings)
    load_moments(optimizer, before.state_dict()["state"])
    assert {moment.stride() for name, moment in optimizer.state[resumed].items() if name != "step"} == {resumed.stride()}
    steps(optimizer, resumed, range(3, 5))
    assert torch.equal(resumed, weights[now])
