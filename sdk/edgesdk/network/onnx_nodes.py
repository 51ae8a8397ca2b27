"""The nodes of an ONNX graph that cost something: without constants, quantization, and activations in parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, defs, helper, numpy_helper

from edgesdk.core.errors import ModelError
from edgesdk.core.graph import Tensor

VANISH = ("Identity", "Dropout", "QuantizeLinear", "DequantizeLinear")
FOUR_BITS = (TensorProto.INT4, TensorProto.UINT4)
BITS: dict[int, int] = {**dict.fromkeys(FOUR_BITS, 4), TensorProto.INT8: 8, TensorProto.UINT8: 8}


@dataclass
class Node:
    """A node that costs something. Inputs are named as the file names them; "" is one that is left out."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]

    @property
    def output(self) -> str:
        return next(name for name in self.outputs if name)


class Nodes:
    """The nodes that are left when constants, and what changes no number, are taken away."""

    def __init__(self, graph: GraphProto, inputs: tuple[Tensor, ...], weights: Mapping[str, int]) -> None:
        self.inputs = inputs
        self.types: dict[str, int] = {**{t.name: t.data_type for t in graph.initializer}, **weights}
        self.dims: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            self.types.setdefault(value.name, kind.elem_type)
            if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
                self.dims[value.name] = tuple(d.dim_value for d in kind.shape.dim)
        self.constants: set[str] = {"", *weights, *(t.name for t in graph.initializer)}
        self.tensors: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self.bits: dict[str, int] = {name: BITS[kind] for name, kind in weights.items() if kind in BITS}
        self.alias: dict[str, str] = {}
        # What holds integers or stands for them.
        self.integer: set[str] = {name for name, kind in self.types.items() if kind in BITS}
        self.nodes: list[Node] = []
        operators: dict[str, list[str]] = defaultdict(list)  # per tensor, those that read it, as the file has it
        for proto in graph.node:
            op = "Add" if proto.op_type == "Sum" and len(proto.input) == 2 else proto.op_type
            node = Node(op, proto.name, list(proto.input), list(proto.output), _attributes(proto))
            for name in node.inputs:
                operators[name].append(node.op)
            if node.op in ("Shape", "Size") or self.constants.issuperset(node.inputs) and "Random" not in node.op:
                self.constants.update(node.outputs)
                if node.op == "Constant":
                    self.tensors[node.output] = _constant(node)
                elif node.inputs and node.inputs[0] in self.bits:
                    self.bits[node.output] = self.bits[node.inputs[0]]
            elif node.op in VANISH:
                self.alias[node.outputs[0]] = node.inputs[0]
                if node.op != "QuantizeLinear" and node.inputs[0] in self.integer:
                    self.integer.add(node.outputs[0])
            else:
                self.nodes.append(node)
        for value in graph.output:
            operators[value.name].append("")
        self.quantized: set[str] = {name for name, kinds in operators.items() if set(kinds) == {"QuantizeLinear"}}
        self.results: list[str] = [self.source(value.name) for value in graph.output]

    def source(self, name: str) -> str:
        """The tensor that ``name`` is another name of, its grid aside."""
        while name in self.alias:
            name = self.alias[name]
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.dims:
            maker = next((node for node in self.nodes if name in node.outputs), None)
            by = f", which the node {maker.name or name} ({maker.op}) makes," if maker is not None else ""
            raise ModelError(f"the shape of {name}{by} cannot be inferred",
                             "export the model with static shapes and standard operators")  # fmt: skip
        return self.dims[name]

    def value(self, name: str) -> np.ndarray:
        """A constant's numbers; none for one that the file does not hold as such."""
        return numpy_helper.to_array(self.tensors[name]) if name in self.tensors else np.zeros(0)

    def reads(self, node: Node) -> list[str]:
        """The inputs of ``node`` that are no constants, as the file names them."""
        return [name for name in node.inputs if name not in self.constants]

    def sources(self, node: Node) -> list[str]:
        return [self.source(name) for name in self.reads(node)]

    def index(self) -> None:
        """Find who makes and who reads each tensor; leave out what nobody reads."""
        wanted, kept = set(self.results), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                wanted.update(self.sources(node))
                kept.append(node)
        self.nodes = kept[::-1]
        self.maker: dict[str, Node] = {name: node for node in self.nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(self.sources(node)):
                self.readers[name].append(node)

    def only(self, node: Node, *ops: str) -> Node | None:
        """The one node that reads what ``node`` makes, where there is but one and it is one of ``ops``."""
        readers = self.readers[node.output]
        alone = len(readers) == 1 and node.output not in self.results
        return readers[0] if alone and readers[0].op in ops else None

    def other(self, node: Node, name: str) -> str:
        """The second operand of ``node`` beside ``name``."""
        return next((n for n in node.inputs if self.source(n) != self.source(name)), name)

    def rewrite(self) -> None:
        """Make one node of each activation, and of each matrix product, that exporters take apart."""
        self.index()
        for node in list(self.nodes):
            if node.op in ("Sigmoid", "HardSigmoid"):
                self.gated(node)
            elif node.op == "Erf":
                self.gelu(node)
            elif node.op == "Gemm":
                self.rows(node)
        self.index()

    def gated(self, node: Node) -> None:
        """``x * sigmoid(x)`` as Silu (Elfwing et al. 2018), with a HardSigmoid as HardSwish (Howard et al. 2019)."""
        product = self.only(node, "Mul")
        if product is None or self.source(self.other(product, node.output)) != self.source(node.inputs[0]):
            return
        if node.op == "HardSigmoid":
            if not isclose(node.attributes.get("alpha", 0.2), 1 / 6, rel_tol=1e-5):
                return
            product.op = "HardSwish"
        else:
            product.op = "Silu"
        product.inputs = [node.inputs[0]]

    def gelu(self, node: Node) -> None:
        """``0.5 x (1 + erf(x / sqrt 2))``, with its factors in any order, as Gelu (Hendrycks and Gimpel 2016)."""
        scaled = self.maker.get(self.source(node.inputs[0]))
        step = self.only(node, "Add")
        if scaled is None or scaled.op not in ("Mul", "Div") or step is None:
            return
        if len(self.reads(scaled)) != 1 or len(self.reads(step)) != 1:
            return
        x = self.reads(scaled)[0]
        halved = with_x = False
        while not (halved and with_x):
            product = self.only(step, "Mul")
            if product is None:
                return
            factor = self.other(product, step.output)
            maker = self.maker.get(self.source(factor))
            if factor in self.constants and not halved:
                halved = True
            elif self.source(factor) == self.source(x) and not with_x:
                with_x = True
            elif maker is not None and maker.op == "Mul" and self.sources(maker) == [self.source(x)]:
                halved = with_x = True
            else:
                return
            step = product
        step.op, step.inputs = "Gelu", [x]

    def rows(self, node: Node) -> None:
        """A Gemm on rows that a Reshape makes of more axes, and another takes back: a linear layer on the whole."""
        before, after = self.maker.get(self.source(node.inputs[0])), self.only(node, "Reshape")
        if before is None or before.op != "Reshape" or after is None:
            return
        whole, rows = self.shape(before.inputs[0]), self.shape(before.outputs[0])
        result, columns = self.shape(after.output), self.shape(node.output)[-1]
        if whole[-1] == rows[-1] and result == (*whole[:-1], columns):
            node.inputs[0], node.outputs = before.inputs[0], after.outputs
            self.maker[after.output] = node
            after.outputs = []


def _attributes(node: NodeProto) -> dict[str, Any]:
    """The values of ``node``'s attributes by name. Raises ``ValueError`` for one of a type that its operator lacks."""
    schema = defs.get_schema(node.op_type, node.domain) if defs.has(node.op_type, node.domain) else None
    for own in node.attribute:
        wanted = schema.attributes.get(own.name) if schema is not None else None
        if wanted is not None and getattr(wanted.type, "value", wanted.type) != own.type:
            raise ValueError(f"the attribute {own.name} of {node.op_type} {node.name} is of another type")
    return {own.name: helper.get_attribute_value(own) for own in node.attribute}


def _constant(node: Node) -> TensorProto:
    name, value = next(iter(node.attributes.items()))
    return value if name == "value" else numpy_helper.from_array(np.asarray(value))
