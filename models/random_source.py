"""Base models that nobody has to download: `random:KIND` in the place of a folder or hub id, for tests and benchmarks.

KIND is one of `models.configs.KNOWN`, which gives the sizes; `random:KIND:SEED` draws other weights. They are made in memory, the same
wherever the same source is named, and tensor by tensor, so that a discriminator makes the half of a UNet that it keeps.
"""

import math
from collections.abc import Mapping
from zlib import crc32

import torch
from torch import Tensor

from models.configs import KNOWN, SCHEDULE

PREFIX = "random:"
DESCRIPTION = "random weights, for tests and benchmarks"
BLOCK = 131_071
"""Normal numbers that are drawn, and then repeated: a prime, so that no two rows of a matrix are equal."""


def is_random(source: str) -> bool:
    """Whether `source` asks for random weights."""
    return source.startswith(PREFIX)


def kind_and_seed(source: str) -> tuple[str, int]:
    """What follows `random:`.

    Raises:
        ValueError: no such kind, or a seed that is no number.
    """
    kind, _, seed = source.removeprefix(PREFIX).partition(":")
    if kind not in KNOWN or not (seed or "0").isdecimal():
        raise ValueError(f"'{source}': expected {PREFIX}KIND or {PREFIX}KIND:SEED; kinds: {', '.join(KNOWN)}")
    return kind, int(seed or 0)


def random_config(source: str, subfolder: str) -> dict:
    """The configuration of a component, as its config.json would hold it.

    Raises:
        ValueError: no such kind, or it has no such component.
    """
    kind, _ = kind_and_seed(source)
    parts = KNOWN[kind] | ({"scheduler": SCHEDULE} if "unet" in KNOWN[kind] else {})
    if subfolder not in parts:
        alone = [name for name, known in KNOWN.items() if "" in known]
        hint = f"expected an autoencoder: {', '.join(alone)}" if subfolder == "" else f"it has no {subfolder}, it is an autoencoder alone"
        raise ValueError(f"'{source}': {hint}")
    return dict(parts[subfolder])


def random_tensors(shapes: Mapping[str, torch.Size], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights by their names and shapes: norms 1, biases 0, all else N(0, 1 / fan_in), so that activations keep their size from layer to
    layer, in half precision too.

    They are what float16 holds, as published files often are, in any `dtype`. Numbers repeat after `BLOCK` of them: billions take seconds.
    """
    numbers = torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed))
    fans = {math.prod(shape[1:]) for shape in shapes.values() if len(shape) > 1}
    blocks = {fan: (numbers * fan**-0.5).half().to(dtype) for fan in fans}
    drawn = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            drawn[name] = _repeated(blocks[math.prod(shape[1:])], crc32(name.encode()) % BLOCK, math.prod(shape)).view(shape)
        else:
            drawn[name] = torch.full(shape, float(name.endswith("weight")), dtype=dtype)
    return drawn


def _repeated(block: Tensor, start: int, count: int) -> Tensor:
    """`count` numbers of the endlessly repeated block, from `start` on, in memory of their own."""
    numbers = block.new_empty(count)
    rest = numbers[len(block) - start :]
    whole = len(rest) // len(block) * len(block)
    numbers[: len(block) - start].copy_(block[start : start + count])
    rest[:whole].view(-1, len(block)).copy_(block)
    rest[whole:].copy_(block[: len(rest) - whole])
    return numbers
