"""Recurrent layers as ncnn's: a sequence from zeros, in one direction or both."""

from __future__ import annotations

import numpy as np

from edgesdk.export.ncnn.file import Parameter
from edgesdk.export.ncnn.lowering import Lowering, Value, refused
from edgesdk.export.reading import Node

GATES: dict[str, tuple[int, ...]] = {
    "GRU": (1, 0, 2),
    "LSTM": (0, 2, 1, 3),
}  # ncnn's order of ONNX's gates: reset, update, new; i, f, o, g
DIRECTIONS = {"forward": 0, "reverse": 1, "bidirectional": 2}


def recurrent(graph: Lowering, node: Node) -> None:
    """A GRU (Cho et al. 2014, its reset applied behind the product) or an LSTM (Hochreiter and Schmidhuber 1997)."""
    weight, inner = (graph.array(name) for name in node.inputs[1:3])
    given = [*node.inputs, "", "", "", "", ""][: 8 if node.op == "LSTM" else 6]
    if weight is None or inner is None:
        raise refused(node, "its weights are not constant")
    if any(name and (graph.array(name) is None or np.any(graph.array(name))) for name in given[5:]):
        raise refused(node, "it begins with other states than zeros, or peeks at its cell")
    if node.op == "GRU" and not node.get("linear_before_reset", 0):
        raise refused(node, "it resets before the product")
    if "activations" in node.attributes or "clip" in node.attributes or node.get("layout", 0):
        raise refused(node, "it has other activations, bounds, or another layout")
    if given[4] and graph.array(given[4]) is None:
        raise refused(node, "its lengths are not constant")
    ends = (*node.outputs, "", "")
    read = [bool(name) and (name in graph.readers or name in graph.outputs) for name in ends]
    directions, width = weight.shape[0], inner.shape[2]
    if read[2] or (read[1] and (directions > 1 or node.get("direction", "forward") == "reverse")):
        raise refused(node, "its last state is read, of a cell or of another direction than forward")
    shape = graph.shape(node.inputs[0])
    steps, size = shape[0], shape[2]
    if shape[1] != 1:
        raise refused(node, f"it reads {shape[1]} sequences at a time")
    order, count = GATES[node.op], len(GATES[node.op])
    bias = graph.array(given[3]) if given[3] else np.zeros((directions, 2 * count * width), np.float32)
    if bias is None:
        raise refused(node, "its bias is not constant")
    sides = bias.reshape(directions, 2, count, width)[:, :, order]
    if node.op == "GRU":  # the new state has two, for its reset lies between them
        biases = np.concatenate((sides[:, :, :2].sum(1), sides[:, 0, 2:], sides[:, 1, 2:]), 1)
    else:
        biases = sides.sum(1)
    turned = [a.reshape(directions, count, width, -1)[:, order] for a in (weight, inner)]
    arrays = [array.astype(np.float32) for array in (turned[0], biases, turned[1])]
    parameters: dict[int, Parameter] = {0: width, 1: int(weight.size), 2: DIRECTIONS[node.get("direction", "forward")]}
    x = graph.real(node.inputs[0], (steps, size))
    mat = (steps, directions * width)
    y = node.outputs[0] or f"{node.name}/all"
    if not node.outputs[0]:
        graph.shapes[y] = (steps, directions, 1, width)
    made = graph.made(node, node.op, [x], mat, parameters, arrays, y, tagged=3)
    if len(node.outputs) > 1 and node.outputs[1] and read[1]:
        last: dict[int, Parameter] = {9: [steps - 1], 10: [steps], 11: [0]}
        blob = graph.file.fresh(node.outputs[1])
        graph.file.add("Crop", blob, made.outputs, [blob], last)
        graph.values[node.outputs[1]] = Value(blob, graph.shape(node.outputs[1]), (1, width))


OPERATORS = {"GRU": recurrent, "LSTM": recurrent}
