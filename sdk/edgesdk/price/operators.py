"""The operators that a layer runs as, one way or another: what has a price, and by which name it is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from edgesdk.core.graph import ACTIVATION, ADD, LINEAR, MEAN, POOL, TRANSPOSED, WEIGHTED, WINDOWED, Graph, Layer
from edgesdk.core.plan import FP32, INT8, Form, Option
from edgesdk.price.forms import CHEAPER, parts
from edgesdk.price.kinds import (
    ACTIVATIONS,
    ATTENTION,
    AVERAGE,
    ELEMENTWISE,
    FREE,
    MATMUL,
    RECURRENT,
    SOFTMAX,
    UNKNOWN,
    kind_of,
)
from edgesdk.price.operator import Operator, size_after, size_transposed
from edgesdk.price.precision import list_changes
from edgesdk.price.recurrent import narrowed, timed


def widths(size: int, step: int = 1) -> tuple[int, ...]:
    """The channel counts to choose from for a group of ``size``: eighths, rounded up to multiples of 4.

    Of channels that go in units of ``step`` they are rounded up to whole units.
    """
    return tuple(sorted(levels(size, step)))


def levels(size: int, step: int = 1) -> dict[int, int]:
    """The channel counts of :func:`widths`, each with how fine a grid has it: all, the half, quarters, eighths."""
    each = 4 if step == 1 else step
    sizes: dict[int, int] = {}
    for level, eighths in enumerate(((8,), (4,), (2, 6), (1, 3, 5, 7))):
        for eighth in eighths:
            sizes.setdefault(min(size, -(-size * eighth // (8 * each)) * each), level)
    return sizes


def precisions(layer: Layer, form: Form | None = None) -> tuple[str, ...]:
    """The precisions in which an operator of this kind can run: float always, integer where runtimes have a kernel."""
    if form is not None and form.method in CHEAPER:
        return FP32, INT8
    # The scales of one by groups would be those of a channel in each group; what one of lower rank reads is below zero.
    if layer.kind == TRANSPOSED and (layer.groups > 1 or form is not None):
        return (FP32,)
    whole = bool(layer.inputs) and layer.kind != "other" and (layer.kind in WEIGHTED or not layer.fixed)
    return (FP32, INT8) if whole else (FP32,)


def channels(layer: Layer, graph: Graph, reads: int | None, writes: int | None) -> tuple[int, int]:
    """Input and output channels of ``layer`` where its groups keep ``reads`` and ``writes`` channels."""
    axis = -1 if layer.kind == LINEAR else 0
    inputs = layer.input_shape[axis] if layer.input_shape else 0
    outputs = layer.shape[axis] if layer.shape else 0
    if layer.reads and reads is not None:
        own = inputs if layer.read_part is None else layer.read_part
        inputs += own * reads // graph.group_by_name[layer.reads].size - own
    if layer.writes and writes is not None:
        outputs = outputs * writes // graph.group_by_name[layer.writes].size
    return inputs, outputs


def groups_left(layer: Layer, inputs: int) -> int:
    """In how many groups a convolution runs with so many input channels."""
    return inputs // layer.inputs_each if layer.by_groups else layer.groups


def operators(
    layer: Layer, graph: Graph, option: Option, reads: int | None, writes: int | None
) -> tuple[Operator, ...]:
    """What ``layer`` runs as with ``option``; nothing for what a runtime does nothing for."""
    if option.form is not None and option.form.method in CHEAPER:
        runs_as = CHEAPER[option.form.method].runs_as
        if runs_as is None or fuses(layer, graph):
            return ()
        layer = replace(layer, kind=ACTIVATION, operator="relu", activation=runs_as)
    inputs, outputs = channels(layer, graph, reads, writes)
    entry = layer.inputs[0] in {tensor.name for tensor in graph.inputs} if layer.inputs else False
    spatial = layer.input_shape[1:]
    bits = min(8, option.weight_bits)
    if layer.kind == LINEAR:
        rows = layer.input_shape[:-1]
        size = (prod(rows),) if rows else ()
        whole = Operator(
            LINEAR, option.precision, inputs, outputs, size, activation=layer.activation, entry=entry, weight_bits=bits
        )
    elif layer.kind in WINDOWED:
        transposed = layer.kind == TRANSPOSED
        whole = Operator(
            layer.kind, option.precision, inputs, outputs, spatial, layer.kernel, layer.stride,
            layer.padding if transposed else _padding(layer), layer.dilation, groups_left(layer, inputs),
            layer.activation, entry, weight_bits=bits, images=layer.images,
            beyond=_beyond(layer) if transposed else (),
        )  # fmt: skip
    elif layer.kind == POOL and layer.kernel:
        kind = AVERAGE if kind_of(layer.operator) == AVERAGE else POOL
        window = (layer.kernel, layer.stride, layer.padding, layer.dilation)
        return (Operator(kind, option.precision, outputs, outputs, spatial, *window, images=layer.images),)
    elif layer.kind in (ADD, MEAN, ACTIVATION) and spatial:
        activation = layer.activation or ("relu" if layer.kind == ACTIVATION else None)
        # What is done number by number knows no images.
        size, images = (spatial, layer.images) if layer.kind == MEAN else (layer.flat_shape[1:], 1)
        same = (layer.kind, option.precision, outputs, outputs, size)
        return (Operator(*same, activation=activation, images=images),)
    elif layer.operator in FREE:
        return ()
    else:
        kept = {layer.reads: reads, layer.writes: writes}
        read = sum(_left(graph, name, kept) for name in layer.inputs)
        written = _left(graph, layer.name, kept)
        work = layer.macs * written // max(1, layer.elements)
        if layer.operator == ATTENTION:
            return _attention(layer, option.precision, read, written, work)
        kind = kind_of(layer.operator)
        if kind == RECURRENT:
            sides = ((layer.reads, reads), (layer.writes, writes))
            left = narrowed(layer, *(share(graph, name, width) for name, width in sides))
            amounts = (read, max(1, written))
            return (Operator(kind, option.precision, *amounts, work=left.macs, recurrence=timed(left)),)
        if layer.operator in ACTIVATIONS and spatial:
            return (Operator(kind, option.precision, outputs, outputs, spatial, activation=layer.operator),)
        name = layer.operator if kind == UNKNOWN else ""
        return (Operator(kind, option.precision, read, written, work=work, name=name),)
    return (whole,) if option.form is None else parts(whole, option.form)


def fuses(layer: Layer, graph: Graph) -> bool:
    """Whether a ReLU in the place of ``layer`` is one with the operator before it."""
    before = graph.by_name.get(layer.inputs[0])
    return (
        before is not None
        and before.kind in (*WEIGHTED, ADD)
        and before.activation is None
        and graph.readers[before.name] == (layer.name,)
        and before.name not in graph.outputs
    )


def share(graph: Graph, group: str | None, kept: int | None) -> tuple[int, int]:
    """The channels that stay, and how many there are; one of one where there is no group."""
    return (1, 1) if group is None or kept is None else (kept, graph.group_by_name[group].size)


def _left(graph: Graph, name: str, kept: Mapping[str | None, int | None]) -> int:
    """The elements of the tensor ``name`` where its group keeps what ``kept`` says."""
    layer = graph.by_name.get(name)
    if layer is None:
        return next(prod(tensor.shape) for tensor in graph.inputs if tensor.name == name)
    width = kept.get(layer.writes) if layer.writes is not None else None
    return layer.elements if width is None else layer.elements * width // graph.group_by_name[str(layer.writes)].size


def _attention(layer: Layer, precision: str, read: int, written: int, work: int) -> tuple[Operator, ...]:
    """What an attention runs as (Vaswani et al. 2017, equation 1): the scores, their softmax, and what they weigh."""
    depth = max(1, layer.shape[-1])
    scores = work // (2 * depth)  # the work is twice rows times keys times depth
    half = work // 2
    return (
        Operator(MATMUL, precision, read * 2 // 3, scores, work=half),
        Operator(ELEMENTWISE, precision, scores, scores),
        Operator(SOFTMAX, precision, scores, scores),
        Operator(MATMUL, precision, scores + read // 3, written, work=half),
    )


def _padding(layer: Layer) -> tuple[int, ...]:
    """The padding before the first pixel, or one more where the file has more behind the last."""
    axes = zip(layer.input_shape[1:], layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    return tuple(
        p + 1 if size_after(n, k, s, p, d) != after == size_after(n, k, s, p + 1, d) else p
        for (n, k, s, p, d), after in zip(axes, layer.shape[1:], strict=True)
    )


def _beyond(layer: Layer) -> tuple[int, ...]:
    """How far the output of a transposed convolution reaches beyond its last window, or () where it does not; below
    zero where it is cut off there by more than before the first."""
    axes = zip(layer.input_shape[1:], layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    reached = (size_transposed(*axis) for axis in axes)
    beyond = tuple(after - own for after, own in zip(layer.shape[1:], reached, strict=True))
    return beyond if any(beyond) else ()


def of_network(graph: Graph, options: Mapping[str, Option]) -> list[tuple[str, Operator]]:
    """What a whole network runs as, with the layer's name: each layer with its option, FP32 where it has none.

    What is computed twice from the same tensor without weights runs once, as runtimes see to it (common
    subexpressions). A change of precision is one more operator, once per tensor however many read it.
    """
    same: dict[tuple[object, ...], str] = {}
    renamed: dict[str, str] = {}
    pairs = []
    for layer in graph.layers:
        if layer.kind in (POOL, ACTIVATION):
            inputs = tuple(renamed.get(name, name) for name in layer.inputs)
            key = (layer.operator, inputs, layer.kernel, layer.stride, layer.padding)
            if key in same:
                renamed[layer.name] = same[key]
                continue
            same[key] = layer.name
        option = options.get(layer.name, Option())
        pairs += [(layer.name, op) for op in operators(layer, graph, option, None, None)]
    return pairs + _changes(graph, options)


def _changes(graph: Graph, options: Mapping[str, Option]) -> list[tuple[str, Operator]]:
    """The changes of precision between integer layers and the others."""
    shapes = {tensor.name: tensor.shape for tensor in graph.inputs if tensor.dtype == "float32"}
    shapes |= {layer.name: layer.flat_shape for layer in graph.layers}
    ways = [(name, way, shapes.get(name)) for name, way in list_changes(graph, options)]
    return [(name, change(way, shape, shape[0])) for name, way, shape in ways if shape]


def change(direction: str, layer_shape: tuple[int, ...], channels: int) -> Operator:
    """The change of precision of a tensor of that shape: ``quantize`` or ``dequantize``."""
    precision = FP32 if direction == "quantize" else INT8
    return Operator(direction, precision, channels, channels, layer_shape[1:])


def baseline(operator: Operator) -> Operator:
    """What is taken off the time of ``operator``'s probe, so that the operator alone remains.

    A convolution is timed between the maker of its input and a reader of its output that costs next to nothing; what
    follows a convolution in a network is timed behind one.
    """
    if operator.recurrence:
        gates, steps, inputs, *_ = operator.recurrence
        return Operator("alone recurrent", operator.precision, inputs, inputs, recurrence=(gates, steps, inputs))
    behind = operator.kind not in WEIGHTED
    kind = "behind" if behind else "alone"
    vector = operator.kind == LINEAR
    return Operator(
        f"{kind} linear" if vector else kind, operator.precision, operator.inputs, operator.inputs, operator.size,
        entry=operator.entry and not behind, images=operator.images,
    )  # fmt: skip
