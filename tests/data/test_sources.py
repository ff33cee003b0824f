from collections import Counter

import pytest

from data.sources import FileOrder, draw_readable


def order(weights: list[float], count: int, seed: int = 0, start: int = 0) -> list[int]:
    files = FileOrder(weights, seed)
    return [files.file(n) for n in range(start, start + count)]


def test_equal_weights_give_epochs_each_in_its_own_order() -> None:
    drawn = order([2.5] * 20, 60)
    epochs = [drawn[:20], drawn[20:40], drawn[40:]]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(20))


def test_order_depends_on_the_seed_and_on_nothing_asked_before() -> None:
    for weights in ([1.0] * 7, [1.0] * 5 + [3.0] * 4):
        assert order(weights, 30, seed=1) != order(weights, 30, seed=2)
        scattered = FileOrder(weights, seed=1)
        for n in (25_007, 3, 9_999, 10_000, 25_007):
            assert scattered.file(n) == order(weights, 1, seed=1, start=n)[0]


def test_weights_are_shares_per_file() -> None:
    """3 files of weight 1 and 2 of weight 6: shares 3/15 and 12/15, so 1/15 and 6/15 of the samples for each file."""
    drawn = Counter(order([1, 1, 1, 6, 6], 30_000, seed=3))
    for file, share in enumerate([1 / 15] * 3 + [6 / 15] * 2):
        assert drawn[file] == pytest.approx(30_000 * share, abs=3)
    early = Counter(order([1, 1, 1, 6, 6], 1_000, seed=3))
    assert early[3] + early[4] == pytest.approx(800, abs=60)  # within 4.7 standard deviations of a fair draw


def test_weighted_pools_are_gone_through_in_epochs_too() -> None:
    drawn = [file for file in order([1] * 6 + [4] * 6, 25_000) if file < 6]
    epochs = [drawn[i : i + 6] for i in range(0, len(drawn) - 6, 6)]
    assert len(epochs) > 700 and all(sorted(epoch) == list(range(6)) for epoch in epochs)


def test_a_tiny_weight_is_still_drawn() -> None:
    drawn = Counter(order([1e-9, 1.0, 2.0], 10_000))
    assert drawn[0] == 1 and drawn.total() == 10_000


def test_unreadable_files_are_named_and_replaced_the_same_way_every_time() -> None:
    def load(file: int, n: int) -> str:
        if file % 2:
            raise ValueError(f"{file}.png: broken")
        return f"pixels of {file} for sample {n}"

    files = FileOrder([1.0] * 8, seed=5)
    runs = [[draw_readable(files, n, load) for n in range(16)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert all(loaded == f"pixels of {file} for sample {n}" and file % 2 == 0 for n, (file, loaded, _) in enumerate(runs[0]))
    first = [files.file(n) for n in range(16)]
    assert [bool(skipped) for _, _, skipped in runs[0]] == [file % 2 == 1 for file in first]
    assert all(skipped[0] == f"{first[n]}.png: broken" for n, (_, _, skipped) in enumerate(runs[0]) if skipped)


def test_ten_failures_in_a_row_stop_the_run_and_name_the_files() -> None:
    tried: list[int] = []

    def load(file: int, n: int) -> None:
        tried.append(file)
        raise ValueError(f"{file}.png: gone")

    with pytest.raises(ValueError, match=r"sample 4: 10 files in a row") as error:
        draw_readable(FileOrder([1.0] * 50, seed=0), 4, load)
    assert len(tried) == 10 and len(set(tried)) > 5
    assert all(f"{file}.png: gone" in str(error.value) for file in tried)


def test_other_errors_are_not_taken_for_bad_files() -> None:
    def load(file: int, n: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        draw_readable(FileOrder([1.0], seed=0), 0, load)
