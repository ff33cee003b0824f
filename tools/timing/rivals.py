"""Other super-resolution networks for the table of tools/benchmark.py: any weights that spandrel knows, through PyTorch and through ncnn.

spandrel finds the network that weights belong to; ncnn is the runtime of most programs that people run on laptops.
Both are optional, see requirements-peers.txt and requirements-ncnn.txt. Everything is float32.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from models.generator import Generator
from models.ncnn_unet import NcnnNet
from models.pretrained_files import reading_tensors
from options.d3sr import TestOptions
from restoring.pictures import Restoration, restore_array
from tools.exporting.ncnn_export import PACKAGES, convert, noise
from tools.exporting.onnx_export import example_picture
from tools.timing.complexity import count_macs
from tools.timing.measure import weights_mib
from tools.timing.parts import no_warning
from tools.timing.variants import NCNN, SHIPPED, Entry

SMALL = ((32, 24), (24, 40))
"""Of the pictures that a network is traced with for ncnn: pnnx keeps every value on the way in memory."""

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


def entries(
    rivals: Sequence[Rival], ours: Mapping[str, Generator], size: int, options: TestOptions
) -> tuple[dict[str, Entry], list[str]]:
    """Rows for an output of size x size, and what there is to say about them, in lines.

    `RESTORED` by our default and by ncnn where that is among `ours`, and each rival through PyTorch, on the device of ours, and on a CPU
    through ncnn where it is installed.
    """
    device, image = ours[SHIPPED].prompt_embedding.device, as_image(lr_picture(size, ours[SHIPPED].scale))
    whole, notes = restored(ours[SHIPPED], image, options), []
    rows = {RESTORED: whole}
    if NCNN in ours:
        rows[f"{RESTORED}, runtime: ncnn"] = replace(whole, call=restoring(ours[NCNN], image, options), seen=False)
    for rival in rivals:
        lr, mib = lr_picture(size, rival.scale), weights_mib(rival.network)
        meta = copy.deepcopy(rival.network).to("meta")
        macs = count_macs(meta, partial(meta, lr.to("meta"))).everything
        network, picture = rival.network.to(device), lr.to(device, memory_format=torch.channels_last)
        rows[f"{rival.name}, torch"] = Entry(call=partial(network, picture), macs=macs, weights_mib=mib)
        if device.type == "cpu" and all(map(find_spec, PACKAGES)):
            call, note = through_ncnn(rival, lr)
            notes.append(note)
            if call is not None:
                rows[f"{rival.name}, ncnn"] = Entry(call=call, macs=macs, weights_mib=mib, seen=False)
    return rows, notes


def through_ncnn(rival: Rival, lr: Tensor) -> tuple[Callable[[], np.ndarray] | None, str]:
    """The rival by ncnn on this picture, and how much it differs from PyTorch; None and the reason where ncnn cannot compute it."""
    with TemporaryDirectory(prefix="d3sr-") as folder:
        files = (Path(folder, "net.param"), Path(folder, "net.bin"))
        try:
            difference = convert(rival.network, [noise((1, 3, *size)) for size in SMALL], *files)
        except ValueError as error:
            return None, f"{rival.name}: no row for ncnn: {error}."
        net = NcnnNet(*files)
    return partial(net, lr[0].numpy()), f"{rival.name}: ncnn differs from PyTorch by {difference:.1e} of the largest value."


def as_image(lr: Tensor) -> np.ndarray:
    """(1, 3, h, w) in [0, 1] -> uint8 (h, w, 3)."""
    return (lr[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def restored(generator: Generator, image: np.ndarray, options: TestOptions) -> Entry:
    """Ours from LR in 8 bit to the result in 8 bit: enlargement, mirrored frame, tiles and color_fix as the options say."""
    call = restoring(generator, image, options)
    return Entry(call=call, macs=count_macs(generator, call).everything, weights_mib=weights_mib(generator))


def restoring(generator: Generator, image: np.ndarray, options: TestOptions) -> Callable[[], np.ndarray]:
    """What is timed of that."""
    settings = Restoration(scale=generator.scale, tile=options.tile, tile_overlap=options.tile_overlap, color_fix=options.color_fix)
    return partial(restore_array, generator, image, settings, no_warning)


def installed() -> list[str]:
    """The optional packages that are."""
    return [package for package in ("spandrel", *PACKAGES) if find_spec(package)]


def what_is_timed(options: TestOptions) -> str:
    """For people, below the table."""
    return (
        "Timed is the network alone, on a picture that is in memory: ours restores one that is enlarged already, a rival takes LR (the "
        f"output's sides / its scale) and computes in float32. `{RESTORED}` is all that lies between LR and the result, both of 8 bit and "
        f"in memory: enlargement, mirrored frame, tile {options.tile}, color_fix {options.color_fix}."
    )
