"""How many threads a process on a CPU computes with."""

import os
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")


def physical_cores(cpus: Path = CPUS) -> int:
    """Cores that this process may run on; two hardware threads of one core count once where Linux tells."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    try:
        return len({(cpus / f"cpu{number}/topology/thread_siblings_list").read_text() for number in allowed})
    except OSError:
        return len(allowed)
