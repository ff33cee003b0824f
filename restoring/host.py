"""What this machine offers a process: cores to compute on, memory to fill."""

import os
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def physical_cores(cpus: Path = CPUS) -> int:
    """Cores that this process may run on; two hardware threads of one core count once where Linux tells."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    try:
        return len({(cpus / f"cpu{number}/topology/thread_siblings_list").read_text(encoding="utf-8") for number in allowed})
    except OSError:
        return len(allowed)


def available_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Bytes: what Linux calls available, and no more than the container's limit (cgroup v2) leaves; elsewhere half of what is built in."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 4 * 2**30
    try:
        limit, used = ((cgroup / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
