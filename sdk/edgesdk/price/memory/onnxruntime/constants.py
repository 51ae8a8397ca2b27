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


_1_31 = Constants(
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

VERSIONS: Mapping[tuple[int, int], Constants] = {(1, 31): _1_31, (1, 32): _1_32}
"""What each version of ONNX Runtime takes that was looked into, the oldest first."""
