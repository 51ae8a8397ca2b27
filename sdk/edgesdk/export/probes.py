"""Small ONNX models that time one operator each, in the surroundings that it has inside a network.

A probe holds ``COPIES`` of the operator side by side, each behind the same maker (a 1x1 convolution, whose output has
the runtime's own layout) and before a reader that looks at a corner alone. Its baseline is the same probe without the
operator, so that the difference, divided by the copies, is the operator's own time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgesdk.core.graph import ACTIVATION, ADD, CONV, LINEAR, POOL, TRANSPOSED, WINDOWED
from edgesdk.core.plan import FP32, INT8
from edgesdk.price.kinds import AVERAGE, ELEMENTWISE, FUNCTION
from edgesdk.price.operator import Operator
from edgesdk.price.recurrent import GATES
from edgesdk.price.table import COPIES

SINK = 16  # channels of the reader: one block of the widest vector unit
FUNCTIONS: dict[str, tuple[str, dict[str, float]]] = {
    "hardswish": ("HardSwish", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "gelu": ("Gelu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "elu": ("Elu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
}
"""Activations that are an operator of their own, by their names in ATen."""


def probe(operator: Operator) -> bytes:
    """The serialized ONNX model that times ``operator`` (or a baseline of one)."""
    return _Probe(operator).model()


class _Probe:
    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.nodes: list[NodeProto] = []
        self.arrays: list[TensorProto] = []
        self.random = np.random.default_rng(0)
        self.count = 0

    def model(self) -> bytes:
        op = self.operator
        if op.recurrence:
            return self.recurrent()
        vector = op.kind in (LINEAR, "alone linear") or not op.size
        self.vector = vector
        size = op.size if not vector else ()
        rows = op.size[0] if vector and op.size else 1
        direct = vector or op.entry
        shape = (rows, op.inputs) if vector else (op.images, op.inputs if direct else 1, *size)
        first = INT8 if op.precision == INT8 else FP32
        x = self.grid("x") if first == INT8 else "x"
        if not direct:
            x = self.convolution(x, 1, op.inputs, (1,) * len(size), first)
        outputs = []
        for _ in range(COPIES):
            y = self.operated(x, size)
            outputs.append(y)
        return self.written(shape, outputs)

    def written(self, shape: tuple[int, ...], outputs: list[str]) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "probe",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.arrays,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return model.SerializeToString()

    def recurrent(self) -> bytes:
        """Recurrent layers on top of each other, the mean over whose steps is read; without them, of their input."""
        gates, steps, inputs, *stack = self.operator.recurrence
        x, outputs = self.node("Transpose", ["x"], perm=[1, 0, 2]), []
        for _ in range(COPIES):
            y, width = x, inputs
            states, layers, directions = stack or (0, 0, 1)
            for _ in range(layers):
                y, width = self.cell(y, gates, width, states, directions), directions * states
            outputs.append(self.node("ReduceMean", [y, self.constant(np.array([0]))], keepdims=0))
        return self.written((1, steps, inputs), outputs)

    def cell(self, x: str, gates: int, inputs: int, states: int, directions: int) -> str:
        rows = gates * states
        parts = [
            self.constant(self.random.standard_normal(shape, np.float32) / np.float32(np.sqrt(states)))
            for shape in ((directions, rows, inputs), (directions, rows, states), (directions, 2 * rows))
        ]
        name = next(name for name, count in GATES.items() if count == gates)
        attributes = {"linear_before_reset": 1} if name == "gru" else {}
        both = "bidirectional" if directions == 2 else "forward"
        y = self.node(name.upper(), [x, *parts], hidden_size=states, direction=both, **attributes)
        y = self.node("Transpose", [y], perm=[0, 2, 1, 3])
        return self.node("Reshape", [y, self.constant(np.array([0, 0, directions * states]))])

    def operated(self, x: str, size: tuple[int, ...]) -> str:
        op = self.operator
        ones = (1,) * len(size)
        if op.kind == LINEAR:
            y = self.linear(x, op.inputs, op.outputs, op.precision, op.weight_bits)
            return self.linear(y, op.outputs, 4, op.precision)
        if op.kind == "alone linear":
            return self.linear(x, op.inputs, 4, op.precision)
        if op.kind == "alone":
            return self.sink(x, op.inputs, size, op.precision)
        if op.kind in WINDOWED:
            y = self.convolution(x, op.inputs, op.outputs, op.kernel, op.precision, op)
            return self.sink(y, op.outputs, op.after, op.precision)
        if self.vector:
            y = self.linear(x, op.inputs, op.inputs, op.precision)
        else:
            y = self.convolution(x, op.inputs, op.inputs, ones, op.precision)
        reader = op.precision
        if op.kind == "quantize":
            y, reader = self.grid(y), INT8
        elif op.kind == "dequantize":
            reader = FP32
        elif op.kind == ADD:
            y = self.result(self.node("Add", [y, x]), op)
        elif op.kind == "mean":
            y, size = self.result(self.node("GlobalAveragePool", [y]), op), ones
        elif op.kind in (POOL, AVERAGE):
            pooled = "MaxPool" if op.kind == POOL else "AveragePool"
            window = dict(kernel_shape=op.kernel, strides=op.stride, pads=op.padding * 2)
            y, size = self.result(self.node(pooled, [y], **window), op), op.after
        elif op.kind in (ACTIVATION, ELEMENTWISE, FUNCTION):
            y = self.result(y, op)
        return self.linear(y, op.outputs, 4, reader) if self.vector else self.sink(y, op.outputs, size, reader)

    def result(self, y: str, op: Operator) -> str:
        """``y`` through the activation, and on its integer grid where the operator is integer."""
        if op.activation == "relu":
            y = self.node("Relu", [y])
        elif op.activation == "relu6":
            y = self.node("Clip", [y, self.constant(np.float32(0)), self.constant(np.float32(6))])
        elif op.activation == "silu":
            y = self.node("Mul", [y, self.node("Sigmoid", [y])])
        elif op.activation in FUNCTIONS:
            operator, attributes = FUNCTIONS[op.activation]
            y = self.node(operator, [y], **attributes)
        return self.grid(y, 6 / 255 if op.activation == "relu6" else 1 / 32) if op.precision == INT8 else y

    def sink(self, x: str, inputs: int, size: tuple[int, ...], precision: str) -> str:
        """A convolution whose stride steps over all but one corner.

        Its kernel is two pixels wide: the stride of a 1x1 one OpenVINO moves to what makes its input.
        """
        ones, zeros = (1,) * len(size), (0,) * len(size)
        kernel, stride = (tuple(min(n, most) for n in size) for most in (2, max(size, default=1)))
        reader = Operator(CONV, precision, inputs, SINK, size, kernel, stride, zeros, ones)
        return self.convolution(x, inputs, SINK, kernel, precision, reader)

    def convolution(
        self, x: str, inputs: int, outputs: int, kernel: tuple[int, ...], precision: str, op: Operator | None = None
    ) -> str:
        groups = op.groups if op is not None else 1
        bits = op.weight_bits if op is not None else 8
        transposed = op is not None and op.kind == TRANSPOSED
        shape = (inputs, outputs // groups, *kernel) if transposed else (outputs, inputs // groups, *kernel)
        weight = self.weight(shape, precision, bits, groups if transposed else 0)
        attributes: dict[str, Any] = {"kernel_shape": kernel, "group": groups}
        if op is not None:
            attributes |= {"strides": op.stride, "pads": op.padding * 2, "dilations": op.dilation}
        if op is not None and op.beyond:  # what is cut off below zero is padding behind the last window
            pads = [p + max(0, -n) for p, n in zip(op.padding, op.beyond, strict=True)]
            attributes |= {"pads": (*op.padding, *pads), "output_padding": [max(0, n) for n in op.beyond]}
        y = self.node("ConvTranspose" if transposed else "Conv", [x, *weight], **attributes)
        plain = op or Operator(CONV, precision, inputs, outputs)
        return self.result(y, plain)

    def linear(self, x: str, inputs: int, outputs: int, precision: str, bits: int = 8) -> str:
        weight = self.weight((outputs, inputs), precision, bits)
        y = self.node("Gemm", [x, *weight], transB=1)
        return self.grid(y) if precision == INT8 else y

    def weight(self, shape: tuple[int, ...], precision: str, bits: int, turned: int = 0) -> list[str]:
        """The names of a weight and a bias, random, so that no two copies are merged into one. With ``turned`` it is
        that of a transposed convolution in so many groups, whose outputs lie along the second axis."""
        axis = 1 if turned else 0
        n = shape[axis] * max(1, turned)
        if precision == FP32:
            weight = self.random.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape) / n))
            return [self.constant(weight), self.constant(self.random.standard_normal(n, np.float32))]
        limit = 2 ** (bits - 1) - 1
        stored = self.constant(self.random.integers(-limit, limit + 1, shape).astype(np.int8))
        if bits == 4:
            stored = self.packed(stored)
        bias = self.random.integers(-999, 1000, n).astype(np.int32)
        scale = np.full(n, 2 / (limit * np.sqrt(np.prod(shape) / n)), np.float32)
        zeros = self.constant(np.zeros(n, np.int8))
        return [
            self.node("DequantizeLinear", [stored, self.constant(scale), zeros], axis=axis),
            self.node("DequantizeLinear", [self.constant(bias), self.constant(scale / 32)], axis=0),
        ]

    def packed(self, name: str) -> str:
        """The constant ``name``, the last that was made, stored in four bits and widened."""
        values = numpy_helper.to_array(self.arrays[-1])
        packed = helper.make_tensor(f"{name}.packed", TensorProto.INT4, values.shape, values.ravel().tolist())
        self.arrays[-1] = packed
        return self.node("Cast", [packed.name], to=TensorProto.INT8)

    def grid(self, x: str, step: float = 1 / 32) -> str:
        """``x`` on an integer grid; that of a ReLU6 ends at 6, so that the runtime sees that the clip is in it."""
        scale, zero = self.constant(np.float32(step)), self.constant(np.uint8(0))
        quantized = self.node("QuantizeLinear", [x, scale, zero])
        return self.node("DequantizeLinear", [quantized, scale, zero])

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        self.count += 1
        name = f"v{self.count}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, value: np.ndarray | np.generic) -> str:
        self.count += 1
        name = f"c{self.count}"
        self.arrays.append(numpy_helper.from_array(np.asarray(value), name))
        return name
