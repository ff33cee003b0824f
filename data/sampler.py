"""Which samples a process sees, in which order."""

from collections.abc import Iterator

from torch.utils.data import Sampler


class ShardedSampler(Sampler[int]):
    """Endless sample numbers of one process out of `world_size`: start + rank, start + rank + world_size, ...

    The numbers themselves are not random. Everything random about sample n (file, crop, flip, degradation) is drawn by the dataset from
    (seed, n), so the n-th sample of a run is the same whatever the number of workers, however the run was interrupted, and on whichever
    rank it lands: together the ranks see start, start + 1, ... without gaps. To resume, give as `start` the number of samples that all
    ranks together have consumed (not what their loaders have prefetched).

    Raises: ValueError when rank is not in 0..world_size - 1 or start is negative.
    """

    def __init__(self, *, rank: int = 0, world_size: int = 1, start: int = 0) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside of 0..{world_size - 1} (world_size {world_size})")
        if start < 0:
            raise ValueError(f"start is a count of samples already seen, so at least 0; got {start}")
        self.rank, self.world_size, self.start = rank, world_size, start

    def __iter__(self) -> Iterator[int]:
        n = self.start + self.rank
        while True:
            yield n
            n += self.world_size
