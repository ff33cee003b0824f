"""The benchmark on very small models: every number is there and finite, the tables say what the JSON says, a known growth is found."""

import json
import math
from importlib.util import find_spec
from operator import truediv
from pathlib import Path
from time import sleep

import pytest
import torch

from tests.tiny_models import write_sd_base, write_taesd, write_tiny_base
from tests.tools.test_export import release
from tests.tools.timing.test_rivals import write_compact
from tools.benchmark import main
from tools.exporting.ncnn_export import PACKAGES
from tools.timing.measure import fitted_exponent, interleaved, memory_of, ratios
from tools.timing.parts import losses
from tools.timing.report import COLUMNS
from tools.timing.rivals import RESTORED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sd_run(tmp_path_factory) -> Path:
    """LoRA on Stable Diffusion in small."""
    folder = tmp_path_factory.mktemp("sd")
    return release(folder / "run", write_sd_base(folder / "base"))


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return release(folder / "run", write_tiny_base(folder / "base"), train="full")


def benchmark(run: Path, out: Path, *arguments: str) -> tuple[dict, str]:
    """The JSON and the Markdown of a run of the tool."""
    assert main(["-opt", str(run.with_suffix(".yml")), "-o", str(out), "--repeats", "2", *arguments]) == 0
    return json.loads((out / "benchmark.json").read_text()), (out / "benchmark.md").read_text()


def numbers(value: object) -> list[float]:
    """Every number inside, None left out."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_the_variants_of_a_lora_on_stable_diffusion(sd_run, tmp_path):
    taesd = write_taesd(tmp_path / "taesd")
    names = ["naive", "loaded", "fused", "channels_last", "phase", "bf16"]
    arguments = ("--sizes", "64", "128", "--variants", *names, "--fast-vae", str(taesd))
    results, text = benchmark(sd_run, tmp_path / "out", *arguments)
    rows = {(row["variant"], row["size"]): row for row in results["rows"]}
    assert list(rows) == [(name, size) for size in (64, 128) for name in (*names, "fast_decoder", "fast_both")]
    assert all(math.isfinite(number) for number in numbers(results)) and all(row["memory_mib"] > 0 for row in rows.values())
    for name in names[:-1]:
        assert rows[name, 64]["difference"] < 2e-4, "the same picture up to rounding"
    assert 2e-4 < rows["bf16", 64]["difference"] < 0.5 and rows["bf16", 64]["weights_mib"] < 0.6 * rows["channels_last", 64]["weights_mib"]
    assert min(rows[name, 64]["difference"] for name in ("fast_decoder", "fast_both")) > 1e-2, "another autoencoder"
    macs = {name: row["gmacs"] for (name, size), row in rows.items() if size == 64}
    assert macs["naive"] > macs["loaded"] > macs["fused"] == macs["channels_last"] == macs["bf16"] > macs["phase"]
    assert macs["channels_last"] > macs["fast_decoder"] > macs["fast_both"]
    assert rows["naive", 64]["ratio"] == 1 and rows["naive", 64]["weights_mib"] > rows["fused", 64]["weights_mib"]
    for row in rows.values():
        share = row["gmacs"] / row["seconds"] / max(results["limit"].values())
        assert row["share"] == pytest.approx(share) and row["seconds"] in row["all_seconds"]
        cells = [form.format(row[key]) for key, (_, form) in COLUMNS.items() if key != "times_ours"]  # that is for rivals
        assert f"| {' | '.join(cells)} |" in text.splitlines()
    assert (tmp_path / "out/benchmark.png").stat().st_size > 10_000


def test_rivals_stand_beside_ours(tiny_run, tmp_path, capfd):
    pytest.importorskip("spandrel", reason="pip install -r requirements-peers.txt")
    with_ncnn = all(map(find_spec, PACKAGES))
    four, two = write_compact(tmp_path / "four.safetensors", scale=4), write_compact(tmp_path / "two.pth", scale=2)
    variants = ("naive", "ncnn") if with_ncnn else ("naive",)
    results, text = benchmark(tiny_run, tmp_path / "out", "--sizes", "64", "--variants", *variants, "--rivals", str(four), str(two))
    rows = {row["variant"]: row for row in results["rows"]}
    through = ("torch", "ncnn") if with_ncnn else ("torch",)
    ours = ["naive", "channels_last", *variants[1:], RESTORED, *(f"{RESTORED}, runtime: {name}" for name in variants[1:])]
    assert list(rows) == [*ours, *(f"{name}, {how}" for name in ("four", "two") for how in through)]
    assert all(rows[name]["difference"] < 1e-4 for name in variants[1:])
    assert all(math.isfinite(number) for number in numbers(results)) and rows["channels_last"]["times_ours"] == 1
    for row in rows.values():
        taken, ours = row["all_seconds"], rows["channels_last"]["all_seconds"]
        assert min(map(truediv, taken, ours)) <= row["times_ours"] <= max(map(truediv, taken, ours)), "within a round"
        cells = ["-" if row[key] is None else form.format(row[key]) for key, (_, form) in COLUMNS.items()]
        assert f"| {' | '.join(cells)} |" in text.splitlines()
    for name, side, scale in (("four", 16, 4), ("two", 32, 2)):
        macs = side**2 * 9 * (3 * 8 + 8 * 8 + 8 * 3 * scale**2)
        assert rows[f"{name}, torch"]["gmacs"] == pytest.approx(macs / 1e9) and rows[f"{name}, torch"]["memory_mib"] > 0
    assert rows[RESTORED]["gmacs"] > 2 * rows["channels_last"]["gmacs"], "the mirrored frame"
    assert all(note in text for note in results["rivals"]) and len(results["rivals"]) == 1 + 2 * with_ncnn
    assert "pass_level" not in "".join(capfd.readouterr()), "what pnnx says"


def test_growth_training_and_mistakes(tiny_run, tmp_path, capsys):
    base = tiny_run.parent / "base"
    training = tmp_path / "train.yml"
    file = Path(__file__).resolve().parents[2] / "options/train_tiny.yml"
    training.write_text(
        f"base: '{file}'\nname: x\ndatasets: {{train: {{gt_size: 32, batch_size_per_gpu: 2}}}}\n"
        f"network_g: {{pretrained: '{base}'}}\nnetwork_d: {{pretrained: '{base}'}}\ntrain: {{precision: fp32}}\n"
    )
    arguments = ("--sizes", "--scaling", "64", "128", "256", "--training", str(training))
    results, text = benchmark(tiny_run, tmp_path / "out", *arguments)
    assert results["rows"] == [] and set(results["parts"]) == {"Scaling", "Training"}
    assert all(math.isfinite(number) for number in numbers(results))
    growth = results["parts"]["Scaling"]
    assert [row["size"] for row in growth["rows"]] == [64, 128, 256]
    assert growth["exponents"]["memory_mib"] == pytest.approx(1, abs=0.35), "untiled, memory is in proportion to the area"
    assert growth["note"] in text
    (row,) = results["parts"]["Training"]["rows"]
    assert row["images"] == 2 and row["per_second"] == pytest.approx(2 / row["seconds"]) and row["memory_mib"] > 0
    assert main(["-opt", str(tiny_run.with_suffix(".yml")), "-o", str(tmp_path / "bad"), "--sizes", "65", "--variants", "naive"]) == 2
    assert "expected a multiple of 16 pixels, got 65" in capsys.readouterr().err and not (tmp_path / "bad").exists()


def test_the_perceptual_losses_are_the_same_and_all_are_measured():
    part = losses(torch.device("cpu"), batch=1, side=32, repeats=1)
    assert [row["what"] for row in part["rows"]] == ["EA-DISTS, here", "two calls of pyiqa's DISTS", "its convolutions alone"]
    assert all(math.isfinite(number) and number > 0 for number in numbers(part["rows"]))


def test_a_power_law_is_found():
    assert fitted_exponent([1, 2, 4, 8], [3, 6 * 2**0.5, 12 * 2, 24 * 2**1.5]) == pytest.approx(1.5)


def test_processor_seconds_leave_out_what_others_take():
    seconds = interleaved({"": lambda: sleep(0.2)}, torch.device("cpu"), repeats=1, warmup=0, clock="cpu")
    assert seconds[""][0] < 0.2 <= interleaved({"": lambda: sleep(0.2)}, torch.device("cpu"), repeats=1, warmup=0)[""][0]


def test_ratios_are_taken_within_a_round():
    assert ratios({"base": [1.0, 10.0, 100.0], "own": [0.5, 5.0, 50.0]}, "base") == {"base": 1.0, "own": 2.0}


def test_every_call_has_its_turn_in_every_round():
    said: list[str] = []
    calls = {name: (lambda name=name: said.append(name)) for name in "ab"}
    seconds = interleaved(calls, torch.device("cpu"), repeats=3, warmup=1)
    assert said == [*"ab", *"ababab"] and [len(taken) for taken in seconds.values()] == [3, 3]


def test_the_memory_of_a_call_is_what_lives_at_once():
    def call() -> None:
        for _ in range(3):
            torch.zeros(2**18)  # 1 MiB, gone before the next
        first, second = torch.zeros(2**18), torch.zeros(2**18)
        first.add_(second)

    assert memory_of(call, torch.device("cpu")) == pytest.approx(2)
