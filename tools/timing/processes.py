"""Pictures per second of several processes that share the cores."""

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tools.timing.variants import shipped

if TYPE_CHECKING:
    from options.d3sr import TestOptions


def processes(counts: Sequence[int], options: "TestOptions", size: int, pictures: int) -> dict[str, Any]:
    """Pictures per second of 1, 2 ... processes that share the cores; each restores `pictures`."""
    import torch.multiprocessing as mp

    from restoring.host import physical_cores

    rows = []
    for count in counts:
        context = mp.get_context("spawn")
        barrier, queue = context.Barrier(count), context.Queue()
        threads = max(1, physical_cores() // count)
        arguments = (options, size, pictures, threads, barrier, queue)
        workers = [context.Process(target=worker, args=arguments) for _ in range(count)]
        for process in workers:
            process.start()
        times = [queue.get() for _ in workers]
        for process in workers:
            process.join()
        seconds = max(end for _, end in times) - min(start for start, _ in times)
        rows.append({"processes": count, "threads": threads, "per_second": count * pictures / seconds})
    columns = {"processes": "processes", "threads": "threads of each", "per_second": "pictures per second"}
    return {"columns": columns, "rows": rows, "note": f"Output {size} x {size}, {pictures} pictures each, after one to warm up."}


def worker(options: "TestOptions", size: int, pictures: int, threads: int, barrier: Any, queue: Any) -> None:
    """One process of `processes`: puts (start, end) of its pictures."""
    import torch

    from engine.distributed import choose_device
    from tools.exporting.onnx_export import example_picture

    torch.set_num_threads(threads)
    device = choose_device(options.device)
    generator = shipped(options, device)
    lr_up = example_picture((size, size)).to(device)
    generator.restore(lr_up)
    barrier.wait()
    start = perf_counter()
    for _ in range(pictures):
        generator.restore(lr_up).cpu()
    queue.put((start, perf_counter()))
