"""torch made to believe in a cuda:0 that nobody has, for this process and until its end."""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tests.fake_cuda.watch import Watch


@contextmanager
def fake_cuda(library: str) -> Iterator[tuple[Watch, Counter[str]]]:
    """Inside, tensors on cuda:0 have shapes, data types and layouts, and no values; those on the CPU are real.

    library: hooks.cpp, compiled. Yields who watches, and how often attention was computed in which data type.
    """
    ctypes.CDLL(library).swap_hooks()
    watch, attention = Watch(), Counter()
    for module in (torch.cuda.amp.common, torch.amp.autocast_mode, torch.amp.grad_scaler):
        module.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda: True
    torch.cuda.current_device = lambda: 0
    torch.empty = _noting_pins(torch.empty, watch)
    torch.nn.functional.scaled_dot_product_attention = _plain_attention(attention)
    # One read, however many numbers: torch's own reads them one by one.
    FakeTensor.tolist = lambda tensor: torch.full(tensor.shape, watch.read(tensor), device="cpu").tolist()
    with FakeTensorMode(allow_non_fake_inputs=True), watch:
        yield watch, attention


def _noting_pins(empty: Callable[..., Tensor], watch: Watch) -> Callable[..., Tensor]:
    """Pinned memory needs a driver: it is noted, and not pinned."""

    def replaced(*size: Any, pin_memory: bool = False, **settings: Any) -> Tensor:
        tensor = empty(*size, **settings)
        return watch.pin(tensor) if pin_memory else tensor

    return replaced


def _plain_attention(dtypes: Counter[str]) -> Callable[..., Tensor]:
    """The formula, since choosing a kernel would ask the GPU for its kind; under autocast in half precision, as torch's own."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None) -> Tensor:
        assert attn_mask is None and dropout_p == 0 and not is_causal
        if torch.is_autocast_enabled("cuda"):
            query, key, value = (tensor.to(torch.get_autocast_dtype("cuda")) for tensor in (query, key, value))
        if not query.dtype == key.dtype == value.dtype:
            raise TypeError(f"attention of {query.dtype}, {key.dtype} and {value.dtype}")
        dtypes[str(query.dtype).removeprefix("torch.")] += 1
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        return torch.softmax(scores, -1).to(value.dtype) @ value

    return attention
