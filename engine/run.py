"""A training run as one object: what changes while it goes on, how it is saved, and how it goes on after a stop."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine.checkpoint import copy_tensors, prune, read_optimizer, read_tensors, read_values, save_state
from engine.health import not_finite
from engine.objectives import AdversarialBalance
from engine.optimization import MovingAverage, clip_gradients, load_moments, update
from models.discriminator import Discriminator
from models.generator import Generator
from models.noising import NoiseAware
from models.release import note_metrics, save_release

PATIENCE = 10
NAMED = 3


@dataclass
class Run:
    """Both players ("g", and "d" where there is a discriminator), their optimizers and the moving average.

    `release` is what every released config.json says of the run; `iteration` counts finished iterations.
    """

    name: str
    generator: Generator
    discriminator: Discriminator | None
    noising: NoiseAware | None
    optimizers: dict[str, torch.optim.Optimizer]
    scalers: dict[str, torch.amp.GradScaler]
    average: MovingAverage | None
    balance: AdversarialBalance
    release: dict[str, Any]
    iteration: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: dict[str, int] = field(default_factory=dict)

    def trained(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """What training changes, by player and name."""
        players = {"g": self.generator, "d": self.discriminator}
        return {player: network.trainable() for player, network in players.items() if network is not None}

    def step(self, players: Sequence[str], grad_clip: float | None) -> dict[str, float]:
        """Updates "g", "d" or both on the gradients at hand, and clears them; with a NaN or an inf among them a step is only counted.

        The one place of an iteration where the device is waited for (against diffusion_gan, its adaptation waits once more).

        Returns:
            The norm of each player's gradient before clipping.

        Raises:
            ValueError: that many in a row were not finite; it names the tensors.
        """
        # Looked at before clipping, which spreads a NaN, and only when the run is about to end: every tensor is waited for.
        last = [player for player in players if self.skipped_in_a_row.get(player, 0) == PATIENCE - 1]
        broken = {player: not_finite(self.trained()[player]) for player in last}
        norms = torch.stack([clip_gradients(self.optimizers[player], self.scalers[player], grad_clip) for player in players]).tolist()
        for player, norm in zip(players, norms, strict=True):
            taken = update(self.optimizers[player], self.scalers[player], norm)
            self.skipped_steps += not taken
            self.skipped_in_a_row[player] = 0 if taken else self.skipped_in_a_row.get(player, 0) + 1
            if self.skipped_in_a_row[player] == PATIENCE:
                raise ValueError(self._no_finite_gradient(player, broken[player]))
        return dict(zip(players, norms, strict=True))

    def _no_finite_gradient(self, player: str, broken: Sequence[str]) -> str:
        named = f"in {', '.join(broken[:NAMED])}" + (f" and {len(broken) - NAMED} more tensors" if len(broken) > NAMED else "")
        return (
            f"{PATIENCE} steps in a row without a finite gradient in network_{player}, at iteration {self.iteration}: NaN or inf "
            f"{named if broken else 'in the norm only'}. Lower train.optim_{player}.lr, or set train.precision: fp32"
        )

    @contextmanager
    def averaged(self) -> Iterator[Generator]:
        """The generator with its averaged weights, where an average is kept."""
        with self.average.applied() if self.average is not None else nullcontext():
            yield self.generator


def save_run(run: Run, folder: Path, keep_last: int) -> None:
    """Writes models/NAME_ITER (and NAME_ITER_ema) for people, and training_states/ITER to resume from.

    Raises:
        WriteError: the disk refuses one of them; the other may be there, and of the former ones all are.
    """
    try:
        for release, ema in _releases(run, folder):
            with run.averaged() if ema else nullcontext():
                save_release(release, run.generator, {**_facts(run), "ema": ema, "metrics": {}})
        for suffix in ("", "_ema"):
            prune(released(folder / "models", run.name, suffix, run.iteration), keep_last)
    finally:  # the state is worth more
        _save_state(run, folder, keep_last)


def _save_state(run: Run, folder: Path, keep_last: int) -> None:
    tensors = {"generator": run.generator.trainable()}
    if run.discriminator is not None:
        tensors["discriminator"] = run.discriminator.trainable()
    if run.average is not None:
        tensors["average"] = run.average.averages
    values = {
        "skipped_steps": run.skipped_steps,
        "release": run.release,
        "balance": run.balance.state_dict(),
        "noising": run.noising.state_dict() if run.noising is not None else {},
        "noising_kind": type(run.noising).__name__,
        "scalers": {player: scaler.state_dict() for player, scaler in run.scalers.items()},
    }
    optimizers = {f"optimizer_{player}": optimizer.state_dict() for player, optimizer in run.optimizers.items()}
    save_state(folder / "training_states", run.iteration, tensors, optimizers, values, keep_last)


def save_metrics(run: Run, folder: Path, metrics: dict[str, float]) -> None:
    """Writes the scores of a validation into the releases of this iteration, where there are any."""
    for release, _ in _releases(run, folder):
        if release.is_dir():
            note_metrics(release, metrics)


def save_best(run: Run, folder: Path, metrics: dict[str, float], best: str) -> None:
    """Writes models/NAME_best: the generator as it was validated, that is with its averaged weights where an average is kept."""
    facts = {**_facts(run), "ema": run.average is not None, "best": best, "metrics": metrics}
    with run.averaged() as generator:
        save_release(folder / "models" / f"{run.name}_best", generator, facts)


def _releases(run: Run, folder: Path) -> list[tuple[Path, bool]]:
    """The released folders of this iteration, and whether each holds the averaged weights."""
    release = folder / "models" / f"{run.name}_{run.iteration}"
    return [(release, False)] + ([(release.with_name(f"{release.name}_ema"), True)] if run.average is not None else [])


def _facts(run: Run) -> dict[str, Any]:
    return {"name": run.name, "iteration": run.iteration, **run.release}


def released(models: Path, name: str, suffix: str, until: int) -> list[Path]:
    """The released folders NAME_ITER + suffix up to iteration `until`, oldest first."""
    named = [f.name for f in models.iterdir() if f.name.startswith(f"{name}_") and f.name.endswith(suffix)]
    endings = [folder.removeprefix(f"{name}_").removesuffix(suffix) for folder in named]
    iterations = sorted(int(ending) for ending in endings if ending.isdecimal() and int(ending) <= until)
    return [models / f"{name}_{iteration}{suffix}" for iteration in iterations]


def resume_run(run: Run, state: Path) -> None:
    """Puts a saved state into a freshly built run.

    Raises:
        ValueError: the state belongs to other options.
    """
    values = read_values(state)
    _refuse_another_model(run.release, values["release"], state)
    copy_tensors(run.generator.trainable(), read_tensors(state, "generator"), "generator")
    if run.discriminator is not None:
        copy_tensors(run.discriminator.trainable(), read_tensors(state, "discriminator"), "discriminator")
    if run.average is not None:
        copy_tensors(run.average.averages, read_tensors(state, "average"), "moving average")
    for player, optimizer in run.optimizers.items():
        load_moments(optimizer, read_optimizer(state, f"optimizer_{player}")["state"])
    run.iteration, run.skipped_steps = values["iteration"], values["skipped_steps"]
    run.balance.load_state_dict(values.get("balance", {}))  # older states lack it
    if run.noising is not None:
        kind = type(run.noising).__name__
        if values["noising_kind"] != kind:
            raise ValueError(
                f"{state} was trained against another network_d.type ({values['noising_kind']}): use a new `name`, or path.resume: false"
            )
        run.noising.load_state_dict(values["noising"])
    for player, scaler in run.scalers.items():
        if values["scalers"][player]:  # empty where the precision was not fp16 then
            scaler.load_state_dict(values["scalers"][player])


def _refuse_another_model(now: dict[str, Any], then: dict[str, Any], state: Path) -> None:
    # Where the base lies may change; what it is may not, and neither may what the weights mean.
    for key in set(now) - {"base", "revision", "vae"}:
        before = tuple(then[key]) if isinstance(now[key], tuple) else then[key]
        if before != now[key]:
            raise ValueError(
                f"{state} was trained with {key} {then[key]}, the options now say {now[key]}: use a new `name`, or path.resume: false"
            )
