"""The graph that a plan makes of a network, without weights: what an account of bytes before building goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

from edgesdk.core.graph import ACTIVATION, ADD, LINEAR, OTHER, TRANSPOSED, WEIGHTED, WINDOWED, Graph, Layer
from edgesdk.core.plan import Option
from edgesdk.price import operators as ops
from edgesdk.price.forms import CHEAPER
from edgesdk.price.kinds import COPY, FREE, RECURRENT, kind_of
from edgesdk.price.operator import Operator
from edgesdk.price.recurrent import narrowed

MOVES = (COPY,)  # kinds of operators that make of numbers the same numbers
RECTIFIED = ("relu", "relu6", "hardtanh")


def planned(
    graph: Graph, options: Mapping[str, Option], kept: Mapping[str, int], dropped: tuple[str, ...]
) -> tuple[Graph, dict[str, Option]]:
    """The graph and the options of its layers once ``options``, widths and branches of a plan are applied.

    The parts of a layer in another form are layers of their own. What stays of a join whose branch is left out is its
    activation, where the other side has none of its own.
    """
    left_out = {name for branch in graph.branches if branch.name in dropped for name in branch.layers}
    joins = {branch.join: branch.keeps for branch in graph.branches if branch.name in dropped}
    made = _Made()
    for layer in graph.layers:
        if layer.name in left_out:
            continue
        option = options.get(layer.name, Option())
        form = option.form
        if layer.name in joins:
            readers = set(graph.readers[joins[layer.name]]) - left_out
            _pass_on(made, layer, joins[layer.name], fuses=readers == {layer.name})
        elif form is not None and form.method in CHEAPER:
            _cheapen(made, layer, graph, option)
        else:
            reads = kept.get(layer.reads) if layer.reads else None
            writes = kept.get(layer.writes) if layer.writes else None
            stays = option if form is not None and form.stored else replace(option, form=None)
            made.add(layer.name, layer_parts(layer, graph, option, reads, writes), stays)
    outputs = tuple(made.name(name) for name in graph.outputs)
    return Graph(graph.inputs, tuple(made.layers.values()), outputs), made.options


@dataclass
class _Made:
    """Layers as they come about, and under which name what was there before is found."""

    layers: dict[str, Layer] = field(default_factory=dict)
    options: dict[str, Option] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def name(self, tensor: str) -> str:
        return self.renamed.get(tensor, tensor)

    def add(self, name: str, parts: tuple[Layer, ...], option: Option) -> None:
        """Add the ``parts`` of the layer ``name``, each of which reads the one before it."""
        inputs = tuple(self.name(tensor) for tensor in parts[0].inputs)
        for part in parts:
            before = self.layers.get(inputs[0]) if inputs else None
            self.layers[part.name] = replace(_behind(part, before), inputs=inputs)
            self.options[part.name] = option
            inputs = (part.name,)
        self.renamed[name] = parts[-1].name


def _behind(part: Layer, before: Layer | None) -> Layer:
    """``part`` as it reads what ``before`` makes; what only moves numbers makes as many as it reads."""
    if before is None or not part.input_shape:
        return part
    now, planned_for = before.elements, part.images * prod(part.input_shape)
    if now == planned_for:
        return part
    part = replace(part, input_shape=_resized(part.input_shape, now, planned_for))
    if part.writes is None and part.kind == OTHER and (part.operator in FREE or kind_of(part.operator) in MOVES):
        part = replace(part, shape=_resized(part.shape, now, planned_for))
    return part


def _pass_on(made: _Made, join: Layer, keeps: str, fuses: bool) -> None:
    """The ``join`` of a branch that is left out: its other input, with the join's own activation where that counts.

    That is one with the layer before it, where nothing else reads what that makes (``fuses``).
    """
    source = made.name(keeps)
    before = made.layers.get(source)
    rectified = before is not None and (before.activation or before.operator) in RECTIFIED
    if join.activation is None or (rectified and join.activation in RECTIFIED):
        made.renamed[join.name] = source
        return
    if fuses and before is not None and before.kind in (*WEIGHTED, ADD) and before.activation is None:
        made.layers[source] = replace(before, activation=join.activation)
        made.renamed[join.name] = source
        return
    shape = before.shape if before is not None else join.shape
    alone = replace(
        join, kind=ACTIVATION, operator=join.activation, activation=None, inputs=(source,), shape=shape,
        input_shape=shape,
    )  # fmt: skip
    made.add(join.name, (alone,), Option())


def _cheapen(made: _Made, layer: Layer, graph: Graph, option: Option) -> None:
    """An activation as a rectifier, which is one with what makes its input where that has none, or as nothing."""
    assert option.form is not None
    source = made.name(layer.inputs[0])
    runs_as = CHEAPER[option.form.method].runs_as
    if runs_as is None:
        made.renamed[layer.name] = source
    elif ops.fuses(layer, graph) and source in made.layers:
        made.layers[source] = replace(made.layers[source], activation=runs_as)
        made.renamed[layer.name] = source
    else:
        rectifier = replace(layer, kind=ACTIVATION, operator=runs_as)
        shape = made.layers[source].shape if source in made.layers else layer.shape
        made.add(layer.name, (replace(rectifier, shape=shape),), replace(option, form=None))


def layer_parts(
    layer: Layer, graph: Graph, option: Option, reads: int | None, writes: int | None
) -> tuple[Layer, ...]:  # fmt: skip
    """The layers that ``layer`` becomes with ``option``, where its groups keep ``reads`` and ``writes`` channels."""
    whole = _at_width(layer, graph, reads, writes)
    form = option.form
    if form is None or form.stored or layer.kind not in WEIGHTED:
        return (whole,)
    runs = ops.operators(layer, graph, option, reads, writes)
    return tuple(_part(whole, op, index, len(runs)) for index, op in enumerate(runs))


def _at_width(layer: Layer, graph: Graph, reads: int | None, writes: int | None) -> Layer:
    inputs, outputs = ops.channels(layer, graph, reads, writes)
    if layer.kind == LINEAR:
        return replace(
            layer, input_shape=(*layer.input_shape[:-1], inputs), shape=(*layer.shape[:-1], outputs),
            weight_shape=(outputs, inputs),
        )  # fmt: skip
    if layer.kind in WINDOWED:
        return replace(
            layer, input_shape=(inputs, *layer.input_shape[1:]), shape=(outputs, *layer.shape[1:]),
            weight_shape=weight_shape(layer, graph, reads, writes), groups=ops.groups_left(layer, inputs),
        )  # fmt: skip
    read, write = ops.share(graph, layer.reads, reads), ops.share(graph, layer.writes, writes)
    fewer = write[0] / write[1]
    fewer *= read[0] / read[1] if layer.macs and layer.reads != layer.writes else 1.0
    if kind_of(layer.operator) == RECURRENT:  # whose weights lead from each state to each, besides
        return narrowed(layer, read, write)
    return replace(
        layer, input_shape=_resized(layer.input_shape, *read), shape=_resized(layer.shape, *write),
        parameters=round(layer.parameters * fewer),
    )  # fmt: skip


def weight_shape(layer: Layer, graph: Graph, reads: int | None, writes: int | None) -> tuple[int, ...]:
    """The shape of a layer's weight at such widths."""
    inputs, outputs = ops.channels(layer, graph, reads, writes)
    groups = ops.groups_left(layer, inputs) if layer.groups > 1 else 1
    if layer.kind == TRANSPOSED:
        return inputs, outputs // groups, *layer.weight_shape[2:]
    return outputs, inputs // groups, *layer.weight_shape[2:]


def _resized(shape: tuple[int, ...], kept: int, size: int) -> tuple[int, ...]:
    """``shape`` with ``kept`` of ``size`` elements, along the axis of as many channels, or of several each."""
    if kept == size:
        return shape
    fits = (lambda n: n == size, lambda n: n % size == 0, lambda n: n * kept % size == 0)
    axis = next((axis for fit in fits for axis, n in enumerate(shape) if fit(n)), None)
    if axis is None:
        return shape
    return (*shape[:axis], shape[axis] * kept // size, *shape[axis + 1 :])


def _part(whole: Layer, op: Operator, index: int, count: int) -> Layer:
    """One of the ``count`` operators that a form of ``whole`` runs as, as a layer."""
    last = index == count - 1
    name = whole.name if count == 1 else f"{whole.name}.{index}"
    if op.kind == LINEAR:
        read, shape = (*whole.input_shape[:-1], op.inputs), (*whole.shape[:-1], op.outputs)
        weights = op.outputs, op.inputs
    else:
        read, shape = (op.inputs, *op.size), (op.outputs, *op.after)
        turned = op.kind == TRANSPOSED
        sides = (op.inputs, op.outputs // op.groups) if turned else (op.outputs, op.inputs // op.groups)
        weights = (*sides, *op.kernel)
    operator = whole.operator if op.kind == whole.kind else f"conv{len(op.kernel)}d"
    return replace(
        whole, name=name, kind=op.kind, operator=operator, input_shape=read, shape=whole.shape if last else shape,
        weight_shape=weights, has_bias=whole.has_bias and last, kernel=op.kernel, stride=op.stride, padding=op.padding,
        dilation=op.dilation, groups=op.groups, activation=op.activation,
    )  # fmt: skip
