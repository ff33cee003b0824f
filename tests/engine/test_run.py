"""A run saved and put back: every bit of what changes, and nothing else on the disk."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from engine.checkpoint import newest_intact_state
from engine.objectives import AdversarialBalance
from engine.optimization import MovingAverage, build_adamw
from engine.run import PATIENCE, Run, resume_run, save_best, save_metrics, save_run
from models.generator import load_generator
from models.noising import NOISINGS
from tests.tiny_models import discriminator_of, generator_of, noise_like, picture, write_tiny_base

SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy disk takes seconds for it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def make_run(
    base: Path, *, train: str = "lora", kind: str | None = "diffusion_gan", ema: bool = True, rank: int = 2, settings: dict | None = None
) -> Run:
    source = str(base)
    generator = generator_of(source, timestep=100, train=train, rank=rank, alpha=rank, prompt_tokens=3, seed=1)
    players = {"g": generator}
    if kind is not None:
        players["d"] = discriminator_of(source, rank=2, alpha=2, head_channels=4, prompt_tokens=3, image_size=32, seed=2)
    optimizers = {name: build_adamw(player.trainable(), **(settings or SETTINGS)) for name, player in players.items()}
    scalers = {name: torch.amp.GradScaler("cpu", enabled=False) for name in players}
    average = MovingAverage(generator.trainable(), 0.5) if ema else None
    release = {"timestep": 100, "scale": 4, "train": train, "base": source, "revision": None, "vae": None}
    balance = AdversarialBalance(torch.device("cpu"), ratio=0.1)
    return Run("r", generator, players.get("d"), NOISINGS[kind]() if kind else None, optimizers, scalers, average, balance, release)


def advance(run: Run, iterations: int) -> None:
    """Steps on made-up gradients that depend on the iteration only."""
    for _ in range(iterations):
        for number, player in enumerate(filter(None, (run.generator, run.discriminator))):
            for index, parameter in enumerate(player.trainable().values()):
                parameter.grad = noise_like(*parameter.shape, seed=1000 * run.iteration + 10 * index + number)
        run.step(list(run.optimizers), 1.0)
        run.balance.observe(noise_like(2, seed=run.iteration).abs())
        if run.average is not None:
            run.average.update(run.iteration)
        if run.noising is not None:
            run.noising.observe(1.0)
        run.iteration += 1


def everything(run: Run) -> dict[str, object]:
    """Bits of all that changes in a run, by name."""
    tensors = {f"g.{name}": p for name, p in run.generator.trainable().items()}
    if run.discriminator is not None:
        tensors |= {f"d.{name}": p for name, p in run.discriminator.trainable().items()}
    if run.average is not None:
        tensors |= {f"ema.{name}": p for name, p in run.average.averages.items()}
    for player, optimizer in run.optimizers.items():
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer_{player}.{number}.{name}": value for name, value in state.items()}
    bits = {name: tensor.detach().contiguous().numpy().tobytes() for name, tensor in tensors.items()}
    noising = run.noising.state_dict() if run.noising is not None else None
    return bits | {"iteration": run.iteration, "skipped": run.skipped_steps, "balance": run.balance.state_dict(), "noising": noising}


@pytest.mark.slow
@pytest.mark.parametrize(("train", "kind", "ema"), [("lora", "diffusion_gan", True), ("full", "noise_aware", True), ("full", None, False)])
def test_a_resumed_run_is_the_run_that_was_saved(base: Path, tmp_path: Path, train: str, kind: str | None, ema: bool) -> None:
    run = make_run(base, train=train, kind=kind, ema=ema)
    advance(run, 3)
    run.skipped_steps = 7
    save_run(run, tmp_path, keep_last=3)
    resumed = make_run(base, train=train, kind=kind, ema=ema)
    assert everything(resumed) != everything(run)
    resume_run(resumed, newest_intact_state(tmp_path / "training_states", pytest.fail))
    assert everything(resumed) == everything(run)
    for one in (run, resumed):
        advance(one, 2)
    assert everything(resumed) == everything(run)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["timestep", "alpha", "base_fingerprint"])
def test_a_state_of_another_model_is_refused_by_name(base: Path, tmp_path: Path, key: str) -> None:
    run = make_run(base)
    run.release = {"timestep": 100, "alpha": 2, "targets": ("to_q",), "base": "here", "base_fingerprint": "abc"}
    save_run(run, tmp_path, keep_last=3)
    state = newest_intact_state(tmp_path / "training_states", pytest.fail)
    moved = make_run(base)
    moved.release = {**run.release, "base": "the same base, elsewhere"}
    resume_run(moved, state)
    moved.release[key] = "something else"
    with pytest.raises(ValueError, match=f"was trained with {key} .*something else.*path.resume: false"):
        resume_run(moved, state)


def test_what_is_written_is_what_trains(base: Path, tmp_path: Path) -> None:
    run = make_run(base)
    frozen = {name for name, p in [*run.generator.named_parameters(), *run.discriminator.named_parameters()] if not p.requires_grad}
    advance(run, 1)
    save_run(run, tmp_path, keep_last=3)
    state, models = tmp_path / "training_states/1", tmp_path / "models"
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".safetensors", ".json", ".pt"}
    tensors = sum(parameter.numel() for parameter in run.generator.trainable().values())
    trained = {"generator": tensors, "average": tensors, "discriminator": sum(p.numel() for p in run.discriminator.trainable().values())}
    for name, count in trained.items():
        found = safetensors(state / f"{name}.safetensors")
        assert sum(tensor.numel() for tensor in found.values()) == count and not set(found) & frozen
    for player in "gd":
        moments = torch.load(state / f"optimizer_{player}.pt", weights_only=True)["state"]
        assert sum(m["exp_avg"].numel() for m in moments.values()) == trained[{"g": "generator", "d": "discriminator"}[player]]
    for release in ("r_1", "r_1_ema"):
        found = safetensors(models / release / "pytorch_lora_weights.safetensors") | safetensors(models / release / "generator.safetensors")
        assert sum(tensor.numel() for tensor in found.values()) == tensors


def safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


@pytest.mark.parametrize("train", ["lora", "full"])
def test_the_released_folders_restore_as_the_run_does(base: Path, tmp_path: Path, train: str) -> None:
    run, lr = make_run(base, train=train), picture(1, 3, 8, 8)
    advance(run, 3)
    save_run(run, tmp_path, keep_last=3)
    save_metrics(run, tmp_path, {"set/psnr": 20.0})
    with torch.no_grad():
        plain = run.generator(lr)[0]
        with run.averaged() as generator:
            averaged = generator(lr)[0]
        assert torch.equal(run.generator(lr)[0], plain)
        assert (averaged - plain).abs().max() > 1e-3
        for name, expected in (("r_3", plain), ("r_3_ema", averaged)):
            torch.testing.assert_close(load_generator(tmp_path / "models" / name)(lr)[0], expected, rtol=1e-4, atol=1e-4)
            config = json.loads((tmp_path / "models" / name / "config.json").read_text())
            assert (config["iteration"], config["ema"], config["metrics"]) == (3, name.endswith("ema"), {"set/psnr": 20.0})


def test_only_the_newest_are_kept(base: Path, tmp_path: Path) -> None:
    run = make_run(base, kind=None)
    for folder in ("other_1", "r_x", "r_5_ema_old"):
        (tmp_path / "models" / folder).mkdir(parents=True)
    for iteration in (8, 9, 10):
        run.iteration = iteration
        save_run(run, tmp_path, keep_last=2)
    assert sorted(folder.name for folder in (tmp_path / "training_states").iterdir()) == ["10", "9"]
    found = {folder.name for folder in (tmp_path / "models").iterdir()}
    assert found == {"r_9", "r_10", "r_9_ema", "r_10_ema", "other_1", "r_x", "r_5_ema_old"}


def test_what_was_just_released_is_never_removed(base: Path, tmp_path: Path) -> None:
    """The run went back behind iteration 100, whose state was damaged."""
    run = make_run(base, kind=None, ema=False)
    for iteration in (100, 20):
        run.iteration = iteration
        save_run(run, tmp_path, keep_last=1)
    assert {folder.name for folder in (tmp_path / "models").iterdir()} == {"r_20", "r_100"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "resumed", "named"),
    [
        ({"train": "full"}, {"train": "lora"}, "was trained with train full.*now say lora"),
        ({"rank": 2}, {"rank": 3}, "saved generator does not fit.*lora_A"),
        ({"ema": False}, {"ema": True}, "holds no average"),
        ({"kind": None}, {"kind": "noise_aware"}, "holds no discriminator"),
        ({"kind": "noise_aware"}, {"kind": "diffusion_gan"}, r"another network_d.type \(NoiseAware\)"),
    ],
    ids=["train", "rank", "ema", "discriminator", "noising"],
)
def test_a_state_of_other_options_is_refused(base: Path, tmp_path: Path, saved: dict, resumed: dict, named: str) -> None:
    run = make_run(base, **saved)
    advance(run, 1)
    save_run(run, tmp_path, keep_last=1)
    with pytest.raises(ValueError, match=f"{named}.*path.resume: false"):
        resume_run(make_run(base, **resumed), tmp_path / "training_states/1")


def test_an_average_and_a_discriminator_can_be_given_up(base: Path, tmp_path: Path) -> None:
    run = make_run(base)
    advance(run, 1)
    save_run(run, tmp_path, keep_last=1)
    resumed = make_run(base, kind=None, ema=False)
    resume_run(resumed, tmp_path / "training_states/1")
    assert all(torch.equal(p, run.generator.trainable()[name]) for name, p in resumed.generator.trainable().items())


@pytest.mark.slow
def test_the_optimizers_numbers_are_those_of_the_options_now(base: Path, tmp_path: Path) -> None:
    run = make_run(base)
    advance(run, 1)
    save_run(run, tmp_path, keep_last=1)
    resumed = make_run(base, settings=SETTINGS | {"weight_decay": 0.5, "betas": (0.5, 0.9)})
    resume_run(resumed, tmp_path / "training_states/1")
    assert resumed.optimizers["g"].param_groups[0]["weight_decay"] == 0.5
    assert resumed.optimizers["g"].param_groups[0]["betas"] == (0.5, 0.9)


@pytest.mark.slow
def test_the_loss_scale_goes_on_and_a_run_may_turn_to_fp16(base: Path, tmp_path: Path) -> None:
    def half(run: Run, scale: float) -> Run:
        run.scalers = {name: torch.amp.GradScaler("cpu", init_scale=scale) for name in run.scalers}
        for scaler in run.scalers.values():
            scaler.scale(torch.ones(()))
        return run

    for number, saved in enumerate((half(make_run(base), 32.0), make_run(base))):
        advance(saved, 1)
        save_run(saved, tmp_path / str(number), keep_last=1)
    for number, expected in enumerate((32.0, 8.0)):
        resumed = half(make_run(base), 8.0)
        resume_run(resumed, tmp_path / str(number) / "training_states/1")
        assert {scaler.get_scale() for scaler in resumed.scalers.values()} == {expected}


def give_gradients(run: Run, player: str, *broken: str) -> None:
    """Ones, and one NaN or one inf in each of the broken tensors."""
    for name, parameter in run.trained()[player].items():
        parameter.grad = torch.ones_like(parameter)
        if name in broken:
            parameter.grad.view(-1)[-1] = (math.nan, -math.inf)[broken.index(name) % 2]


def test_ten_skipped_steps_in_a_row_of_one_player_end_the_run_and_name_the_tensors(base: Path) -> None:
    run = make_run(base)
    run.iteration, names = 77, list(run.trained()["g"])

    def step(player: str, *broken: str) -> None:
        give_gradients(run, player, *broken)
        run.step([player], 1.0)

    for _ in range(PATIENCE - 1):
        step("g", names[0])
    step("g")
    for _ in range(PATIENCE - 1):
        step("g", names[0])
        step("d")
    assert run.skipped_steps == 2 * (PATIENCE - 1)
    with pytest.raises(ValueError) as caught:
        step("g", *names[3:8])
    told = f"in network_g, at iteration 77: NaN or inf in {names[3]}, {names[4]}, {names[5]} and 2 more tensors. Lower train.optim_g.lr"
    assert f"10 steps in a row without a finite gradient {told}" in str(caught.value)


def test_a_norm_that_overflows_is_not_blamed_on_a_tensor(base: Path) -> None:
    run = make_run(base, kind=None)
    with pytest.raises(ValueError, match="NaN or inf in the norm only"):
        for _ in range(PATIENCE):
            for parameter in run.trained()["g"].values():
                parameter.grad = torch.full_like(parameter, 1e38)
            run.step(["g"], 1.0)


@pytest.mark.slow
def test_the_best_is_never_pruned_and_is_what_was_validated(base: Path, tmp_path: Path) -> None:
    run = make_run(base)
    for iteration in (1, 2, 3):
        advance(run, 1)
        save_run(run, tmp_path, keep_last=1)
        if iteration == 2:
            save_best(run, tmp_path, {"set/score": 4.5}, "set/score")
    assert {folder.name for folder in (tmp_path / "models").iterdir()} == {"r_3", "r_3_ema", "r_best"}
    config = json.loads((tmp_path / "models/r_best/config.json").read_text())
    assert (config["iteration"], config["ema"], config["best"], config["metrics"]) == (2, True, "set/score", {"set/score": 4.5})
    again = make_run(base)
    advance(again, 2)
    with torch.no_grad(), again.averaged() as generator:
        torch.testing.assert_close(
            load_generator(tmp_path / "models/r_best")(picture(1, 3, 8, 8))[0], generator(picture(1, 3, 8, 8))[0], rtol=1e-4, atol=1e-4
        )


def test_scores_are_noted_in_the_releases_of_their_iteration_only(base: Path, tmp_path: Path) -> None:
    run = make_run(base)
    advance(run, 1)
    save_run(run, tmp_path, keep_last=3)
    before = (tmp_path / "models/r_1/generator.safetensors").read_bytes()
    advance(run, 1)
    save_metrics(run, tmp_path, {"set/psnr": 1.0})  # nothing was saved at iteration 2
    run.iteration = 1
    save_metrics(run, tmp_path, {"set/psnr": 2.0})
    assert {folder.name for folder in (tmp_path / "models").iterdir()} == {"r_1", "r_1_ema"}
    for name in ("r_1", "r_1_ema"):
        assert {file.name for file in (tmp_path / "models" / name).iterdir()} <= {
            "config.json", "generator.safetensors", "pytorch_lora_weights.safetensors"
        }  # fmt: skip
        assert json.loads((tmp_path / "models" / name / "config.json").read_text())["metrics"] == {"set/psnr": 2.0}
    assert (tmp_path / "models/r_1/generator.safetensors").read_bytes() == before


@pytest.mark.slow
def test_both_players_are_updated_at_once_and_each_as_if_alone(base: Path) -> None:
    """One bad player costs only its own step."""
    together, apart = make_run(base), make_run(base)
    for run in (together, apart):
        for player in "gd":
            give_gradients(run, player, *(list(run.trained()["g"])[:1] if player == "g" else ()))
    norms = together.step(["g", "d"], 1.0)
    assert not math.isfinite(norms["g"]) and norms["d"] == pytest.approx(apart.step(["d"], 1.0)["d"])
    fresh = make_run(base)
    assert all(torch.equal(p, fresh.trained()["g"][name]) for name, p in together.trained()["g"].items())
    assert all(torch.equal(p, apart.trained()["d"][name]) for name, p in together.trained()["d"].items())
    assert together.skipped_in_a_row == {"g": 1, "d": 0}


def resumed(run: Run, fresh: Run, folder: Path) -> Run:
    """A freshly built run in the state that `run` has just saved."""
    resume_run(fresh, folder / f"training_states/{run.iteration}")
    return fresh
