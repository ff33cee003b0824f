"""What this machine offers a process: cores to compute on, memory to fill. Linux, macOS and Windows; on Linux also a container's limits."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CPUS = Path("/sys/devices/system/cpu")
GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

LIMITS = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
"""Version of control groups -> the files of a group's limit and of what it uses."""


def physical_cores(cpus: Path = CPUS) -> int:
    """Cores that this process may run on; two hardware threads of one core count once where the system tells."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    try:
        return len({(cpus / f"cpu{number}/topology/thread_siblings_list").read_text(encoding="utf-8") for number in allowed})
    except OSError:
        return len(allowed)


def available_memory(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> int:
    """Bytes: what the system calls available, and no more than any limit on this process or on a group around it leaves.

    Such limits (control groups, version 1 and 2) are set by Docker, Kubernetes, Slurm and systemd, on any level.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_by_groups(membership, groups)]))


def _left_by_groups(membership: Path, groups: Path) -> Iterator[int]:
    """What each limit leaves, from the process's own group up to the root.

    In a container the path may be the host's, and its upper levels are not there; what is limited then is the root that the container sees.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/", "0:memory:/"]
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        version, root = (1, groups / "memory") if controllers else (2, groups)
        names = [name for name in path.split("/") if name]
        for depth in range(len(names), -1, -1):
            yield from _left(root.joinpath(*names[:depth]), *LIMITS[version])


def _left(group: Path, limit: str, used: str) -> Iterator[int]:
    """Bytes, where this group has a limit."""
    try:
        bound = (group / limit).read_text(encoding="utf-8").strip()
        if bound != "max":
            yield int(bound) - int((group / used).read_text(encoding="utf-8")) + _cached(group)
    except (OSError, ValueError):  # no such group, or nothing limited here
        return


def _cached(group: Path) -> int:
    """Bytes of files that a group has in memory and gives up when asked. In version 1 only the `total_` counts the groups within, too."""
    try:
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
    except OSError:
        return 0
    return int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
