"""What an ONNX file says of its inputs, outputs and operators, read by its numbers: a board need not have onnx.

The fields are those of onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, in protobuf's wire format.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Tuple, Union

from edgesdk_targets.agent.protocol import USAGE, AgentError

GRAPH = 7  # of ModelProto
NODES, INITIALIZERS, INPUTS, OUTPUTS = 1, 5, 11, 12  # of GraphProto
TAKES, MAKES, NAME, OPERATOR = 1, 2, 3, 4  # of NodeProto
TENSOR_NAME = 8  # of TensorProto
DTYPES = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool"},
    **{10: "float16", 11: "float64", 12: "uint32", 13: "uint64"},
}
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5  # kinds of fields


class Tensor(NamedTuple):
    """An input or output: a dimension that is not told as a number is ``None``, as is a type without a name here."""

    name: str
    shape: List[Any]
    dtype: Any


class Described(NamedTuple):
    """What a file takes and gives, and the kinds of its operators."""

    inputs: List[Tensor]
    outputs: List[Tensor]
    operators: List[str]


def describe(content: bytes) -> Described:
    """What is in the file with that ``content``. Raises ``AgentError`` of kind ``usage`` for one that is damaged."""
    try:
        graph = next(value for number, value in _fields(memoryview(content)) if number == GRAPH)
        kept: Dict[int, List[memoryview]] = {NODES: [], INITIALIZERS: [], INPUTS: [], OUTPUTS: []}
        for number, value in _fields(_part(graph)):
            if number in kept:
                kept[number].append(_part(value))
        constants = {_text(part, TENSOR_NAME) for part in kept[INITIALIZERS]}
        inputs, outputs = ([_tensor(part) for part in kept[side]] for side in (INPUTS, OUTPUTS))
        operators = [_text(part, OPERATOR) for part in kept[NODES]]
    except (StopIteration, IndexError, ValueError):
        raise _damaged() from None
    return Described([tensor for tensor in inputs if tensor.name not in constants], outputs, operators)


def _damaged() -> AgentError:
    """The error that says that a file is not whole."""
    return AgentError(USAGE, "the model is no whole ONNX file", "send it again, or export it anew")


def list_tensors(content: bytes) -> Dict[str, Dict[str, List[str]]]:
    """What tensors each node of a file ``takes`` and ``makes``, by its name. Raises as ``describe`` does."""
    try:
        graph = next(_part(value) for number, value in _fields(memoryview(content)) if number == GRAPH)
        nodes = [_part(value) for number, value in _fields(graph) if number == NODES]
        return {_text(node, NAME): {"takes": _texts(node, TAKES), "makes": _texts(node, MAKES)} for node in nodes}
    except (StopIteration, IndexError, ValueError):
        raise _damaged() from None


def _tensor(part: memoryview) -> Tensor:
    """A ValueInfoProto: its name is field 1, its type 2, of which a tensor's is 1, with its element and its shape."""
    shape: List[Any] = []
    dtype = None
    for number, value in _fields(_one(_one(part, 2), 1)):
        if number == 1:
            dtype = DTYPES.get(int(value)) if isinstance(value, int) else None
        if number == 2:
            for field, dimension in _fields(_part(value)):
                if field == 1:
                    sizes = [size for kind, size in _fields(_part(dimension)) if kind == 1]
                    shape.append(sizes[0] if sizes else None)
    return Tensor(_text(part, 1), shape, dtype)


def _one(part: memoryview, wanted: int) -> memoryview:
    return next((_part(value) for number, value in _fields(part) if number == wanted), memoryview(b""))


def _text(part: memoryview, wanted: int) -> str:
    return bytes(_one(part, wanted)).decode("utf-8", "replace")


def _texts(part: memoryview, wanted: int) -> List[str]:
    every = (bytes(_part(value)).decode("utf-8", "replace") for number, value in _fields(part) if number == wanted)
    return [text for text in every if text]  # what is left out has an empty name


def _part(value: Union[int, memoryview]) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of a message")
    return value


def _fields(content: memoryview) -> Iterator[Tuple[int, Union[int, memoryview]]]:
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == VARINT:
            value, place = _varint(content, place)
            yield tag >> 3, value
            continue
        size = {FIXED_64: 8, FIXED_32: 4}.get(kind, -1)
        if kind == BYTES:
            size, place = _varint(content, place)
        if size < 0 or place + size > len(content):
            raise ValueError("a field beyond the end")
        yield tag >> 3, content[place : place + size]
        place += size


def _varint(content: memoryview, place: int) -> Tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number without an end")
