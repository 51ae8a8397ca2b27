"""What versions of ONNX Runtime take of memory on a kind of CPU, in bytes: constants of the runtime, not of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgesdk.price.memory.held import KB


@dataclass(frozen=True)
class Constants:
    """What a version of ONNX Runtime takes on a kind of CPU, in bytes: constants of the runtime, not of a model.

    ``code`` are the pages that a kind of kernel needs beyond those of the tiny model that memory is counted from.
    ``network``, ``float_node``, ``integer_node`` and ``blocked_node`` are objects: of a session, of each node of the
    file in a float and in an integer layer, of each float convolution besides. ``parsed_node`` is what a node takes
    before that, as parsed. ``waste`` is the memory that the C library takes per byte of weights: memory that begins at
    a multiple of 64 does not fit the hole that an equal piece left. ``moved`` is the share of the weights of float
    linear layers for which that leaves no room at all; a piece of ``alone`` bytes or more lies in a mapping of its own,
    the copy in another, without waste. ``recurrence`` are the copies of a recurrence's weights that are alive at once.
    ``spare`` is what of it finds room in pages that are there, in holes of up to ``hole``: larger weights do not fit.
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


_1_31 = Constants(
    code={
        "conv fp32": 128 * KB, "depthwise fp32": 64 * KB, "add fp32": 64 * KB, "elementwise fp32": 64 * KB,
        "copy fp32": 64 * KB, "norm fp32": 64 * KB, "reduce fp32": 192 * KB, "matmul fp32": 128 * KB,
        "recurrent fp32": 448 * KB, "sliced fp32": 128 * KB, "pool fp32": 128 * KB, "average pool fp32": 128 * KB,
        "conv int8": 320 * KB, "conv1d int8": 192 * KB, "add int8": 128 * KB, "reduce int8": 128 * KB,
    },
    network=40_000.0, float_node=5_400.0, integer_node=7_200.0, blocked_node=6_900.0, parsed_node=1_500.0,
    waste=1.09, moved=0.84, recurrence=3.56, spare=110_000.0,
)  # fmt: skip
"""ONNX Runtime 1.31 with glibc on x86 with AVX-512 and AMX. Code pages were read from /proc/self/smaps, copies from a
trace of the allocations; what the heap takes is that of 1.32, as a process whose freed memory was given back shows."""

_1_32 = replace(
    _1_31,
    code={
        "product fp32": 64 * KB, "conv fp32": 160 * KB, "linear": 64 * KB, "elementwise fp32": 64 * KB,
        "copy fp32": 64 * KB, "norm fp32": 64 * KB, "matmul fp32": 128 * KB, "reduce fp32": 64 * KB,
        "recurrent fp32": 320 * KB, "sliced fp32": 96 * KB, "add fp32": 64 * KB, "function fp32": 32 * KB,
        "linear int8": 64 * KB, "add int8": 128 * KB, "mean int8": 64 * KB, "depthwise fp32": 32 * KB,
        "pool int8": 128 * KB, "mean fp32": 32 * KB,
    },
)  # fmt: skip
"""ONNX Runtime 1.32 on x86 with AVX-512 VNNI: its heap grows as that of 1.31 does, but its code lies elsewhere in its
library, of which the kernel maps 64 kB at a touch. Code pages are fitted to what /proc/self/smaps showed of 17 networks
in up to seven plans each, objects and copies to the rest of the peak of ten of these."""

VERSIONS: Mapping[tuple[int, int], Constants] = {(1, 31): _1_31, (1, 32): _1_32}
"""What each version of ONNX Runtime takes that was looked into, the oldest first."""
