"""An ONNX file, parsed and held to what every reader of it needs. Runs no runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import ceil, inf, prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto, external_data_helper, helper, numpy_helper
from onnx.inliner import inline_local_functions

from edgesdk.core.errors import ModelError
from edgesdk.core.wording import listed, said

MOST_NODES = 1_000_000
AGAIN = "export or copy it again"
PACKED = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}  # bits of types that older onnx lacks
TYPED = ("float_data", "int64_data", "double_data", "uint64_data", "string_data")  # a number each, or a text
TFLITE = b"TFL3"  # in such a file, after four bytes


def parsed(path: Path) -> ModelProto:
    """The file at ``path``, whole and without functions of its own; what it keeps beside it is not read."""
    content = b""
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
        names = [value.name for value in model.graph.input]  # text that is no UTF-8 is found as it is read
        damage = _damage(model)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", "give the path of an ONNX file") from None
    except Exception:  # protobuf's own kinds
        model, names, damage = ModelProto(), [], None
    if content[4:8] == TFLITE:
        raise ModelError(f"{path} is a TFLite file", "call it .tflite, or give the ONNX file")
    if not model.opset_import or not model.graph.output:
        raise ModelError(f"{path} is not an ONNX file, or is cut short", AGAIN)
    if sparse := [tensor.values.name for tensor in model.graph.sparse_initializer]:
        raise ModelError(f"{path} keeps {listed(sparse)} as sparse tensors", "export it with dense ones")
    if damage is not None:
        raise ModelError(f"{path} is damaged: {damage}", AGAIN)
    _check_version(model, path)
    for name, value in zip(names, model.graph.input, strict=True):
        if not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type == TensorProto.STRING:
            fact = f"the input {name} of {path} is no tensor of numbers"
            raise ModelError(fact, "export the part of the model that comes after it was made numbers")
    return _inlined(model, path) if model.functions else model


def with_weights(model: ModelProto, path: Path) -> None:
    """Read what the file at ``path``, which ``model`` is, keeps beside it. Raises ``ModelError`` where it cannot be."""
    with _readable(path, "weights"):
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    _check_filled(model.graph.initializer, path)
    for tensor in model.graph.initializer:
        try:
            helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except Exception:
            raise ModelError(f"{path} has a weight of no known type, {tensor.name}", "export it again") from None
        try:
            numpy_helper.to_array(tensor)
        except Exception as error:  # numbers that are not those of its type, of which onnx has several forms
            raise ModelError(
                f"{path} is damaged: the weight {tensor.name} has no values ({said(error)})", AGAIN
            ) from None


def load_beside(tensor: TensorProto, path: Path) -> None:
    """Read one weight that the file at ``path`` keeps in another, which has to lie in its folder."""
    with _readable(path, tensor.name):
        external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
    _check_filled([tensor], path)


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnx raises several kinds
        fact = f"{path} keeps {what} in a file that cannot be read ({said(error)})"
        raise ModelError(fact, "put that file beside it, or save the model anew") from None


def _check_filled(tensors: Iterable[TensorProto], path: Path) -> None:
    """Raise ``ModelError`` for weights, read from beside the file at ``path``, that are not what their shapes say."""
    if (damage := next(filter(None, map(_unfilled, tensors)), None)) is not None:
        raise ModelError(f"what {path} keeps beside it is damaged: {damage}", "export or copy both files again")


def _damage(model: ModelProto) -> str | None:
    """What no ONNX file has, in words; ``None`` for a sound one."""
    if garbled := [text for text in _list_texts(model) if not isinstance(text, str)]:
        return f"it holds a text that is none ({garbled[0]!r})"
    if unmade := _unmade(model):
        return f"nothing in it makes {unmade[0]} before it is read"
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    made = Counter(name for node in graph.node for name in node.output if name)
    made.update({value.name for value in graph.input} | weights)  # old files list weights as inputs
    made.update(_unlike_namesakes(graph.initializer))
    made.update(name for name, times in Counter(value.name for value in graph.input).items() if times > 1)
    if twice := [name for name, times in made.items() if times > 1]:
        return f"{twice[0]} is made twice"
    return next(filter(None, map(_unfilled, graph.initializer)), None)


def _list_texts(message: Message) -> Iterator[Any]:
    """All texts in the file but remarks, names among them: protobuf gives bytes for what is no UTF-8."""
    for field, value in message.ListFields():
        every: Any = (value,) if isinstance(value, (str, bytes, Message)) else value
        if field.type == FieldDescriptor.TYPE_STRING and field.name != "doc_string":
            yield from every
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in every:
                yield from _list_texts(part)


def _unmade(model: ModelProto) -> list[str]:
    """The tensors that the file reads before it makes them, as it does in a circle; ONNX wants nodes in order."""
    graph = model.graph
    made = {"", *(value.name for value in (*graph.input, *graph.initializer))}
    unmade = []
    for node in graph.node:
        unmade += [name for name in node.input if name not in made]
        made.update(node.output)
    return unmade + [value.name for value in graph.output if value.name not in made]


def _unlike_namesakes(tensors: Iterable[TensorProto]) -> set[str]:
    """The names under which there are several weights that are not the same."""
    held: dict[str, bytes] = {}
    return {t.name for t in tensors if held.setdefault(t.name, content := t.SerializeToString()) != content}


def _unfilled(tensor: TensorProto) -> str | None:
    """In which words a weight is of another size than its shape says; ``None`` where it is not, or lies elsewhere."""
    if external_data_helper.uses_external_data(tensor):
        return None
    count, shape = prod(tensor.dims), " x ".join(map(str, tensor.dims)) or "1"
    typed = next((len(values) for name in TYPED if (values := getattr(tensor, name))), None)
    if typed is not None and not tensor.raw_data:
        per = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
        return None if typed == count * per else f"{tensor.name} is of shape {shape}, and has {typed} numbers"
    if tensor.int32_data and not tensor.raw_data:
        return None  # of as many numbers as its type packs into each
    try:
        bits = (
            PACKED.get(TensorProto.DataType.Name(tensor.data_type))
            or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        )
    except Exception:
        return None  # of a type of which this onnx has not heard
    wanted = ceil(count * bits / 8)
    if min(tensor.dims, default=0) < 0 or len(tensor.raw_data) != wanted:
        return f"{tensor.name} is of shape {shape}, which takes {wanted} bytes, and has {len(tensor.raw_data)}"
    return None


def _check_version(model: ModelProto, path: Path) -> None:
    """Raise ``ModelError`` for a file that is of a newer ONNX than the package here knows."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    newest = onnx.defs.onnx_opset_version()
    for what, version, known in (("opset", opset, newest), ("IR version", model.ir_version, onnx.IR_VERSION)):
        if version > known:
            fact = f"{path} is of {what} {version}, and onnx {onnx.__version__} knows them up to {known}"
            raise ModelError(fact, "pip install -U onnx onnxruntime, or export it with an older opset")


def _inlined(model: ModelProto, path: Path) -> ModelProto:
    """``model`` without functions of its own. Raises ``ModelError`` where one calls itself, or they are too many."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    counts: dict[tuple[str, str], float] = dict.fromkeys(bodies, inf)  # nodes; while one is counted it has no end

    def nodes(key: tuple[str, str]) -> float:
        return counts.get(key, 1)

    for _ in bodies:  # the innermost first, however they are ordered
        before = dict(counts)
        counts.update((key, sum(nodes((node.domain, node.op_type)) for node in body)) for key, body in bodies.items())
        if counts == before:
            break
    if sum(nodes((node.domain, node.op_type)) for node in model.graph.node) > MOST_NODES:
        raise ModelError(f"{path} has functions that call themselves, or others too often", "export it without")
    inlined = inline_local_functions(model)
    called = {node.op_type for node in inlined.graph.node if (node.domain, node.op_type) in bodies}
    if called:  # onnx cannot say what they are in another opset
        fact = f"the functions {listed(sorted(called))} of {path} are of another opset than the file"
        raise ModelError(fact, "export it without functions, or with all of them of one opset")
    return inlined
