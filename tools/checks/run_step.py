"""One step of a report, in a process of its own."""

import json
from pathlib import Path

import torch

from engine.distributed import choose_device
from tools.checks import correctness, iteration, machine, restoring, small_model, training
from tools.checks.schedule import rows_file
from tools.checks.step import Setting

MODULES = {
    "correctness": correctness, "iteration": iteration, "machine": machine, "restoring": restoring, "small_model": small_model,
    "training": training,
}  # fmt: skip


def run_step(name: str, *, device: str, full: bool, folder: Path, deadline: float) -> None:
    """Runs module.function of tools/checks/ and writes its rows, one line of JSON each, as soon as they are there.

    Args:
        device: auto, cuda or cpu. Raises ValueError where it is not there.
        full, folder, deadline: as in `Setting`.
    """
    setting = Setting(choose_device(device), full, folder, deadline)
    if setting.device.type == "cuda":
        torch.cuda.set_device(setting.device)
    module, _, function = name.partition(".")
    with rows_file(folder, name).open("a", encoding="utf-8") as file:
        for row in getattr(MODULES[module], function)(setting):
            file.write(json.dumps(row) + "\n")
            file.flush()
