"""From endless samples to endless batches on the training device."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from data.hr_crops import collate
from data.sampler import ShardedSampler


def endless_batches(
    dataset: Dataset, batch_size: int, sampler: ShardedSampler, *, workers: int, device: torch.device, warn: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Batches of `HRCrops` or `PairedCrops` (see `collate`), pictures on `device`, made by `workers` processes.

    warn: told of every image that could not be read, with a running count; another one stands in its place.

    Raises:
        ValueError: so many files in a row cannot be read that the disk or the folder must be gone.
    """
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=_begin_worker,
    )
    unreadable, batches = 0, iter(loader)
    while True:
        try:
            batch = next(batches)
        except ValueError as error:  # from a loader process it comes with the whole traceback around it
            raise ValueError(str(error).rpartition("\nValueError: ")[2].strip()) from error
        for line in batch["skipped"]:
            unreadable += 1
            warn(f"unreadable, another image taken ({unreadable} so far): {line}")
        yield batch | {key: batch[key].to(device, non_blocking=True) for key in ("lr", "hr") if key in batch}


def _begin_worker(_worker: int) -> None:
    # One loader process is one of many: OpenCV must not take every core in each of them.
    cv2.setNumThreads(0)
    # The whole group gets Ctrl-C and a batch system's SIGTERM; the training process still needs its samples to finish the iteration.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where SIGTERM ends a loader process as ever
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_the_parent, daemon=True).start()


def _obey_the_parent() -> None:
    """Ends this process at a SIGTERM of its parent, which waits for it at its own end; those of others are the parent's business."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(128 + signal.SIGTERM)
