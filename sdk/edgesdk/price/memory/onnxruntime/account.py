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
from dataclasses import dataclass, field, replace
from math import prod

from edgesdk.core.graph import ACTIVATION, ADD, CONV, LINEAR, MEAN, OTHER, POOL, WEIGHTED, Graph, Layer
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.core.runtime import ONNX
from edgesdk.price.files import NODES, file_bytes, hidden, is_folded, layer_nodes, nodes, weight_bytes
from edgesdk.price.kinds import ATTENTION, COPY, FREE, RECURRENT, REDUCE, kind_of
from edgesdk.price.memory.arena import Arena, Step, buffers, up
from edgesdk.price.memory.held import FLOAT_BYTES, KB, POINTER_BYTES, Fixed, Held, input_bytes
from edgesdk.price.memory.held import option_of as _option
from edgesdk.price.precision import DEQUANTIZE, find_change, is_integer
from edgesdk.price.stored import resident_bytes

PLAIN, BLOCKED, INTEGER = "plain", "blocked", "integer"


@dataclass(frozen=True)
class Memory:
    """What a version of ONNX Runtime takes on a kind of CPU, in bytes: constants of the runtime, not of a model.

    ``code`` are the pages that a kind of kernel needs beyond those of the tiny model that memory is counted from.
    ``network``, ``float_node``, ``integer_node`` and ``blocked_node`` are objects: of a session, of each node of the
    file in a float and in an integer layer, of each float convolution besides. ``parsed_node`` is what a node takes
    before that, as parsed. ``waste`` is the memory that the C library takes per byte of weights: memory that begins at
    a multiple of 64 does not fit the hole that an equal piece left. ``moved`` is the share of the weights of float
    linear layers for which that leaves no room at all; a piece of ``alone`` bytes or more lies in a mapping of its own,
    the copy in another, without waste. ``recurrence`` are the copies of a recurrence's weights that are
    alive at once. ``spare`` is what the tiny model left free, in holes of up to ``hole``: larger weights do not fit.
    A read buffer is ``buffer`` at most, and beyond ``mapped`` not in the heap. ``region`` is the arena's first. Blocked
    layouts pad channels to ``block``. A float 1-D convolution has ``scratch`` to unroll windows into.
    """

    code: Mapping[str, int] = field(default_factory=dict)
    network: float = 0.0
    float_node: float = 0.0
    integer_node: float = 0.0
    blocked_node: float = 0.0
    parsed_node: float = 0.0
    waste: float = 1.0
    moved: float = 0.0
    alone: int = 128 * KB
    recurrence: float = 1.0
    spare: float = 0.0
    hole: float = 24.0 * KB
    mapped: int = 1 << 20
    buffer: int = 4 << 20
    region: int = 1 << 20
    block: int = 16
    scratch: int = 64 * KB

    def peak_bytes(self, graph: Graph, options: Mapping[str, Option]) -> float:
        """Bytes that a process grows by at most."""
        return peak_bytes(graph, options, self)

    def fixed(self, graph: Graph) -> Fixed:
        """What a session takes whatever is chosen, what it had to spare, and the bytes of each kind of kernel."""
        return Fixed(input_bytes(graph), self.spare - self.network, self.code)

    def held(self, parts: Sequence[Layer], option: Option) -> Held:
        """What a layer takes, as those ``parts``."""
        return held(parts, option, self)


_1_31 = Memory(
    code={
        "conv fp32": 128 * KB, "depthwise fp32": 64 * KB, "add fp32": 64 * KB, "elementwise fp32": 64 * KB,
        "copy fp32": 64 * KB, "norm fp32": 64 * KB, "reduce fp32": 192 * KB, "matmul fp32": 128 * KB,
        "recurrent fp32": 448 * KB, "sliced fp32": 128 * KB, "pool fp32": 128 * KB, "average pool fp32": 128 * KB,
        "conv int8": 320 * KB, "conv1d int8": 192 * KB, "add int8": 128 * KB, "reduce int8": 128 * KB,
    },
    network=40_000.0, float_node=5_900.0, integer_node=7_700.0, blocked_node=9_200.0, parsed_node=1_500.0,
    waste=1.14, moved=0.68, recurrence=3.5, spare=232_000.0,
)  # fmt: skip
"""ONNX Runtime 1.31 with glibc on x86 with AVX-512 and AMX. Code pages and ``spare`` were read from /proc/self/smaps,
copies from a trace of the allocations; objects, ``waste`` and ``moved`` are fitted to 15 networks in float and in int8,
and within 9 % for 15 of 17 others (transformers in float: one of 45 kB is 13 % short, one of 1.8 MB 16 % over)."""

_1_32 = replace(
    _1_31,
    code={
        "product fp32": 64 * KB, "conv fp32": 160 * KB, "linear": 64 * KB,
        "elementwise fp32": 64 * KB, "copy fp32": 64 * KB, "norm fp32": 64 * KB,
        "matmul fp32": 128 * KB, "reduce fp32": 64 * KB, "recurrent fp32": 320 * KB,
        "sliced fp32": 64 * KB, "add fp32": 64 * KB, "function fp32": 64 * KB,
        "linear int8": 64 * KB, "add int8": 128 * KB, "mean int8": 64 * KB,
        "reduce int8": 64 * KB,
    },
)  # fmt: skip
"""ONNX Runtime 1.32 on x86 with AVX-512 VNNI: its heap grows as that of 1.31 does, but its code lies elsewhere in its
library, of which the kernel maps 64 kB at a touch. Code pages are fitted to what /proc/self/smaps showed of 14
networks, each in float, in int8 and mixed, and mended by 38 files of 13 others: the same for 28 of these, at most 184
kB off for the rest. The whole peak of the 38 is within 10 % for 31 of them, from 0.74 to 1.27 of the measured one."""

ONNXRUNTIME: Mapping[tuple[int, int], Memory] = {(1, 31): _1_31, (1, 32): _1_32}
"""What each version of ONNX Runtime takes that was looked into, the oldest first."""


def constants_of(version: str | None = None) -> Memory:
    """The constants of ONNX Runtime ``version``, such as "1.32.0".

    They are those of the newest version that was looked into and is no newer; of the oldest where all are newer; of the
    newest of all where ``version`` is none.
    """
    try:
        wanted = tuple(int(part) for part in (version or "").split(".")[:2])
    except ValueError:
        wanted = max(ONNXRUNTIME)
    return ONNXRUNTIME[max((v for v in ONNXRUNTIME if v <= wanted), default=min(ONNXRUNTIME))]


NEWEST = constants_of()


def peak_bytes(graph: Graph, options: Mapping[str, Option], constants: Memory = NEWEST) -> float:
    """Bytes that a process grows by while it loads the network and runs it, its inputs with it."""
    code = sum(constants.code.get(kind, 0) for kind in _kernels(graph, options))
    optimized = _optimized(graph, options, constants) + _arena(graph, options, constants) + input_bytes(graph)
    return code + max(_parsed(graph, options, constants), optimized)


def _parsed(graph: Graph, options: Mapping[str, Option], constants: Memory) -> float:
    """The heap when the file is parsed: what was read, and the weights as they were read."""
    buffer = min(file_bytes(ONNX.takes, graph, options), constants.buffer)
    stored = sum(_stored(layer, _option(layer, options)) for layer in graph.layers)
    copies = constants.waste * stored + buffer * (constants.waste if buffer <= constants.mapped else 1.0)
    return max(0.0, copies + sum(nodes(graph, options)) * constants.parsed_node - constants.spare)


def _optimized(graph: Graph, options: Mapping[str, Option], constants: Memory) -> float:
    """The heap at the worst step after that, with all copies of weights that are alive at once."""
    copied = worst = stored = large = alone = 0.0
    blocks = 0
    for layer in graph.layers:
        weights = _loaded(layer, _option(layer, options))
        stored += weights
        lasting = 0.0
        if _blocked(layer, options):
            copy = _blocked_weights(layer, constants.block)
            copied += copy
            worst = max(worst, copied + 2 * copy + weights)
            blocks += 1
        elif layer.kind == LINEAR and _option(layer, options).precision == FP32:
            lasting = (constants.moved if weights < constants.alone else 1.0) * weights
            copied += lasting
            worst = max(worst, copied)
        elif layer.kind in WEIGHTED and _option(layer, options).weight_bits < 8:
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
    rows = layer.weight_shape[0] if layer.kind in WEIGHTED and option.precision == INT8 else 0
    return weight_bytes(layer, option) + 3 * rows * FLOAT_BYTES


def _loaded(layer: Layer, option: Option) -> float:
    """Bytes of a layer's weights once they are decoded, where they are stored in another form."""
    if option.form is None or not option.form.stored:
        return _stored(layer, option)
    return resident_bytes(option.form, layer.weight_shape) + layer.weight_shape[0] * FLOAT_BYTES


def _added(graph: Graph, options: Mapping[str, Option]) -> int:
    """Nodes that the runtime adds: changes of precision, moved past what only moves an integer tensor or made anew."""
    integer = {name for name in options if is_integer(name, options)}
    added = 0
    for layer in graph.layers:
        if layer.inputs and layer.inputs[0] in integer and (layer.operator in FREE or kind_of(layer.operator) == COPY):
            integer.add(layer.name)
            added += 2 * NODES.get(layer.operator, 1)
    return added


def _kernels(graph: Graph, options: Mapping[str, Option]) -> set[str]:
    """The kinds of kernels that run, as ``Memory.code`` names them."""
    kernels: set[str] = set()
    for layer in graph.layers:
        option = _option(layer, options)
        if not (layer.kind == ADD and option.precision == FP32 and _fused(layer, graph, options)):
            kernels |= _layer_kernels(layer, option)
    return kernels


def _layer_kernels(layer: Layer, option: Option) -> set[str]:
    """The kinds of kernels that a layer runs as by itself."""
    kind = layer.kind if layer.kind != OTHER else kind_of(layer.operator)
    if layer.operator in FREE:
        return set()
    kernels = set()
    if layer.kind == CONV and len(layer.kernel) == 1:
        kind = "conv1d"
    elif layer.operator == "mean":
        kind = REDUCE
    elif kind == RECURRENT and not is_folded(layer):
        kernels.add("sliced fp32")
    if _in_blocks(layer, option) and layer.depthwise:
        kernels.add("depthwise fp32")
    if layer.kind in WEIGHTED and option.precision == FP32:
        kernels.add("product fp32")
    return {*kernels, kind, f"{kind} {option.precision}"}


def held(parts: Sequence[Layer], option: Option, constants: Memory = NEWEST) -> Held:
    """What a layer, as those ``parts``, adds to the heap, to the arena by its output and while it runs; its kernels.

    Sums of it stand for the account in a search: what depends on more than one layer is left to the account.
    """
    resident, between, kernels = 0.0, [], set()
    for part in parts:
        weights = _loaded(part, option)
        copy, packed, node = 0.0, 0.0, constants.float_node
        if option.precision == INT8:
            node = constants.integer_node
            packed = prod(part.weight_shape) if part.kind in WEIGHTED else 0
            copy = prod(part.weight_shape) if part.kind in WEIGHTED and option.weight_bits < 8 else 0.0
        elif _in_blocks(part, option):
            copy, packed = _blocked_weights(part, constants.block), constants.blocked_node
        elif part.kind == LINEAR:
            copy = constants.moved * weights
        resident += constants.waste * (weights + copy) + packed + layer_nodes(part, option) * node
        channels = part.shape[0] if part.shape else 0
        wide = up(channels, constants.block) * prod(part.shape[1:]) if _in_blocks(part, option) else part.elements
        between.append(wide * (1 if option.precision == INT8 else FLOAT_BYTES))
        kernels |= _layer_kernels(part, option)
    scratch = [sum(_scratch(part)) if option.precision == INT8 else 0.0 for part in parts]
    while_running = max(scratch) + max(between[:-1], default=0.0)
    return Held(resident, between[-1], while_running, frozenset(kernels & {*constants.code}))


def _blocked(layer: Layer, options: Mapping[str, Option]) -> bool:
    return _in_blocks(layer, _option(layer, options))


def _in_blocks(layer: Layer, option: Option) -> bool:
    """Whether a layer is a float convolution over images, whose weights and output are in blocks of channels."""
    return layer.kind == CONV and len(layer.kernel) == 2 and option.precision != INT8


def _blocked_weights(layer: Layer, block: int) -> int:
    outputs, inputs = layer.weight_shape[:2]
    return up(outputs, block) * (inputs if inputs < block else up(inputs, 4)) * prod(layer.kernel) * FLOAT_BYTES


def _fused(layer: Layer, graph: Graph, options: Mapping[str, Option]) -> bool:
    """Whether a float addition runs as part of a float convolution that it alone reads."""
    makers = [graph.by_name[name] for name in layer.inputs if name in graph.by_name]
    return any(_blocked(maker, options) and graph.readers[maker.name] == (layer.name,) for maker in makers)


class _Kernels:
    """The kernels that a network runs as, with the changes of layout and precision between them."""

    def __init__(self, graph: Graph, options: Mapping[str, Option], constants: Memory) -> None:
        self.graph, self.options, self.constants = graph, options, constants
        self.steps: list[Step] = []
        self.made: set[str] = set()
        self.form = {tensor.name: PLAIN for tensor in graph.inputs}
        self.elements = {tensor.name: prod(tensor.shape) for tensor in graph.inputs}
        self.shapes = {tensor.name: tensor.shape for tensor in (*graph.inputs, *graph.layers)}
        self.place = {layer.name: index for index, layer in enumerate(graph.layers)}
        for layer in graph.layers:
            self.layer(layer)
        self.kept = {self.plain(name) for name in graph.outputs if name in self.made}

    def make(
        self, name: str, size: float, reads: list[str], scratch: tuple[float, ...] = (), into: str | None = None
    ) -> str:
        """The tensor ``name``, or what it is for another kernel: those have its shape."""
        if name not in self.made:
            shape = self.shapes.get(name) or next((self.shapes[i] for i in reads if i in self.shapes), ())
            self.steps.append(Step(name, size, tuple(reads), scratch, into, shape))
            self.shapes[name] = shape
            self.made.add(name)
        return name

    def plain(self, name: str) -> str:
        """``name`` as floats, channel after channel."""
        if self.form[name] == PLAIN:
            return name
        turned = (self.elements[name],) if self.change(name, False) == DEQUANTIZE else ()
        return self.make(f"{name} plain", self.elements[name] * FLOAT_BYTES, [name], turned)

    def change(self, name: str, integer: bool) -> str | None:
        """How ``name`` changes precision, if it does, for a kernel that reads it as ``integer`` or float."""
        return find_change(self.form[name] == INTEGER, (integer,))

    def integer(self, name: str, turned: bool) -> str:
        """``name`` as bytes, with channels last where ``turned``."""
        if self.change(name, True) is None:
            return name
        tensor = self.make(f"{name} integer", self.elements[name], [self.plain(name)])
        return self.make(f"{name} turned", self.elements[name], [tensor]) if turned else tensor

    def blocked(self, name: str, channels: int) -> str:
        """``name`` as a float convolution reads it: in blocks, or plain where it has few channels."""
        if self.form[name] == BLOCKED or channels < self.constants.block:
            return name if self.form[name] == BLOCKED else self.plain(name)
        return self.make(f"{name} blocked", self.elements[name] * FLOAT_BYTES, [self.plain(name)])

    def layer(self, layer: Layer) -> None:
        name, kind = layer.name, kind_of(layer.operator)
        self.elements[name] = size = layer.elements if layer.shape else 0
        inputs = [i for i in layer.inputs if self.elements.get(i)]
        first = inputs[0] if inputs else layer.inputs[0] if layer.inputs else None
        before = self.form.get(first, PLAIN) if first else PLAIN
        wide = up(layer.shape[0], self.constants.block) * prod(layer.shape[1:]) if layer.shape else 0
        self.form[name] = PLAIN
        if not inputs:
            self.form[name] = before
            self.make(
                name, size * (1 if before == INTEGER else FLOAT_BYTES), [i for i in layer.inputs if i in self.made]
            )
        elif is_integer(name, self.options):
            self.form[name] = INTEGER
            self.make(name, size, [self.integer(i, layer.kind == CONV) for i in inputs], _scratch(layer))
        elif _blocked(layer, self.options):
            self.form[name] = BLOCKED
            summed = [i for i in self.summed(layer) if self.form.get(i) == BLOCKED][:1]
            reads = [self.blocked(inputs[0], layer.input_shape[0]), *summed]
            self.make(name, wide * FLOAT_BYTES, reads, (), summed[0] if summed else None)
        elif before == BLOCKED and layer.kind in (ADD, ACTIVATION, POOL, MEAN) and layer.operator != "mean":
            self.form[name] = PLAIN if layer.kind == MEAN else BLOCKED
            last = max(inputs, key=lambda i: self.place.get(i, -1))  # an addition is part of the convolution before it
            self.make(name, wide * FLOAT_BYTES, [last], (), last if layer.kind in (ADD, ACTIVATION) else None)
        elif layer.operator in FREE or kind == COPY:
            self.form[name] = INTEGER if before == INTEGER else PLAIN
            source = inputs[0] if before == INTEGER else self.plain(inputs[0])
            into = source if layer.operator in FREE else None
            self.make(name, size * (1 if before == INTEGER else FLOAT_BYTES), [source], (), into)
        else:
            self.other(layer, [self.plain(i) for i in inputs], kind)

    def summed(self, layer: Layer) -> list[str]:
        """The other inputs of the float addition that alone reads the output of ``layer``, if one does."""
        readers = [self.graph.by_name[reader] for reader in self.graph.readers[layer.name]]
        if len(readers) != 1 or readers[0].kind != ADD or is_integer(readers[0].name, self.options):
            return []
        return [name for name in readers[0].inputs if name != layer.name]

    def other(self, layer: Layer, reads: list[str], kind: str) -> None:
        """A kernel that reads and writes plain floats."""
        size, scratch = self.elements[layer.name] * FLOAT_BYTES, ()
        if layer.kind == CONV:
            pixels = prod(layer.shape[1:])
            columns = prod(layer.weight_shape[1:]) * pixels * FLOAT_BYTES
            scratch = (columns if layer.shape[0] > pixels else self.constants.scratch,)
        elif layer.operator == ATTENTION:
            scores = prod(layer.shape[:-1]) * layer.shape[-2] * FLOAT_BYTES
            keys = self.make(f"{layer.name} keys", size, reads[1:2])
            products = self.make(f"{layer.name} products", scores, [reads[0], keys])
            reads = [self.make(f"{layer.name} shares", scores, [products]), *reads[2:]]
        elif kind == RECURRENT:
            size = hidden(layer) * prod(layer.input_shape[:-1]) * FLOAT_BYTES
            scratch = (3 * size,)
            self.elements[layer.name] = 0
        self.make(layer.name, size, reads, scratch, reads[0] if layer.kind in (ADD, ACTIVATION) else None)


def _scratch(layer: Layer) -> tuple[float, ...]:
    """What an integer kernel needs while it runs: pointers to windows, or the windows and sums of 32 bits.

    Kernels that take pointers want channels in multiples (MlasConvSymPackWSize).
    """
    if layer.kind == LINEAR:
        return (layer.elements * FLOAT_BYTES,)
    if layer.kind != CONV:
        return ()
    outputs, inputs = layer.weight_shape[:2]
    pixels, window, sums = prod(layer.shape[1:]), prod(layer.kernel), layer.elements * FLOAT_BYTES
    gathers = window > 1 or prod(layer.stride) > 1
    pointers = window * pixels * POINTER_BYTES if gathers else 0
    if layer.depthwise:
        return (pointers,) if outputs % 16 == 0 else (pointers, sums)
    if inputs % 4 == 0 and outputs % 4 == 0 and outputs >= 16:
        return (pointers,)
    return (inputs * window * pixels if gathers else 0, sums)


def _arena(graph: Graph, options: Mapping[str, Option], constants: Memory) -> float:
    """Bytes of the arena that packed weights, the first run and those after it touch."""
    arena = Arena(constants.region)
    for layer in graph.layers:
        if layer.kind in WEIGHTED and is_integer(layer.name, options):
            depth = prod(layer.weight_shape[1:])
            rows = layer.weight_shape[0]
            turned = arena.take(rows * depth) if layer.kind == LINEAR else None
            arena.take(rows * depth if layer.depthwise else up(rows, 16) * up(depth, 4))
            if turned is not None:
                arena.give(turned)
    kernels = _Kernels(graph, options, constants)
    planned = buffers(kernels.steps, kernels.kept)
    block = Arena(1 << 40)
    for target, scratch in ((arena, True), (block, False)):
        held: dict[int, int] = {}
        for index, step in enumerate(kernels.steps):
            for number, (size, begin, _) in enumerate(planned):
                if begin == index and size:
                    held[number] = target.take(size)
            if scratch:
                target.lend(step.scratch)
            for number in [n for n in held if planned[n][2] == index]:
                target.give(held.pop(number))
        for place in held.values():
            target.give(place)
    arena.take(block.touched)
    for step in kernels.steps:
        arena.lend(step.scratch)
    return arena.touched
