"""Log file, console, TensorBoard, the lines on the machine, and the running means between two log lines.

Only the main process writes; the others just warn.
"""

import logging
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from data.console import say, shown
from data.whole_files import why_refused, write_text
from engine.distributed import World, mean_over_ranks
from engine.driver import driver_version
from engine.memory import GIB

try:
    import resource
except ImportError:  # Windows
    resource = None


class Forgiving:
    """A stream whose refusals (a full disk that the output is redirected to, a reader that is gone) lose text and end nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class LogFile(logging.FileHandler):
    """The log. Where the disk refuses a line, the terminal says so, once; every later one is tried."""

    refused = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.refused:
            self.refused = True
            logging.getLogger("d3sr").warning(f"cannot write {self.baseFilename}: {why_refused(error)}; the training goes on")

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class BarHandler(logging.StreamHandler):
    """Writes lines above a tqdm bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), error=True)


class VisibleFormatter(logging.Formatter):
    """No name within a message acts on a terminal, or begins a line that looks like another message."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def open_log(file: Path | None) -> logging.Logger:
    """The run's logger: console and `file` on the main process; warnings on the console, and nothing else, where file is None."""
    logger = logging.getLogger("d3sr")
    logger.propagate = False
    logger.setLevel(logging.WARNING if file is None else logging.INFO)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [BarHandler()]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(LogFile(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    return logger


def describe_machine(world: World, *, per_process: int, accumulate: int) -> list[str]:
    """Lines on the device, the processes, the software and the batch. per_process: samples of a process's batch, before accumulation."""
    processes = f"{world.size} processes over {dist.get_backend()}" if world.size > 1 else "1 process"
    software = f"torch {torch.__version__}"
    if world.device.type == "cuda":
        cudnn, cuda = torch.backends.cudnn.version(), torch.version.cuda
        software += f", CUDA {cuda}, cuDNN {cudnn}, NVIDIA driver {driver_version() or 'unknown'}"
    batch = per_process * world.size * accumulate
    return [
        f"device: {_describe_device(world.device)}; {processes}",
        software,
        f"batch {batch} = {per_process} a process x {world.size} process{'es' if world.size > 1 else ''} x {accumulate} accumulated",
    ]


def _describe_device(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu (threads: {torch.get_num_threads()})"
    if device.type != "cuda":
        return str(device)
    gpu = torch.cuda.get_device_properties(device)
    return f"{device} ({gpu.name}, {gpu.total_memory / GIB:.1f} GiB, compute capability {gpu.major}.{gpu.minor})"


class Means:
    """Running means of named numbers on this process, averaged over all processes when they are read.

    Values may stay tensors on their device: nothing waits for the device until `read`.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: Tensor | float) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + (value.detach() if isinstance(value, Tensor) else value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self, world: World) -> dict[str, float]:
        """The means since the last read; every process must call it with the same names."""
        names = list(self._sums)
        own = torch.tensor([float(self._sums[name]) / self._counts[name] for name in names], dtype=torch.float32, device=world.device)
        self._sums.clear()
        self._counts.clear()
        return dict(zip(names, mean_over_ranks(own, world).tolist(), strict=True)) if names else {}


class Speed:
    """Seconds since the last reading."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def read(self) -> float:
        now = time.perf_counter()
        seconds, self._since = max(now - self._since, 1e-9), now
        return seconds


def peak_memory_gib(device: torch.device) -> float:
    """Largest memory so far: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    if resource is None:
        return psutil.Process().memory_info().peak_wset / GIB
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def log_line(iteration: int, total: int, values: dict[str, float]) -> str:
    """`iter 100/4000  mse 0.0123  ...`, numbers with four digits."""
    return f"iter {iteration}/{total}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class RunLog:
    """train_NAME.log, the console and, where a folder is given, TensorBoard; all but the main process only warn."""

    def __init__(self, folder: Path, name: str, tensorboard: Path | None, world: World) -> None:
        self.folder, self.is_main = folder, world.is_main
        self._logger = open_log(folder / f"train_{name}.log" if world.is_main else None)
        self.info, self.warning = self._logger.info, self._logger.warning
        self._writer: Any = None
        if world.is_main and tensorboard is not None:
            self._open_tensorboard(tensorboard)

    def write_options(self, text: str) -> None:
        """Keeps the resolved options beside the log."""
        if self.is_main:
            try:
                write_text(self.folder / "options.yml", text)
            except OSError as error:
                self.warning(f"cannot write {self.folder / 'options.yml'}: {why_refused(error)}; the training goes on")

    def scalars(self, kind: str, iteration: int, total: int, values: dict[str, float]) -> None:
        """One log line, and one TensorBoard point per value under `kind`/name."""
        self.info(f"{kind}  {log_line(iteration, total, values)}")
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, iteration)
            self._writer.flush()
        except OSError as error:
            self._writer = None
            self.warning(f"TensorBoard gets no more points: {why_refused(error)}; the training goes on")

    def _open_tensorboard(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # late: it is slow, and off in small runs

        threading.excepthook = _without_tensorboards
        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            self.warning(f"TensorBoard cannot write {folder}: {why_refused(error)}; the training goes on")


def _without_tensorboards(thread: threading.ExceptHookArgs) -> None:
    """Prints what ended a thread, except TensorBoard's writer that a disk refused: the training's own thread is told, and says it."""
    if not (type(thread.thread).__name__ == "_AsyncWriterThread" and isinstance(thread.exc_value, OSError)):
        threading.__excepthook__(thread)
