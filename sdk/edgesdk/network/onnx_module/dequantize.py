"""A file that is quantized already as the float network that it stands for.

Weights become the numbers that their integers are. Activations are no longer rounded, so that a tensor of integers is
the tensor that it was made of. Where a grid begins at zero it does what a ReLU did that a quantizer had left out, and
this puts it back; one that ends at six as well was a ReLU6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from edgesdk.network.onnx_module.grid import UNIT, Grid
from edgesdk.network.onnx_module.rewriting import QUANTIZED, Rewriting


def quantized_in(model: ModelProto) -> Counter[str]:
    """The operators on integers of a file that is quantized already, and how many of each; empty for another.

    Weights that are stored in few bits, to be computed with as floats, are none.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    found: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type == "Constant" or constants.issuperset(filter(None, node.input)):
            constants.update(node.output)
        elif node.op_type in QUANTIZED:
            found[node.op_type] += 1
    return found


def dequantized(model: ModelProto, where: str) -> ModelProto:
    """The float model that ``model``, called ``where``, stands for; its inputs and outputs keep their names.

    Raises ``ModelError`` for what has no float equivalent, with the node.
    """
    made = ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(4, model.ir_version)  # below it, weights are inputs
    opsets = {entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in model.opset_import}
    graph = Rewriting(model.graph, opsets, where).run(TRANSLATIONS)
    made.graph.CopyFrom(graph)
    return made


def quantize(graph: Rewriting, node: NodeProto) -> None:
    graph.rounded(node.input[0], node.output[0], graph.grid(node, 1, 2), node)


def quantize_dynamically(graph: Rewriting, node: NodeProto) -> None:
    """Integers that are the numbers themselves: of a scale of one and a zero of none."""
    integers, *known = node.output
    graph.grids[integers] = UNIT
    graph.call(integers, graph.at(node.input[0]))
    graph.values.update(zip(known, (UNIT.scale, UNIT.zero), strict=False))


def dequantize(graph: Rewriting, node: NodeProto) -> None:
    name, grid = graph.at(node.input[0]), graph.grid(node, 1, 2)
    if name not in graph.inputs or node.input[0] in graph.grids:
        graph.call(node.output[0], name)
        return
    if grid is None or grid.scale.size != 1:  # the file is given integers
        raise graph.refusal(node, "makes numbers of integers that the model is given, by no single scale")
    scale, zero = (float(part.reshape(())) for part in (grid.scale, grid.zero))
    made = f"{node.output[0]}_cast"
    graph.emit_as("Cast", [name], made, f"{made}_node", to=TensorProto.FLOAT)
    if zero:
        point = graph.hold(f"{made}_zero", np.array(zero, np.float32))
        graph.emit_as("Sub", [made, point], f"{made}_off", f"{made}_off_node")
        made = f"{made}_off"
    graph.emit_as("Mul", [made, graph.hold(f"{made}_scale", np.array(scale, np.float32))], node.output[0], made)


def convolve(graph: Rewriting, node: NodeProto) -> None:
    x, weight, y = graph.grid(node, 1, 2), graph.grid(node, 4, 5), graph.grid(node, 6, 7)
    inputs = [graph.operand(node, 0, x), graph.operand(node, 3, weight)]
    if graph.array(node, 8) is not None:
        inputs.append(_bias(graph, node, 8, x, weight))
    made = f"{node.output[0]}_float"
    graph.emit("Conv", node, inputs, made)
    graph.rounded(made, node.output[0], y, node)


def _bias(graph: Rewriting, node: NodeProto, index: int, x: Grid | None, weight: Grid | None) -> str:
    """A bias of integers, on the product of the scales of what is summed."""
    if x is None or weight is None:
        raise graph.refusal(node, "takes the scale of its bias from what the model computes")
    return graph.operand(node, index, Grid(np.asarray(x.scale * weight.scale), np.zeros((), np.int32)))


def multiply(graph: Rewriting, node: NodeProto) -> None:
    a, b, y = graph.grid(node, 1, 2, -2), graph.grid(node, 4, 5, -1), graph.grid(node, 6, 7)
    made = f"{node.output[0]}_float"
    graph.emit("MatMul", node, [graph.operand(node, 0, a), graph.operand(node, 3, b)], made)
    graph.rounded(made, node.output[0], y, node)


def gemm(graph: Rewriting, node: NodeProto) -> None:
    turned = next((a.i for a in node.attribute if a.name == "transB"), 0)
    a, b, y = graph.grid(node, 1, 2), graph.grid(node, 4, 5, 0 if turned else 1), graph.grid(node, 7, 8)
    inputs = [graph.operand(node, 0, a), graph.operand(node, 3, b)]
    if graph.array(node, 6) is not None:
        inputs.append(_bias(graph, node, 6, a, b))
    made = f"{node.output[0]}_float" if y is not None else node.output[0]
    graph.emit("Gemm", node, inputs, made)
    if y is not None:
        graph.rounded(made, node.output[0], y, node)


def sum_products(graph: Rewriting, node: NodeProto) -> None:
    """MatMulInteger and ConvInteger: sums in steps of both operands, which a product behind them makes numbers."""
    steps, names, held = np.ones(()), [], None
    conv = node.op_type == "ConvInteger"
    for index in (0, 1):
        name, zero, value = node.input[index], graph.array(node, index + 2), graph.array(node, index)
        zero = np.zeros((), np.uint8) if zero is None else zero
        if value is not None:
            real = Grid(np.ones(()), zero, 0 if conv else -1 if index else -2).real(value)
            held = (index, real)
            names.append(name)
            continue
        if name not in graph.grids:
            raise graph.refusal(node, "takes integers that the model is given or computes")
        steps = steps * graph.grids[name].scale.reshape(())
        names.append(graph.at(name))
    operator, made = ("Conv" if conv else "MatMul"), node.output[0]
    if held is not None:
        index, real = held
        real = (real / steps).astype(np.float32)
        names[index] = graph.hold(f"{node.input[index]}_in_steps", real)
        if index == 1:
            graph.sums[made] = (graph.emit(operator, node, names), real, node.input[1])
            graph.grids[made] = UNIT
            return
    graph.emit(operator, node, names, made)
    graph.grids[made] = UNIT


def cast(graph: Rewriting, node: NodeProto) -> None:
    """Integers are numbers already."""
    name = node.input[0]
    if name not in graph.grids:
        graph.keep(node)
        return
    if graph.grids[name] is not UNIT:
        raise graph.refusal(node, "computes with integers of a grid as if they were numbers")
    graph.call(node.output[0], graph.at(name))
    graph.grids[node.output[0]] = UNIT


def scale(graph: Rewriting, node: NodeProto) -> None:
    """A product of sums with what a step of them is: it goes into their weight."""
    for index in (0, 1):
        factor, name = graph.array(node, 1 - index), graph.at(node.input[index])
        if factor is None or name not in graph.sums or max(graph.readers[node.input[index]], graph.readers[name]) > 1:
            continue
        summed, weight, called = graph.sums[name]
        conv = summed.op_type == "Conv"
        if factor.size > 1 and factor.size != (weight.shape[0] if conv else weight.shape[-1]):
            continue
        along = factor.reshape(-1, *[1] * (weight.ndim - 1)) if conv and factor.size > 1 else factor.reshape(-1)
        summed.input[1] = graph.hold(called, (weight * along).astype(np.float32))
        graph.call(node.output[0], name)
        return
    graph.keep(node)


def multiply_dynamically(graph: Rewriting, node: NodeProto) -> None:
    """DynamicQuantizeMatMul (A, B, scale, zero, bias) and MatMulIntegerToFloat (A, B, scales, zeros, bias)."""
    apart = node.op_type == "MatMulIntegerToFloat"
    grid = graph.grid(node, 3, 5, -1) if apart else graph.grid(node, 2, 3, -1)
    place, made = (6 if apart else 4), node.output[0]
    bias = place < len(node.input) and bool(node.input[place])
    graph.emit("MatMul", node, [graph.at(node.input[0]), graph.operand(node, 1, grid)], f"{made}_sum" if bias else made)
    if bias:
        graph.emit_as("Add", [f"{made}_sum", graph.at(node.input[place])], made, f"{made}_bias")


def recur(graph: Rewriting, node: NodeProto) -> None:
    """DynamicQuantizeLSTM: an LSTM whose weights lie turned."""
    weights = []
    for index, scale, zero in ((1, 8, 9), (2, 10, 11)):
        value, grid = graph.array(node, index), graph.grid(node, scale, zero)
        if value is None or grid is None:
            raise graph.refusal(node, "has no constant weights")
        parts = [part[..., None] if part.ndim == 2 else part for part in (grid.scale, grid.zero)]  # a gate's rows
        weights.append(graph.hold(node.input[index], Grid(parts[0], parts[1]).real(value.swapaxes(1, 2))))
    rest = [graph.at(name) if name else "" for name in node.input[3:8]]
    made = graph.emit("LSTM", node, [graph.at(node.input[0]), *weights, *rest])
    made.output[:] = node.output


def pairwise(graph: Rewriting, node: NodeProto) -> None:
    a, b, y = graph.grid(node, 1, 2), graph.grid(node, 4, 5), graph.grid(node, 6, 7)
    made = f"{node.output[0]}_float"
    graph.emit(node.op_type.removeprefix("QLinear"), node, [graph.operand(node, 0, a), graph.operand(node, 3, b)], made)
    graph.rounded(made, node.output[0], y, node)


def single(graph: Rewriting, node: NodeProto) -> None:
    given = {a.name: a.i for a in node.attribute}
    if given.get("channels_last"):
        raise graph.refusal(node, "has its channels last")
    if node.op_type == "QLinearSoftmax" and (given.get("opset", 13) < 13) != (graph.opsets.get("", 1) < 13):
        raise graph.refusal(node, "is a Softmax of another opset than the file's")
    made = f"{node.output[0]}_float"
    graph.emit(node.op_type.removeprefix("QLinear"), node, [graph.at(node.input[0])], made)
    graph.rounded(made, node.output[0], graph.grid(node, 3, 4), node)


def concatenate(graph: Rewriting, node: NodeProto) -> None:
    inputs = [graph.operand(node, i, graph.grid(node, i + 1, i + 2)) for i in range(2, len(node.input), 3)]
    made = f"{node.output[0]}_float"
    graph.emit("Concat", node, inputs, made)
    graph.rounded(made, node.output[0], graph.grid(node, 0, 1), node)


def choose(graph: Rewriting, node: NodeProto) -> None:
    inputs = [graph.at(node.input[0])] + [graph.operand(node, i, graph.grid(node, i + 1, i + 2)) for i in (1, 4)]
    made = f"{node.output[0]}_float"
    graph.emit("Where", node, inputs, made)
    graph.rounded(made, node.output[0], graph.grid(node, 7, 8), node)


TRANSLATIONS: dict[str, Callable[[Rewriting, NodeProto], None]] = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize,
    "DynamicQuantizeLinear": quantize_dynamically, "QLinearConv": convolve,
    "QLinearMatMul": multiply, "QGemm": gemm, "MatMulInteger": sum_products,
    "ConvInteger": sum_products, "MatMulIntegerToFloat": multiply_dynamically,
    "DynamicQuantizeMatMul": multiply_dynamically, "DynamicQuantizeLSTM": recur,
    "QLinearAdd": pairwise, "QLinearMul": pairwise, "QLinearSigmoid": single,
    "QLinearLeakyRelu": single, "QLinearSoftmax": single,
    "QLinearAveragePool": single, "QLinearGlobalAveragePool": single,
    "QLinearConcat": concatenate,
    "QLinearWhere": choose, "Cast": cast, "Mul": scale,
}  # fmt: skip
