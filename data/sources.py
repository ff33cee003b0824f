"""Which file the n-th training sample comes from, and another one where that cannot be read."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from tqdm import tqdm

Loaded = TypeVar("Loaded")

MAX_ATTEMPTS = 10
BAR_DELAY = 2.0  # seconds before a progress bar is shown
_BLOCK = 10_000  # samples over which the shares of weighted pools are exact
_ORDER, _POOLS, _RETRY = 101, 102, 103  # what a random stream is for, so that no two streams of one seed are the same


def stream(seed: int, n: int, *purpose: int) -> np.random.Generator:
    """The random stream of sample n for one purpose: the same numbers wherever and whenever it is asked for."""
    return np.random.default_rng([seed, n, *purpose])


class FileOrder:
    """Maps a sample number n to a file index; a pure function of (seed, n), remembered only for speed.

    `weights` has one positive number per file: how often it is drawn, compared with a file of weight 1. Files of equal weight form a pool,
    which is gone through in epochs: every file once, in an order drawn from (seed, epoch). With one pool that is all. With several, each
    block of 10,000 samples holds every pool in its exact share (weight times files), shuffled by (seed, block).
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.seed = seed
        values = np.asarray(weights, dtype=np.float64)
        self._pools = [np.flatnonzero(values == weight) for weight in np.unique(values)]
        self._shares = _whole_shares([values[pool].sum() for pool in self._pools])
        self._block: tuple[int, np.ndarray, np.ndarray] = (-1, np.empty(0), np.empty(0))
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}

    def file(self, n: int, attempt: int = 0) -> int:
        """File index of sample n. For attempt 1, 2, ... (the file before could not be read) another one of the same pool."""
        pool, position = self._place(n)
        files = self._pools[pool]
        if attempt:
            return int(files[stream(self.seed, n, _RETRY, attempt).integers(len(files))])
        epoch, offset = divmod(position, len(files))
        return int(files[self._permutation(pool, epoch)[offset]])

    def _place(self, n: int) -> tuple[int, int]:
        """(pool, how many samples before n came from that pool)."""
        if len(self._pools) == 1:
            return 0, n
        block, offset = divmod(n, _BLOCK)
        if self._block[0] != block:
            pools = np.repeat(np.arange(len(self._shares)), self._shares)
            pools = stream(self.seed, block, _POOLS).permutation(pools)
            counts = np.empty_like(pools)
            for pool, share in enumerate(self._shares):
                counts[pools == pool] = np.arange(share)
            self._block = (block, pools, counts)
        pool = int(self._block[1][offset])
        return pool, block * int(self._shares[pool]) + int(self._block[2][offset])

    def _permutation(self, pool: int, epoch: int) -> np.ndarray:
        if self._epochs.get(pool, (-1,))[0] != epoch:
            self._epochs[pool] = (epoch, stream(self.seed, epoch, _ORDER, pool).permutation(len(self._pools[pool])))
        return self._epochs[pool][1]


def _whole_shares(shares: Sequence[float]) -> np.ndarray:
    """Shares as whole numbers that add up to _BLOCK, none of them 0 (largest remainders are rounded up)."""
    exact = np.asarray(shares) / np.sum(shares) * _BLOCK
    whole = np.maximum(np.floor(exact), 1).astype(np.int64)
    for index in np.argsort(np.floor(exact) - exact)[: max(0, _BLOCK - whole.sum())]:
        whole[index] += 1
    whole[np.argmax(whole)] += _BLOCK - whole.sum()
    return whole


def draw_readable(order: FileOrder, n: int, load: Callable[[int, int], Loaded]) -> tuple[int, Loaded, list[str]]:
    """(file index, what `load(file index, n)` returned, "path: reason" of each file that failed before it) for sample n.

    Raises: ValueError naming the files when MAX_ATTEMPTS in a row cannot be read.
    """
    skipped: list[str] = []
    for attempt in range(MAX_ATTEMPTS):
        index = order.file(n, attempt)
        try:
            return index, load(index, n), skipped
        except ValueError as error:
            skipped.append(str(error))
    named = some(skipped, MAX_ATTEMPTS)
    raise ValueError(f"sample {n}: {MAX_ATTEMPTS} files in a row could not be read; check the disk and the data set:{named}")


def some(lines: Sequence[str], shown: int = 5) -> str:
    """The first few lines, indented below a heading, and how many more there are."""
    rest = [f"... and {len(lines) - shown} more"] if len(lines) > shown else []
    return "".join(f"\n  {line}" for line in [*lines[:shown], *rest])


def progress_bar(total: int, what: str, unit: str) -> tqdm:
    """A bar on stderr, if that is a terminal, for work that takes long only where there are many files."""
    return tqdm(total=total, desc=what, unit=unit, delay=BAR_DELAY, disable=None, dynamic_ncols=True)
