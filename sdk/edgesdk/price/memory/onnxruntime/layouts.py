"""Where ONNX Runtime has weights and tensors in blocks of channels on x86, and what it makes part of a convolution.

The rules are those of its NCHWc transformer, which goes through a graph once, in the order in which it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from edgesdk.core.graph import ACTIVATION, ADD, CONV, MEAN, POOL, Graph, Layer
from edgesdk.core.plan import INT8, Option
from edgesdk.price.kinds import JOINS, RESIZES
from edgesdk.price.memory.arena import up
from edgesdk.price.memory.held import FLOAT_BYTES, option_of

PLAIN, BLOCKED, INTEGER = "plain", "blocked", "integer"
ALIGNED = 4  # channels that a block is filled up from
BY_BLOCKS = (ADD, ACTIVATION, POOL, MEAN)  # kinds that have kernels for blocks
ALSO_BY_BLOCKS = ("batch_norm", "upsample_nearest2d")


def is_blocked(layer: Layer, option: Option, block: int) -> bool:
    """Whether a layer is a float convolution over images, whose weights and output are in blocks of channels."""
    if layer.kind != CONV or len(layer.kernel) != 2 or option.precision == INT8:
        return False
    outputs, inputs = layer.weight_shape[:2]
    if layer.groups == 1:
        return inputs < block or inputs % ALIGNED == 0
    if layer.depthwise and inputs == 1:
        return outputs % ALIGNED == 0
    return inputs % block == 0 and outputs // layer.groups % block == 0


def blocked_bytes(layer: Layer, block: int) -> int:
    """Bytes of the weights of a convolution in blocks."""
    outputs, inputs = layer.weight_shape[:2]
    return up(outputs, block) * (inputs if inputs < block else up(inputs, ALIGNED)) * prod(layer.kernel) * FLOAT_BYTES


def runs_by_blocks(layer: Layer, block: int) -> bool:
    """Whether a layer that reads tensors in blocks alone has a kernel for them: a pool where no block is half full."""
    if layer.kind == POOL:
        return layer.shape[0] % block == 0
    return layer.operator in ALSO_BY_BLOCKS or (layer.kind in BY_BLOCKS and layer.operator != "mean")


def is_fused(layer: Layer, graph: Graph, options: Mapping[str, Option], block: int) -> bool:
    """Whether a float addition runs as part of a float convolution that it alone reads, and that has no activation."""
    makers = [graph.by_name[name] for name in layer.inputs if name in graph.by_name]
    return any(
        is_blocked(maker, option_of(maker, options), block)
        and maker.activation is None
        and graph.readers[maker.name] == (layer.name,)
        for maker in makers
    )


def find_summed(layer: Layer, graph: Graph, options: Mapping[str, Option]) -> list[str]:
    """The other inputs of the float addition that alone reads the output of ``layer``, if one does."""
    readers = [graph.by_name[reader] for reader in graph.readers[layer.name]]
    if layer.activation is not None or len(readers) != 1 or readers[0].kind != ADD:
        return []
    if option_of(readers[0], options).precision == INT8:
        return []
    return [name for name in readers[0].inputs if name != layer.name]


def moved_form(layer: Layer, graph: Graph, options: Mapping[str, Option], forms: Mapping[str, str], block: int) -> str:
    """How a layer that only moves numbers makes its output, where what it reads has those ``forms``.

    An integer tensor that is only looked at otherwise stays one; it is joined with others or made larger as integers
    where all that read and are read are. Tensors in blocks are joined as such where none is partly filled.
    """
    read = [name for name in layer.inputs if name in forms]
    found = {forms[name] for name in read}
    if found == {INTEGER}:
        readers = [option_of(graph.by_name[reader], options).precision == INT8 for reader in graph.readers[layer.name]]
        whole = all(readers) and layer.name not in graph.outputs
        remade = len(read) > 1 or layer.operator.startswith(RESIZES)
        return INTEGER if whole or not remade else PLAIN
    if found == {BLOCKED} and layer.operator in JOINS:
        shapes = [graph.by_name[name].shape for name in read]
        along = sum(shape[0] for shape in shapes) == layer.shape[0]
        return BLOCKED if along and all(shape[0] % block == 0 for shape in shapes) else PLAIN
    return PLAIN
