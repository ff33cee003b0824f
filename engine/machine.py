"""What a training runs on, for the first lines of its log."""

import torch
import torch.distributed as dist

from engine.distributed import World
from engine.driver import driver_version
from engine.memory import GIB


def describe_machine(world: World, *, per_process: int, accumulate: int) -> list[str]:
    """Lines on the device, the processes, the software and the batch. per_process: samples of a process's batch, before accumulation."""
    processes = f"{world.size} processes over {dist.get_backend()}" if world.size > 1 else "1 process"
    software = f"torch {torch.__version__}"
    if world.device.type == "cuda":
        cudnn, cuda = torch.backends.cudnn.version(), torch.version.cuda
        software += f", CUDA {cuda}, cuDNN {cudnn}, NVIDIA driver {driver_version() or 'unknown'}"
    batch = per_process * world.size * accumulate
    return [
        f"device: {_describe_device(world.device)}; {processes}",
        software,
        f"batch {batch} = {per_process} a process x {world.size} process{'es' if world.size > 1 else ''} x {accumulate} accumulated",
    ]


def _describe_device(device: torch.device) -> str:
    if device.type == "cpu":
        return f"cpu (threads: {torch.get_num_threads()})"
    if device.type != "cuda":
        return str(device)
    gpu = torch.cuda.get_device_properties(device)
    return f"{device} ({gpu.name}, {gpu.total_memory / GIB:.1f} GiB, compute capability {gpu.major}.{gpu.minor})"
