import os

from restoring.host import available_memory, physical_cores

MEMINFO = "MemTotal:       24000 kB\nMemFree:         100 kB\nMemAvailable:   20000 kB\n"


def test_what_linux_calls_available_and_what_the_container_leaves(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    assert available_memory(meminfo, tmp_path) == 20000 * 1024
    for limit, used, expected in (
        ("max", "5", 20000 * 1024),
        ("9000000", "2000000", 7000000),
        ("5", "9", 0),
        ("99999999999", "0", 20000 * 1024),
    ):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        assert available_memory(meminfo, tmp_path) == expected


def test_elsewhere_half_of_what_is_built_in(tmp_path):
    assert 10**14 > available_memory(tmp_path / "absent", tmp_path) > 10**8
    assert available_memory() > 10**7


def test_threads_of_one_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5}, raising=False)
    assert physical_cores(tmp_path) == 4, "where nothing is told"
    for number, siblings in ((0, "0,4"), (1, "1,5"), (2, "2,6"), (5, "1,5")):
        (tmp_path / f"cpu{number}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}/topology/thread_siblings_list").write_text(siblings)
    assert physical_cores(tmp_path) == 3


def test_this_machine_has_a_core():
    assert 1 <= physical_cores() <= os.cpu_count()
