"""Reading, computing and writing at the same time: one item is decoded ahead and others are encoded while the network is busy."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")

FAILURES = (ValueError, OSError, RuntimeError, MemoryError)
"""What may go wrong with one item without ending the others: a broken file, a full disk, a device without memory."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Written]):
    """What became of one item: the value that its last stage returned, or the error that stopped it."""

    item: Item
    value: Written | None = None
    error: Exception | None = None


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Computed],
    write: Callable[[Item, Computed], Written],
    *,
    writers: int = 2,
) -> Iterator[Outcome[Item, Written]]:
    """write(item, compute(item, read(item))) for every item; outcomes come in the items' order.

    compute runs in the caller's thread; read in one other thread, one item ahead; write in `writers` threads, and no more than as many
    items wait for it, so that memory holds a few items only. Errors other than FAILURES, and Ctrl-C, are raised, but not before what is
    being written is whole.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(writers, "write") as pool:
        ahead: Future[Read] | None = None
        writing: deque[tuple[Item, Future[Written]]] = deque()
        try:
            for index, item in enumerate(items):
                current = ahead or reader.submit(read, item)
                following = items[index + 1 : index + 2]
                ahead = reader.submit(read, following[0]) if following else None
                writing.append((item, _computed(item, current, compute, write, pool)))
                while len(writing) > writers or (writing and writing[0][1].done()):
                    yield _outcome(*writing.popleft())
            while writing:
                yield _outcome(*writing.popleft())
        finally:
            if ahead is not None:
                ahead.cancel()


def _computed(
    item: Item,
    loaded: Future[Read],
    compute: Callable[[Item, Read], Computed],
    write: Callable[[Item, Computed], Written],
    pool: ThreadPoolExecutor,
) -> Future[Written]:
    try:
        return pool.submit(write, item, compute(item, loaded.result()))
    except FAILURES as error:
        failed: Future[Written] = Future()
        failed.set_exception(error)
        return failed


def _outcome(item: Item, written: Future[Written]) -> Outcome[Item, Written]:
    try:
        return Outcome(item, written.result())
    except FAILURES as error:
        return Outcome(item, error=error)
