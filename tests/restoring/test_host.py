"""Cores and memory: on fake trees of control groups as Docker, Slurm and systemd lay them out, against arithmetic by hand."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from restoring.host import available_memory, physical_cores

FREE = 20_000
"""Bytes that the whole machine has available, in these tests."""


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE))


def version_2(folder: Path, limit: int | str, used: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cache}\nfile {cache}\ninactive_file {cache}\nactive_file 0\n")


def version_1(folder: Path, limit: int, used: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"cache {cache}\ninactive_file 0\ntotal_inactive_file {cache}\n")


def left(folder: Path, *lines: str) -> int:
    membership = folder / "cgroup of the process"
    membership.write_text("".join(f"{line}\n" for line in lines))
    return available_memory(membership, folder)


@pytest.mark.parametrize(
    ("limit", "used", "cache", "expected"),
    [("max", 5, 0, FREE), (9000, 2000, 0, 7000), (9000, 8500, 6000, 6500), (5, 9, 0, 0), (10**12, 0, 0, FREE)],
)
def test_docker_version_2_a_namespace_of_its_own(tmp_path, limit, used, cache, expected):
    version_2(tmp_path, limit, used, cache)
    assert left(tmp_path, "0::/") == expected
    assert left(tmp_path, "0::/../../other") == expected, "of a process that entered the container from outside"
    assert available_memory(tmp_path / "absent", tmp_path) == expected, "where /proc is hidden"
    (tmp_path / "memory.stat").unlink()
    assert left(tmp_path, "0::/") == min(expected, max(0, expected - cache)), "nothing is known of the cache"


def test_docker_version_2_in_the_hosts_namespace(tmp_path):
    version_2(tmp_path, 9000, 2000)
    assert left(tmp_path, "0::/system.slice/docker-0123.scope") == 7000, "the path is the host's; the container's root is what is limited"


def test_systemd_limits_a_slice_above_the_session(tmp_path):
    version_2(tmp_path / "user.slice", "max", 17_000)
    version_2(tmp_path / "user.slice/user-1000.slice", 15_000, 9000)
    version_2(tmp_path / "user.slice/user-1000.slice/session-1.scope", "max", 500)
    assert left(tmp_path, "0::/user.slice/user-1000.slice/session-1.scope") == 6000


def test_the_smallest_of_all_levels_counts(tmp_path):
    job = "system.slice/slurmstepd.scope/job_5/step_0/user/task_0"
    levels = [Path(job), *Path(job).parents][:-1]
    for tight in levels:
        for level in levels:
            version_2(tmp_path / level, 4000 if level == tight else 9000, 1000)
        assert left(tmp_path, f"0::/{job}") == 3000, tight


def test_slurm_version_1(tmp_path):
    unlimited, job = 9223372036854771712, tmp_path / "memory/slurm/uid_1000/job_5"
    version_1(tmp_path / "memory", unlimited, 19_000)
    version_1(tmp_path / "memory/slurm/uid_1000", unlimited, 12_000)
    version_1(job, 10_000, 8000, 3000)
    version_1(job / "step_0/task_0", unlimited, 8000)
    lines = ("11:devices:/slurm/uid_1000/job_5", "9:memory:/slurm/uid_1000/job_5/step_0/task_0", "1:name=systemd:/x", "0::/x")
    assert left(tmp_path, *lines) == 5000
    assert left(tmp_path, *lines[:1], *lines[2:]) == FREE, "in no group of memory"


def test_docker_version_1_shows_its_group_as_the_root(tmp_path):
    version_1(tmp_path / "memory", 6000, 1000)
    assert left(tmp_path, "12:pids:/docker/0123", "4:cpu,memory:/docker/0123", "0::/docker/0123") == 5000


def test_without_control_groups_what_the_system_calls_available(tmp_path):
    assert available_memory(tmp_path / "absent", tmp_path / "absent") == FREE
    assert left(tmp_path, "", "nonsense", "0::/") == FREE


def test_this_machine_has_memory(monkeypatch):
    monkeypatch.undo()
    assert 10**14 > available_memory() > 10**7


def test_threads_of_one_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5}, raising=False)
    assert physical_cores(tmp_path) == 4, "where nothing is told"
    for number, siblings in ((0, "0,4"), (1, "1,5"), (2, "2,6"), (5, "1,5")):
        (tmp_path / f"cpu{number}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}/topology/thread_siblings_list").write_text(siblings)
    assert physical_cores(tmp_path) == 3


def test_cores_of_macos_and_windows(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for told, expected in ((6, 6), (None, os.cpu_count())):
        monkeypatch.setattr(psutil, "cpu_count", lambda logical, told=told: told)
        assert physical_cores() == expected


def test_this_machine_has_a_core():
    assert 1 <= physical_cores() <= os.cpu_count()
