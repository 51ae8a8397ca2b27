"""An ONNX model on its way into a TFLite file: what is fused, and the values that were made so far."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from edgesdk.core.errors import ModelError
from edgesdk.export.reading import Node, Reading
from edgesdk.export.tflite.writer import Data, Grid, Value, Views, dense, reshaped

ELSEWHERE = "export to onnx or openvino, which have it, or replace that operator"
FUSED = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}

Held = tuple[str | None, int, tuple[float, ...], tuple[int, ...]]
"""Of integers the weight's name, or none, their bits, scales and zero points."""


@dataclass(frozen=True)
class Fused:
    """What an operator makes together with those after it: the activation, the value, and its grid."""

    activation: int
    name: str
    label: str
    grid: Grid | None


class Lowering(Reading):
    """An ONNX model, its constants computed, on its way into a file. Operators of these ``names`` have fixed shapes."""

    format = "TFLite"
    elsewhere = ELSEWHERE

    def __init__(self, model: ModelProto, names: Collection[str]) -> None:
        self.file: Views = Views()
        self.computed: set[Held] = set()  # what the constants were quantized by that are computed here
        self.values: dict[str, Value] = {}
        super().__init__(model, names)
        for name in self.inputs:
            shape = self.shapes[name]
            assert shape is not None
            tensor = self.file.fresh(name, shape, self.types[name])
            self.values[name] = self._made(name, shape, range(len(shape)), shape, tensor, None)

    def note(self, node: Node) -> None:
        self.computed.update(self._held(node))

    def _held(self, node: Node) -> Iterator[Held]:
        """By what ``node`` quantizes, or is quantized."""
        if node.op == "QuantizeLinear" and self.arrays[node.inputs[1]].size == 1:
            grid = self.grid(node)
            yield None, 8, grid.scale, grid.zero
        for name in node.inputs:
            if name in self.weights:
                weight = self.weights[name]
                yield weight.name, weight.bits, tuple(weight.scale.ravel().tolist()), (0,) * weight.scale.size

    def arrange(self) -> None:
        self.quantize_before_moves()

    def value(self, name: str) -> Value:
        if name not in self.values:
            array = self.array(name)
            assert array is not None, name
            shape, order = array.shape, range(array.ndim)
            data = Data(name, array.size, array.dtype, content=np.ascontiguousarray(array).ravel())
            self.values[name] = Value(shape, dense(shape, order), data)
        return self.values[name]

    def grid(self, node: Node) -> Grid:
        """The grid of a QuantizeLinear or DequantizeLinear of an activation, moved to signed integers."""
        scale = self.arrays[node.inputs[1]]
        zero = self.arrays[node.inputs[2]] if len(node.inputs) > 2 else np.zeros((), np.uint8)
        if scale.size != 1 or zero.dtype not in (np.uint8, np.int8):
            raise ModelError(f"{node.inputs[0]} is not on one 8-bit grid", "export to onnx or openvino")
        moved = 128 if zero.dtype == np.uint8 else 0
        return Grid((float(scale.ravel()[0]),), (int(zero.ravel()[0]) - moved,))

    def fuse(self, node: Node, integer: bool = False, relu: bool = True) -> Fused:
        """``node`` with the activation after it, if ``relu``, and the QuantizeLinear after that, if ``integer``."""
        name = label = node.outputs[0]
        activation, taken = "NONE", []
        user = self.only_reader(name)
        real = self.types.get(name, np.dtype(np.float32)) == np.float32
        if relu and real and user is not None and (bounds := self.bounds(user)) in FUSED:
            activation = FUSED[bounds]
            taken.append(user)
            name = label = user.outputs[0]
            user = self.only_reader(name)
        grid = None
        if integer and user is not None and user.op == "QuantizeLinear":
            grid = self.grid(user)
            taken.append(user)
            name = user.outputs[0]
        self.done.update(id(other) for other in taken)
        return Fused(getattr(self.file.schema.ActivationFunctionType, activation), name, label, grid)

    def produce(
        self, name: str, order: Any = None, shape: Any = None, grid: Grid | None = None, label: str = "",
        logical: tuple[int, ...] | None = None,
    ) -> int:  # fmt: skip
        """A new tensor for the value ``name``, its dimensions in ``order``, or in another ``shape`` that fits it."""
        logical = self.shapes[name] if logical is None else logical
        assert logical is not None
        order = range(len(logical)) if order is None else order
        shape = tuple(logical[d] for d in order) if shape is None else tuple(shape)
        tensor = self.file.fresh(label or name, shape, self.types.get(name, np.float32), grid)
        self.values[name] = self._made(label or name, logical, order, shape, tensor, grid)
        return tensor

    def _made(self, name: str, logical: Any, order: Any, shape: Any, tensor: int, grid: Grid | None) -> Value:
        dtype = np.dtype(np.float32) if grid else self.types.get(name, np.dtype(np.float32))
        data = Data(name, int(np.prod(shape)), dtype, grid=grid)
        (data.integers if grid else data.reals)[shape] = tensor
        return Value(tuple(logical), dense(logical, order), data)

    def view(self, name: str, source: Value, shape: tuple[int, ...]) -> None:
        """Let the value ``name`` be ``source`` in another shape."""
        value = reshaped(source, shape)
        if value is None:
            value = reshaped(self.file.settled(source), shape)
        assert value is not None
        self.values[name] = value

    def finish(self) -> bytes:
        inputs = {name: self.file.face(self.values[name].data, self.values[name].shape) for name in self.inputs}
        taken = set(inputs.values())
        outputs = {}
        for name in self.outputs:
            value = self.value(name)
            tensor = self.file.plain(value)
            if tensor in taken or value.data.content is not None:
                copy = self.file.fresh(name, value.shape, value.data.dtype)
                shape = self.file.constant(np.array(value.shape, np.int32))
                self.file.operator("RESHAPE", [tensor, shape], [copy])
                tensor = copy
            taken.add(tensor)
            self.file.tensors[tensor].name = name
            outputs[name] = tensor
        return self.file.finish(inputs, outputs)
