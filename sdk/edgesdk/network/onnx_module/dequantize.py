"""A file that is quantized already as the float network that it stands for.

Weights become the numbers that their integers are. Activations are no longer rounded, so that a tensor of integers is
the tensor that it was made of. Where a grid begins at zero it does what a ReLU did that a quantizer had left out, and
this puts it back; one that ends at six as well was a ReLU6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isclose

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgesdk.core.errors import ModelError
from edgesdk.network.onnx_graph import INTEGER_OPERATORS
from edgesdk.network.onnx_module.runtime import run_alone

DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM")
QUANTIZED = {*INTEGER_OPERATORS, *DYNAMIC, "QLinearWhere"} - {"DequantizeLinear"}
BITS8 = (np.int8, np.uint8)
FOLDED = (  # what makes weights of weights
    "Constant", "QuantizeLinear", "DequantizeLinear", "Mul", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
    "Identity",
)  # fmt: skip
POSITIVE = ("Relu", "Sigmoid", "Softmax", "Abs", "Exp", "Sqrt", "HardSigmoid", "Softplus", "ReduceL1", "ReduceL2")
KEEPING = (  # makes no negative number of others
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten", "Transpose", "Squeeze",
    "Unsqueeze", "Slice", "Split", "Concat", "Add", "Mul", "Identity", "Dropout", "Pad", "Resize", "ReduceMean",
    "ReduceMax", "ReduceMin", "ReduceSum", "Gather", "DepthToSpace", "Expand", "Tile",
)  # fmt: skip
MOVING = (*KEEPING, "Where", "Relu", "Clip", "GatherElements", "SpaceToDepth")  # integers to integers of the same grid
RECTIFIED = (  # what a ReLU comes behind
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Sum", "Mul", "Concat", "BatchNormalization",
    "InstanceNormalization", "LayerNormalization", "GroupNormalization",
)  # fmt: skip
SIX, NEAR = 6.0, 1e-4
SUFFIXES = ("_quantized", "_quant")  # of what ONNX Runtime's quantizer calls integers by


@dataclass(frozen=True)
class Grid:
    """The numbers that a tensor's integers stand for: ``scale * (integer - zero)``, along ``axis`` where several."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int = 0

    def real(self, integers: np.ndarray) -> np.ndarray:
        """What ``integers`` stand for."""
        scale, zero = (self._along(part, integers.ndim) for part in (self.scale, self.zero))
        return ((integers.astype(np.float64) - zero) * scale).astype(np.float32)

    def _along(self, part: np.ndarray, rank: int) -> np.ndarray:
        if part.size == 1:
            return part.reshape(()).astype(np.float64)
        if part.ndim > 1:
            return part.astype(np.float64)
        shape = [1] * rank
        shape[self.axis % rank] = part.size
        return part.astype(np.float64).reshape(shape)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The least and the largest number on it; ``None`` where that differs by channel."""
        if self.scale.size != 1 or self.zero.size != 1 or self.zero.dtype.kind not in "iu":
            return None
        bounds, scale, zero = np.iinfo(self.zero.dtype), float(self.scale.reshape(())), int(self.zero.reshape(()))
        return (int(bounds.min) - zero) * scale, (int(bounds.max) - zero) * scale


UNIT = Grid(np.ones((), np.float32), np.zeros((), np.uint8))  # of integers that are the numbers themselves


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
    graph = _Rewriting(model.graph, opsets, where).run()
    made.graph.CopyFrom(graph)
    return made


class _Rewriting:
    """A graph, rewritten node by node."""

    def __init__(self, graph: GraphProto, opsets: Mapping[str, int], where: str) -> None:
        self.graph, self.opsets, self.where = graph, opsets, where
        self.values: dict[str, np.ndarray] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.inputs: set[str] = {value.name for value in graph.input if value.name not in self.values}
        self.ends: set[str] = {value.name for value in graph.output}
        self.readers: Counter[str] = Counter(name for node in graph.node for name in node.input)
        self.readers.update(self.ends)
        self.reading: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.reading.setdefault(name, []).append(node)
        self.same: dict[str, str] = {}  # what a tensor of the file is in the float graph
        self.grids: dict[str, Grid] = {}  # by tensors of the file that hold integers
        self.sums: dict[str, tuple[NodeProto, np.ndarray, str]] = {}  # products of integers: weight, what it is called
        self.positive: set[str] = set()  # tensors of the float graph without negative numbers
        self.origin: dict[str, str] = {}  # what the weight is called that a constant was made of
        self.made: set[str] = set()  # constants of the float graph that the file has not, or otherwise
        self.makers: dict[str, str] = {}  # operators, by what they make in the float graph
        self.nodes: list[NodeProto] = []

    def run(self) -> GraphProto:
        for node in self.graph.node:
            if self._fold(node):
                continue
            handler = HANDLERS.get(node.op_type)
            if handler is not None:
                handler(self, node)
            elif node.op_type in QUANTIZED or node.op_type.startswith(("QLinear", "QAttention", "QEmbed", "QMoE")):
                raise self.refusal(node, "has no float equivalent")
            else:
                self._keep(node)
        for name in self.ends:
            if name in self.same:
                self._emit("Identity", [self.at(name)], name, f"{name}_float")
        if whole := [value.name for value in self.graph.output if value.type.tensor_type.elem_type in EIGHT]:
            fact = f"the output {whole[0]} of {self.where} is integers on a grid"
            raise ModelError(fact, "let the file end in DequantizeLinear, or give the float model")
        used = {name for node in self.nodes for name in node.input} | self.ends
        weights = [numpy_helper.from_array(np.asarray(v, order="C"), n) for n, v in self.values.items() if n in used]
        given = [value for value in self.graph.input if value.name in self.inputs]
        return helper.make_graph(self.nodes, self.graph.name, given, self.graph.output, weights)

    def refusal(self, node: NodeProto, why: str) -> ModelError:
        named = node.name or next((name for name in node.output if name), "without a name")
        fact = f"the node {named} of {self.where} ({node.op_type}) {why}"
        return ModelError(fact, "give the float model that the file was made from")

    # What the parts have in common

    def at(self, name: str) -> str:
        """What a tensor of the file is called in the float graph."""
        while name in self.same:
            name = self.same[name]
        return name

    def call(self, name: str, made: str) -> None:
        """Let a tensor of the file be ``made`` in the float graph."""
        if name != made:
            self.same[name] = made

    def array(self, node: NodeProto, index: int) -> np.ndarray | None:
        """An input that is a constant; ``None`` for one that is not, or is left out."""
        if index >= len(node.input) or not node.input[index]:
            return None
        return self.values.get(self.at(node.input[index]))

    def grid(self, node: NodeProto, scale: int, zero: int, axis: int = 0) -> Grid | None:
        """The grid that two inputs describe; ``None`` where its scale is no constant."""
        step, point = self.array(node, scale), self.array(node, zero)
        return None if step is None else Grid(step, np.zeros((), np.uint8) if point is None else point, axis)

    def hold(self, name: str, value: np.ndarray) -> str:
        """What a constant is called that is made of the one that the file calls ``name``."""
        name = self.origin.get(name, name)
        for suffix in SUFFIXES:
            name = name.removesuffix(suffix)
        while name in self.values and not np.array_equal(self.values[name], value):
            readers = self.reading.get(name, [])
            if name not in self.made and readers and all(reader.op_type == "QuantizeLinear" for reader in readers):
                break  # the weight before it was rounded, which nothing else reads
            name += "_"
        self.values[name] = value
        self.made.add(name)
        return name

    def operand(self, node: NodeProto, index: int, grid: Grid | None) -> str:
        """What an operator on integers takes: a tensor as it is, integers of the file as what they stand for."""
        name = node.input[index]
        value = self.array(node, index)
        if value is None:
            return self.at(name)
        if grid is None:
            raise self.refusal(node, "takes the scale of a weight from what the model computes")
        return self.hold(name, grid.real(value))

    def _emit(self, op: str, inputs: Iterable[str], output: str, name: str, **attributes: object) -> NodeProto:
        node = helper.make_node(op, list(inputs), [output], name, **attributes)
        self.nodes.append(node)
        self._note_made(node)
        return node

    def emit(self, op: str, node: NodeProto, inputs: Iterable[str], output: str | None = None) -> NodeProto:
        """The operator ``op`` in the place of ``node``, with its attributes."""
        name = node.name
        for suffix in SUFFIXES:
            name = name.removesuffix(suffix)
        made = self._emit(op, inputs, output or node.output[0], name)
        made.attribute.extend(a for a in node.attribute if a.name not in ("channels_last", "opset"))
        return made

    def rounded(self, made: str, integers: str, grid: Grid | None, node: NodeProto) -> None:
        """Note that ``integers`` of the file are the tensor ``made``, behind the ReLU that their ``grid`` was."""
        name, ends = self.at(made), None if grid is None else grid.ends
        if grid is not None:
            self.grids[integers] = grid
        if ends is not None and ends[0] == 0 and self.makers.get(name) in RECTIFIED and name not in self.positive:
            output = f"{name}_rectified"
            if output in self.positive:
                pass  # it has two readers, a grid each
            elif isclose(ends[1], SIX, rel_tol=NEAR):
                self._clip(name, output, node)
            else:
                self._emit("Relu", [name], output, f"{node.name or node.output[0]}_relu")
            self.positive.add(output)
            name = output
        self.call(integers, name)

    def _clip(self, name: str, output: str, node: NodeProto) -> None:
        label = f"{node.name or node.output[0]}_relu6"
        if self.opsets.get("", 1) < 11:
            self._emit("Clip", [name], output, label, min=0.0, max=SIX)
            return
        bounds = [self.hold(f"{label}_{end}", np.array(value, np.float32)) for end, value in ((0, 0.0), (6, SIX))]
        self._emit("Clip", [name, *bounds], output, label)

    def _note_made(self, node: NodeProto) -> None:
        self.makers.update(dict.fromkeys(node.output, node.op_type))
        least = next((a.f for a in node.attribute if a.name == "min"), None)
        if node.op_type == "Clip" and len(node.input) > 1 and node.input[1] in self.values:
            least = float(self.values[node.input[1]].reshape(-1)[0])
        keeps = node.op_type in KEEPING and all(map(self._is_positive, filter(None, node.input)))
        gate = node.op_type == "Add" and any(
            self.makers.get(name) == "Erf" for name in node.input
        )  # 1 + erf, of a GELU
        if node.op_type in POSITIVE or keeps or gate or node.op_type == "Clip" and least is not None and least >= 0:
            self.positive.update(node.output)

    def _is_positive(self, name: str) -> bool:
        value = self.values.get(name)
        return name in self.positive or value is not None and (value.dtype.kind != "f" or bool((value >= 0).all()))

    # Nodes that are no operators on integers

    def _fold(self, node: NodeProto) -> bool:
        """Compute what is made of constants alone; whether that was so."""
        if node.op_type not in FOLDED or any(name and self.at(name) not in self.values for name in node.input):
            return False
        given = {name: self.values[self.at(name)] for name in node.input if name}
        self.values.update(zip(node.output, run_alone(node, given, self.opsets), strict=False))
        if node.op_type != "Constant":
            first = node.input[0]
            self.origin[node.output[0]] = self.origin.get(first, first)
        if node.op_type == "DequantizeLinear":  # called as the weight that it was
            self.call(node.output[0], self.hold(node.input[0], self.values.pop(node.output[0])))
        return True

    def _keep(self, node: NodeProto) -> None:
        """An operator on numbers, or one that moves integers: these are numbers now, constants among them, too."""
        grid = next((self.grids[name] for name in node.input if name in self.grids), None)
        first = self.array(node, 0)
        if grid is None and first is not None and first.dtype in BITS8:
            grid = self._later(node)
        kept = NodeProto()
        kept.CopyFrom(node)
        for index, name in enumerate(node.input):
            value = self.array(node, index)
            eight = value is not None and value.dtype in BITS8
            kept.input[index] = self.hold(name, grid.real(value)) if grid is not None and eight else self.at(name)
        self.nodes.append(kept)
        self._note_made(kept)
        if grid is not None and node.op_type in MOVING:
            self.grids.update(dict.fromkeys(node.output, grid))

    def _later(self, node: NodeProto) -> Grid | None:
        """The grid by which what ``node`` moves is read further on."""
        for name in node.output:
            for reader in self.reading.get(name, []):
                found = self._later(reader) if reader.op_type in MOVING else self._read_by(reader, name)
                if found is not None:
                    return found
        return None

    def _read_by(self, reader: NodeProto, name: str) -> Grid | None:
        """The grid by which an operator on integers reads ``name``: its scale and zero come after it."""
        place = list(reader.input).index(name)
        if reader.op_type in ("MatMulInteger", "ConvInteger"):  # the scale comes behind it
            zero = self.array(reader, place + 2)
            return Grid(UNIT.scale, UNIT.zero if zero is None else zero)
        return self.grid(reader, place + 1, place + 2) if reader.op_type in QUANTIZED | {"DequantizeLinear"} else None

    # Operators on integers

    def quantize(self, node: NodeProto) -> None:
        self.rounded(node.input[0], node.output[0], self.grid(node, 1, 2), node)

    def quantize_dynamically(self, node: NodeProto) -> None:
        """Integers that are the numbers themselves: of a scale of one and a zero of none."""
        integers, *known = node.output
        self.grids[integers] = UNIT
        self.call(integers, self.at(node.input[0]))
        self.values.update(zip(known, (UNIT.scale, UNIT.zero), strict=False))

    def dequantize(self, node: NodeProto) -> None:
        name, grid = self.at(node.input[0]), self.grid(node, 1, 2)
        if name not in self.inputs or node.input[0] in self.grids:
            self.call(node.output[0], name)
            return
        if grid is None or grid.scale.size != 1:  # the file is given integers
            raise self.refusal(node, "makes numbers of integers that the model is given, by no single scale")
        scale, zero = (float(part.reshape(())) for part in (grid.scale, grid.zero))
        made = f"{node.output[0]}_cast"
        self._emit("Cast", [name], made, f"{made}_node", to=TensorProto.FLOAT)
        if zero:
            point = self.hold(f"{made}_zero", np.array(zero, np.float32))
            self._emit("Sub", [made, point], f"{made}_off", f"{made}_off_node")
            made = f"{made}_off"
        self._emit("Mul", [made, self.hold(f"{made}_scale", np.array(scale, np.float32))], node.output[0], made)

    def convolve(self, node: NodeProto) -> None:
        x, weight, y = self.grid(node, 1, 2), self.grid(node, 4, 5), self.grid(node, 6, 7)
        inputs = [self.operand(node, 0, x), self.operand(node, 3, weight)]
        if self.array(node, 8) is not None:
            inputs.append(self._bias(node, 8, x, weight))
        made = f"{node.output[0]}_float"
        self.emit("Conv", node, inputs, made)
        self.rounded(made, node.output[0], y, node)

    def _bias(self, node: NodeProto, index: int, x: Grid | None, weight: Grid | None) -> str:
        """A bias of integers, on the product of the scales of what is summed."""
        if x is None or weight is None:
            raise self.refusal(node, "takes the scale of its bias from what the model computes")
        return self.operand(node, index, Grid(np.asarray(x.scale * weight.scale), np.zeros((), np.int32)))

    def multiply(self, node: NodeProto) -> None:
        a, b, y = self.grid(node, 1, 2, -2), self.grid(node, 4, 5, -1), self.grid(node, 6, 7)
        made = f"{node.output[0]}_float"
        self.emit("MatMul", node, [self.operand(node, 0, a), self.operand(node, 3, b)], made)
        self.rounded(made, node.output[0], y, node)

    def gemm(self, node: NodeProto) -> None:
        turned = next((a.i for a in node.attribute if a.name == "transB"), 0)
        a, b, y = self.grid(node, 1, 2), self.grid(node, 4, 5, 0 if turned else 1), self.grid(node, 7, 8)
        inputs = [self.operand(node, 0, a), self.operand(node, 3, b)]
        if self.array(node, 6) is not None:
            inputs.append(self._bias(node, 6, a, b))
        made = f"{node.output[0]}_float" if y is not None else node.output[0]
        self.emit("Gemm", node, inputs, made)
        if y is not None:
            self.rounded(made, node.output[0], y, node)

    def sum_products(self, node: NodeProto) -> None:
        """MatMulInteger and ConvInteger: sums in steps of both operands, which a product behind them makes numbers."""
        steps, names, held = np.ones(()), [], None
        conv = node.op_type == "ConvInteger"
        for index in (0, 1):
            name, zero, value = node.input[index], self.array(node, index + 2), self.array(node, index)
            zero = np.zeros((), np.uint8) if zero is None else zero
            if value is not None:
                real = Grid(np.ones(()), zero, 0 if conv else -1 if index else -2).real(value)
                held = (index, real)
                names.append(name)
                continue
            if name not in self.grids:
                raise self.refusal(node, "takes integers that the model is given or computes")
            steps = steps * self.grids[name].scale.reshape(())
            names.append(self.at(name))
        operator, made = ("Conv" if conv else "MatMul"), node.output[0]
        if held is not None:
            index, real = held
            real = (real / steps).astype(np.float32)
            names[index] = self.hold(f"{node.input[index]}_in_steps", real)
            if index == 1:
                self.sums[made] = (self.emit(operator, node, names), real, node.input[1])
                self.grids[made] = UNIT
                return
        self.emit(operator, node, names, made)
        self.grids[made] = UNIT

    def cast(self, node: NodeProto) -> None:
        """Integers are numbers already."""
        name = node.input[0]
        if name not in self.grids:
            self._keep(node)
            return
        if self.grids[name] is not UNIT:
            raise self.refusal(node, "computes with integers of a grid as if they were numbers")
        self.call(node.output[0], self.at(name))
        self.grids[node.output[0]] = UNIT

    def scale(self, node: NodeProto) -> None:
        """A product of sums with what a step of them is: it goes into their weight."""
        for index in (0, 1):
            factor, name = self.array(node, 1 - index), self.at(node.input[index])
            if factor is None or name not in self.sums or max(self.readers[node.input[index]], self.readers[name]) > 1:
                continue
            summed, weight, called = self.sums[name]
            conv = summed.op_type == "Conv"
            if factor.size > 1 and factor.size != (weight.shape[0] if conv else weight.shape[-1]):
                continue
            along = factor.reshape(-1, *[1] * (weight.ndim - 1)) if conv and factor.size > 1 else factor.reshape(-1)
            summed.input[1] = self.hold(called, (weight * along).astype(np.float32))
            self.call(node.output[0], name)
            return
        self._keep(node)

    def multiply_dynamically(self, node: NodeProto) -> None:
        """DynamicQuantizeMatMul (A, B, scale, zero, bias) and MatMulIntegerToFloat (A, B, scales, zeros, bias)."""
        apart = node.op_type == "MatMulIntegerToFloat"
        grid = self.grid(node, 3, 5, -1) if apart else self.grid(node, 2, 3, -1)
        place, made = (6 if apart else 4), node.output[0]
        bias = place < len(node.input) and bool(node.input[place])
        self.emit(
            "MatMul", node, [self.at(node.input[0]), self.operand(node, 1, grid)], f"{made}_sum" if bias else made
        )
        if bias:
            self._emit("Add", [f"{made}_sum", self.at(node.input[place])], made, f"{made}_bias")

    def recur(self, node: NodeProto) -> None:
        """DynamicQuantizeLSTM: an LSTM whose weights lie turned."""
        weights = []
        for index, scale, zero in ((1, 8, 9), (2, 10, 11)):
            value, grid = self.array(node, index), self.grid(node, scale, zero)
            if value is None or grid is None:
                raise self.refusal(node, "has no constant weights")
            parts = [part[..., None] if part.ndim == 2 else part for part in (grid.scale, grid.zero)]  # a gate's rows
            weights.append(self.hold(node.input[index], Grid(*parts).real(value.swapaxes(1, 2))))
        rest = [self.at(name) if name else "" for name in node.input[3:8]]
        made = self.emit("LSTM", node, [self.at(node.input[0]), *weights, *rest])
        made.output[:] = node.output

    def pairwise(self, node: NodeProto) -> None:
        a, b, y = self.grid(node, 1, 2), self.grid(node, 4, 5), self.grid(node, 6, 7)
        made = f"{node.output[0]}_float"
        self.emit(
            node.op_type.removeprefix("QLinear"), node, [self.operand(node, 0, a), self.operand(node, 3, b)], made
        )
        self.rounded(made, node.output[0], y, node)

    def single(self, node: NodeProto) -> None:
        given = {a.name: a.i for a in node.attribute}
        if given.get("channels_last"):
            raise self.refusal(node, "has its channels last")
        if node.op_type == "QLinearSoftmax" and (given.get("opset", 13) < 13) != (self.opsets.get("", 1) < 13):
            raise self.refusal(node, "is a Softmax of another opset than the file's")
        made = f"{node.output[0]}_float"
        self.emit(node.op_type.removeprefix("QLinear"), node, [self.at(node.input[0])], made)
        self.rounded(made, node.output[0], self.grid(node, 3, 4), node)

    def concatenate(self, node: NodeProto) -> None:
        inputs = [self.operand(node, i, self.grid(node, i + 1, i + 2)) for i in range(2, len(node.input), 3)]
        made = f"{node.output[0]}_float"
        self.emit("Concat", node, inputs, made)
        self.rounded(made, node.output[0], self.grid(node, 0, 1), node)

    def choose(self, node: NodeProto) -> None:
        inputs = [self.at(node.input[0])] + [self.operand(node, i, self.grid(node, i + 1, i + 2)) for i in (1, 4)]
        made = f"{node.output[0]}_float"
        self.emit("Where", node, inputs, made)
        self.rounded(made, node.output[0], self.grid(node, 7, 8), node)


EIGHT = (TensorProto.INT8, TensorProto.UINT8)
_Handler = Callable[[_Rewriting, NodeProto], None]
HANDLERS: dict[str, _Handler] = {
    "QuantizeLinear": _Rewriting.quantize, "DequantizeLinear": _Rewriting.dequantize,
    "DynamicQuantizeLinear": _Rewriting.quantize_dynamically, "QLinearConv": _Rewriting.convolve,
    "QLinearMatMul": _Rewriting.multiply, "QGemm": _Rewriting.gemm, "MatMulInteger": _Rewriting.sum_products,
    "ConvInteger": _Rewriting.sum_products, "MatMulIntegerToFloat": _Rewriting.multiply_dynamically,
    "DynamicQuantizeMatMul": _Rewriting.multiply_dynamically, "DynamicQuantizeLSTM": _Rewriting.recur,
    "QLinearAdd": _Rewriting.pairwise, "QLinearMul": _Rewriting.pairwise, "QLinearSigmoid": _Rewriting.single,
    "QLinearLeakyRelu": _Rewriting.single, "QLinearSoftmax": _Rewriting.single,
    "QLinearAveragePool": _Rewriting.single, "QLinearGlobalAveragePool": _Rewriting.single,
    "QLinearConcat": _Rewriting.concatenate,
    "QLinearWhere": _Rewriting.choose, "Cast": _Rewriting.cast, "Mul": _Rewriting.scale,
}  # fmt: skip
