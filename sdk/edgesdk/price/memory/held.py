"""What an account of a runtime's memory answers, and what several of them count alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Protocol

from edgesdk.core.graph import OTHER, TRANSPOSED, Graph, Layer
from edgesdk.core.plan import Option
from edgesdk.price.kinds import FREE, kind_of
from edgesdk.price.physics import BYTES

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
    """The most that outputs of layers take at once."""
    size = {layer.name: output_bytes(layer, option_of(layer, options)) for layer in graph.layers}
    return max((sum(size[name] for name in live) for live in graph.live.values()), default=0.0)


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
