"""The size of a model's file, from its graph: weights to the byte, and what names and nodes take in each format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from edgesdk.core.file_bytes import CLIPPED, CONV1D, ROWS, FileBytes
from edgesdk.core.graph import CONV, LINEAR, OTHER, WEIGHTED, WINDOWED, Graph, Layer
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.price.kinds import ATTENTION, RECURRENT, kind_of
from edgesdk.price.precision import DEQUANTIZE, QUANTIZE, is_integer, list_changes
from edgesdk.price.signs import find_never_negative
from edgesdk.price.stored import stored_bytes

FLOAT_BYTES = 4
FOLDED = 8192  # numbers in a constant, up to which the exporter computes with it
NODES = {ATTENTION: 8, "unbind": 6, "gru": 3, "lstm": 3, "getitem": 0, "zeros": 0}
"""Nodes of the file per operator, where it is not one."""
SLICING = 10  # nodes that slice and join the weights of a recurrence
FILLED = ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full")  # with one value
QUANTIZING = 2  # nodes around a tensor that is quantized


def calibrated(file: FileBytes, graph: Graph, options: Mapping[str, Option], size: float) -> FileBytes:
    """``file`` such that the file of that network has that ``size``: scaled for its integer layers, if it has any."""
    scaled = "integer_scale" if any(is_integer(name, options) for name in options) else "float_scale"
    least = file_bytes(replace(file, **{scaled: 0.0}), graph, options)
    parts = file_bytes(replace(file, **{scaled: 1.0}), graph, options) - least
    return replace(file, **{scaled: max(0.0, size - least) / parts if parts else 1.0})


def file_bytes(file: FileBytes, graph: Graph, options: Mapping[str, Option]) -> float:
    """Bytes of the file of a network, in a format that takes ``file``."""
    own, held = 0.0, set[tuple[str, Option]]()
    for layer in graph.layers:
        option = options.get(layer.name, Option())
        key = (layer.shares or layer.name, option)
        own += layer_bytes(file, layer, option, key in held)
        held.add(key)
    rows = {layer.outputs for layer in graph.layers if layer.weight_shape and is_integer(layer.name, options)}
    changes = file.integer_scale * file.entered * len(quantized(graph, options))
    changes += file.left * len(left(graph, options))
    changes -= file.integer_scale * file.zero_point * count_without_zero_point(graph, options)
    return file.fixed + own + changes + file.shared * sum(rows) + file.constants * len(rows)


def layer_bytes(file: FileBytes, layer: Layer, option: Option, again: bool = False) -> float:
    """What a layer adds to the file; where it runs ``again``, its weights are there already."""
    operator, weighted = operator_of(layer), layer.kind in WEIGHTED
    integer = option.precision == INT8
    nodes = file.nodes.get(operator, file.other * NODES.get(operator, 1))
    nodes += file.name * len(layer.name) * weighted
    if layer.activation is not None:
        nodes += file.nodes[CLIPPED] if layer.activation == "relu6" else file.activation
    if kind_of(layer.operator) == RECURRENT:
        nodes += file.nodes.get(f"{operator} step", file.step) * prod(layer.input_shape[:-1]) + file.slicing * (
            not is_folded(layer)
        )
    own = file.float_scale * nodes + (0.0 if again and not file.repeats else weight_bytes(layer, option))
    if layer.operator in FILLED and file.fills:
        own += layer.elements * FLOAT_BYTES
    if not integer:
        return own
    scaled = file.quantized
    if weighted:
        scaled += file.integers[operator] + file.integer_name * len(layer.name)
    if weighted and option.weight_bits < 8:
        scaled += file.unpacked + file.unpacked_name * len(layer.name)
    return own + file.integer_scale * scaled + (layer.outputs * file.row if weighted else 0.0)


def operator_of(layer: Layer) -> str:
    """By which name ``FileBytes`` knows a layer: that of its kind, or of its operator where it is of no kind."""
    if layer.kind == LINEAR:
        return ROWS if len(layer.shape) > 1 else LINEAR
    if layer.kind in WINDOWED:
        return CONV1D if len(layer.kernel) == 1 else CONV
    return layer.operator if layer.kind == OTHER else layer.kind


def weight_bytes(layer: Layer, option: Option) -> float:
    """Bytes of a layer's weights, and of the bias of a float one: that of an integer layer counts with its rows."""
    if layer.kind not in WEIGHTED:
        return layer.parameters * FLOAT_BYTES
    weights, channels = prod(layer.weight_shape), layer.outputs
    if option.form is not None and option.form.stored:
        return stored_bytes(option.form, layer.weight_shape) + channels * FLOAT_BYTES
    if option.precision == FP32:
        return (weights + channels) * FLOAT_BYTES
    return weights * option.weight_bits / 8


def layer_nodes(layer: Layer, option: Option) -> int:
    """Nodes of the file that a layer is, with those that quantize its weights and its output."""
    count = NODES.get(layer.operator, 1) + (layer.activation is not None)
    weighted = layer.kind in WEIGHTED
    rows = layer.kind == LINEAR and len(layer.shape) > 1
    if kind_of(layer.operator) == RECURRENT and not is_folded(layer):
        count += SLICING
    if option.precision != INT8:
        return count + rows
    return count + QUANTIZING + (2 if weighted else 0) + 2 * rows + (weighted and option.weight_bits < 8)


def nodes(graph: Graph, options: Mapping[str, Option]) -> tuple[int, int]:
    """Nodes of the file: those of float layers; those of integer layers, with the changes of precision around them."""
    count = {True: 0, False: 0}
    for layer in graph.layers:
        count[is_integer(layer.name, options)] += layer_nodes(layer, options.get(layer.name, Option()))
    return count[False], count[True] + QUANTIZING * len(quantized(graph, options))


def quantized(graph: Graph, options: Mapping[str, Option]) -> list[str]:
    """The tensors that are made in float and read by integer layers."""
    return [name for name, way in list_changes(graph, options) if way == QUANTIZE]


def count_without_zero_point(graph: Graph, options: Mapping[str, Option]) -> int:
    """How many tensors on a grid are never below zero."""
    on_grid = {layer.name for layer in graph.layers if is_integer(layer.name, options)}
    return len(find_never_negative(graph) & (on_grid | set(quantized(graph, options))))


def left(graph: Graph, options: Mapping[str, Option]) -> list[str]:
    """The tensors that are made in integers and read by float layers, or by whoever runs the network."""
    return [name for name, way in list_changes(graph, options) if way == DEQUANTIZE]


def hidden(layer: Layer) -> int:
    """The width of a recurrent layer h, from its parameters: per gate h (inputs + h + 2)."""
    inputs, gates = layer.input_shape[-1], {"gru": 3, "lstm": 4}.get(layer.operator, 1)
    width = 1
    while gates * width * (inputs + width + 2) < layer.parameters:
        width += 1
    return width


def is_folded(layer: Layer) -> bool:
    """Whether the exporter has already sliced and joined a recurrent layer's weights: it does so to small ones."""
    width = hidden(layer)
    return 3 * width * max(width, layer.input_shape[-1]) <= FOLDED
