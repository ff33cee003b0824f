"""One process or many: everything torch.distributed, so that the training loop reads the same on 1 and on N devices."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from engine.driver import driver_version, hidden_by_the_user, why_no_cuda
from engine.failures import FailureWatch, leave, print_traceback

HOST_TIMEOUT = timedelta(hours=2)
"""How long processes wait for what one of them does alone: look at all pictures, say, or download weights."""


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int
    size: int
    device: torch.device
    local_rank: int = 0
    """Among the processes of this machine."""
    host: Any = None
    """The process group of what lies in the host's memory (objects and flags), which no device has to be waited for; None = the default."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    @property
    def is_node_main(self) -> bool:
        """Whether this process fetches files for its machine."""
        return self.local_rank == 0


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """ "auto" is CUDA where there is one, else Apple's MPS, else the CPU. It warns where there is an NVIDIA driver without CUDA.

    Raises:
        ValueError: the device asked for is not there.
    """
    if name == "auto":
        if local_rank == 0 and not torch.cuda.is_available() and driver_version() and not hidden_by_the_user():
            warnings.warn(f"device: auto takes no GPU, since CUDA does not start: {why_no_cuda()}", stacklevel=2)
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device: cuda was asked for, but torch finds no CUDA device: {why_no_cuda()}")
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"device: cuda was asked for by process {local_rank + 1} of this machine, which has {torch.cuda.device_count()} GPU(s): "
                "lower torchrun's --nproc_per_node"
            )
        return torch.device("cuda", local_rank)
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device: mps was asked for, but torch finds no Apple GPU; set device: auto")
    return torch.device(name)


def chosen_precision(precision: str, device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What `auto` comes to: bf16 on a CPU with AMX, whose tiles make it several times as fast, else fp32; anything else as it is."""
    if precision != "auto":
        return precision
    amx = device.type == "cpu" and cpuinfo.is_file() and "amx_bf16" in cpuinfo.read_text(encoding="utf-8").split()
    return "bf16" if amx else "fp32"


def dtype_of(precision: str) -> torch.dtype:
    """The data type that the options call fp32, bf16 or fp16."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@contextmanager
def start(
    device_name: str = "auto",
    launcher: str | None = None,
    timeout: timedelta | None = None,
    report: Callable[[BaseException], int] = print_traceback,
) -> Iterator[World]:
    """Joins the process group that torchrun announces in the environment; a world of one without it.

    Without a group, exceptions are left to the caller. In a group, a process that fails says why and is gone: it neither lets the
    others wait nor waits for them, as the end of a NCCL group would. Where all come to their end, they leave together.

    launcher: "pytorch" insists on torchrun, "none" ignores it, None takes what the environment says.
    timeout: how long processes wait for each other; None for torch's own (10 or 30 minutes), and HOST_TIMEOUT on the host.
    report: says what an exception is to the user, and returns the exit status.
    """
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if launcher == "pytorch" and not launched:
        raise ValueError("--launcher pytorch: start with `torchrun --nproc_per_node N train_d3sr.py -opt FILE`")
    if launcher == "none" or not launched:
        yield World(0, 1, choose_device(device_name))
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = choose_device(device_name, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(dist.rendezvous("env://", **({"timeout": timeout} if timeout is not None else {})))
    session = agree_on_session(store, rank, size)
    watch = FailureWatch(dist.PrefixStore(session, _connect()), rank)
    try:
        host = join(dist.PrefixStore(session, store), rank, size, device, timeout)
        world = World(rank, size, device, local_rank, host)
        yield world
        barrier(world)
    except BaseException as error:
        told = watch.announce(error)
        if told is not None and isinstance(error, RuntimeError):  # torch's word for a connection that the other one's end has broken
            leave(1, f"{told}; leaving")
        leave(report(error))
    watch.stop()
    dist.destroy_process_group()


def join(store: dist.Store, rank: int, size: int, device: torch.device, timeout: timedelta | None = None) -> Any:
    """Starts the default group: nccl on CUDA devices, else gloo. Returns the group of the host's memory, None where it is the same."""
    waiting = timeout or HOST_TIMEOUT
    if device.type != "cuda":
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=waiting)
        return None
    dist.init_process_group("nccl", store=store, rank=rank, world_size=size, timeout=timeout)
    return dist.new_group(backend="gloo", timeout=waiting)


def _connect() -> dist.Store:
    """One more connection to the store of `env://`, wherever torchrun or process 0 has it."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))


def agree_on_session(store: dist.Store, rank: int, size: int) -> str:
    """A name that all processes of this start have in common, and no start before it had; every process must call it.

    After `torchrun --max-restarts` has started the processes again, its store still holds the addresses of those that died, and the new
    ones would call there until they give up (pytorch/pytorch#135712); below a new name there is nothing to be found. Whatever an earlier
    start left behind, a process goes by nothing but the answer to its own token, and only a living process 0 gives one.

    Raises:
        TimeoutError: a process does not come.
    """
    if rank == 0:
        session, until = uuid4().hex, time.monotonic() + store.timeout.total_seconds()
        for other in range(1, size):
            while not store.check([f"joined/{session}/{other}"]):
                store.set(f"session/{store.get(f'token/{other}').decode()}", session)
                time.sleep(0.05)
                if time.monotonic() > until:
                    raise TimeoutError(f"process {other} of {size} has not come within {store.timeout.total_seconds():g} s")
        return session
    token = uuid4().hex
    store.set(f"token/{rank}", token)
    session = store.get(f"session/{token}").decode()
    store.set(f"joined/{session}/{rank}", "")
    return session


def parallel(module: nn.Module, world: World) -> nn.Module:
    """The module whose backward averages gradients over all processes; the module itself in a world of one."""
    if world.size == 1:
        return module
    device_ids = [world.device.index] if world.device.type == "cuda" else None
    with warnings.catch_warnings():
        # torch 2.15 renamed broadcast_buffers; older ones know no other name.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(module, device_ids=device_ids, broadcast_buffers=False, gradient_as_bucket_view=True)


def shard_frozen(module: nn.Module, layers: Sequence[nn.Module], world: World) -> None:
    """Moves a module to the device and leaves of its frozen weights 1 / size in each process (FSDP2's `fully_shard`).

    It must still lie as it was built: contiguous (FSDP takes no channels_last), and on the CPU, so that no device ever holds all of it.
    Each of `layers`, and then what lies outside them, is gathered for as long as it computes. What trains stays whole everywhere, and
    `parallel` averages its gradients as ever: optimizer, clipping and saving see no difference. Every process must run the same passes.

    Raises:
        ValueError: this torch cannot.
    """
    if torch.__version__ < "2.7":
        raise ValueError(f"network_d.shard: true needs torch 2.7 or newer, this is {torch.__version__}")
    from torch.distributed.fsdp import fully_shard  # late: older ones have it elsewhere

    mesh = init_device_mesh(world.device.type, (world.size,))
    trained = {parameter for parameter in module.parameters() if parameter.requires_grad}
    for part in (*layers, module):
        fully_shard(part, mesh=mesh, ignored_params=trained)
    module.to(world.device)  # what trains; the shares are there already
    shared = [name for name, parameter in module.named_parameters() if parameter not in trained]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, shared)


def synchronised(module: nn.Module, last: bool) -> AbstractContextManager:
    """Lets gradients cross processes on the last micro-batch of an accumulated step only."""
    return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """Sum of a tensor over all processes, in place."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor, world: World) -> Tensor:
    """Average of a tensor over all processes."""
    return sum_over_ranks(values, world) / world.size


def mean_of(value: Tensor) -> float:
    """Average of one number over all processes, as a float."""
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    return mean_over_ranks(value.detach().clone(), World(0, world_size, value.device)).item()


def any_rank(flag: bool, world: World) -> bool:
    """Whether the flag is up in any process, the same answer in all; every process must call it, and waits for the others."""
    if world.size == 1:
        return flag
    flags = torch.tensor(float(flag))
    dist.all_reduce(flags, group=world.host)
    return bool(flags.item())


def barrier(world: World) -> None:
    """Waits until every process is here."""
    if world.size > 1:
        dist.barrier(group=world.host)


def gather(value: Any, world: World) -> list[Any]:
    """Every process's value, in order of rank, on every process."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value, group=world.host)
    return values


def by_main(work: Callable[[], Any], world: World) -> Any:
    """What the main process finds where it does something alone; None on the others. Its mistake or failure is that of every process.

    Raises:
        ValueError, OSError: those of `work`, on every process.
    """
    found = error = None
    if world.is_main:
        try:
            found = work()
        except (ValueError, OSError) as raised:
            error = raised
    error = from_main(error, world)
    if error is not None:
        raise error
    return found


def from_main(value: Any, world: World) -> Any:
    """The main process's value on every process."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=world.host)
    return box[0]
