"""train_d3sr.py from end to end on a very small base: what it writes, that it resumes to the bit, and what it says to mistakes."""

import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train_d3sr
from data.hr_crops import collate
from data.image_io import read_image, to_tensor, to_uint8
from data.loading import on_device
from engine.distributed import World
from engine.health import DiscriminatorHealth
from engine.logs import Means
from engine.loop import build_dataset, build_steps
from engine.objectives import draw
from engine.players import build_run
from engine.run import Run
from engine.steps import Steps
from losses.pattern import flat_detail, repetition
from losses.spatial import spatial_loss
from models.generator import load_generator
from options.d3sr import TrainOptions, load_train_options
from restoring.pictures import restore_picture
from tests.engine.test_distributed import free_port
from tests.short_training import OPTIONS, ROOT, assert_same_bits, logged, options_of, photo, settings, tensors_of, train, write_lab

MAIN = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are taken in another order by another number of threads, and a forked process cannot use its parent's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `write_lab`."""
    return write_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy disk takes seconds for it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_run_from_start_to_end(lab: Path, tmp_path: Path) -> None:
    pairs = f"datasets.val.mine={{dataroot_lq: {lab / 'LR'}, dataroot_gt: {lab / 'HR'}}}"
    metrics = "val.metrics={psnr: {type: psnr}, ssim: null}"
    changes = ["val.val_freq=4", metrics, "logger.keep_last=2", "logger.use_tb_logger=true", pairs]
    run = train(lab, tmp_path, *changes)

    files = {"train_run.log", "options.yml", "validations.json"}
    assert {path.name for path in run.iterdir()} == {"models", "training_states", "visualization"} | files
    assert {path.name for path in (run / "models").iterdir()} == {"run_4", "run_4_ema", "run_5", "run_5_ema"}
    assert {path.name for path in (run / "training_states").iterdir()} == {"4", "5"}
    assert load_train_options(run / "options.yml") == options_of(lab, tmp_path, *changes)
    steps = torch.load(run / "training_states/5/optimizer_g.pt", weights_only=True)["state"]
    assert {moments["step"].item() for moments in steps.values()} == {5.0}

    lines = logged(run)
    assert [line["iter"] for line in lines] == [1, 2, 3, 4, 5] and all(math.isfinite(value) for line in lines for value in line.values())
    assert all(0 < line["data_share"] < 1 for line in lines)
    wanted = {"mse", "perceptual", "loss_g", "loss_d", "real_logits", "fake_logits", "spatial_gradient", "gradient_g", "gradient_d"}
    assert wanted | {"images_per_s", "memory_gib", "skipped_steps"} <= set(lines[0])
    for line in lines:
        assert line["adversarial_ratio"] == pytest.approx(line["adversarial_gradient"] / line["spatial_gradient"], rel=1e-3)
    for line, votes in zip(lines, logged(run, "health"), strict=True):
        real = [value for name, value in votes.items() if name.startswith("real_logits_t")]
        assert min(real) <= line["real_logits"] + 1e-6 and max(real) >= line["real_logits"] - 1e-6 and len(real) <= 2
        assert all(0 <= value <= 1 for name, value in votes.items() if "accuracy" in name)
    cosine = [4e-4 * min(1, (i + 1) / 2) * 0.5 * (1 + math.cos(math.pi * i / 5)) for i in range(5)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(cosine, rel=1e-3)

    generator, scores = load_generator(run / "models/run_5_ema"), []
    for index in range(5):
        shown = read_image(run / f"visualization/mine/{index}/{index}_5.png")
        restored = restore_picture(generator, to_tensor(read_image(lab / f"LR/{index}.png"))[None])[0][0]
        assert np.abs(to_uint8(restored).astype(int) - shown).max() <= 1
        luma = (shown.astype(float) - photo(64, index)) @ [65.481, 128.553, 24.966] / 255
        scores.append(10 * np.log10(255**2 / np.mean(luma**2)))
    assert [line["iter"] for line in logged(run, "val")] == [4, 5] and [line["iter"] for line in logged(run, "val_early")] == [0]
    assert json.loads((run / "models/run_5/config.json").read_text())["metrics"]["mine/psnr"] == pytest.approx(np.mean(scores), abs=0.01)
    assert {int(number) for number in json.loads((run / "validations.json").read_text())} == {4, 5}
    early = [path.relative_to(run / "visualization").as_posix() for path in (run / "visualization").rglob("*_0.png")]
    assert sorted(early) == [*(f"mine/{number}/{number}_0.png" for number in range(4)), "mine_0.png"], "the first four, and a sheet"
    assert logged(run, "val")[-1]["mine/psnr"] == pytest.approx(np.mean(scores), abs=0.01)
    assert read_image(run / "visualization/mine_5.png").shape[1] > 3 * 64

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tb/run")).Reload()
    assert [event.step for event in events.Scalars("train/mse")] == [1, 2, 3, 4, 5]
    assert [event.step for event in events.Scalars("val/mine/psnr")] == [4, 5]


EXACT = ("train.accumulate=2", "datasets.train.batch_size_per_gpu=1", "logger.keep_last=9", "network_d.type=diffusion_gan")


@pytest.fixture(scope="module")
def uninterrupted(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(lab, tmp_path_factory.mktemp("uninterrupted"), *EXACT)


def kill_in_an_iteration() -> None:
    import engine.run

    update, calls = engine.run.update, []

    def update_until_the_sixth(*arguments: object) -> bool:
        calls.append(1)
        if len(calls) == 6:  # the discriminator's step of iteration 3
            os.kill(os.getpid(), signal.SIGKILL)
        return update(*arguments)

    engine.run.update = update_until_the_sixth


def kill_in_a_save() -> None:
    replace = os.replace

    def replace_until_the_second_state(source: Path, target: Path) -> None:
        if Path(source).name == "4.tmp":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_until_the_second_state


def _train_until_killed(prepare: Callable[[], None], arguments: list[str]) -> None:
    prepare()
    train_d3sr.main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_in_an_iteration, kill_in_a_save])
def test_a_killed_run_goes_on_to_the_same_bits(lab: Path, tmp_path: Path, uninterrupted: Path, kill: Callable[[], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=_train_until_killed, args=(kill, settings(lab, tmp_path, *EXACT)))
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == -signal.SIGKILL
    states = tmp_path / "experiments/run/training_states"
    assert {path.name for path in states.iterdir()} == {"2"} | ({"4.tmp"} if kill is kill_in_a_save else set())

    run = train(lab, tmp_path, *EXACT, "datasets.train.num_worker_per_gpu=1")
    assert f"resuming {states / '2'}" in (run / "train_run.log").read_text()
    assert {path.name for path in states.iterdir()} == {"2", "4", "5"}
    assert_same_bits(states / "5", uninterrupted / "training_states/5")
    for name in ("run_5", "run_5_ema"):
        ours, theirs = (load_file(folder / "models" / name / "generator.safetensors") for folder in (run, uninterrupted))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.slow
def test_a_damaged_state_is_named_and_the_one_before_is_used(lab: Path, tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "experiments/run"
    shutil.copytree(uninterrupted, run)
    (run / "training_states/5/optimizer_d.pt").write_bytes(b"")
    train(lab, tmp_path, *EXACT)
    log = (run / "train_run.log").read_text()
    assert f"WARNING: {run / 'training_states/5'} is damaged (optimizer_d.pt is not what was written): passed over" in log
    assert f"resuming {run / 'training_states/4'}" in log
    assert_same_bits(run / "training_states/5", uninterrupted / "training_states/5")


@pytest.mark.slow
def test_a_finished_run_does_nothing_when_started_again(lab: Path, tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "experiments/run"
    shutil.copytree(uninterrupted, run)
    before = {path: path.stat().st_mtime_ns for part in ("models", "training_states") for path in (run / part).rglob("*")}
    lines = len(logged(run))
    train(lab, tmp_path, *EXACT)
    assert {path: path.stat().st_mtime_ns for part in ("models", "training_states") for path in (run / part).rglob("*")} == before
    assert len(logged(run)) == lines == 5


@pytest.mark.slow
def test_gradient_checkpointing_changes_memory_only(
    lab: Path, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.utils.checkpoint

    calls, original = [], torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    run = train(lab, tmp_path, *EXACT, "train.gradient_checkpointing=[vae, unet, discriminator]", "train.total_iter=2")
    assert len(calls) > 2 * 2 * 6, "two iterations of two batches through six blocks of the UNet, and more through the discriminator"
    again = train(lab, tmp_path / "plain", *EXACT, "train.total_iter=2")
    assert_same_bits(run / "training_states/2", again / "training_states/2")


@pytest.mark.slow
def test_starting_over_archives_the_former_run(lab: Path, tmp_path: Path, uninterrupted: Path) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(uninterrupted, experiments / "run")
    (tmp_path / "tb/run").mkdir(parents=True)
    run = train(lab, tmp_path, *EXACT, "train.total_iter=1", "train.scheduler.warmup_iter=0", "path.resume=false")
    (former,) = (path for path in experiments.iterdir() if path != run)
    assert re.fullmatch(r"run_archived_\d{8}_\d{6}", former.name)
    assert_same_bits(former / "training_states/5", uninterrupted / "training_states/5")
    assert {path.name for path in (run / "training_states").iterdir()} == {"1"} and [line["iter"] for line in logged(run)] == [1]
    assert str(former) in (run / "train_run.log").read_text()
    assert [path.name.split("_archived")[0] for path in (tmp_path / "tb").iterdir()] == ["run"] and not (tmp_path / "tb/run").exists()


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another(lab: Path, tmp_path: Path, uninterrupted: Path) -> None:
    start = uninterrupted / "models/run_5_ema"
    still = ["train.optim_g.lr=1e-9", "train.scheduler.warmup_iter=0"]
    run = train(lab, tmp_path, "train.total_iter=1", f"path.pretrain_network_g={start}", *still)
    ours, theirs = (load_file(folder / "generator.safetensors") for folder in (run / "models/run_1", start))
    assert all((ours[name] - theirs[name]).abs().max() < 1e-7 for name in theirs)
    assert (theirs["unet.conv_in.weight"] - load_generator(uninterrupted / "models/run_2").unet.conv_in.weight).abs().max() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("discriminator", "perceptual", "what"),
    [
        ("noise_aware", "ea_dists", "lora"),
        ("vanilla", "dists", "full"),
        ("diffusion_gan", "ea_lpips", "lora"),
        ("none", "lpips", "lora"),
        ("noise_aware", "mse", "full"),
    ],
)
def test_every_kind_trains_in_bf16(lab: Path, tmp_path: Path, discriminator: str, perceptual: str, what: str) -> None:
    kinds = [f"network_d.type={discriminator}", f"train.perceptual.type={perceptual}", f"network_g.train={what}"]
    pictures = f"datasets.val.mine={{dataroot_lq: {lab / 'LR/0.png'}}}"
    run = train(lab, tmp_path, *kinds, "train.precision=bf16", "train.total_iter=2", pictures, "val.metrics={psnr: null, ssim: null}")
    lines = logged(run)
    assert len(lines) == 2 and all(math.isfinite(value) for line in lines for value in line.values())
    assert lines[-1]["skipped_steps"] == 0 and (lines[0]["perceptual"] == 0) == (perceptual == "mse")
    assert ("loss_d" in lines[0]) == ("loss_g" in lines[0]) == (discriminator != "none")
    assert read_image(run / "visualization/mine/0/0_2.png").shape == (64, 64, 3)
    state = run / "training_states/2"
    assert {tensor.dtype for tensor in tensors_of(state).values()} == {torch.float32}
    assert (state / "discriminator.safetensors").exists() == (discriminator != "none")
    assert any("lora" in name for name in load_file(state / "generator.safetensors")) == (what == "lora")
    sr, _ = load_generator(run / "models/run_2")(torch.zeros(1, 3, 8, 8))
    assert torch.isfinite(sr).all()


def test_before_its_start_the_adversarial_part_does_nothing(lab: Path, tmp_path: Path) -> None:
    run = train(lab, tmp_path, "train.adversarial_start=2", "train.total_iter=3")
    assert ["loss_d" in line for line in logged(run)] == [False, False, True]
    steps = {name: torch.load(run / f"training_states/3/optimizer_{name}.pt", weights_only=True)["state"] for name in "gd"}
    assert {m["step"].item() for m in steps["g"].values()} == {3.0} and {m["step"].item() for m in steps["d"].values()} == {1.0}


def test_own_pairs_train(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("engine.steps.spatial_loss", lambda sr, hr, *a, **k: (seen.append(hr), spatial_loss(sr, hr, *a, **k))[1])
    run = train(lab, tmp_path, f"datasets.train.dataroot_lq={lab / 'LR'}", "train.total_iter=2")
    assert len(logged(run)) == 2 and "5 of 5 images usable" in (run / "train_run.log").read_text()
    whole = [to_tensor(photo(64, index)) for index in range(5)]
    windows = [view for image in whole for view in (image, image.flip(2))]
    for crop in torch.cat(seen):
        assert any(
            torch.equal(view[:, top : top + 32, left : left + 32], crop)
            for view in windows
            for top in range(0, 33, 4)
            for left in range(0, 33, 4)
        )


@pytest.fixture
def batches(lab: Path, tmp_path: Path) -> list[dict]:
    dataset = build_dataset(options_of(lab, tmp_path))
    return [on_device(collate([dataset[n] for n in range(start, start + 2)]), MAIN.device) for start in (0, 2)]


def steps_of(run: Run, options: TrainOptions) -> Steps:
    return build_steps(run, options, MAIN, Means(), DiscriminatorHealth(0, 999, MAIN.device))


@pytest.mark.parametrize("features", ["mid", "multi"])
def test_the_generators_step_is_that_of_the_summed_loss(lab: Path, tmp_path: Path, batches: list[dict], features: str) -> None:
    """Against one plain backward through L_spatial + lambda_1 L_G of both batches, written out here; L_G's gradient at a latent channel is
    as many times larger as the channel's whitening is wide in intensity, the first 16, and nothing in the colours."""
    weights = ("train.adversarial_weight=0.7", "train.pattern_weight=3", "train.repetition_weight=0.5", f"network_d.features={features}")
    options = options_of(lab, tmp_path, "network_g.train=lora", "train.perceptual.shift=0", *weights)
    run = build_run(options, MAIN)
    before = [p.requires_grad for p in run.discriminator.parameters()]
    steps = steps_of(run, options)
    judged = steps.generator_step(batches)
    found = [p.grad.clone() for p in run.generator.trainable().values()]
    assert [p.grad for p in run.discriminator.parameters()] == [None] * len(before)
    assert [p.requires_grad for p in run.discriminator.parameters()] == before and len(judged) == 2

    run.generator.zero_grad()
    std = run.generator.autoencoder.model.std.view(1, -1, 1, 1)
    gain = torch.cat([std[:, :16], torch.zeros(1, 32, 1, 1)], dim=1)
    gain = gain / gain.square().mean().sqrt()
    assert gain[:, :16].max() > 1.4 * gain[:, :16].min()
    total, norms = 0.0, {"spatial": 0.0, "adversarial": 0.0}
    for batch, one in zip(batches, judged, strict=True):
        sr, z_hat = run.generator(batch["lr"] * 2 - 1)
        seen = draw(run.noising, 0, batch["index"].tolist(), z_hat.shape[1:], MAIN.device).generator_step
        alpha_bar = run.generator.alphas_cumprod[seen.timesteps].view(-1, 1, 1, 1)
        heard = z_hat.detach() + gain * (z_hat - z_hat.detach())
        votes = run.discriminator(alpha_bar.sqrt() * heard + (1 - alpha_bar).sqrt() * seen.noise, seen.timesteps)
        loss_g = -sum(torch.log(torch.sigmoid(logits)).mean() for logits in votes) / len(votes)
        image, t = (sr + 1) / 2, options.train
        spatial = t.mse_weight * (image - batch["hr"]).square().mean() + t.perceptual.weight * steps.distance(image, batch["hr"])
        spatial = spatial + 3 * flat_detail(image, batch["hr"]) + 0.5 * repetition(image, batch["hr"])
        for name, loss in (("spatial", spatial), ("adversarial", 0.7 * loss_g)):
            norms[name] += torch.autograd.grad(loss / 2, z_hat, retain_graph=True)[0].square().sum().item()
        total = total + (spatial + 0.7 * loss_g) / 2
        torch.testing.assert_close(one.z_hat, z_hat.detach())
        torch.testing.assert_close(one.z_hr, run.generator.autoencoder.encode(batch["hr"] * 2 - 1))
        assert not one.z_hat.requires_grad and not one.z_hr.requires_grad
    total.backward()
    largest = max(gradient.abs().max().item() for gradient in found)
    assert largest > 1e-4
    for gradient, (name, parameter) in zip(found, run.generator.trainable().items(), strict=True):
        assert (gradient - parameter.grad).abs().max().item() < 1e-4 * gradient.abs().max().item() + 1e-6 * largest, name
    means = steps.means.read(MAIN)
    assert means["spatial_gradient"] == pytest.approx(norms["spatial"] ** 0.5, rel=1e-3)
    assert means["adversarial_gradient"] == pytest.approx(norms["adversarial"] ** 0.5, rel=1e-3)


def test_a_ratio_holds_the_adversarial_gradient_at_its_share(lab: Path, tmp_path: Path) -> None:
    """On one batch again and again, without updates: the first iteration only measures, then the share is exact."""
    options = options_of(lab, tmp_path, "train.adversarial_weight=null", "train.adversarial_ratio=0.15")
    run = build_run(options, MAIN)
    dataset = build_dataset(options)
    batch = on_device(collate([dataset[0], dataset[1]]), MAIN.device)
    steps, shares = steps_of(run, options), []
    for _ in range(3):
        steps.generator_step([batch])
        means = steps.means.read(MAIN)
        shares.append(means["adversarial_gradient"] / means["spatial_gradient"])
    assert shares == pytest.approx([0.0, 0.15, 0.15], rel=1e-4)


def test_the_logged_gradients_do_not_depend_on_how_the_batch_is_split(lab: Path, tmp_path: Path, batches: list[dict]) -> None:
    """Two batches of two, and one of the same four: DISTS per picture, so that the loss is a mean over pictures."""
    options = options_of(lab, tmp_path, "train.perceptual.shift=0", "train.perceptual.type=dists")
    whole = {key: torch.cat([batch[key] for batch in batches]) for key in ("lr", "hr", "index")}
    found = []
    for parts in (batches, [whole]):
        steps = steps_of(build_run(options, MAIN), options)
        steps.generator_step(parts)
        found.append(steps.means.read(MAIN))
    for name in ("spatial_gradient", "adversarial_gradient"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-3), name


@pytest.mark.slow
def test_the_discriminator_warms_up_alone(lab: Path, tmp_path: Path) -> None:
    """It learns from iteration 1 on; the generator of iteration 2 is the one it would be without a discriminator, of iteration 3 not."""
    changes = ("train.discriminator_start=1", "train.adversarial_start=2", "train.total_iter=3", "logger.save_checkpoint_freq=1")
    run = train(lab, tmp_path, *changes)
    assert ["loss_d" in line for line in logged(run)] == [False, True, True]
    assert ["loss_g" in line for line in logged(run)] == [False, False, True]
    alone = train(lab, tmp_path / "alone", *changes, "network_d.type=none")
    for iteration, same in ((2, True), (3, False)):
        ours, theirs = (load_file(folder / f"training_states/{iteration}/generator.safetensors") for folder in (run, alone))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs) == same


@pytest.mark.slow
def test_r1_joins_the_discriminators_gradient_every_so_often(lab: Path, tmp_path: Path, batches: list[dict]) -> None:
    """What it adds is the penalty's slope by finite differences along itself, and only at its iterations."""
    found = {}
    for weight in (0, 3):
        changes = ("network_d.train=full", "network_d.features=multi", f"train.r1_weight={weight}", "train.r1_every=2")
        options = options_of(lab, tmp_path, *changes)
        run = build_run(options, MAIN)
        steps = steps_of(run, options)
        for run.iteration in (1, 2):
            judged = steps.generator_step(batches)
            steps.discriminator_step(judged)
            trained = run.discriminator.trainable()
            found[weight, run.iteration] = {name: p.grad.clone() for name, p in trained.items()}
            run.discriminator.zero_grad()
    assert all(torch.equal(found[0, 1][name], found[3, 1][name]) for name in trained)
    added = {name: found[3, 2][name] - found[0, 2][name] for name in trained}
    length = sum(gradient.square().sum().item() for gradient in added.values()) ** 0.5

    def penalty() -> float:
        """3 / 2 x 2 iterations x E[|grad of the votes|^2], the gradient by autograd, one picture and one depth at a time."""
        total = 0.0
        for one in judged:
            seen = one.draws.real
            alpha_bar = run.generator.alphas_cumprod[seen.timesteps].view(-1, 1, 1, 1)
            shown = (alpha_bar.sqrt() * one.z_hr + (1 - alpha_bar).sqrt() * seen.noise).requires_grad_()
            for n in range(len(shown)):
                votes = run.discriminator(shown[n : n + 1], seen.timesteps[n : n + 1])
                slope = sum(torch.autograd.grad(logits.sum(), shown, retain_graph=True)[0][n] for logits in votes) / len(votes)
                total += slope.double().square().sum(0).mean().item() / len(shown) / len(judged)
        return 3 / 2 * 2 * total

    step, penalties = 5e-4, []
    for sign in (1, -2, 1):
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter += sign * step * added[name] / length
        penalties.append(penalty())
    assert length == pytest.approx((penalties[0] - penalties[1]) / (2 * step), rel=0.01)
    assert steps.means.read(MAIN)["r1"] == pytest.approx(penalties[2] / 3, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["network_d.train=full", "network_d.train_conv_in=true", "network_d.features=multi"])
def test_every_way_to_train_the_discriminator_trains_and_resumes(lab: Path, tmp_path: Path, how: str) -> None:
    changes = (how, "train.precision=bf16", "train.adversarial_weight=null", "train.adversarial_ratio=0.2", "logger.keep_last=9")
    whole = train(lab, tmp_path / "whole", *changes, "train.total_iter=4")
    saved = load_file(whole / "training_states/4/discriminator.safetensors")
    start = build_run(options_of(lab, tmp_path, *changes), MAIN).discriminator.trainable()
    assert saved.keys() == start.keys()
    if how != "network_d.features=multi":
        assert not torch.equal(saved["trunk.conv_in.weight"], start["trunk.conv_in.weight"])
    run = shutil.copytree(whole, tmp_path / "again/experiments/run")
    shutil.rmtree(run / "training_states/4")
    train(lab, tmp_path / "again", *changes, "train.total_iter=4")
    assert_same_bits(run / "training_states/4", whole / "training_states/4")


@pytest.mark.slow
def test_an_early_state_is_kept_and_a_validation_that_breaks_ends_nothing(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of the iteration is on the disk when its validation begins; every picture of it fails."""
    states = tmp_path / "experiments/run/training_states"
    seen: list[set[str]] = []

    def out_of_memory(*_: object, **__: object) -> tuple:
        seen.append({path.name for path in states.iterdir()} if states.exists() else set())
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("engine.validation.restore_picture", out_of_memory)
    pairs = f"datasets.val.mine={{dataroot_lq: {lab / 'LR/0.png'}, dataroot_gt: {lab / 'HR/0.png'}}}"
    often = ["val.val_freq=4", "logger.save_checkpoint_freq=4", "logger.first_checkpoint=1", "logger.keep_last=9", "val.best=mine/psnr"]
    run = train(lab, tmp_path, pairs, *often, "val.metrics={psnr: {type: psnr}, ssim: null}")
    assert seen == [set(), {"1", "4"}, {"1", "4", "5"}], "before iteration 1, at 4 and at the end"
    log = (run / "train_run.log").read_text()
    error = "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"
    said = f"validation of mine at iteration 4: 1 picture(s) left out (picture 1: {error}); val.tile"
    assert said in log and "val.best: nothing was scored" in log and "INFO: finished" in log


@pytest.mark.slow
def test_ten_steps_without_a_finite_gradient_end_the_run(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(sr: torch.Tensor, hr: torch.Tensor, *_: object, **__: object) -> tuple:
        return (sr * math.nan).mean(), {"mse": sr.new_zeros(()), "perceptual": sr.new_zeros(())}

    monkeypatch.setattr("engine.steps.spatial_loss", broken)
    assert train_d3sr.main(settings(lab, tmp_path, "train.total_iter=50", "logger.save_checkpoint_freq=9")) == 2
    error = capsys.readouterr().err
    assert "10 steps in a row without a finite gradient in network_g, at iteration 9" in error and "Traceback" not in error
    assert "NaN or inf in prompt_embedding, unet.conv_in.weight, unet.conv_in.bias and " in error
    state = tmp_path / "experiments/run/training_states/9"
    assert logged(tmp_path / "experiments/run")[-1]["skipped_steps"] == 9
    fresh = build_run(options_of(lab, tmp_path), MAIN).generator.trainable()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in load_file(state / "generator.safetensors").items())


DRIVER = """
import os, sys
import torch
torch.set_num_threads(1)
os.fsync = lambda _: None
import train_d3sr
port, *arguments = sys.argv[1:]
for number, total in enumerate((1, 3)):
    if number:
        os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}
    code = train_d3sr.main([*arguments, f"train.total_iter={total}"])
    if code:
        sys.exit(code)
"""


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(lab: Path, tmp_path: Path) -> None:
    """Under torchrun, with accumulation: one iteration, then the same command up to three.

    A large eps keeps AdamW from enlarging rounding where a gradient is next to nothing; DISTS is used without edges, whose gradient
    turns so fast that rounding alone grows thirtyfold an iteration (in one process, too).
    """
    same = ["train.grad_clip=null", "train.optim_g.eps=1e-2", "train.optim_d.eps=1e-2", "train.scheduler={type: constant, warmup_iter: 0}"]
    same += ["train.optim_g.lr=1e-4", "train.optim_d.lr=1e-4", "logger.keep_last=9", "train.perceptual.type=dists"]
    whole = ["datasets.train.batch_size_per_gpu=8", "logger.save_checkpoint_freq=1", "train.total_iter=3"]
    alone = train(lab, tmp_path / "alone", *same, *whole)
    (tmp_path / "driver.py").write_text(DRIVER)
    together = [*same, "datasets.train.batch_size_per_gpu=2", "train.accumulate=2", "num_gpu=2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    command = [*torchrun, str(tmp_path / "driver.py"), str(free_port()), *settings(lab, tmp_path / "two", *together)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    run = tmp_path / "two/experiments/run"
    assert f"resuming {run / 'training_states/1'}" in (run / "train_run.log").read_text()
    for mine, single in zip(logged(run), logged(alone), strict=True):
        for name in ("iter", "mse", "perceptual", "loss_g", "loss_d", "real_logits", "fake_logits", "gradient_g", "gradient_d"):
            assert mine[name] == pytest.approx(single[name], rel=3e-3, abs=1e-5), (name, mine["iter"])
    start = build_run(options_of(lab, tmp_path), MAIN)
    fresh = {f"generator.{name}": p for name, p in start.generator.trainable().items()}
    fresh |= {f"discriminator.{name}": p for name, p in start.discriminator.trainable().items()}
    for iteration, tolerance in ((1, 1e-3), (3, 1e-2)):
        ours, theirs = (tensors_of(folder / f"training_states/{iteration}") for folder in (run, alone))
        assert ours.keys() == theirs.keys() > fresh.keys()
        for part in ("generator.", "discriminator.", "optimizer_g.", "optimizer_d."):
            names = [name for name in theirs if name.startswith(part) and not name.endswith(".step")]
            apart = max((ours[name] - theirs[name]).abs().max().item() for name in names)
            moved = max((theirs[name] - fresh.get(name, 0)).abs().max().item() for name in names)
            one_ulp = 2**-23  # of a weight near 1
            assert moved > 5e-5 and apart < tolerance * moved + 2 * one_ulp, f"{part} {apart} apart after {moved}, iteration {iteration}"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.total_iters=3", "total_iter"),
        ("train.optim_g.lr=fast", "train.optim_g.lr"),
        ("network_g.pretrained=no/such/base", "no/such/base"),
        ("network_d.pretrained=no/such/base", "no/such/base"),
        ("datasets.train.dataroot_gt=no/such/folder", "no/such/folder"),
        ("datasets.train.gt_size=128", "no usable training image; lower gt_size (128)"),
        ("datasets.val.mine.dataroot_lq=no/such/folder", "no/such/folder"),
        ("num_gpu=3", "num_gpu is 3, but 1 process(es) were started: use torchrun --nproc_per_node 3"),
        ("train.perceptual.backbone_weights=no/such.pth", "no/such.pth"),
        ("path.pretrain_network_g=no/such/folder", "no/such/folder"),
    ],
)
def test_mistakes_end_with_one_message_and_status_2(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, change: str, expected: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert train_d3sr.main(settings(lab, tmp_path, change, "val.metrics={psnr: null, ssim: null}")) == 2
    error = capsys.readouterr().err
    (message,) = [line for line in error.splitlines() if line.startswith("train_d3sr.py: ")]
    assert expected in error[error.index(message) :] and "Traceback" not in error


def test_several_mistakes_in_paths_are_one_message_and_nothing_is_made(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Neither a folder for the run, nor an archive of the former one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    gone = ["network_d.pretrained=owner/name", "datasets.train.dataroot_gt=no/photos", "path.resume=false"]
    assert train_d3sr.main(settings(lab, tmp_path, *gone)) == 2
    error = capsys.readouterr().err
    assert "2 things" in error and "network_d.pretrained: owner/name" in error and "datasets.train.dataroot_gt: no/photos" in error
    assert list(tmp_path.iterdir()) == []


def test_cuda_that_is_not_there_is_a_mistake(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train_d3sr.main(settings(lab, tmp_path, "device=cuda")) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_d3sr.py: device: cuda was asked for") and "is built for" in error and error.count("\n") == 1


def test_a_launcher_without_torchrun_and_a_missing_option_file_are_mistakes_too(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train_d3sr.main([*settings(lab, tmp_path), "--launcher", "pytorch"]) == 2
    assert "torchrun --nproc_per_node N" in capsys.readouterr().err
    assert train_d3sr.main(["-opt", str(tmp_path / "absent.yml")]) == 2
    assert "absent.yml" in capsys.readouterr().err


@pytest.mark.slow
def test_debug_is_eight_iterations_and_a_dry_run_writes_nothing(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert train_d3sr.main([*settings(lab, tmp_path), "--dry-run"]) == 0
    assert "What would be loaded" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
    arguments = [argument for argument in settings(lab, tmp_path) if not argument.startswith(("train.total_iter", "logger."))]
    assert train_d3sr.main([*arguments, "--debug"]) == 0
    run = tmp_path / "experiments/run"
    assert [line["iter"] for line in logged(run)] == list(range(1, 9))
    assert {path.name for path in (run / "training_states").iterdir()} == {"4", "8"} and not (tmp_path / "tb").exists()


def test_help_and_option_mistakes_come_before_heavy_imports() -> None:
    code = (
        "import sys, train_d3sr\n"
        f"assert train_d3sr.main(['-opt', {OPTIONS!r}, '--force_yml', 'train.total_iters=4']) == 2\n"
        "assert not {'torch', 'cv2', 'numpy', 'PIL', 'pyiqa', 'diffusers'} & set(sys.modules)\n"
        "train_d3sr.main(['--help'])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "-opt FILE" in done.stdout and "did you mean" in done.stderr.lower() or "total_iter" in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0, "seconds of processor time"
