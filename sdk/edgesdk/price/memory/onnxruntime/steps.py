"""The kernels that a network runs as, in their order, with the changes of layout and precision between them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from edgesdk.core.graph import ACTIVATION, ADD, CONV, LINEAR, MEAN, POOL, TRANSPOSED, Graph, Layer
from edgesdk.core.plan import Option
from edgesdk.price.files import hidden
from edgesdk.price.kinds import ATTENTION, COPY, FREE, JOINS, RECURRENT, kind_of
from edgesdk.price.memory.arena import Step, up
from edgesdk.price.memory.held import FLOAT_BYTES, POINTER_BYTES, option_of
from edgesdk.price.memory.onnxruntime.constants import Constants
from edgesdk.price.memory.onnxruntime.layouts import (
    BLOCKED,
    INTEGER,
    PLAIN,
    find_summed,
    is_blocked,
    is_fused,
    moved_form,
    runs_by_blocks,
)  # fmt: skip
from edgesdk.price.precision import DEQUANTIZE, find_change, is_integer


class Steps:
    """The kernels of a network: ``steps`` as they run, and the tensors that are ``kept`` as its outputs."""

    def __init__(self, graph: Graph, options: Mapping[str, Option], constants: Constants) -> None:
        self.graph: Graph = graph
        self.options: Mapping[str, Option] = options
        self.constants: Constants = constants
        self.steps: list[Step] = []
        self.made: set[str] = set()
        self.form: dict[str, str] = {tensor.name: PLAIN for tensor in graph.inputs}
        self.elements: dict[str, int] = {tensor.name: prod(tensor.shape) for tensor in graph.inputs}
        self.shapes: dict[str, tuple[int, ...]] = {
            tensor.name: tensor.shape for tensor in (*graph.inputs, *graph.layers)
        }
        self.place: dict[str, int] = {layer.name: index for index, layer in enumerate(graph.layers)}
        for layer in graph.layers:
            self.layer(layer)
        self.kept: set[str] = {self.plain(name) for name in graph.outputs if name in self.made}

    def make(
        self, name: str, size: float, reads: list[str], scratch: tuple[float, ...] = (), into: str | None = None
    ) -> str:
        """The tensor ``name``, or what it is for another kernel: those have its shape."""
        if name not in self.made:
            shape = self.shapes.get(name) or next((self.shapes[i] for i in reads if i in self.shapes), ())
            self.steps.append(Step(name, size, tuple(reads), scratch, into, shape))
            self.shapes[name] = shape
            self.made.add(name)
        return name

    def plain(self, name: str) -> str:
        """``name`` as floats, channel after channel."""
        if self.form[name] == PLAIN:
            return name
        turned = (self.elements[name],) if self.change(name, False) == DEQUANTIZE else ()
        return self.make(f"{name} plain", self.elements[name] * FLOAT_BYTES, [name], turned)

    def change(self, name: str, integer: bool) -> str | None:
        """How ``name`` changes precision, if it does, for a kernel that reads it as ``integer`` or float."""
        return find_change(self.form[name] == INTEGER, (integer,))

    def integer(self, name: str, turned: bool) -> str:
        """``name`` as bytes, with channels last where ``turned``."""
        if self.change(name, True) is None:
            return name
        tensor = self.make(f"{name} integer", self.elements[name], [self.plain(name)])
        return self.make(f"{name} turned", self.elements[name], [tensor]) if turned else tensor

    def blocked(self, name: str, channels: int) -> str:
        """``name`` as a float convolution reads it: in blocks, or plain where it has few channels."""
        if self.form[name] == BLOCKED or channels < self.constants.block:
            return name if self.form[name] == BLOCKED else self.plain(name)
        filled = up(channels, self.constants.block) * self.elements[name] // channels
        return self.make(f"{name} blocked", filled * FLOAT_BYTES, [self.plain(name)])

    def layer(self, layer: Layer) -> None:
        name, kind = layer.name, kind_of(layer.operator)
        self.elements[name] = size = layer.elements if layer.shape else 0
        inputs = [i for i in layer.inputs if self.elements.get(i)]
        forms = {self.form[i] for i in inputs}
        if len(inputs) == 1 and layer.operator in JOINS:  # of one tensor, which the exporter leaves out
            self.form[name] = self.form[inputs[0]]
            self.make(name, 0, inputs)
        elif not inputs:
            self.unread(layer, size)
        elif is_integer(name, self.options):
            self.form[name] = INTEGER
            reads = [self.plain(i) if layer.operator == "mean" else self.integer(i, layer.kind == CONV) for i in inputs]
            self.make(name, size, reads, scratch_bytes(layer))  # a mean has no integer kernel
        elif is_blocked(layer, option_of(layer, self.options), self.constants.block):
            self.form[name] = BLOCKED
            summed = [i for i in find_summed(layer, self.graph, self.options) if self.form.get(i) == BLOCKED][:1]
            reads = [self.blocked(inputs[0], layer.input_shape[0]), *summed]
            self.make(name, self.wide(layer), reads, (), summed[0] if summed else None)
        elif forms == {BLOCKED} and runs_by_blocks(layer, self.constants.block):
            self.by_blocks(layer, inputs)
        elif layer.kind == POOL and len(layer.kernel) == 2 and runs_by_blocks(layer, self.constants.block):
            self.by_blocks(layer, [self.blocked(i, layer.shape[0]) for i in inputs])
        elif layer.operator in FREE or kind == COPY:
            self.form[name] = form = moved_form(layer, self.graph, self.options, self.form, self.constants.block)
            sources = [self.plain(i) for i in inputs] if form == PLAIN else inputs
            whole = {INTEGER: size, BLOCKED: self.wide(layer)}.get(form, size * FLOAT_BYTES)
            self.make(name, whole, sources, (), sources[0] if layer.operator in FREE else None)
        else:
            self.form[name] = PLAIN
            self.other(layer, [self.plain(i) for i in inputs], kind)

    def wide(self, layer: Layer) -> float:
        """Bytes of what a layer makes in blocks."""
        if not layer.shape:
            return 0
        return up(layer.shape[0], self.constants.block) * layer.images * prod(layer.shape[1:]) * FLOAT_BYTES

    def unread(self, layer: Layer, size: float) -> None:
        """What reads no numbers: shapes, constants, and the parts of what is made as one."""
        before = self.form.get(layer.inputs[0], PLAIN) if layer.inputs else PLAIN
        self.form[layer.name] = before
        reads = [i for i in layer.inputs if i in self.made]
        self.make(layer.name, size * (1 if before == INTEGER else FLOAT_BYTES), reads)

    def by_blocks(self, layer: Layer, inputs: list[str]) -> None:
        """A kernel that reads blocks; an addition that is part of the convolution before it is that already."""
        self.form[layer.name] = PLAIN if layer.kind == MEAN else BLOCKED
        last = max(inputs, key=lambda i: self.place.get(i, -1))
        alone = layer.kind == ADD and not is_fused(layer, self.graph, self.options, self.constants.block)
        into = last if layer.kind in (ADD, ACTIVATION) else None
        self.make(layer.name, self.wide(layer), inputs if alone else [last], (), into)

    def other(self, layer: Layer, reads: list[str], kind: str) -> None:
        """A kernel that reads and writes plain floats."""
        size, scratch = self.elements[layer.name] * FLOAT_BYTES, ()
        if layer.kind == CONV:
            pixels = prod(layer.shape[1:])
            columns = prod(layer.weight_shape[1:]) * pixels * FLOAT_BYTES
            scratch = (columns if layer.shape[0] > pixels else self.constants.scratch,)
        elif layer.kind == TRANSPOSED:  # what each place makes of its window, before that is added up
            windows = layer.outputs // layer.groups * prod(layer.kernel) * prod(layer.input_shape[1:])
            scratch = (windows * FLOAT_BYTES,)
        elif layer.operator == ATTENTION:
            scores = prod(layer.shape[:-1]) * layer.shape[-2] * FLOAT_BYTES
            keys = self.make(f"{layer.name} keys", size, reads[1:2])
            products = self.make(f"{layer.name} products", scores, [reads[0], keys])
            reads = [self.make(f"{layer.name} shares", scores, [products]), *reads[2:]]
        elif kind == RECURRENT:
            size = hidden(layer) * prod(layer.input_shape[:-1]) * FLOAT_BYTES
            scratch = (3 * size,)
            self.elements[layer.name] = 0
        self.make(layer.name, size, reads, scratch, reads[0] if layer.kind in (ADD, ACTIVATION) else None)


def scratch_bytes(layer: Layer) -> tuple[float, ...]:
    """What an integer kernel needs while it runs: pointers to windows, or the windows and sums of 32 bits.

    Kernels that take pointers want channels in multiples (MlasConvSymPackWSize).
    """
    if layer.kind == LINEAR:
        return (layer.elements * FLOAT_BYTES,)
    if layer.kind != CONV:
        return ()
    outputs, inputs = layer.weight_shape[:2]
    pixels, window, sums = prod(layer.shape[1:]), prod(layer.kernel), layer.elements * FLOAT_BYTES
    gathers = window > 1 or prod(layer.stride) > 1
    pointers = window * pixels * POINTER_BYTES if gathers else 0
    if layer.depthwise:
        return (pointers,) if outputs % 16 == 0 else (pointers, sums)
    if inputs % 4 == 0 and outputs % 4 == 0 and outputs >= 16:
        return (pointers,)
    return (inputs * window * pixels if gathers else 0, sums)
