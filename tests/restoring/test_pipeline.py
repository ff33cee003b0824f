import threading
import time

import pytest

from restoring.pipeline import overlapped


def test_outcomes_come_in_order_with_every_stage_done():
    threads = {"read": set(), "write": set()}

    def read(item):
        threads["read"].add(threading.current_thread().name)
        return item * 10

    def write(item, computed):
        threads["write"].add(threading.current_thread().name)
        time.sleep(0.01 * (item % 3))
        return computed + 1

    outcomes = list(overlapped(range(9), read, lambda item, loaded: (item, loaded)[1], write))
    assert [(outcome.item, outcome.value, outcome.error) for outcome in outcomes] == [(item, item * 10 + 1, None) for item in range(9)]
    assert len(threads["read"]) == 1 and len(threads["write"]) == 2
    assert threading.current_thread().name not in threads["read"] | threads["write"]


def test_an_error_of_any_stage_stops_one_item_only():
    def fail(stage, error):
        def work(item, value=None):
            if item == stage:
                raise error
            return item

        return work

    outcomes = list(overlapped(range(5), fail(1, ValueError("read")), fail(2, RuntimeError("compute")), fail(3, OSError("write"))))
    assert [str(outcome.error or outcome.value) for outcome in outcomes] == ["0", "read", "compute", "write", "4"]


def test_reading_and_writing_happen_while_computing():
    """Each stage waits until the neighbouring items' other stages run: without the overlap it would wait in vain."""
    reading, writing = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    def read(item):
        reading[item].set()

    def compute(item, loaded):
        if item + 1 < 4:
            assert reading[item + 1].wait(5), "the next item is read meanwhile"
        if item > 0:
            assert writing[item - 1].wait(5), "the last one is written meanwhile"

    def write(item, computed):
        writing[item].set()

    assert all(outcome.error is None for outcome in overlapped(range(4), read, compute, write))


def test_few_items_are_in_memory_at_once():
    alive, most = set(), []

    def read(item):
        alive.add(item)
        most.append(len(alive))
        return item

    def write(item, computed):
        time.sleep(0.005)
        alive.discard(item)

    for _ in overlapped(range(40), read, lambda item, loaded: item, write):
        pass
    assert max(most) <= 5, "one read ahead, one computed, two written, one just handed over"


@pytest.mark.parametrize("error", [KeyboardInterrupt, AssertionError, TypeError])
def test_our_mistakes_and_ctrl_c_are_raised_after_what_is_being_written_is_whole(error):
    written = []

    def compute(item, loaded):
        if item == 2:
            raise error
        return item

    def write(item, computed):
        time.sleep(0.05)
        written.append(item)

    with pytest.raises(error):
        list(overlapped(range(5), lambda item: item, compute, write))
    assert sorted(written) == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read", "write"))]


def test_nothing_to_do():
    assert list(overlapped([], None, None, None)) == []
