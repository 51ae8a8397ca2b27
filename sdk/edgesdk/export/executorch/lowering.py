"""An ONNX model on its way into an ExecuTorch program: said again in PyTorch's operators, which ``torch.export`` reads.

A value that is on a grid is kept as its integers. Who reads it gets real numbers of an operator of its own, between
which and the next quantization XNNPACK computes in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators that quantize
from onnx import ModelProto
from torch import Tensor, nn

from edgesdk.core.errors import ModelError
from edgesdk.export.reading import Node, Reading

ELSEWHERE = "export to onnx or openvino, which have it, or replace that operator"
LOW, HIGH = -128, 127
_ops = torch.ops.quantized_decomposed


@dataclass(frozen=True)
class Grid:
    """The signed 8-bit integers of a tensor: real numbers are ``scale`` times what lies above ``zero``."""

    scale: float
    zero: int

    def holds(self, low: float, high: float) -> bool:
        """Whether its ends are at ``low`` and ``high`` or within: quantizing keeps what it makes between these."""
        return round(low / self.scale) + self.zero <= LOW and round(high / self.scale) + self.zero >= HIGH

    def quantize(self, x: Tensor) -> Tensor:
        return _ops.quantize_per_tensor.default(x, self.scale, self.zero, LOW, HIGH, torch.int8)

    def dequantize(self, x: Tensor) -> Tensor:
        return _ops.dequantize_per_tensor.default(x, self.scale, self.zero, LOW, HIGH, torch.int8)


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX model, as integers where it is on a ``grid``."""

    tensor: Tensor
    grid: Grid | None = None

    @property
    def real(self) -> Tensor:
        return self.tensor if self.grid is None else self.grid.dequantize(self.tensor)


def refused(node: Node, why: str) -> ModelError:
    return ModelError(f"ExecuTorch cannot run {node.told}: {why}", ELSEWHERE)


class Lowering(Reading):
    """An ONNX model, its constants computed, as a module of PyTorch's operators that ``made`` makes of its own.

    Constants are kept in ``held`` when they are first read, so that the module must be run once before it is exported.
    ``widened`` are the weights that were given as integers and are real numbers in it, as what they make is on no grid.
    """

    format = "ExecuTorch"
    elsewhere = ELSEWHERE

    def __init__(self, model: ModelProto, made: dict[str, Callable[[Lowering, Node], None]]) -> None:
        self.made = made
        super().__init__(model, made)
        self.values: dict[str, Value] = {}
        self.held: nn.Module = nn.Module()
        self.kept: dict[tuple[str, str], str] = {}
        self.widened: set[str] = set()
        self.layers: dict[str, str] = {}  # by the names of their weights in the module

    def arrange(self) -> None:
        self.quantize_before_moves()

    def replay(self, given: Sequence[Tensor]) -> list[Tensor]:
        """What the model makes of inputs that were ``given``."""
        self.done.clear()
        self.values = {name: Value(x) for name, x in zip(self.inputs, given, strict=True)}
        for node in self.nodes:
            if id(node) not in self.done:
                self.made[node.op](self, node)
        return [self.real(name) for name in self.outputs]

    def shape(self, name: str) -> tuple[int, ...]:
        array = self.array(name)
        shape = array.shape if array is not None else self.shapes[name]
        assert shape is not None, name
        return tuple(shape)

    def keep(self, name: str, use: str, content: Callable[[], np.ndarray]) -> Tensor:
        """A constant, made of what has the ``name`` for one ``use`` of it: once."""
        key = (name, use)
        if key not in self.kept:
            self.kept[key] = f"constant{len(self.kept)}"
            array = np.ascontiguousarray(content())
            self.held.register_buffer(self.kept[key], torch.from_numpy(array.copy()))
        return getattr(self.held, self.kept[key])

    def real(self, name: str) -> Tensor:
        """``name`` in real numbers, or in whatever it is counted in."""
        if name in self.values:
            return self.values[name].real
        array = self.array(name)
        assert array is not None, name
        return self.keep(name, "", lambda: array)

    def constant(self, node: Node, place: int, what: str) -> np.ndarray:
        """The constant that ``node`` reads at that place. Raises ``ModelError`` where it is none."""
        array = self.array(node.inputs[place])
        if array is None:
            raise refused(node, f"its {what} is not constant" if not what.endswith("s") else f"its {what} vary")
        return array

    def make(self, node: Node, *tensors: Tensor) -> None:
        """Let ``node``'s outputs be real ``tensors``."""
        for name, tensor in zip(node.outputs, tensors, strict=False):
            if name:
                self.values[name] = Value(tensor)

    def move(self, node: Node, function: Callable[[Tensor], Tensor], name: str = "") -> None:
        """Let ``node``'s output be what ``function``, which only moves elements, makes of its input: on its grid."""
        value = self.values.get(node.inputs[0])
        moved = function(self.real(node.inputs[0]))
        grid = None if value is None else value.grid
        self.values[name or node.outputs[0]] = Value(moved if grid is None else grid.quantize(moved), grid)

    def grid(self, node: Node) -> Grid:
        """That of a QuantizeLinear or DequantizeLinear of an activation, moved to signed integers."""
        scale = self.arrays[node.inputs[1]]
        zero = self.arrays[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros((), np.uint8)
        if scale.size != 1 or zero.dtype not in (np.uint8, np.int8):
            raise ModelError(f"{node.inputs[0]} is not on one 8-bit grid", "export to onnx or openvino")
        moved = 128 if zero.dtype == np.uint8 else 0
        return Grid(float(scale.ravel()[0]), int(zero.ravel()[0]) - moved)

    def becomes_integer(self, node: Node) -> bool:
        """Whether what ``node`` makes is quantized by all that reads it, behind a clipping at most."""
        reader = self.only_reader(node.outputs[0])
        if reader is not None and reader.op in ("Relu", "Clip") and self.bounds(reader) is not None:
            reader = self.only_reader(reader.outputs[0])
        return reader is not None and reader.op == "QuantizeLinear"

    def clipped(self, node: Node, x: Tensor) -> Tensor:
        """``x`` between the bounds of ``node``, but where a quantization behind it keeps it there anyway."""
        bounds, reader = self.bounds(node), self.only_reader(node.outputs[0])
        if bounds is None:
            raise refused(node, "its bounds are not constant")
        if reader is not None and reader.op == "QuantizeLinear" and all(map(np.isfinite, bounds)):
            if self.grid(reader).holds(*bounds):
                return x
        low, high = bounds
        if not x.is_floating_point():
            return x.clamp(*(None if not np.isfinite(b) else int(b) for b in bounds))
        if (low, high) == (0.0, np.inf):
            return torch.relu(x)
        if np.isfinite(low) and np.isfinite(high):
            return nn.functional.hardtanh(x, low, high)
        return x.clamp(*(None if not np.isfinite(b) else b for b in bounds))

    def weight(
        self, node: Node, name: str, axis: int, turn: Callable[[np.ndarray], np.ndarray], turned: int = 0
    ) -> Tensor:
        """A weight as ``turn`` turns it: of integers with a scale per entry of the dimension ``turned``, the first by
        default, where it is stored so along ``axis`` and ``node`` computes in integers, of real numbers otherwise."""
        stored, real = self.weights.get(name), self.array(name)
        if real is None:
            raise refused(node, "its weight is not constant")
        if stored is not None and stored.bits != 8:
            fact = f"ExecuTorch has no weights of {stored.bits} bits ({stored.name})"
            raise ModelError(fact, "give that layer 8 bits")
        value = self.values.get(node.inputs[0])
        on_grid = value is not None and value.grid is not None
        if stored is None or not on_grid or not stored.lies_along(axis) or not self.becomes_integer(node):
            if stored is not None:
                self.widened.add(stored.name)
            weight = self.keep(name, "real", lambda: turn(real).astype(np.float32))
            self.layers[f"held.{self.kept[name, 'real']}"] = node.name
            return weight
        integers = self.keep(name, "integers", lambda: turn(stored.integers).astype(np.int8))
        self.layers[f"held.{self.kept[name, 'integers']}"] = node.name
        count = integers.shape[turned]
        scales = self.keep(name, "scales", lambda: np.broadcast_to(stored.scale.reshape(-1), count).astype(np.float32))
        zeros = self.keep("", f"zeros{count}", lambda: np.zeros(count, np.int64))
        return _ops.dequantize_per_channel.default(integers, scales, zeros, turned, LOW, HIGH, torch.int8)


class Replay(nn.Module):
    """A :class:`Lowering` as a module."""

    def __init__(self, graph: Lowering) -> None:
        super().__init__()
        self.graph: list[Lowering] = [graph]  # in a list: it is no part of the module
        self.held: nn.Module = graph.held

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.graph[0].replay(given))
