"""What stands between pyiqa and the files it loads: it unpickles whatever it is given or lies in its caches, and a pickle may run code."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from data.whole_files import sha256_of

FORCE, FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
"""torch.load's own switches; each counts for more than what a caller asks for."""

TORCHSCRIPT = (
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",  # RN50
    "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",  # RN101
    "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",  # RN50x4
    "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",  # RN50x16
    "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",  # RN50x64
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",  # ViT-B/32
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",  # ViT-B/16
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",  # ViT-L/14
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",  # ViT-L/14@336px
)
"""SHA-256 of OpenAI's CLIP networks: the only TorchScript archives, which are programs as well, that are opened."""


@contextlib.contextmanager
def only_numbers() -> Iterator[None]:
    """Inside, nobody's file runs code, whatever pyiqa, timm or torch.hub ask for: `torch.load` takes tensors and plain containers only, and
    `torch.jit.load` the archives of `TORCHSCRIPT` only.

    Raises pickle's UnpicklingError from `torch.load`, ValueError from `torch.jit.load`.
    """
    before, jit_load = {name: os.environ.pop(name, None) for name in (FORCE, FORBID)}, torch.jit.load

    def known_only(file: str | os.PathLike | BinaryIO, *args: Any, **options: Any) -> torch.jit.ScriptModule:
        path = Path(getattr(file, "name", file))
        if sha256_of(path) not in TORCHSCRIPT:
            raise ValueError(f"{path} is a TorchScript archive, which is a program, and none of those that are known: it is not opened")
        return jit_load(file, *args, **options)

    os.environ[FORCE], torch.jit.load = "1", known_only
    try:
        yield
    finally:
        torch.jit.load = jit_load
        del os.environ[FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def npz_to_mat(npz: Path, mat: Path) -> str:
    """BasicSR's NIQE parameters (mu_pris_param, cov_pris_param) written as the .mat that pyiqa reads; returns its path.

    Raises ValueError when the file is not an .npz or lacks one of the two.
    """
    import scipy.io  # late: needed for this conversion only

    try:
        with np.load(npz, allow_pickle=False) as archive:
            parameters = {"mu_prisparam": archive["mu_pris_param"], "cov_prisparam": archive["cov_pris_param"]}
    except Exception as error:  # a file of anyone's may make the library say anything
        raise ValueError(f"{npz}: not BasicSR's niqe_pris_params.npz (mu_pris_param, cov_pris_param): {first_line(error)}") from error
    scipy.io.savemat(mat, parameters)
    return str(mat)


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
