from restoring.host_memory import available_memory

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
