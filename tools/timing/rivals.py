"""Other super-resolution networks for the table of tools/benchmark.py: any weights that spandrel knows, through PyTorch and through ncnn.

spandrel finds the network that weights belong to; pnnx converts it for ncnn, the runtime of most programs that people run on laptops.
All three are optional, see requirements-peers.txt and requirements-ncnn.txt. Everything is float32.
"""

import copy
import subprocess
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from models.generator import Generator
from models.pretrained_files import reading_tensors
from options.d3sr import TestOptions
from restoring.host import available_memory
from restoring.pictures import Restoration, restore_array
from tools.exporting.onnx_export import example_picture
from tools.timing.complexity import count_macs
from tools.timing.measure import weights_mib
from tools.timing.parts import no_warning
from tools.timing.variants import Entry

try:
    import resource
except ImportError:  # Windows
    resource = None

NCNN = ("ncnn", "pnnx")
LARGEST_DIFFERENCE = 1e-3
"""Of [0, 1], between ncnn and PyTorch: a quarter of a grey level of 8 bit. Rounding alone gave 1e-5 (weights that people use)."""

SMALL = 32
"""Side of the picture that a network is traced with for ncnn."""

SIZED = ("Reshape", "MemoryData")
"""Layers of ncnn that belong to one size of the picture, as those of transformers do."""

RESTORED = "ours, as test_d3sr.py restores"


@dataclass(frozen=True)
class Rival:
    """A network in eval mode, float32, channels_last, on the CPU: (1, 3, h, w) in [0, 1] -> `scale` times as large."""

    name: str
    network: nn.Module
    scale: int


def load_rivals(files: Sequence[str], sizes: Sequence[int]) -> list[Rival]:
    """One for each file. Raises ValueError where spandrel is missing, for weights that it does not know, and for a network that does not
    make RGB pictures of `sizes` from RGB pictures."""
    if find_spec("spandrel") is None:
        raise ValueError("--rivals needs spandrel, not installed here: pip install -r requirements-peers.txt -c constraints.txt")
    rivals = [_load(Path(file), sizes) for file in files]
    names = [rival.name for rival in rivals]
    if len(set(names)) < len(names):
        raise ValueError(f"--rivals: two files have one name: {', '.join(names)}; rename one of them")
    return rivals


def _load(file: Path, sizes: Sequence[int]) -> Rival:
    import spandrel  # late: optional, see requirements-peers.txt

    with reading_tensors(file):
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    try:
        found = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(state))
    except Exception as error:  # it guesses the network from names and shapes, and may stumble over others anywhere
        why = str(error).split("\n")[0]
        raise ValueError(f"--rivals: {file}: spandrel finds no network for these weights ({type(error).__name__}: {why})") from error
    if found.purpose != "SR" or (found.input_channels, found.output_channels) != (3, 3):
        channels = f"{found.input_channels} to {found.output_channels} channels"
        raise ValueError(f"--rivals: {file}: expected super-resolution of RGB pictures, got {found.purpose} of {channels}")
    for size in sizes:
        side = size // found.scale
        if size % found.scale or not found.size_requirements.check(side, side):
            raise ValueError(f"--rivals: {file}: enlarges {found.scale} times and cannot make {size} x {size} pixels; choose other --sizes")
    network = found.model.float().eval().requires_grad_(False)
    return Rival(file.stem, network.to(memory_format=torch.channels_last), found.scale)


def lr_picture(size: int, scale: int) -> Tensor:
    """`example_picture` at 1 / scale: (1, 3, size // scale, size // scale) in [0, 1]."""
    side = max(1, size // scale)
    return F.interpolate((example_picture((size, size)) + 1) / 2, size=(side, side), mode="area")


def entries(rivals: Sequence[Rival], ours: Generator, size: int, options: TestOptions) -> tuple[dict[str, Entry], list[str]]:
    """Rows for an output of size x size: `RESTORED`, and each rival through PyTorch, on ours' device, and on a CPU through ncnn where it is
    installed. And what there is to say about them, in lines.

    Raises:
        ValueError: ncnn computes something else than PyTorch.
    """
    device = ours.prompt_embedding.device
    rows, notes = {RESTORED: restored(ours, size, options)}, []
    for rival in rivals:
        lr, mib = lr_picture(size, rival.scale), weights_mib(rival.network)
        meta = copy.deepcopy(rival.network).to("meta")
        macs = count_macs(meta, partial(meta, lr.to("meta"))).everything
        network, picture = rival.network.to(device), lr.to(device, memory_format=torch.channels_last)
        rows[f"{rival.name}, torch"] = Entry(call=partial(network, picture), macs=macs, weights_mib=mib)
        if device.type == "cpu" and all(find_spec(package) for package in NCNN):
            call, note = through_ncnn(rival, lr)
            notes.append(note)
            if call is not None:
                rows[f"{rival.name}, ncnn"] = Entry(call=call, macs=macs, weights_mib=mib, seen=False)
    return rows, notes


def through_ncnn(rival: Rival, lr: Tensor) -> tuple[Callable[[], Any] | None, str]:
    """The rival by ncnn on this picture, compared with PyTorch, and how much they differ; None and the reason where pnnx cannot convert it.

    Raises:
        ValueError: the two differ.
    """
    size = f"{lr.shape[-1]} x {lr.shape[-2]}"
    net = to_ncnn(rival.network, lr)
    if net is None:
        return None, f"{rival.name}: pnnx cannot convert it for ncnn with the memory that is free."
    call = partial(run_ncnn, net, as_mat(lr))
    with torch.inference_mode():
        expected = rival.network(lr)[0].numpy()
    found = np.array(call())
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not difference <= LARGEST_DIFFERENCE:  # nan is refused too
        raise ValueError(
            f"--rivals: {rival.name}: ncnn computes something else than PyTorch: from {size} pixels it differs by {difference:.2g} of "
            f"[0, 1], where {LARGEST_DIFFERENCE:g} is allowed; try other versions of {' and '.join(NCNN)}, or do without them"
        )
    return call, f"{rival.name}: ncnn differs from PyTorch by {difference:.1e} of [0, 1] at {size}."


def to_ncnn(network: nn.Module, x: Tensor) -> Any:
    """An ncnn.Net of the network for pictures as large as x (1, 3, h, w), on the CPU, in float32, with PyTorch's number of threads; None
    where pnnx cannot convert it."""
    import ncnn  # late: optional, see requirements-ncnn.txt

    with TemporaryDirectory() as folder:
        # pnnx keeps every value on the way in memory, so it sees a small picture where the layers are the same for every size.
        layers = convert(network, x[..., :SMALL, :SMALL], Path(folder))
        if any(layer.startswith(SIZED) for layer in layers):
            convert(network, x, Path(folder))
        net = ncnn.Net()
        for name in ("vulkan_compute", "fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(net.opt, f"use_{name}", False)
        net.opt.num_threads = torch.get_num_threads()
        files = [Path(folder, name) for name in ("net.ncnn.param", "net.ncnn.bin")]
        loads = (net.load_param, net.load_model)
        whole = all(file.is_file() and load(str(file)) == 0 for file, load in zip(files, loads, strict=True))
    return net if whole else None


def convert(network: nn.Module, x: Tensor, folder: Path) -> list[str]:
    """Writes net.ncnn.param and net.ncnn.bin where pnnx can within the free memory; the lines of the former, none where it cannot."""
    import pnnx  # late: optional, see requirements-ncnn.txt

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but pnnx reads nothing else
        torch.jit.trace(network, x, check_trace=False).save(str(folder / "net.pt"))
    shape = f"inputshape={list(x.shape)}f32".replace(" ", "")
    # pnnx.export would print, and run the Python that pnnx writes. Its memory doubles with every block of an ESRGAN: 17 GB for 23 of them.
    bound = resource and partial(resource.setrlimit, resource.RLIMIT_AS, (available_memory(),) * 2)
    subprocess.run([pnnx.EXEC_PATH, "net.pt", shape, "fp16=0"], cwd=folder, capture_output=True, check=False, preexec_fn=bound)
    param = folder / "net.ncnn.param"
    return param.read_text(encoding="utf-8").splitlines() if param.is_file() else []


def as_mat(x: Tensor) -> Any:
    """(1, C, h, w) as ncnn's own kind of array, which keeps its memory."""
    import ncnn  # late: optional, see requirements-ncnn.txt

    return ncnn.Mat(x[0].contiguous().numpy()).clone()


def run_ncnn(net: Any, x: Any) -> Any:
    """ncnn.Mat (C, h, w) -> ncnn.Mat, by a network that pnnx converted; np.array(...) is the picture. RuntimeError where it fails."""
    with net.create_extractor() as extractor:
        extractor.input("in0", x)
        status, result = extractor.extract("out0")
    if status != 0:
        raise RuntimeError(f"ncnn failed with status {status}")
    return result


def restored(generator: Generator, size: int, options: TestOptions) -> Entry:
    """Ours from LR in 8 bit to the result in 8 bit: enlargement, mirrored frame, tiles and color_fix as the options say."""
    lr = lr_picture(size, generator.scale)[0]
    image = (lr * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    settings = Restoration(scale=size / len(image), tile=options.tile, tile_overlap=options.tile_overlap, color_fix=options.color_fix)
    call = partial(restore_array, generator, image, settings, no_warning)
    return Entry(call=call, macs=count_macs(generator, call).everything, weights_mib=weights_mib(generator))


def installed() -> list[str]:
    """The optional packages that are."""
    return [package for package in ("spandrel", *NCNN) if find_spec(package)]


def what_is_timed(options: TestOptions) -> str:
    """For people, below the table."""
    return (
        "Timed is the network alone, on a picture that is in memory: ours restores one that is enlarged already, a rival takes LR (the "
        f"output's sides / its scale) and computes in float32. `{RESTORED}` is all that lies between LR and the result, both of 8 bit and "
        f"in memory: enlargement, mirrored frame, tile {options.tile}, color_fix {options.color_fix}."
    )
