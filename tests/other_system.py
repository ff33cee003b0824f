"""A system that is not Linux, as far as one process of Linux can be it: Windows' Python lacks modules, functions and signals, opens no
folder, and has no /proc. For a process of its own, since nothing is put back."""

import builtins
import errno
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2  # noqa: F401  what others wrote is imported before: how it gets by on Windows is theirs
import diffusers  # noqa: F401
import numpy as np  # noqa: F401
import peft  # noqa: F401
import PIL.Image  # noqa: F401
import psutil
import safetensors.torch  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import torch.utils.data  # noqa: F401
import torchvision  # noqa: F401
import tqdm  # noqa: F401

MODULES = ("resource", "fcntl", "pwd", "grp", "termios")
FUNCTIONS = (
    *("fork", "sysconf", "sched_getaffinity", "sched_setaffinity", "getuid", "geteuid", "getgid", "killpg", "setsid", "mkfifo", "uname"),
    *("getpgid", "posix_fallocate", "statvfs", "chown", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "WNOHANG"),
)
SIGNALS = (
    *("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "SIGALRM", "SIGBUS", "SIGQUIT", "alarm", "setitimer"),
    *("sigwaitinfo", "sigtimedwait", "sigwait", "pthread_sigmask", "pthread_kill", "SIG_BLOCK", "SIG_UNBLOCK", "siginterrupt"),
)
ABSENT = ("/proc", "/sys", "/dev/shm")


def become() -> None:
    """From here on this process is on that system."""
    memory, cores, started = psutil.virtual_memory(), psutil.cpu_count(logical=False), psutil.Process().create_time()
    disk = shutil.disk_usage("/")
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=2**28), create_time=lambda: started)
    psutil.virtual_memory = lambda: memory
    shutil.disk_usage = lambda path: disk
    psutil.cpu_count = lambda logical=True: cores
    psutil.Process = lambda pid=None: process
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for owner, names in ((os, FUNCTIONS), (signal, SIGNALS)):
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    os.kill = _refuse  # Windows' ends the process, whatever the number
    for owner, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat"), (os, "lstat"), (os, "scandir"), (os, "listdir")):
        setattr(owner, name, _without_absent(getattr(owner, name), opens=name == "open"))


def _refuse(*_: Any) -> None:
    raise AssertionError("os.kill is not what it is elsewhere")


def _without_absent(function: Callable, opens: bool) -> Callable:
    is_folder = os.path.isdir

    def elsewhere(path: Any = ".", *arguments: Any, **names: Any) -> Any:
        text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if text in ABSENT or text.startswith(tuple(f"{folder}/" for folder in ABSENT)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
        if opens and text and is_folder(text):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), text)
        return function(path, *arguments, **names)

    return elsewhere
