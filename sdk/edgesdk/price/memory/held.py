"""What an account of a runtime's memory answers, and what several of them count alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Protocol

from edgesdk.core.graph import OTHER, TRANSPOSED, Graph, Layer
from edgesdk.core.plan import Option
from edgesdk.price.kinds import COPY, FREE, JOINS, RESIZES, kind_of
from edgesdk.price.physics import BYTES
from edgesdk.price.precision import is_integer

FLOAT_BYTES, POINTER_BYTES, KB = 4, 8, 1024


@dataclass(frozen=True)
class Held:
    """What a layer takes of memory: all the time, its output while that lives, and scratch while it runs.

    ``kernels`` names what the runtime loads once, however many layers run it.
    """

    resident: float
    output: float
    scratch: float = 0.0
    kernels: frozenset[str] = frozenset()


class Fixed(NamedTuple):
    """What a process takes whatever is chosen, what it had to ``spare``, and the bytes of each kernel."""

    resident: float
    spare: float
    kernels: Mapping[str, float]


class MemoryAccount(Protocol):
    """Bytes that a process grows by while it loads a network and runs it, its inputs with it.

    ``peak_bytes`` has those of a whole network. No sum can do that, so a search goes by what a layer is ``held`` at, as
    the parts that it becomes, above what is ``fixed``.
    """

    def peak_bytes(self, graph: Graph, options: Mapping[str, Option]) -> float: ...
    def fixed(self, graph: Graph) -> Fixed: ...
    def held(self, parts: Sequence[Layer], option: Option) -> Held: ...


def option_of(layer: Layer, options: Mapping[str, Option]) -> Option:
    return options.get(layer.name, Option())


def output_bytes(layer: Layer, option: Option) -> float:
    """Bytes of what a layer makes."""
    return layer.elements * BYTES[option.precision]


def input_bytes(graph: Graph) -> float:
    """Bytes of the network's inputs, as floats."""
    return sum(FLOAT_BYTES * prod(tensor.shape) for tensor in graph.inputs)


def live_bytes(graph: Graph, options: Mapping[str, Option]) -> float:
    """The most that outputs of layers take at once, as floats and as integers where a tensor is read as both.

    What changes a tensor's precision runs right behind what makes it. What only moves integers makes integers; what
    joins tensors does where all that read it are integer.
    """
    integer = _made_in_integers(graph, options)
    made: list[tuple[str, float]] = []  # tensors in their order, with their bytes
    last: dict[str, int] = {}
    for layer in graph.layers:
        for name in layer.inputs:
            other = f"{name} changed"
            last[other if other in last and integer.get(name) != integer[layer.name] else name] = len(made)
        last[layer.name] = len(made)
        made.append((layer.name, layer.elements * (1 if integer[layer.name] else FLOAT_BYTES)))
        read = [integer[reader] for reader in graph.readers[layer.name]] + [False] * (layer.name in graph.outputs)
        if any(each != integer[layer.name] for each in read):
            last[layer.name] = last[f"{layer.name} changed"] = len(made)
            made.append((f"{layer.name} changed", layer.elements * (FLOAT_BYTES if integer[layer.name] else 1)))
    for name in graph.outputs:
        last[f"{name} changed" if f"{name} changed" in last else name] = len(made)
    most = alive = 0.0
    ends: dict[int, float] = {}
    for step, (name, size) in enumerate(made):
        alive += size
        most = max(most, alive)
        ends[last[name]] = ends.get(last[name], 0.0) + size
        alive -= ends.pop(step, 0.0)
    return most


def _made_in_integers(graph: Graph, options: Mapping[str, Option]) -> dict[str, bool]:
    """For each layer, whether what it makes is integers."""
    integer: dict[str, bool] = {}
    for layer in graph.layers:
        readers = graph.readers[layer.name]
        joined = layer.operator in JOINS and bool(readers) and all(is_integer(reader, options) for reader in readers)
        moves = layer.operator in FREE or (kind_of(layer.operator) == COPY and not layer.operator.startswith(RESIZES))
        passes = moves and layer.operator not in JOINS and bool(layer.inputs)
        found = passes and all(integer.get(name) for name in layer.inputs)
        integer[layer.name] = is_integer(layer.name, options) or joined or found
    return integer


def chain(parts: Sequence[Layer], option: Option) -> tuple[float, float]:
    """What the last of ``parts`` makes, and the most that one before it does."""
    every = [output_bytes(part, option) for part in parts]
    return every[-1], max(every[:-1], default=0.0)


def kernels_of(layer: Layer, option: Option) -> frozenset[str]:
    """What a layer runs as, by the names that accounts give its code: a kind, in a precision and in any."""
    if layer.operator in FREE:
        return frozenset()
    kind = layer.kind if layer.kind not in (OTHER, TRANSPOSED) else kind_of(layer.operator)
    names = {kind, f"{kind} {option.precision}"}
    if layer.depthwise:
        names.add(f"depthwise {option.precision}")
    return frozenset(names)


def code_bytes(code: Mapping[str, float], kernels: Iterable[frozenset[str]]) -> float:
    """Bytes of the runtime's own code that those kernels need, each kind once."""
    return sum(code.get(kind, 0.0) for kind in frozenset().union(*kernels))
