"""Where the precision changes in a network: the one rule of it, for the search, the latency and the bytes of files.

Memory follows what a runtime makes of those places (``memory.py``), and the program has a row for each of ``WAYS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

from edgesdk.core.graph import Graph
from edgesdk.core.plan import INT8, Option
from edgesdk.price.operator import CHANGES

QUANTIZE, DEQUANTIZE = CHANGES


def is_integer(name: str, options: Mapping[str, Option]) -> bool:
    """Whether that layer runs in integers; what ``options`` lack, as inputs of a network, is not."""
    return name in options and options[name].precision == INT8


def find_change(made: bool, read: Iterable[bool]) -> str | None:
    """How a tensor changes precision, if it does, once for all its readers: whether they and its maker are integer."""
    if made:
        return None if all(read) else DEQUANTIZE
    return QUANTIZE if any(read) else None


_READS = {(made, read): find_change(made, (read,)) for made, read in product((False, True), repeat=2)}
WAYS: dict[str, tuple[bool, bool]] = {way: sides for sides, way in _READS.items() if way is not None}
"""The ways in which a tensor can change precision for one reader, with whether its maker and that are integer."""


def list_changes(graph: Graph, options: Mapping[str, Option]) -> list[tuple[str, str]]:
    """The tensors of ``graph`` that change precision, and how; an output of the network is read in float."""
    every = []
    for name, readers in graph.readers.items():
        read = [is_integer(reader, options) for reader in readers] + [False] * (name in graph.outputs)
        if (way := find_change(is_integer(name, options), read)) is not None:
            every.append((name, way))
    return every
