"""Real on the CPU, pretended on cuda:0: every operation passes here, and what a GPU would refuse or somebody would wait for is noted."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = f"{Path(__file__).resolve().parents[2]}/"
OURS = ("data/", "engine/", "losses/", "models/", "restoring/", "scoring/")
HALF = (torch.float16, torch.bfloat16)
SIDES = {"cpu": "host", "cuda": "device"}

aten = torch.ops.aten
ONE_DTYPE = (
    aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.convolution, aten.convolution_backward, aten.native_group_norm, aten.native_layer_norm
)  # fmt: skip
"""A GPU refuses them where their floating-point arguments differ in data type; their fakes do not always look."""


class Watch(TorchDispatchMode):
    """Operations on CPU tensors are computed; on fake tensors they give fake ones, and Python that reads one's value is told 1.

    Since `clear`:
        copies: what crosses between CPU and GPU: "host->device, waited for: FILE:LINE FUNCTION" and the like.
        operations: how many of each name there were on the GPU.
        halves: "OPERATION: FILE:LINE FUNCTION" of those with a result in half precision.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pinned: list[Tensor] = []  # kept, so that no other tensor gets their memory
        self.clear()

    def clear(self) -> None:
        self.copies: list[str] = []
        self.operations: Counter[str] = Counter()
        self.halves: list[str] = []

    def pin(self, tensor: Tensor) -> Tensor:
        """Takes note of memory that a GPU fetches by itself, while nobody waits."""
        self._pinned.append(tensor)
        return tensor

    def read(self, tensor: Tensor) -> bool | int | float:
        """What Python is told of a fake tensor's values."""
        if tensor.device.type == "cuda":
            self.copies.append(f"device->host, waited for: {place()}")
        return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is torch.ops.prim.device.default:  # asked for more often than anything else
            return args[0].fake_device
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if not any(isinstance(leaf, FakeTensor) or (isinstance(leaf, torch.device) and leaf.type == "cuda") for leaf in leaves):
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        if torch.is_inference_mode_enabled() and function._can_decompose():  # elsewhere autograd has taken it apart
            with self:
                return function.decompose(*args, **kwargs)
        if function is aten._local_scalar_dense.default:
            return self.read(args[0])
        if function is aten._amp_update_scale_.default:  # it has no fake
            return args[0]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        refuse_mixtures(function, tensors)
        result = function(*args, **kwargs)
        non_blocking = kwargs.get("non_blocking") or (function is aten.copy_.default and args[2:] == (True,))
        self._note(function, tensors, result, non_blocking)
        return result

    def _note(self, function: Any, tensors: list[Tensor], result: Any, non_blocking: bool) -> None:
        self.operations[str(function)] += 1
        if any(isinstance(leaf, Tensor) and leaf.dtype in HALF for leaf in tree_leaves(result)):
            self.halves.append(f"{function}: {place()}")
        if function in (aten._to_copy.default, aten.copy_.default):
            source, target = tensors[-1], result.device.type
            if source.device.type != target:
                waited = "" if target == "cuda" and non_blocking and self._is_pinned(source) else ", waited for"
                self.copies.append(f"{SIDES[source.device.type]}->{SIDES[target]}{waited}: {place()}")
            return
        hosts = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        # A kernel takes a number without dimensions as it is; `where` alone sends it to the GPU first.
        if len(hosts) < len(tensors) and (any(host.ndim for host in hosts) or (hosts and function is aten.where.self)):
            self.copies.append(f"host->device, waited for, inside {function}: {place()}")

    def _is_pinned(self, tensor: Tensor) -> bool:
        memory = tensor.untyped_storage().data_ptr()
        return any(memory == pinned.untyped_storage().data_ptr() for pinned in self._pinned)


def refuse_mixtures(function: Any, tensors: list[Tensor]) -> None:
    """Raises TypeError for data types that a GPU refuses to mix."""
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if len(dtypes) > 1 and function.overloadpacket in ONE_DTYPE:
        raise TypeError(f"{function} of {' and '.join(sorted(map(str, dtypes)))} at {place()}")


def place() -> str:
    """FILE:LINE FUNCTION of the project's code that is at work, the innermost; a backward pass runs in a thread of its own."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename.removeprefix(ROOT)
        if file.startswith(OURS):
            return f"{file}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "a backward pass, or no code of ours"
