"""The heap while ONNX Runtime loads a model: what it reads, parses, copies, and keeps for each node."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from edgesdk.core.graph import LINEAR, WEIGHTED, Graph, Layer
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.runtime import ONNX
from edgesdk.price.files import NODES, file_bytes, is_folded, nodes, weight_bytes
from edgesdk.price.kinds import COPY, FREE, RECURRENT, kind_of
from edgesdk.price.memory.held import FLOAT_BYTES, option_of
from edgesdk.price.memory.onnxruntime.constants import Constants
from edgesdk.price.memory.onnxruntime.layouts import blocked_bytes, is_blocked
from edgesdk.price.precision import is_integer
from edgesdk.price.stored import resident_bytes


def parsed_bytes(graph: Graph, options: Mapping[str, Option], constants: Constants) -> float:
    """The heap when the file is parsed: what was read, and the weights as they were read."""
    buffer = min(file_bytes(ONNX.takes, graph, options), constants.buffer)
    stored = sum(_stored(layer, option_of(layer, options)) for layer in graph.layers)
    copies = constants.waste * stored + buffer * (constants.waste if buffer <= constants.mapped else 1.0)
    return max(0.0, copies + sum(nodes(graph, options)) * constants.parsed_node - constants.spare)


def optimized_bytes(graph: Graph, options: Mapping[str, Option], constants: Constants) -> float:
    """The heap at the worst step after that, with all copies of weights that are alive at once."""
    copied = worst = stored = large = alone = 0.0
    blocks = 0
    for layer in graph.layers:
        option = option_of(layer, options)
        weights = loaded_bytes(layer, option)
        stored += weights
        lasting = 0.0
        if is_blocked(layer, option, constants.block):
            copy = blocked_bytes(layer, constants.block)
            copied += copy
            worst = max(worst, copied + 2 * copy + weights)
            blocks += 1
        elif layer.kind == LINEAR and option.precision == FP32:
            lasting = (constants.moved if weights < constants.alone else 1.0) * weights
            copied += lasting
            worst = max(worst, copied)
        elif layer.kind in WEIGHTED and option.weight_bits < 8:
            copied += prod(layer.weight_shape)  # unpacked
            worst = max(worst, copied)
        elif kind_of(layer.operator) == RECURRENT:
            worst = max(worst, copied + weights * (1.0 if is_folded(layer) else constants.recurrence))
        large += weights + lasting if constants.hole < weights < constants.alone else 0.0
        alone += weights + lasting if weights >= constants.alone else 0.0
    floats, integers = nodes(graph, options)
    objects = floats * constants.float_node + (integers + _added(graph, options)) * constants.integer_node
    objects += constants.network + blocks * constants.blocked_node
    small = constants.waste * (stored + worst - large - alone) + objects
    return max(0.0, small - constants.spare) + constants.waste * large + alone


def _stored(layer: Layer, option: Option) -> float:
    """Bytes of a layer's weights as they are read. An integer one has a bias of 32 bits and two scales per channel."""
    rows = layer.outputs if layer.kind in WEIGHTED and option.precision == INT8 else 0
    return weight_bytes(layer, option) + 3 * rows * FLOAT_BYTES


def loaded_bytes(layer: Layer, option: Option) -> float:
    """Bytes of a layer's weights once they are decoded, where they are stored in another form."""
    if option.form is None or not option.form.stored:
        return _stored(layer, option)
    return resident_bytes(option.form, layer.weight_shape) + layer.outputs * FLOAT_BYTES


def _added(graph: Graph, options: Mapping[str, Option]) -> int:
    """Nodes that the runtime adds: changes of precision, moved past what only moves an integer tensor or made anew."""
    integer = {name for name in options if is_integer(name, options)}
    added = 0
    for layer in graph.layers:
        if layer.inputs and layer.inputs[0] in integer and (layer.operator in FREE or kind_of(layer.operator) == COPY):
            integer.add(layer.name)
            added += 2 * NODES.get(layer.operator, 1)
    return added
