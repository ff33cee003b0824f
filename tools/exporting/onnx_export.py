"""The generator as an ONNX file: lr_up (1, 3, H, W) in [-1, 1], any H and W -> sr, the same size, see `any_size.restore_any_size`.

The file is compared with PyTorch before anyone gets it. Needs the packages of requirements-onnx.txt.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx import ONNXProgram

from models.generator import Generator
from tools.exporting.any_size import accept_any_size, restore_any_size

Size = tuple[int, int]

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18  # the oldest that torch's exporter writes: most runtimes read it
TRACED: Size = (2, 3)
CHECKED: tuple[Size, ...] = ((5, 3), (1, 4))
"""Sides in multiples of `size_multiple`, of which BEYOND pixels are mirrored. An odd and a single multiple: where wrong sizes on the way
down and up would show."""
BEYOND: Size = (3, 1)

LARGEST_DIFFERENCE = 1e-3
"""Of [-1, 1]: an eighth of a grey level of 8 bit. Rounding alone gave 1e-6 (weights/d3sr-tiny) to 5e-5 (random weights, SD 2.1's size)."""

EXTERNAL_FROM = 1_900_000_000
"""Bytes of weights from which they go into FILE.data: a single protobuf file ends at 2 GiB."""


class Restoring(nn.Module):
    """`Generator.restore` as a module's forward, which is what can be exported."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, lr_up: Tensor) -> Tensor:
        return self.generator.restore(lr_up)


def check_packages() -> None:
    """Raises ValueError where a package is missing, before any work is done."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"--onnx needs {', '.join(missing)}, not installed here: pip install -r requirements-onnx.txt -c constraints.txt")


def write_onnx(generator: Generator, file: Path, external_from: int = EXTERNAL_FROM) -> dict[Size, float]:
    """Writes a float32 generator and compares the file with it.

    Returns:
        (H, W) of each picture compared -> largest difference from PyTorch.

    Raises:
        ValueError: the generator cannot be expressed in ONNX, or the file computes something else.
    """
    save_program(trace(generator), file, external_from)
    differences = {}
    for rows, columns in CHECKED:
        size = (rows * generator.size_multiple - BEYOND[0], columns * generator.size_multiple - BEYOND[1])
        differences[size] = largest_difference(generator, file, size)
        if not differences[size] <= LARGEST_DIFFERENCE:  # nan is refused too
            raise ValueError(
                f"{file.name} computes something else than PyTorch: at {size[1]}x{size[0]} pixels it differs by {differences[size]:.2g} "
                f"of [-1, 1], where {LARGEST_DIFFERENCE:g} is allowed; try other versions of {', '.join(PACKAGES)}, or do without --onnx"
            )
    return differences


def trace(generator: Generator) -> ONNXProgram:
    """The generator's graph for pictures of any size, with what a user of the file must know in its metadata.

    Raises:
        ValueError: some part of it has no form in ONNX.
    """
    multiple = generator.size_multiple
    sides = {2: multiple * torch.export.Dim("h"), 3: multiple * torch.export.Dim("w")}
    lr_up = example_picture((TRACED[0] * multiple, TRACED[1] * multiple))
    try:
        program = torch.onnx.export(
            Restoring(generator).eval(), (lr_up,), input_names=["lr_up"], output_names=["sr"], dynamic_shapes={"lr_up": sides},
            opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"torch cannot express this generator in ONNX: {reason}") from error
    accept_any_size(program, multiple)
    facts = {"scale": generator.scale, "timestep": generator.timestep, "size_multiple": multiple}
    program.model.metadata_props.update({f"d3sr.{name}": str(value) for name, value in facts.items()})
    return program


def save_program(program: ONNXProgram, file: Path, external_from: int = EXTERNAL_FROM) -> None:
    """Writes FILE, and FILE.data beside it where the weights are too large for one file."""
    weights = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(str(file), external_data=weights >= external_from)


def largest_difference(generator: Generator, file: Path, size: Size) -> float:
    """Between onnxruntime on the CPU and PyTorch, for one picture of `size` = (H, W)."""
    import onnxruntime  # late: only --onnx needs it, see requirements-onnx.txt

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    lr_up = example_picture(size)
    (sr,) = session.run(["sr"], {"lr_up": lr_up.numpy()})
    return (torch.from_numpy(sr) - restore_any_size(generator, lr_up)).abs().max().item()


def example_picture(size: Size) -> Tensor:
    """(1, 3, H, W) in [-1, 1], the same every time: soft shapes of all colours with some grain."""
    random = torch.Generator().manual_seed(0)
    shapes = torch.randn(1, 3, size[0] // 8 + 1, size[1] // 8 + 1, generator=random)
    grain = torch.randn(1, 3, *size, generator=random)
    return (0.4 * F.interpolate(shapes, size=size, mode="bicubic", align_corners=False) + 0.05 * grain).clamp(-1.0, 1.0)
