"""Networks as ncnn's files, made by pnnx and compared with PyTorch before anyone gets them. Needs the packages of requirements-ncnn.txt."""

import math
import shutil
import subprocess
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from models.fused import fuse
from models.generator import Generator
from models.ncnn_unet import NCNN_FILES, NcnnNet
from restoring.host import available_memory

try:
    import resource
except ImportError:  # Windows
    resource = None

PACKAGES = ("ncnn", "pnnx")
SIZES = ((3, 5), (4, 2))
"""Sides in multiples of the UNet's own stride, of the latents that are traced and compared: what differs between the two is not fixed."""
LARGEST_DIFFERENCE = 1e-3
"""Of what the largest value is. Rounding alone gave 1e-6 (weights/d3sr-tiny) to 1e-5 (a compact general model)."""


def check_packages() -> None:
    """Raises ValueError where a package is missing, before any work is done."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed here: pip install -r requirements-ncnn.txt -c constraints.txt")


def write_ncnn(generator: Generator, folder: Path) -> float:
    """Writes a float32 generator's UNet, fused, as NCNN_FILES in `folder`. Returns the largest difference found, see `convert`."""
    unet = fuse(generator, memory_format=torch.contiguous_format).unet
    stride, channels = generator.size_multiple // generator.autoencoder.factor, generator.autoencoder.latent_channels
    examples = [noise((1, channels, rows * stride, columns * stride)) for rows, columns in SIZES]
    return convert(unet, examples, *(folder / name for name in NCNN_FILES))


def noise(shape: tuple[int, ...]) -> Tensor:
    """An example: Gaussian, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def convert(network: nn.Module, examples: list[Tensor], param: Path, weights: Path) -> float:
    """Writes a network of one input as ncnn's two files, for inputs (1, C, h, w) of any size.

    Args:
        examples: two inputs of different size.

    Returns:
        The largest difference from PyTorch among both, relative to the largest value.

    Raises:
        ValueError: it cannot be expressed in ncnn, or the files compute something else.
    """
    check_packages()
    import pnnx  # late: optional, see requirements-ncnn.txt

    shapes = [f"[{','.join(map(str, example.shape))}]f32" for example in examples]
    with TemporaryDirectory(prefix="d3sr-") as work, torch.inference_mode():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch prefers torch.export, which pnnx does not read; a size that is fixed shows below
            try:
                torch.jit.trace(network, examples[0], check_trace=False).save(f"{work}/net.pt")
            except RuntimeError as error:
                raise ValueError(f"torch cannot trace the network: {str(error).strip().splitlines()[-1]}") from error
        command = [pnnx.EXEC_PATH, "net.pt", f"inputshape={shapes[0]}", f"inputshape2={shapes[1]}", "fp16=0"]
        # For 20 blocks of an ESRGAN it takes 3 GB, for 23 more than 11: it shall give up before the machine does.
        bound = resource and partial(resource.setrlimit, resource.RLIMIT_AS, (available_memory(),) * 2)
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, preexec_fn=bound)
        made = [Path(work) / f"net.ncnn.{kind}" for kind in ("param", "bin")]
        if done.returncode or not all(file.is_file() for file in made):
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise ValueError(f"pnnx cannot convert the network, or not with the memory that is free; its last words: {said}")
        for file, target in zip(made, (param, weights), strict=True):
            shutil.move(file, target)
        net, worst = NcnnNet(param, weights), 0.0
        for example in examples:
            expected = network(example)[0]
            try:
                found = torch.from_numpy(net(example[0].numpy()))
            except RuntimeError as error:
                raise ValueError(f"ncnn cannot run {param.name}: {error}") from error
            difference = (found - expected).abs().max() / expected.abs().max() if found.shape == expected.shape else math.inf
            if not difference <= LARGEST_DIFFERENCE:  # nan is refused too
                raise ValueError(
                    f"{param.name} computes something else than PyTorch: it differs by {difference:.2g} of the largest value, where "
                    f"{LARGEST_DIFFERENCE:g} is allowed; try other versions of {' and '.join(PACKAGES)}, or do without ncnn"
                )
            worst = max(worst, float(difference))
    return worst
