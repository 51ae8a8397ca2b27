"""The memory that a network adds to a TFLite interpreter with XNNPACK on a CPU, from the graph alone.

A process that loads a model and runs it grows by these:

- the file, which is mapped and read as a whole;
- weights as XNNPACK packs them, outputs and inputs of a layer filled up to what its kernels take at once, a recurrence
  written step by step packing its weights for each step;
- pointers to the pixels of each window of a convolution that is no matrix product as it is;
- outputs of layers, as many as live at once, objects of the interpreter and of each operator and change of precision;
- code: pages of the runtime that only this model's kernels need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from edgesdk.core.graph import CONV, WEIGHTED, Graph, Layer
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import TFLITE
from edgesdk.price.files import NODES, file_bytes, hidden, layer_bytes
from edgesdk.price.kinds import FREE, RECURRENT, kind_of
from edgesdk.price.memory.arena import up
from edgesdk.price.memory.held import (
    FLOAT_BYTES,
    KB,
    POINTER_BYTES,
    Fixed,
    Held,
    chain,
    code_bytes,
    input_bytes,
    kernels_of,
    live_bytes,
    option_of,
)  # fmt: skip
from edgesdk.price.precision import list_changes

INPUTS = 2  # times: as the caller has them, and as the interpreter does


@dataclass(frozen=True)
class Xnnpack:
    """What a version takes, in bytes: constants of the runtime, not of a model.

    ``session`` are the objects of an interpreter, ``node`` those of an operator, ``change`` those of a change of
    precision, ``step`` those of a step of a recurrence; ``code`` are the pages of a kind of kernel. Packed weights are
    filled up to ``outputs``, integer ones to ``inputs``.
    """

    session: float
    node: float
    change: float
    step: float
    outputs: int = 16
    inputs: int = 4
    code: Mapping[str, float] = field(default_factory=dict)

    def peak_bytes(self, graph: Graph, options: Mapping[str, Option]) -> float:
        """Bytes that a process grows by at most."""
        chosen = [(layer, option_of(layer, options)) for layer in graph.layers]
        total = self.session + file_bytes(TFLITE.takes, graph, options)
        total += self.change * len(list_changes(graph, options))
        total += code_bytes(self.code, (kernels_of(layer, option) for layer, option in chosen))
        total += sum(self._own(layer, option) for layer, option in chosen)
        return total + live_bytes(graph, options) + INPUTS * input_bytes(graph)

    def fixed(self, graph: Graph) -> Fixed:
        """What a process takes whatever is chosen."""
        return Fixed(self.session + TFLITE.takes.fixed + INPUTS * input_bytes(graph), 0.0, self.code)

    def held(self, parts: Sequence[Layer], option: Option) -> Held:
        """What a layer takes, as those ``parts``."""
        own = sum(self._own(part, option) + layer_bytes(TFLITE.takes, part, option) for part in parts)
        kernels = frozenset[str]().union(*(kernels_of(part, option) for part in parts))
        return Held(own, *chain(parts, option), kernels & {*self.code})

    def _own(self, layer: Layer, option: Option) -> float:
        """A layer's packed weights, pointers and objects."""
        if layer.operator in FREE:
            return 0.0
        if kind_of(layer.operator) == RECURRENT:
            return prod(layer.input_shape[:-1]) * (self.step + self._step(layer))
        return self._packed(layer, option) + _pointers(layer) + self.node * NODES.get(layer.operator, 1)

    def _packed(self, layer: Layer, option: Option) -> float:
        if layer.kind not in WEIGHTED:
            return 0.0
        integer = option.precision == INT8
        rows, depth, kernel = layer.outputs, layer.inputs_each, layer.kernel
        number = 1 if integer else FLOAT_BYTES
        row = 2 * FLOAT_BYTES if integer else FLOAT_BYTES  # a bias, and a scale
        if layer.depthwise:
            return up(rows, self.outputs) * (prod(kernel) * number + row)
        filled = up(depth, self.inputs) if integer else depth
        each = up(rows // layer.groups, self.outputs) * (filled * prod(kernel) * number + row)
        return layer.groups * each

    def _step(self, layer: Layer) -> float:
        """Weights from one step of a recurrence to the next, which each step packs for itself."""
        width = hidden(layer)
        gates = {"gru": 3, "lstm": 4}.get(layer.operator, 1)
        return up(gates * width, self.outputs) * (width + 1) * FLOAT_BYTES


def _pointers(layer: Layer) -> float:
    """Bytes of pointers to what each window of a convolution reads; those of a depthwise one share columns."""
    if layer.kind != CONV or (prod(layer.kernel) == 1 and prod(layer.stride) == 1):
        return 0.0
    pixels, window = prod(layer.shape[1:]), prod(layer.kernel)
    if not layer.depthwise:
        return POINTER_BYTES * pixels * window
    *lines, row = layer.shape[1:]
    moved = min(layer.stride[-1], layer.kernel[-1]) * prod(layer.kernel[:-1])
    return POINTER_BYTES * prod(lines) * (window + (row - 1) * moved)


_2_3 = Xnnpack(
    session=23e3, node=5_100.0, change=2_800.0, step=41e3,
    code={"conv": 96 * KB, "linear": 32 * KB, "pool": 96 * KB, "matmul": 32 * KB},
)  # fmt: skip
"""LiteRT 2.3 on x86 with AVX-512: packing, pointers and tensors are what XNNPACK does, to a hundredth where they are
fitted; objects are fitted to eleven networks in float, int8, low rank and mixed precisions, code pages to those and,
pools and attention alone, to a U-Net and a transformer."""


def constants_of(version: str | None = None) -> Xnnpack:
    """The constants of TFLite's interpreter: those of the one version that was looked into."""
    return _2_3
