"""The memory that a network adds to ONNX Runtime on an x86 CPU, from the graph alone.

A process that loads a model and runs it grows by four things:

- code: pages of the runtime that only this model's operators need;
- objects: what a session keeps for each node, many small allocations, most of them while it optimizes the graph;
- weights, at the worst step of loading: the file is read and parsed, so that weights are there twice; those of a float
  convolution lie beside a copy in blocked layout, and the one that is being copied three times more; those of a
  recurrence are sliced and joined. The C library keeps what is given back, so the peak stays;
- the arena: what packed weights, tensors and scratch touch of regions that grow by powers of two. Integer weights of a
  linear layer are turned there before they are packed. The first run asks for one buffer after another, those after it
  for a single block. Pages that nothing wrote to do not count.

One sample and one thread, and no low-rank forms: a plan that has them, or cuts channels, is for another graph, which is
traced from the network that the plan makes. Loading varies by 5 to 10 % from process to process where float weights are
the most of it: the runtime goes through them in the order of a hash table with a seed of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from edgesdk.core.graph import LINEAR, WEIGHTED, Graph, Layer
from edgesdk.core.plan import INT8, Option
from edgesdk.price.files import layer_nodes
from edgesdk.price.memory.arena import Arena, buffers, pattern_bytes, up
from edgesdk.price.memory.held import FLOAT_BYTES, Fixed, Held, input_bytes
from edgesdk.price.memory.onnxruntime.constants import VERSIONS, Constants
from edgesdk.price.memory.onnxruntime.kinds import layer_kinds, network_kinds
from edgesdk.price.memory.onnxruntime.layouts import blocked_bytes, is_blocked
from edgesdk.price.memory.onnxruntime.loading import loaded_bytes, optimized_bytes, parsed_bytes
from edgesdk.price.memory.onnxruntime.steps import Steps, scratch_bytes
from edgesdk.price.precision import is_integer


@dataclass(frozen=True)
class OnnxRuntime:
    """What a version of ONNX Runtime makes of a network's memory."""

    constants: Constants

    def peak_bytes(self, graph: Graph, options: Mapping[str, Option]) -> float:
        """Bytes that a process grows by while it loads the network and runs it, its inputs with it."""
        constants = self.constants
        code = sum(constants.code.get(kind, 0) for kind in network_kinds(graph, options, constants.block))
        running = arena_bytes(graph, options, constants) + input_bytes(graph)
        loading = parsed_bytes(graph, options, constants)
        return code + max(loading, optimized_bytes(graph, options, constants) + running)

    def fixed(self, graph: Graph) -> Fixed:
        """What a session takes whatever is chosen, what it had to spare, and the bytes of each kind of kernel."""
        constants = self.constants
        return Fixed(input_bytes(graph), constants.spare - constants.network, constants.code)

    def held(self, parts: Sequence[Layer], option: Option) -> Held:
        """What a layer, as those ``parts``, adds to the heap, to the arena by its output and while it runs.

        Sums of it stand for the account in a search: what depends on more than one layer is left to the account.
        """
        constants = self.constants
        resident, between, kernels = 0.0, [], set()
        for part in parts:
            weights, blocked = loaded_bytes(part, option), is_blocked(part, option, constants.block)
            copy, packed, node = 0.0, 0.0, constants.float_node
            if option.precision == INT8:
                node = constants.integer_node
                packed = prod(part.weight_shape) if part.kind in WEIGHTED else 0
                copy = prod(part.weight_shape) if part.kind in WEIGHTED and option.weight_bits < 8 else 0.0
            elif blocked:
                copy, packed = blocked_bytes(part, constants.block), constants.blocked_node
            elif part.kind == LINEAR:
                copy = constants.moved * weights
            resident += constants.waste * (weights + copy) + packed + layer_nodes(part, option) * node
            wide = up(part.shape[0], constants.block) * part.images * prod(part.shape[1:]) if blocked else part.elements
            between.append(wide * (1 if option.precision == INT8 else FLOAT_BYTES))
            kernels |= layer_kinds(part, option, constants.block)
        scratch = [sum(scratch_bytes(part)) if option.precision == INT8 else 0.0 for part in parts]
        while_running = max(scratch) + max(between[:-1], default=0.0)
        return Held(resident, between[-1], while_running, frozenset(kernels & {*constants.code}))


def arena_bytes(graph: Graph, options: Mapping[str, Option], constants: Constants) -> float:
    """Bytes of the arena that packed weights, the first run and those after it touch."""
    arena = Arena(constants.region)
    for layer in graph.layers:
        if layer.kind in WEIGHTED and is_integer(layer.name, options):
            depth = layer.columns
            rows = layer.outputs
            turned = arena.take(rows * depth) if layer.kind == LINEAR else None
            arena.take(rows * depth if layer.depthwise else up(rows, 16) * up(depth, 4))
            if turned is not None:
                arena.give(turned)
    kernels = Steps(graph, options, constants)
    count, planned = len(kernels.steps), buffers(kernels.steps, kernels.kept)
    held: dict[int, int] = {}
    for index, step in enumerate(kernels.steps):
        for number, (size, begin, _) in enumerate(planned):
            if begin == index and size:
                held[number] = arena.take(size)
        arena.lend(step.scratch)
        for number in [n for n in held if planned[n][2] == index]:
            arena.give(held.pop(number))
    arena.take(pattern_bytes(count, [buffer for buffer in planned if buffer[2] < count]))  # outputs stay where they are
    for step in kernels.steps:
        arena.lend(step.scratch)
    return arena.touched


ONNXRUNTIME: Mapping[tuple[int, int], OnnxRuntime] = {v: OnnxRuntime(constants) for v, constants in VERSIONS.items()}
"""The account of each version that was looked into, the oldest first."""


def constants_of(version: str | None = None) -> OnnxRuntime:
    """The account of ONNX Runtime ``version``, such as "1.32.0".

    It is that of the newest version that was looked into and is no newer; of the oldest where all are newer; of the
    newest of all where ``version`` is none.
    """
    try:
        wanted = tuple(int(part) for part in (version or "").split(".")[:2])
    except ValueError:
        wanted = max(ONNXRUNTIME)
    return ONNXRUNTIME[max((v for v in ONNXRUNTIME if v <= wanted), default=min(ONNXRUNTIME))]
