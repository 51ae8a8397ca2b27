"""What XNNPACK is given in an ExecuTorch program: its operators and tensors, read from the file.

A program begins with FlatBuffers' table of its plans (program.fbs of ExecuTorch), behind which segments lie. Each part
that XNNPACK computes is one with a header of its own and a table of its operators (schema.fbs of that backend); large
constants are segments by themselves, which both name.
"""

from __future__ import annotations

import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from edgesdk_targets.agent.flatbuffers import field, follow, number, tables, value

HEADER, GRAPH = b"eh00", b"XH00"
SEGMENTS, NAMED = 4, 7  # fields of the table Program
NODES, VALUES, CONSTANTS = 1, 2, 8  # of XNNGraph
UNION, BODY, HANDLE = 0, 1, 2  # of XNode; XValue has the first two
QUANTIZED = 2  # of the kinds of an XValue
PER_CHANNEL, PER_TENSOR = 1, 2  # of the kinds of quantization
FLOAT, INT8, WEIGHTS = 1, 3, 6  # of the types of a tensor: real numbers, activations, weights with a step per channel
OPERATORS = (
    "none", "add", "fully connected", "softmax", "sigmoid", "transpose", "clamp", "convolution", "divide",
    "resize bilinear", "constant pad", "average pooling", "minimum", "depthwise convolution", "max pooling",
    "multiply", "subtract", "floor", "convert", "global average pooling", "reshape", "argmax pooling", "square root",
    "ceiling", "hardswish", "leaky relu", "maximum", "negate", "square", "elu", "abs", "prelu", "concatenate",
    "concatenate", "concatenate", "slice", "attention", "batch matrix multiply", "concatenate",
    "transposed convolution", "reciprocal square root", "log", "gelu", "tanh", "exp", "sin", "copy", "cos",
)  # fmt: skip
FILTERS = {"fully connected": 1, "convolution": 16, "depthwise convolution": 16, "transposed convolution": 16}
"""Which field of an operator with weights says what these are."""


class Tensor(NamedTuple):
    """A tensor: the type of its elements, and by which steps and above which zero they are integers."""

    kind: int
    scales: Tuple[float, ...] = ()
    zero: int = 0
    constant: bool = False


class Node(NamedTuple):
    """An operator: what it is, the number by which ExecuTorch knows it, and the type of its weights, if it has some."""

    operator: str
    handle: int
    weights: Optional[int]


class Graph(NamedTuple):
    """A part of a program that XNNPACK computes."""

    nodes: List[Node]
    tensors: List[Tensor]


def read_graphs(content: bytes) -> List[Graph]:
    """The parts of a program that XNNPACK computes. Raises ``ValueError`` where the file is damaged."""
    try:
        named = _named(content)
        return [_graph(content, start, named) for start in _starts(content)]
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError("its tables reach beyond its end: %s" % error) from None


def _starts(content: bytes) -> Iterator[int]:
    place = content.find(GRAPH)
    while place >= 0:
        if content[place - 4 : place] == bytes(4):
            yield place - 4
        place = content.find(GRAPH, place + 1)


def _named(content: bytes) -> Dict[bytes, Tuple[int, int]]:
    """Where the constants that have a name begin and end."""
    if content[8:12] != HEADER:
        return {}
    base, program = number(content, 24, "<Q"), number(content, 0)
    segments = [
        (base + value(content, segment, 0, "<Q"), value(content, segment, 1, "<Q"))
        for segment in tables(content, program, SEGMENTS)
    ]
    found = {}
    for each in tables(content, program, NAMED):
        start, size = segments[value(content, each, 1)]
        found[_text(content, each, 0)] = (start, start + size)
    return found


def _text(content: bytes, table: int, index: int) -> bytes:
    place = field(content, table, index)
    if place is None:
        return b""
    start = follow(content, place)
    return content[start + 4 : start + 4 + number(content, start)]


def _graph(content: bytes, start: int, named: Dict[bytes, Tuple[int, int]]) -> Graph:
    _, offset, size, behind, _ = struct.unpack_from("<HIIIQ", content, start + 8)
    part = content[start + offset : start + offset + size]
    root = number(part, 0)
    constants = []
    for each in tables(part, root, CONSTANTS):
        name, at, length = _text(part, each, 2), value(part, each, 0, "<Q"), value(part, each, 1, "<Q")
        begin, end = named[name] if name in named else (start + behind + at, start + behind + at + length)
        constants.append((begin, min(end, begin + length)))
    tensors, places = [], {}
    for each in tables(part, root, VALUES):
        place, tensor = _tensor(content, part, each, constants)
        places[place] = tensor
        tensors.append(tensor)
    nodes = []
    for each in tables(part, root, NODES):
        kind, place = value(part, each, UNION, "<B"), field(part, each, BODY)
        operator = OPERATORS[kind] if kind < len(OPERATORS) else "operator %d" % kind
        weights = None
        if operator in FILTERS and place is not None:
            held = places.get(value(part, follow(part, place), FILTERS[operator]))
            weights = held.kind if held is not None else None
        nodes.append(Node(operator, value(part, each, HANDLE), weights))
    return Graph(nodes, tensors)


def _tensor(content: bytes, part: bytes, each: int, constants: List[Tuple[int, int]]) -> Tuple[int, Tensor]:
    """The number of a tensor, and what it is."""
    kind, place = value(part, each, UNION, "<B"), field(part, each, BODY)
    if place is None:
        raise struct.error("a tensor without a table")
    body = follow(part, place)
    if kind != QUANTIZED:
        return value(part, body, 6), Tensor(value(part, body, 0, "<h"), (), 0, bool(value(part, body, 3)))
    inner, how = follow(part, field(part, body, 0) or 0), value(part, body, 1, "<B")
    steps = follow(part, field(part, body, 2) or 0)
    number_, held, constant = value(part, inner, 6), value(part, inner, 0, "<h"), bool(value(part, inner, 3))
    if how == PER_TENSOR:
        scale, zero = value(part, steps, 0, "<f"), value(part, steps, 1, "<i")
        return number_, Tensor(held, (scale,), zero, constant)
    if how != PER_CHANNEL:
        return number_, Tensor(held, (), 0, constant)
    listed, count = field(part, steps, 0), value(part, steps, 3)
    if listed is not None and number(part, follow(part, listed)):
        vector = follow(part, listed)
        scales = struct.unpack_from("<%df" % number(part, vector), part, vector + 4)
    else:
        begin, end = constants[value(part, steps, 2)]
        scales = struct.unpack_from("<%df" % min(count, (end - begin) // 4), content, begin)
    return number_, Tensor(held, scales, 0, constant)
