"""Which tensors of a network are never below zero: their grids need no zero point."""

from __future__ import annotations

from edgesdk.core.graph import ADD, FLATTEN, MEAN, POOL, Graph
from edgesdk.price.kinds import COPY, FREE, kind_of

RECTIFIERS = ("relu", "relu6", "sigmoid")
FILLING = ("pad", "constant_pad_nd")  # with numbers that the graph does not tell


def find_never_negative(graph: Graph) -> frozenset[str]:
    """The layers whose outputs are never below zero: what a ReLU makes, and what moves or joins that alone."""
    found: set[str] = set()
    for layer in graph.layers:
        rectifies = layer.activation is not None or layer.operator in RECTIFIERS
        moves = layer.kind in (ADD, POOL, MEAN, FLATTEN) or layer.operator in FREE or kind_of(layer.operator) == COPY
        fills = layer.operator in FILLING or layer.parameters > 0  # as with a token that is joined
        if rectifies or (moves and not fills and layer.inputs and found.issuperset(layer.inputs)):
            found.add(layer.name)
    return frozenset(found)
