"""The memory that a network adds to a TFLite interpreter with XNNPACK on a CPU, from the graph alone.

A process that loads a model and runs it grows by these:

- the file, which is mapped and read as a whole;
- weights as XNNPACK packs them, outputs and inputs of a layer filled up to what its kernels take at once, a recurrence
  written step by step packing its weights for each step;
- pointers to the pixels of each window of a convolution that is no matrix product as it is;
- outputs of layers, as many as live at once, and objects of each operator and change of precision;
- code: pages of the runtime that only this model's kernels need.

Some of it finds room that the tiny model left, from which memory is counted.
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
MAPPED = 1 << 20  # bytes of a piece that lies in a mapping of its own
FINDS = 0.3  # of pieces, for which there is room


@dataclass(frozen=True)
class Xnnpack:
    """What a version takes, in bytes: constants of the runtime, not of a model.

    ``code`` are the pages of a kind of kernel, ``node`` the objects of an operator; a step of a recurrence is
    ``step_nodes`` of them. Packed weights are filled up to ``outputs``, integer ones to ``inputs``. ``spare`` is what
    the tiny model left free.
    """

    node: float
    spare: float
    step_nodes: int = 12
    outputs: int = 16
    inputs: int = 4
    code: Mapping[str, float] = field(default_factory=dict)

    def peak_bytes(self, graph: Graph, options: Mapping[str, Option]) -> float:
        """Bytes that a process grows by at most."""
        chosen = [(layer, option_of(layer, options)) for layer in graph.layers]
        total = file_bytes(TFLITE.takes, graph, options) + self.node * len(list_changes(graph, options))
        total += code_bytes(self.code, (kernels_of(layer, option) for layer, option in chosen))
        total += sum(self._own(layer, option) for layer, option in chosen)
        pieces = live_bytes(graph, options) + sum(self._pieces(layer, option) for layer, option in chosen)
        return total + live_bytes(graph, options) + INPUTS * input_bytes(graph) - self._spare(pieces)

    def fixed(self, graph: Graph) -> Fixed:
        """What a process takes whatever is chosen."""
        pieces = live_bytes(graph, {}) + sum(self._pieces(layer, Option()) for layer in graph.layers)
        return Fixed(TFLITE.takes.fixed + INPUTS * input_bytes(graph), self._spare(pieces), self.code)

    def held(self, parts: Sequence[Layer], option: Option) -> Held:
        """What a layer takes, as those ``parts``."""
        own = sum(self._own(part, option) + layer_bytes(TFLITE.takes, part, option) for part in parts)
        kernels = frozenset[str]().union(*(kernels_of(part, option) for part in parts))
        return Held(own, *chain(parts, option), kernels & {*self.code})

    def _spare(self, pieces: float) -> float:
        return min(self.spare, FINDS * pieces)

    def _pieces(self, layer: Layer, option: Option) -> float:
        """What the heap holds of a layer: its pointers, and its packed weights where they have no mapping."""
        packed = self._packed(layer, option)
        return _pointers(layer) + (packed if packed < MAPPED else 0.0)

    def _own(self, layer: Layer, option: Option) -> float:
        """A layer's packed weights, pointers and objects."""
        if layer.operator in FREE:
            return 0.0
        if kind_of(layer.operator) == RECURRENT:
            return prod(layer.input_shape[:-1]) * (self.step_nodes * self.node + self._step(layer))
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
    node=3_400.0, spare=130e3,
    code={"conv": 96 * KB, "linear fp32": 32 * KB, "pool": 96 * KB, "copy": 32 * KB, "function": 32 * KB},
)  # fmt: skip
"""LiteRT 2.3 on x86 with AVX-512: packing and pointers are what XNNPACK does; ``node``, ``spare`` and code pages are
fitted to seven networks in float, int8, low rank and mixed precisions."""


def constants_of(version: str | None = None) -> Xnnpack:
    """The constants of TFLite's interpreter: those of the one version that was looked into."""
    return _2_3
