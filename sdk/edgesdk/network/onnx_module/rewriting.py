"""The graph of a quantized file, rewritten node by node as one of floats: what all its operators have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import isclose
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from edgesdk.core.errors import EdgeSdkError, ModelError
from edgesdk.core.wording import said
from edgesdk.network.onnx_graph import INTEGER_OPERATORS
from edgesdk.network.onnx_module.grid import UNIT, Grid
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
EIGHT = (TensorProto.INT8, TensorProto.UINT8)


class Rewriting:
    """A graph, rewritten node by node."""

    def __init__(self, graph: GraphProto, opsets: Mapping[str, int], where: str) -> None:
        self.graph: GraphProto = graph
        self.opsets: Mapping[str, int] = opsets
        self.where: str = where
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

    def run(self, translations: Mapping[str, Callable[[Rewriting, NodeProto], None]]) -> GraphProto:
        """The float graph, what stands in ``translations`` rewritten by these."""
        for node in self.graph.node:
            try:
                if not self._fold(node):
                    self._translate(node, translations.get(node.op_type))
            except EdgeSdkError:
                raise
            except Exception as error:  # inputs are missing, or of other shapes, for which ONNX Runtime has kinds
                raise self.refusal(node, f"is not as the operator is: {said(error)}") from error
        for name in self.ends:
            if name in self.same:
                self.emit_as("Identity", [self.at(name)], name, f"{name}_float")
        if whole := [value.name for value in self.graph.output if value.type.tensor_type.elem_type in EIGHT]:
            fact = f"the output {whole[0]} of {self.where} is integers on a grid"
            raise ModelError(fact, "let the file end in DequantizeLinear, or give the float model")
        used = {name for node in self.nodes for name in node.input} | self.ends
        weights = [numpy_helper.from_array(np.asarray(v, order="C"), n) for n, v in self.values.items() if n in used]
        given = [value for value in self.graph.input if value.name in self.inputs]
        return helper.make_graph(self.nodes, self.graph.name, given, self.graph.output, weights)

    def _translate(self, node: NodeProto, translate: Callable[[Rewriting, NodeProto], None] | None) -> None:
        if translate is not None:
            translate(self, node)
        elif node.op_type in QUANTIZED or node.op_type.startswith(("QLinear", "QAttention", "QEmbed", "QMoE")):
            raise self.refusal(node, "has no float equivalent")
        else:
            self.keep(node)

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

    def emit_as(self, op: str, inputs: Iterable[str], output: str, name: str, **attributes: Any) -> NodeProto:
        node = helper.make_node(op, list(inputs), [output], name, **attributes)
        self.nodes.append(node)
        self._note_made(node)
        return node

    def emit(self, op: str, node: NodeProto, inputs: Iterable[str], output: str | None = None) -> NodeProto:
        """The operator ``op`` in the place of ``node``, with its attributes."""
        name = node.name
        for suffix in SUFFIXES:
            name = name.removesuffix(suffix)
        made = self.emit_as(op, inputs, output or node.output[0], name)
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
                self.emit_as("Relu", [name], output, f"{node.name or node.output[0]}_relu")
            self.positive.add(output)
            name = output
        self.call(integers, name)

    def _clip(self, name: str, output: str, node: NodeProto) -> None:
        label = f"{node.name or node.output[0]}_relu6"
        if self.opsets.get("", 1) < 11:
            self.emit_as("Clip", [name], output, label, min=0.0, max=SIX)
            return
        bounds = [self.hold(f"{label}_{end}", np.array(value, np.float32)) for end, value in ((0, 0.0), (6, SIX))]
        self.emit_as("Clip", [name, *bounds], output, label)

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

    def keep(self, node: NodeProto) -> None:
        """An operator on numbers, or one that moves integers: these are numbers now, constants among them, too."""
        grid = next((self.grids[name] for name in node.input if name in self.grids), None)
        first = self.array(node, 0)
        if grid is None and first is not None and first.dtype in BITS8:
            grid = self._later(node)
        kept = NodeProto()
        kept.CopyFrom(node)
        for index, name in enumerate(node.input):
            value = self.array(node, index)
            if value is not None and value.dtype in BITS8 and grid is not None:
                kept.input[index] = self.hold(name, grid.real(value))
            else:
                kept.input[index] = self.at(name)
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
