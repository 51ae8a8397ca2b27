"""The memory that a network adds to OpenVINO on an x86 CPU, from the graph alone.

A process that compiles a model and runs it grows by these:

- what any compilation takes, a few MB: passes over the graph, and memory of the C library that none of them gives back;
- code: pages of the plugin that only this model's kernels need, more where a network mixes precisions;
- objects of each layer, more for an integer one, which comes as five nodes that are fused, and for each change of
  precision;
- a kernel that is made by a compiler of its own for each layer unlike all others: layers alike share one;
- weights twice: the file is mapped, and what kernels read is packed;
- outputs of layers, as many as live at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgesdk.core.graph import LINEAR, WEIGHTED, Graph, Layer
from edgesdk.core.plan import INT8, Option
from edgesdk.price.files import NODES, weight_bytes
from edgesdk.price.kinds import FREE
from edgesdk.price.memory.held import (
    KB,
    Fixed,
    Held,
    chain,
    code_bytes,
    input_bytes,
    kernels_of,
    live_bytes,
    option_of,
)  # fmt: skip
from edgesdk.price.precision import list_changes

ALIKE = 0.5  # of the bytes of a kernel, what a search counts: layers may share one


@dataclass(frozen=True)
class OpenVino:
    """What a version takes, in bytes: constants of the runtime, not of a model.

    ``session`` is what any compilation takes, ``code`` the pages of a kind of kernel. ``node`` are the objects of a
    node of the file, ``integer`` what a layer with integer weights takes besides, ``rows`` a linear one over several
    rows besides that, ``change`` a change of precision; ``kernel`` is one that was compiled.
    """

    session: float
    node: float
    kernel: float
    integer: float
    rows: float
    change: float
    code: Mapping[str, float] = field(default_factory=dict)

    def peak_bytes(self, graph: Graph, options: Mapping[str, Option]) -> float:
        """Bytes that a process grows by at most."""
        chosen = [(layer, option_of(layer, options)) for layer in graph.layers]
        total = self.session + code_bytes(self.code, (kernels_of(layer, option) for layer, option in chosen))
        total += sum(self._own(layer, option) for layer, option in chosen)
        total += self.kernel * len({_kind(layer, option) for layer, option in chosen if layer.kind in WEIGHTED})
        total += self.change * len(list_changes(graph, options))
        return total + live_bytes(graph, options) + input_bytes(graph)

    def fixed(self, graph: Graph) -> Fixed:
        """What a process takes whatever is chosen."""
        return Fixed(self.session + input_bytes(graph), 0.0, self.code)

    def held(self, parts: Sequence[Layer], option: Option) -> Held:
        """What a layer takes, as those ``parts``."""
        own = sum(self._own(part, option) + ALIKE * self.kernel * (part.kind in WEIGHTED) for part in parts)
        kernels = frozenset[str]().union(*(kernels_of(part, option) for part in parts))
        return Held(own, *chain(parts, option), kernels & {*self.code})

    def _own(self, layer: Layer, option: Option) -> float:
        """The weights of a layer, as mapped and as packed, and its objects."""
        count = NODES.get(layer.operator, 0 if layer.operator in FREE else 1)
        if layer.kind not in WEIGHTED or option.precision != INT8:
            return count * self.node + 2 * weight_bytes(layer, option)
        over_rows = layer.kind == LINEAR and len(layer.shape) > 1
        return count * self.node + self.integer + self.rows * over_rows + 2 * weight_bytes(layer, option)


def _kind(layer: Layer, option: Option) -> tuple[object, ...]:
    """What layers have in common that one kernel runs."""
    return layer.weight_shape, layer.input_shape, layer.stride, layer.activation, option.precision


_2026 = OpenVino(
    session=7_015e3, node=78e3, kernel=143e3, integer=65e3, rows=273e3, change=158e3,
    code={
        "linear int8": 1200 * KB, "conv fp32": 450 * KB, "conv int8": 700 * KB, "depthwise fp32": 220 * KB,
        "depthwise int8": 450 * KB, "add int8": 480 * KB, "mean fp32": 400 * KB, "mean int8": 740 * KB,
        "copy fp32": 70 * KB, "pool fp32": 700 * KB, "norm fp32": 460 * KB, "function fp32": 460 * KB,
        "reduce fp32": 460 * KB, "recurrent fp32": 1490 * KB,
    },
)  # fmt: skip
"""OpenVINO 2026.4 on x86 with AVX-512 VNNI, fitted to 12 networks in float, int8, low rank and mixed precisions."""


def constants_of(version: str | None = None) -> OpenVino:
    """The constants of OpenVINO: those of the one version that was looked into."""
    return _2026
