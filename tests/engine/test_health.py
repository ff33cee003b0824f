"""The discriminator per bucket of timesteps against counts by hand, gradients that are not finite, and processes that drifted apart."""

import math
import struct

import pytest
import torch

from engine.distributed import World
from engine.health import DiscriminatorHealth, check_ranks, not_finite
from tests.engine.test_distributed import in_processes

CPU = torch.device("cpu")
MAIN = World(0, 1, CPU)


def votes(*per_sample: list[float]) -> list[torch.Tensor]:
    """(N, 1, w) logits of one depth."""
    return [torch.tensor(per_sample)[:, None]]


def test_votes_are_averaged_in_the_bucket_of_their_timestep() -> None:
    health = DiscriminatorHealth(0, 999, CPU)
    health.add(votes([1.0, 3.0], [-1.0, 0.0]), torch.tensor([0, 249]), votes([-2.0, 2.0], [-4.0, -6.0]), torch.tensor([250, 999]))
    health.add(votes([5.0, -3.0]), torch.tensor([249]), votes([-1.0, -1.0]), torch.tensor([749]))
    assert health.read(MAIN) == pytest.approx(
        {
            "real_logits_t0-249": (2.0 - 0.5 + 1.0) / 3, "real_accuracy_t0-249": (2 + 0 + 1) / 6,
            "fake_logits_t250-499": 0.0, "fake_accuracy_t250-499": 0.5,
            "fake_logits_t500-749": -1.0, "fake_accuracy_t500-749": 1.0,
            "fake_logits_t750-999": -5.0, "fake_accuracy_t750-999": 1.0,
        }
    )  # fmt: skip
    assert health.read(MAIN) == {}
    health.add(votes([1.0]), torch.tensor([3]), votes([1.0]), torch.tensor([3]))
    assert health.read(MAIN)["fake_accuracy_t0-249"] == 0.0


def test_depths_count_alike_however_many_regions_they_have() -> None:
    health, one = DiscriminatorHealth(0, 0, CPU), torch.tensor([0])
    health.add([torch.tensor([[[1.0, 1.0, 1.0, -1.0]]]), torch.tensor([[[-4.0]]])], one, [torch.ones(1, 1, 4), -torch.ones(1, 1, 1)], one)
    assert health.read(MAIN) == {"real_logits": (0.5 - 4.0) / 2, "real_accuracy": 0.375, "fake_logits": 0.0, "fake_accuracy": 0.5}


@pytest.mark.parametrize(
    ("low", "high", "buckets"),
    [
        (0, 999, ["_t0-249", "_t250-499", "_t500-749", "_t750-999"]),
        (20, 980, ["_t20-260", "_t261-500", "_t501-740", "_t741-980"]),
        (5, 7, ["_t5-5", "_t6-6", "_t7-7"]),
        (0, 0, [""]),
    ],
)
def test_the_buckets_are_equal_and_named_after_what_falls_into_them(low: int, high: int, buckets: list[str]) -> None:
    found = {}
    for timestep in range(low, high + 1):
        health, one = DiscriminatorHealth(low, high, CPU), torch.tensor([timestep])
        health.add(votes([1.0]), one, votes([1.0]), one)
        (name,) = (name.removeprefix("real_logits") for name in health.read(MAIN) if name.startswith("real_logits"))
        found.setdefault(name, []).append(timestep)
    assert list(found) == buckets
    assert all(name in ("", f"_t{steps[0]}-{steps[-1]}") for name, steps in found.items())
    sizes = {len(steps) for steps in found.values()}
    assert max(sizes) - min(sizes) <= 1


def test_a_broken_vote_stays_in_its_bucket_and_no_graph_is_kept() -> None:
    health, weight = DiscriminatorHealth(0, 999, CPU), torch.ones((), requires_grad=True)
    real = votes([math.nan, 1.0], [2.0, 2.0])[0] * weight
    health.add([real.detach()], torch.tensor([0, 999]), votes([-1.0], [-1.0]), torch.tensor([0, 999]))
    read = health.read(MAIN)
    assert math.isnan(read["real_logits_t0-249"]) and read["real_accuracy_t0-249"] == 0.5
    assert read["real_logits_t750-999"] == 2.0 and read["fake_accuracy_t0-249"] == 1.0


def _uneven(world: World) -> dict[str, float]:
    """Rank 0 sees one sample in the first bucket; rank 1 three in the first and one in the last."""
    health = DiscriminatorHealth(0, 999, CPU)
    real = (votes([1.0]), votes([5.0], [5.0], [-2.0], [7.0]))[world.rank]
    timesteps = (torch.tensor([0]), torch.tensor([1, 2, 3, 999]))[world.rank]
    health.add(real, timesteps, [-real[0]], timesteps)
    return health.read(world)


def test_buckets_are_averaged_over_samples_not_over_processes() -> None:
    expected = {"real_logits_t0-249": 9 / 4, "real_accuracy_t0-249": 3 / 4, "real_logits_t750-999": 7.0, "real_accuracy_t750-999": 1.0}
    expected |= {"fake_logits_t0-249": -9 / 4, "fake_accuracy_t0-249": 3 / 4, "fake_logits_t750-999": -7.0, "fake_accuracy_t750-999": 1.0}
    for read in in_processes(2, _uneven):
        assert read == pytest.approx(expected)


def test_tensors_whose_gradient_is_not_finite_are_named() -> None:
    parameters = {name: torch.nn.Parameter(torch.ones(3)) for name in "abcd"}
    assert not_finite(parameters) == []
    for name, value in zip("abc", (1.0, math.inf, math.nan), strict=True):
        parameters[name].grad = torch.tensor([0.0, value, 0.0])
    assert not_finite(parameters) == ["b", "c"]


def players() -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {"g": {"a": torch.randn(7, 5, generator=generator)}, "d": {"b": torch.randn(3, generator=generator), "c": torch.zeros(2)}}


FAULTS = {
    "none": lambda found: None,
    "one bit": lambda found: found["d"]["b"][1:2].copy_(flip_last_bit(found["d"]["b"][1].item())),
    "minus zero": lambda found: found["d"]["b"][1:2].neg_(),
    "in both": lambda found: [tensor.mul_(1 + 2**-20) for tensor in (found["g"]["a"], found["d"]["b"])],
    "nan": lambda found: found["d"]["b"][0:1].fill_(math.nan),
}
TOLD = {"none": None, "in both": ("2 of 3", "network_g's a")} | dict.fromkeys(("one bit", "minus zero", "nan"), ("1 of 3", "network_d's b"))


def flip_last_bit(number: float) -> torch.Tensor:
    (bits,) = struct.unpack("<i", struct.pack("<f", number))
    return torch.tensor(struct.unpack("<f", struct.pack("<i", bits ^ 1)))


def _check_with_faults(world: World) -> dict[str, str | None]:
    told = {}
    for name, fault in FAULTS.items():
        found = players()
        if world.rank == 1:
            fault(found)
        try:
            check_ranks(found, 77, world)
        except ValueError as error:
            told[name] = str(error)
        else:
            told[name] = None
    return told


def test_a_process_with_other_weights_is_found_by_all() -> None:
    for told in in_processes(2, _check_with_faults):
        for name, message in told.items():
            if TOLD[name] is None:
                assert message is None, name
                continue
            count, first = TOLD[name]
            assert f"at iteration 77 process 1 differs from process 0 in {count} trained tensors, first in {first}. " in message, name


def test_equal_nans_are_equal_and_one_process_has_nothing_to_compare() -> None:
    check_ranks({"g": {"a": torch.full((2,), math.nan)}}, 1, MAIN)
    assert in_processes(2, _same_nan) == [None, None]


def _same_nan(world: World) -> None:
    check_ranks({"g": {"a": torch.full((2,), math.nan)}}, 1, world)
