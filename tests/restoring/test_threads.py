import os

from restoring.threads import physical_cores


def test_threads_of_one_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5}, raising=False)
    assert physical_cores(tmp_path) == 4, "where nothing is told"
    for number, siblings in ((0, "0,4"), (1, "1,5"), (2, "2,6"), (5, "1,5")):
        (tmp_path / f"cpu{number}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}/topology/thread_siblings_list").write_text(siblings)
    assert physical_cores(tmp_path) == 3


def test_this_machine_has_a_core():
    assert 1 <= physical_cores() <= os.cpu_count()
