"""What lets a network of whole multiples take pictures of any size: the mirrored frame that restoring gives it, cut off the result."""

import numpy as np
from torch import Tensor
from torch.onnx import ONNXProgram

from models.generator import Generator
from restoring.enlarged import AFTER, BEFORE, framed


def restore_any_size(generator: Generator, lr_up: Tensor) -> Tensor:
    """`Generator.restore` of a picture (1, 3, H, W) of any size, as the file of `accept_any_size` computes it."""
    height, width = lr_up.shape[-2:]
    rows, columns = (framed(side, generator.size_multiple) for side in (height, width))
    return generator.restore(lr_up[..., rows, :][..., columns])[..., BEFORE : BEFORE + height, BEFORE : BEFORE + width]


def accept_any_size(program: ONNXProgram, multiple: int) -> None:
    """Puts the same around the graph of a network with the input lr_up and the output sr, in place. Both keep their names."""
    from onnxscript import ir  # late: only --onnx needs it, see requirements-onnx.txt

    graph, tape = program.model.graph, ir.tape.Tape()
    whole, restored = graph.inputs[0], graph.outputs[0]
    lr_up = ir.Value(name=whole.name, type=whole.type, shape=ir.Shape([1, 3, "height", "width"]))
    sr = ir.Value(name=restored.name, type=restored.type, shape=lr_up.shape)
    whole.name, restored.name = f"{whole.name}_whole", f"{restored.name}_whole"

    def constant(*values: int, scalar: bool = False) -> ir.Value:
        return tape.op("Constant", [], {"value": ir.tensor(np.array(values[0] if scalar else values, np.int64))})

    one, two, step, first, frame = (constant(value, scalar=True) for value in (1, 2, multiple, -BEFORE, BEFORE + AFTER))
    sides = [tape.op("Squeeze", [tape.op("Shape", [lr_up], {"start": axis, "end": axis + 1})]) for axis in (2, 3)]
    extended = lr_up
    for axis, side in zip((2, 3), sides, strict=True):
        last = tape.op("Sub", [side, one])
        steps = tape.op("Div", [tape.op("Add", [tape.op("Add", [last, frame]), step]), step])
        end = tape.op("Add", [tape.op("Mul", [steps, step]), first])
        period = tape.op("Max", [one, tape.op("Mul", [two, last])])
        within = tape.op("Mod", [tape.op("Range", [first, end, one]), period])
        pixels = tape.op("Min", [within, tape.op("Sub", [period, within])])
        extended = tape.op("Gather", [extended, pixels], {"axis": axis})
    before = len(tape.nodes)
    whole.replace_all_uses_with(extended)
    edge = constant(BEFORE, BEFORE)
    end = tape.op("Add", [tape.op("Shape", [lr_up], {"start": 2}), edge])
    tape.op("Slice", [restored, edge, end, constant(2, 3)], output=sr)
    nodes = list(tape.nodes)
    graph.insert_before(graph[0], nodes[:before])
    graph.extend(nodes[before:])
    graph.inputs[0], graph.outputs[0] = lr_up, sr
