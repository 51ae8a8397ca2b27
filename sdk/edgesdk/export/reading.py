"""An ONNX model of this exporter's own making, read to be written in another format: its constants are computed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from edgesdk.core.errors import ModelError

MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Concat")  # of elements
CHOOSE = "choose another --runtime, or keep all values: torch.where or a product with the mask, not a selection"


@dataclass(eq=False)
class Node:
    """An operator of the ONNX model."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    origin: str = ""  # the operator of the user's that it was exported from

    @property
    def told(self) -> str:
        """The operator, named for a user."""
        return f"{self.op} for {self.origin}" if self.origin else f"{self.op} ({self.name})"

    def get(self, name: str, default: Any) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


@dataclass(frozen=True)
class Weight:
    """A constant that is stored as integers, with one scale for all or one per entry of ``axis``."""

    name: str
    integers: np.ndarray
    scale: np.ndarray
    axis: int
    bits: int

    def lies_along(self, axis: int) -> bool:
        """Whether its scales are per entry of ``axis``, or one for all."""
        return self.scale.ndim == 0 or self.axis == axis

    @property
    def real(self) -> np.ndarray:
        shape = [1] * self.integers.ndim
        if self.scale.ndim:
            shape[self.axis] = -1
        return self.integers.astype(np.float32) * self.scale.reshape(shape)


class Reading:
    """An ONNX model whose constants are computed, for a file of which only operators of these ``names`` can be made.

    ``format`` is what the file is called in errors, ``elsewhere`` what they say to do. All shapes are fixed.
    """

    format = ""
    elsewhere = ""

    def __init__(self, model: ModelProto, names: Collection[str]) -> None:
        self.arrays: dict[str, np.ndarray] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.bits: dict[str, int] = {t.name: 4 for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT4}
        self.weights: dict[str, Weight] = {}
        self.halves: set[str] = set()  # of the real constants, those that fp16 holds exactly
        self.done: set[int] = set()
        self.inputs: list[str] = [tensor.name for tensor in model.graph.input if tensor.name not in self.arrays]
        self.outputs: list[str] = [tensor.name for tensor in model.graph.output]
        self.shapes: dict[str, tuple[int, ...] | None]
        self.types: dict[str, np.dtype[Any]]
        self.shapes, self.types = _shapes(model)
        self.nodes: list[Node] = [_node(node) for node in model.graph.node]
        self._fold(model)
        self.drop_unread()
        self.arrange()
        self._check(names)

    def arrange(self) -> None:
        """Put the nodes in the order that the format wants, before they are checked."""

    def quantize_before_moves(self) -> None:
        """Put a QuantizeLinear before what only moves elements, next to the operator that can make integers."""
        moved = True
        while moved:
            moved = False
            makers = {node.outputs[0]: node for node in self.nodes if node.op in MOVES}
            for node in self.nodes:
                mover = makers.get(node.inputs[0]) if node.op == "QuantizeLinear" else None
                if mover is None or self.only_reader(mover.outputs[0]) is not node:
                    continue
                if mover.op == "Concat" and any(self.array(name) is not None for name in mover.inputs):
                    continue
                at, grid = self.nodes.index(mover), node.inputs[1:]
                count = len(mover.inputs) if mover.op == "Concat" else 1
                made = []
                for i in range(count):
                    source = mover.inputs[i]
                    name = f"{source}/{node.outputs[0]}"
                    made.append(Node("QuantizeLinear", node.name, [source, *grid], [name], node.attributes))
                    self.shapes[name], self.types[name] = self.shapes.get(source), np.dtype(np.int8)
                    mover.inputs[i] = name
                mover.outputs[0] = node.outputs[0]
                self.nodes.remove(node)
                self.nodes[at:at] = made
                self.drop_unread()
                moved = True
                break

    def note(self, node: Node) -> None:
        """Called for each ``node`` that was computed because all that it reads is constant."""

    def _check(self, names: Collection[str]) -> None:
        """Raise ``ModelError`` for operators that are not among ``names``, and for shapes that are not fixed."""
        if free := [name for name in self.inputs if self.shapes.get(name) is None]:
            fact = f"the shape of {free[0]} is not fixed, as a {self.format} file needs it"
            raise ModelError(fact, "export the model with fixed shapes")
        if lacking := [node for node in self.nodes if node.op not in names]:
            raise ModelError(f"{self.format} has no {', '.join(node.told for node in lacking)}", self.elsewhere)
        for node in self.nodes:
            if self.shapes.get(next(name for name in node.outputs if name)) is None:
                varying = f"{node.told} makes values of another from sample to sample"
                raise ModelError(f"{self.format} needs fixed shapes, and {varying}", CHOOSE)

    def _fold(self, model: ModelProto) -> None:
        """Compute what is constant. Integer weights stay integers; what reads them finds both."""
        opsets = list(model.opset_import)
        kept = []
        for node in self.nodes:
            constant = all(not name or name in self.arrays or name in self.weights for name in node.inputs)
            if node.op == "Shape" and self.shapes.get(node.inputs[0]) is not None:
                shape = np.array(self.shapes[node.inputs[0]], np.int64)
                self.arrays[node.outputs[0]] = shape[node.get("start", 0) : node.get("end", len(shape))]
            elif not constant or not (node.inputs or node.op == "Constant"):
                kept.append(node)
            elif node.op == "Cast" and node.inputs[0] in self.bits:
                self.arrays[node.outputs[0]] = self.arrays[node.inputs[0]].astype(np.int8)
                self.bits[node.outputs[0]] = 4
            elif node.op == "DequantizeLinear" and not self._is_an_activation(node):
                self.weights[node.outputs[0]] = self._weight(node)
            elif node.op == "Transpose" and node.inputs[0] in self.weights:
                weight = self.weights[node.inputs[0]]
                perm = node.get("perm", list(range(weight.integers.ndim))[::-1])
                integers, axis = weight.integers.transpose(perm), list(perm).index(weight.axis)
                self.weights[node.outputs[0]] = Weight(weight.name, integers, weight.scale, axis, weight.bits)
            else:
                proto = helper.make_node(node.op, node.inputs, node.outputs, node.name, **node.attributes)
                inputs = {name: array for name in node.inputs if name and (array := self.array(name)) is not None}
                try:
                    self.arrays |= _computed(proto, inputs, opsets)
                except NotImplementedError:  # it draws random numbers, or onnx itself does not compute it
                    kept.append(node)
                    continue
                self.note(node)
                if node.op == "Cast" and self.arrays[node.inputs[0]].dtype == np.float16:
                    self.halves.add(node.outputs[0])
        self.nodes = kept

    def _is_an_activation(self, node: Node) -> bool:
        """Whether the constant that ``node`` dequantizes was on a grid of activations, being learnt in place of one."""
        zero = self.arrays[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros((), np.int8)
        return zero.size == 1 and (zero.dtype == np.uint8 or bool(zero.any()))

    def _weight(self, node: Node) -> Weight:
        integers, scale = self.arrays[node.inputs[0]], self.arrays[node.inputs[1]].astype(np.float32)
        name = node.inputs[0].removesuffix(".packed")
        zero = self.arrays[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1, np.int8)
        if np.any(zero.astype(np.int32)) or integers.dtype == np.uint8:
            raise ModelError(
                f"{name} has a zero point, which {self.format}'s integer weights lack", "quantize symmetrically"
            )
        axis = node.get("axis", 1) % max(integers.ndim, 1)
        if scale.size == 1:
            scale = scale.reshape(())
        bits = self.bits.get(node.inputs[0], integers.dtype.itemsize * 8)
        wide = np.int32 if integers.dtype == np.int32 else np.int8
        return Weight(name, integers.astype(wide), scale, axis, bits)

    def drop_unread(self) -> None:
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if any(name in needed for name in node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers.setdefault(name, []).append(node)

    def array(self, name: str) -> np.ndarray | None:
        """The constant ``name`` as real numbers, or ``None`` where it is none."""
        if name in self.weights:
            return self.weights[name].real
        return self.arrays.get(name)

    def only_reader(self, name: str) -> Node | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def added_after(self, node: Node, width: int) -> tuple[Node, str] | None:
        """The addition that alone reads ``node``, of a constant number per entry of the last axis of that ``width``,
        and the constant's name; ``None`` where there is none."""
        adder = self.only_reader(node.outputs[0])
        if adder is None or adder.op != "Add":
            return None
        other = next((name for name in adder.inputs if name != node.outputs[0]), "")
        added = self.array(other) if other else None
        fits = added is not None and bool(added.shape) and added.size == added.shape[-1] == width
        return (adder, other) if fits else None

    def bounds(self, node: Node) -> tuple[float, float] | None:
        """Between what ``node``, a Relu or a Clip, keeps its input."""
        if node.op == "Relu":
            return 0.0, np.inf
        if node.op != "Clip":
            return None
        limits = [-np.inf, np.inf]
        for i, name in enumerate(node.inputs[1:3]):
            if name:
                array = self.array(name)
                if array is None:
                    return None
                limits[i] = float(array)
        return limits[0], limits[1]


def _node(node: onnx.NodeProto) -> Node:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    name = node.name or next(iter(node.output), "")
    return Node(op, name, list(node.input), list(node.output), attributes, node.doc_string)


def _shapes(model: ModelProto) -> tuple[dict[str, tuple[int, ...] | None], dict[str, np.dtype]]:
    """The shape of each value, ``None`` where it is not fixed, and its type."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, tuple[int, ...] | None] = {}
    types: dict[str, np.dtype] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.elem_type:
            types[value.name] = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        fixed = tensor.HasField("shape") and all(d.HasField("dim_value") and d.dim_value > 0 for d in tensor.shape.dim)
        shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim) if fixed else None
    return shapes, types


def _computed(node: onnx.NodeProto, inputs: dict[str, np.ndarray], opsets: list) -> dict[str, np.ndarray]:
    """The outputs of an operator whose inputs are known."""
    from onnx.reference import ReferenceEvaluator

    ins = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    outs = [helper.make_tensor_value_info(name, 0, None) for name in node.output if name]
    graph = helper.make_graph([node], "constant", ins, outs)
    results = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, inputs)
    return {name: np.asarray(r) for name, r in zip((n for n in node.output if n), results, strict=True)}
