from itertools import islice

import pytest

from data.sampler import ShardedSampler


def take(count: int, **arguments: int) -> list[int]:
    return list(islice(ShardedSampler(**arguments), count))


def test_one_process_counts_from_start() -> None:
    assert take(4) == [0, 1, 2, 3]
    assert take(3, start=10**12) == [10**12, 10**12 + 1, 10**12 + 2]


@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_interleave_to_the_single_process_order(world_size: int) -> None:
    shards = [take(5, rank=rank, world_size=world_size, start=7) for rank in range(world_size)]
    assert [n for together in zip(*shards, strict=True) for n in together] == take(5 * world_size, start=7)


def test_each_iteration_starts_again_at_start() -> None:
    sampler = ShardedSampler(rank=1, world_size=2, start=4)
    assert list(islice(sampler, 2)) == list(islice(sampler, 2)) == [5, 7]


@pytest.mark.parametrize("arguments", [{"rank": 2, "world_size": 2}, {"rank": -1}, {"world_size": 0}, {"start": -1}])
def test_impossible_shards_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        ShardedSampler(**arguments)
