import pytest
import torch

from restoring import tile_size
from restoring.tile_size import LARGEST, SMALLEST, LiveStorages, bytes_per_pixel, is_out_of_memory, largest_tile, with_smaller_tiles
from tests.restoring.test_rows import blocks


def test_live_storages_counts_what_is_alive_at_once():
    with LiveStorages() as storages:
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1
        view = b[:10]  # shares b's memory
        del a, b
        c = torch.ones(500, dtype=torch.float64)
        del view, c
        torch.zeros(100)
    assert storages.peak == 8000 and storages.alive == 0


def test_bytes_per_pixel_is_measured_once(monkeypatch):
    generator = blocks(function=lambda z: torch.cat([z, z])[:1])
    per_pixel = bytes_per_pixel(generator)
    assert 3 * 4 * 4 <= per_pixel <= 12 * 4 * 4, "a few pictures of 3 float32 numbers per pixel"
    seen = len(generator.unet.seen)
    assert bytes_per_pixel(generator) == per_pixel and len(generator.unet.seen) == seen


@pytest.mark.parametrize(
    ("free", "size", "expected"),
    [(10**12, (512, 512), 0), (10**12, (9000, 100), LARGEST), (0, (9000, 100), SMALLEST), (200 * 2 * 1000**2, (4096, 4096), 896)],
)
def test_the_largest_tile_that_fits(monkeypatch, free, size, expected):
    monkeypatch.setattr(tile_size, "free_memory", lambda device: free)
    monkeypatch.setattr(tile_size, "bytes_per_pixel", lambda generator: 200.0)
    assert largest_tile(blocks(), size) == expected


def test_tiles_shrink_to_the_smallest_and_then_the_error_is_raised():
    tried, said = [], []

    def attempt(tile):
        tried.append(tile)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        with_smaller_tiles(attempt, 1024, said.append)
    assert tried == [1024, 512, 256] and said == ["out of memory: trying tile: 512", "out of memory: trying tile: 256"]


def test_what_the_failed_attempt_held_is_free_before_the_next():
    with LiveStorages() as storages:
        before = []

        def attempt(tile):
            before.append(storages.alive)
            held = torch.zeros(1000)
            if tile > 300:
                raise MemoryError
            return len(held)

        assert with_smaller_tiles(attempt, 2048, lambda message: None) == 1000
    assert before == [0, 0, 0, 0]


def test_other_errors_are_no_reason_to_try_again():
    def attempt(tile):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        with_smaller_tiles(attempt, 1024, pytest.fail)


def test_torchs_own_words_for_a_host_without_memory_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("out of memory"))
