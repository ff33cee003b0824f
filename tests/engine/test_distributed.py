"""engine.distributed in a world of one, and in two real processes that talk over gloo."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from torch import nn

from engine.distributed import (
    World,
    agree_on_session,
    any_rank,
    barrier,
    choose_device,
    chosen_precision,
    dtype_of,
    from_main,
    gather,
    join,
    mean_of,
    mean_over_ranks,
    parallel,
    start,
    sum_over_ranks,
    synchronised,
)

CPU = torch.device("cpu")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _one_process(rank: int, count: int, port: int, function: Callable[[World], Any], end: Connection) -> None:
    torch.set_num_threads(1)  # the parent's threads did not come along
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with start("cpu") as world:
        try:  # inside: out of `start` no exception comes
            answer = function(world), None
        except BaseException:
            answer = None, traceback.format_exc()
        end.send(answer)


def in_processes(count: int, function: Callable[[World], Any]) -> list[Any]:
    """What `function(world)` returns (no tensors) in each of `count` processes of one group, started as torchrun starts them."""
    context, port = multiprocessing.get_context("fork"), free_port()
    ends, processes = [], []
    for rank in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=_one_process, args=(rank, count, port, function, theirs), daemon=True)
        process.start()
        ends.append(ours)
        processes.append(process)
    try:
        answers = [end.recv() if end.poll(120) else (None, "no answer in 120 s") for end in ends]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    assert [error for _, error in answers if error] == []
    return [value for value, _ in answers]


def test_auto_is_bfloat16_where_a_cpu_has_amx(tmp_path):
    with_amx, without = tmp_path / "with", tmp_path / "without"
    with_amx.write_text("processor : 0\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n")
    without.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_bf16\n")
    assert chosen_precision("auto", CPU, with_amx) == "bf16"
    assert chosen_precision("auto", CPU, without) == chosen_precision("auto", CPU, tmp_path / "absent") == "fp32"
    assert chosen_precision("auto", torch.device("cuda"), with_amx) == "fp32"
    assert {name: chosen_precision(name, CPU, with_amx) for name in ("fp32", "bf16")} == {"fp32": "fp32", "bf16": "bf16"}


def test_a_world_of_one_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with start("cpu") as world:
        assert (world.rank, world.size, world.device, world.is_main) == (0, 1, CPU, True)
        assert not torch.distributed.is_initialized()
        assert gather("a", world) == ["a"] and from_main("a", world) == "a"
        assert mean_over_ranks(torch.tensor([1.0, 2.0]), world).tolist() == [1.0, 2.0]
        assert mean_of(torch.tensor(3.0)) == 3.0 and sum_over_ranks(torch.tensor(3.0), world) == 3.0
        assert any_rank(True, world) and not any_rank(False, world)
        barrier(world)
        module = nn.Linear(1, 1)
        assert parallel(module, world) is module


def test_one_process_of_torchrun_has_a_group_of_its_own() -> None:
    """So that a single GPU shows whether NCCL starts."""
    ((rank, size, started, everyone),) = in_processes(1, _of_one)
    assert (rank, size, started, everyone) == (0, 1, True, ["a"])


def _of_one(world: World) -> tuple[Any, ...]:
    return world.rank, world.size, torch.distributed.is_initialized(), gather("a", world)


def test_the_launcher_can_be_insisted_on_or_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="torchrun --nproc_per_node"), start("cpu", "pytorch"):
        pass
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with start("cpu", "none") as world:
        assert (world.rank, world.size) == (0, 1)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu", 1) == CPU
    with pytest.raises(ValueError, match=r"device: mps was asked for.*device: auto"):
        choose_device("mps")
    with pytest.raises(ValueError, match=r"device: cuda was asked for.*: torch .* is built for .*device: cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="process 3 of this machine, which has 2 GPU"):
        choose_device("cuda", 2)


def test_auto_says_that_it_takes_no_gpu_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for module in ("driver", "distributed"):
        monkeypatch.setattr(f"engine.{module}.driver_version", lambda: "470.57.02")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert choose_device("auto", 1) == CPU and not recwarn.list, "the first process of a machine speaks"
    with pytest.warns(UserWarning, match=r"auto takes no GPU.*CUDA 12.6, which needs .*525.60.13.* has NVIDIA driver 470.57.02"):
        assert choose_device("auto") == CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("auto") == CPU and not recwarn.list
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("engine.distributed.driver_version", lambda: None)
    assert choose_device("auto") == CPU and not recwarn.list


def test_precisions() -> None:
    assert [dtype_of(name) for name in ("fp32", "bf16", "fp16")] == [torch.float32, torch.bfloat16, torch.float16]


def _exchange(world: World) -> tuple[Any, ...]:
    values = mean_over_ranks(torch.tensor([1.0, 10.0]) * (world.rank + 1), world).tolist()
    one = torch.tensor(4.0 + world.rank)
    found = gather({"rank": world.rank}, world), from_main(f"from {world.rank}", world), mean_of(one), one.item()
    found += sum_over_ranks(one, world).item(), any_rank(world.rank == 1, world), any_rank(False, world)
    return world.rank, world.size, world.is_main, values, *found


def test_two_processes_exchange_values() -> None:
    everyone = [{"rank": 0}, {"rank": 1}]
    assert in_processes(2, _exchange) == [
        (0, 2, True, [1.5, 15.0], everyone, "from 0", 4.5, 4.0, 9.0, True, False),
        (1, 2, False, [1.5, 15.0], everyone, "from 0", 4.5, 5.0, 9.0, True, False),
    ]


def _exchange_on_the_host(world: World) -> tuple[Any, ...]:
    """With a group of its own, as beside nccl; the default group is out of order then."""
    default, host = torch.distributed.group.WORLD, torch.distributed.new_group(backend="gloo")
    apart = World(world.rank, world.size, world.device, host=host)

    def refusing(method: Callable) -> Callable:
        def call(group: Any, *arguments: Any, **options: Any) -> Any:
            if group is default:
                raise KeyError("the default group was used")
            return method(group, *arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("allreduce", "allgather", "broadcast", "barrier"):
            patch.setattr(type(default), name, refusing(getattr(type(default), name)))
        barrier(apart)
        with pytest.raises(KeyError):
            any_rank(True, world)
        return gather(world.rank, apart), from_main(f"from {world.rank}", apart), any_rank(world.rank == 1, apart)


def test_objects_and_flags_go_over_the_hosts_group() -> None:
    assert in_processes(2, _exchange_on_the_host) == [([0, 1], "from 0", True)] * 2


def test_beside_nccl_there_is_a_gloo_group_that_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, timeout, **_: made.append((backend, timeout)))
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend, timeout: made.append((backend, timeout)) or "host")
    store, gpu, week = torch.distributed.HashStore(), torch.device("cuda", 0), timedelta(days=7)
    assert (join(store, 0, 2, gpu), join(store, 0, 2, CPU), join(store, 0, 2, gpu, week)) == ("host", None, "host")
    assert made == [("nccl", None), ("gloo", timedelta(hours=2)), ("gloo", timedelta(hours=2)), ("nccl", week), ("gloo", week)]


def _places(world: World) -> tuple[int, bool, bool]:
    return world.local_rank, world.is_node_main, world.host is None


def test_a_process_knows_its_place_on_its_machine() -> None:
    assert in_processes(2, _places) == [(0, True, True), (1, False, True)]


def _accumulate(world: World) -> tuple[list[float], list[float]]:
    """d/dw of w x, accumulated over two micro-batches x = 1, 10 on rank 0 and 2, 20 on rank 1: after the first, and after both."""
    model = nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, float(world.rank))
    wrapped = parallel(model, world)
    after = [model.weight.item()]
    for number, x in enumerate((1.0, 10.0)):
        with synchronised(wrapped, last=number == 1):
            wrapped(torch.full((1, 1), x * (world.rank + 1))).sum().backward()
        after.append(model.weight.grad.item())
    return after


def test_gradients_cross_processes_on_the_last_micro_batch_only() -> None:
    assert in_processes(2, _accumulate) == [[0.0, 1.0, 16.5], [0.0, 2.0, 16.5]]


def test_synchronised_is_nothing_without_processes() -> None:
    model = nn.Linear(1, 1)
    with synchronised(model, last=False):
        model(torch.ones(1, 1)).sum().backward()
    assert model.weight.grad.item() == 1.0


def started(store: torch.distributed.Store, ranks: range, size: int) -> list[str]:
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(lambda rank: agree_on_session(store, rank, size), ranks))


def test_every_start_has_a_session_of_its_own_though_the_store_remembers() -> None:
    """Three processes that are started three times, as torchrun restarts them; in between they come without the first, in vain."""
    store = torch.distributed.HashStore()
    sessions = [started(store, range(3), 3)]
    store.set_timeout(timedelta(seconds=0.2))
    with pytest.raises(torch.distributed.DistStoreError):
        started(store, range(1, 3), 3)
    with pytest.raises(TimeoutError, match=r"process 1 of 3 has not come within 0.2 s"):
        started(store, range(1), 3)
    store.set_timeout(timedelta(seconds=60))
    sessions += [started(store, range(3), 3), started(store, range(3), 3)]
    assert [len(set(of_one_start)) for of_one_start in sessions] == [1, 1, 1]
    assert len({of_one_start[0] for of_one_start in sessions}) == 3
