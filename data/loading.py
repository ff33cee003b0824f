"""From endless samples to endless batches on the training device."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from data.hr_crops import collate
from data.image_io import to_unit_range
from data.sampler import ShardedSampler

_SHARED_MEMORY = "/dev/shm"


class LoaderProcessError(ValueError):
    """A loader process came to its end. The message says why, as far as that is known, and what to do."""

    exit_status = 1  # of the program: seldom a mistake in the options


def endless_batches(
    dataset: Dataset, batch_size: int, sampler: ShardedSampler, *, workers: int, device: torch.device, warn: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Batches of `HRCrops` or `PairedCrops`, made by `workers` processes, as `on_device` returns them.

    warn: told of every image that could not be read, with a running count; another one stands in its place.

    Raises:
        ValueError: so many files in a row cannot be read that the disk or the folder must be gone.
        LoaderProcessError: a loader process died. It is raised at once, wherever the program's main thread is.
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
    _explain_deaths()
    while True:
        try:
            with _explained():
                batch = next(batches)
        except LoaderProcessError:
            raise
        except ValueError as error:  # from a loader process it comes with the whole traceback around it
            raise ValueError(str(error).rpartition("\nValueError: ")[2].strip()) from error
        for line in batch["skipped"]:
            unreadable += 1
            warn(f"unreadable, another image taken ({unreadable} so far): {line}")
        yield on_device(batch, device)


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch of `collate` with `hr` and `lr` on the device as float32 (N, 3, H, W) in [0, 1]; the rest, `index` too, stays as it is."""
    pictures = {key: batch[key].to(device, non_blocking=True) for key in ("lr", "hr") if key in batch}
    return {**batch, **{key: to_unit_range(levels) for key, levels in pictures.items()}}


def _explain_deaths() -> None:
    """Torch's handler of SIGCHLD raises a RuntimeError wherever the program just is: let it be a LoaderProcessError."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and getattr(handler, "func", None) is not _on_death:
        signal.signal(signal.SIGCHLD, partial(_on_death, handler))


def _on_death(torch_handler: Callable[[int, FrameType | None], None], number: int, frame: FrameType | None) -> None:
    with _explained():
        torch_handler(number, frame)


@contextmanager
def _explained() -> Iterator[None]:
    """What torch says of loader processes that end, as a LoaderProcessError; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__cause__, LoaderProcessError):  # `_on_death` spoke while torch waited for a batch
            raise error.__cause__ from None
        explanation = _cause_of_death(str(error))
        if explanation is None:
            raise
        raise LoaderProcessError(explanation) from error


def _cause_of_death(text: str) -> str | None:
    """For the user, what an error of torch's says about a loader process; None if it is about something else."""
    if "killed by signal: Bus error" in text or "unable to allocate shared memory" in text:
        size = f"{shutil.disk_usage(_SHARED_MEMORY).total / 2**20:.0f} MiB" if os.path.isdir(_SHARED_MEMORY) else "missing"
        return (
            f"a loader process found no room for its batch in shared memory ({_SHARED_MEMORY}: {size}); in Docker start the container with "
            "--shm-size=8g or --ipc=host (its own size is 64 MiB), or set datasets.train.num_worker_per_gpu: 0"
        )
    if not text.startswith("DataLoader worker"):
        return None
    if "killed by signal: Killed" in text:
        return (
            "a loader process was killed (SIGKILL), most likely for want of memory; lower datasets.train.num_worker_per_gpu, or give the "
            "machine, container or batch job more memory. The same command goes on from the last state"
        )
    return (
        f"a loader process came to an unexpected end ({text.strip()}); unless something above says why, set "
        "datasets.train.num_worker_per_gpu: 0 to see the error itself"
    )


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
