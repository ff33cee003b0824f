"""`tile: auto`: the largest tile for which the memory suffices, and a smaller one when it does not after all."""

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.generator import Generator
from restoring.host import available_memory

Result = TypeVar("Result")

SMALLEST, LARGEST = 256, 4096
"""Tiles below lose time and context, tiles above gain nothing; pixels of the output."""
SHARE = 0.5
"""Of the free memory that is planned with; the rest is for kernels' work space, fragmentation and the picture itself."""


class LiveStorages(TorchDispatchMode):
    """Adds up what is alive of the tensors that operators make inside: `peak` bytes, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        if key in self._seen or size == 0:
            return
        self._seen.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.alive -= size


_per_pixel: weakref.WeakKeyDictionary[Generator, float] = weakref.WeakKeyDictionary()


def bytes_per_pixel(generator: Generator) -> float:
    """Memory that a tile takes on the device, per pixel of output: measured once on the smallest tile, since it grows with the area."""
    if generator not in _per_pixel:
        multiple = generator.size_multiple
        side = -(-SMALLEST // multiple) * multiple
        lr_up = torch.zeros(1, 3, side, side, device=generator.prompt_embedding.device)
        with torch.inference_mode(), LiveStorages() as storages:
            generator.restore(lr_up)
        _per_pixel[generator] = storages.peak / side**2
    return _per_pixel[generator]


def free_memory(device: torch.device) -> int:
    """Bytes that a tile may take on the device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return available_memory()


def largest_tile(generator: Generator, size: tuple[int, int]) -> int:
    """The side of the tiles to begin with, a multiple of 128 pixels; 0, the whole picture, where a picture of `size` (H, W) fits."""
    pixels = SHARE * free_memory(generator.prompt_embedding.device) / bytes_per_pixel(generator)
    side = min(LARGEST, max(SMALLEST, int(pixels**0.5) // 128 * 128))
    return 0 if max(size) <= side else side


def with_smaller_tiles(attempt: Callable[[int], Result], tile: int, warn: Callable[[str], None]) -> Result:
    """attempt(tile), and with half the tile as often as the memory does not suffice, down to SMALLEST; raises what the last one raises."""
    while True:
        try:
            return attempt(tile)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or 0 < tile <= SMALLEST:
                raise
        # Not in the handler: there the error still holds the frames, and they hold the memory.
        tile = max(SMALLEST, (tile or 2 * LARGEST) // 2 // 128 * 128)
        warn(f"out of memory: trying tile: {tile}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no memory left; torch has several ways to say so."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
