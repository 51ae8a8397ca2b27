"""An ONNX file as a module that trains, every node of it translated."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto
from torch import fx

from edgesdk.core.errors import ModelError
from edgesdk.core.graph import Shapes, Tensor
from edgesdk.core.wording import listed
from edgesdk.network.card import CARD, Card
from edgesdk.network.onnx_file import parsed, with_weights
from edgesdk.network.onnx_graph import by_name, set_sizes
from edgesdk.network.onnx_module.arithmetic import ARITHMETIC
from edgesdk.network.onnx_module.dequantize import dequantized, quantized_in
from edgesdk.network.onnx_module.layers import LAYERS
from edgesdk.network.onnx_module.movement import MOVEMENT
from edgesdk.network.onnx_module.names import identifiers
from edgesdk.network.onnx_module.translation import Translation
from edgesdk.network.source import SOURCE, Source, weights_digest

TRANSLATIONS = {**ARITHMETIC, **MOVEMENT, **LAYERS}
STANDARD = ("", "ai.onnx")
OLDEST = 9  # opset
UNUSUAL: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}


def read(path: Path, shapes: Shapes = None) -> fx.GraphModule:
    """The module that the ONNX file at ``path`` is, in evaluation mode, for any number of samples.

    Its inputs are the file's, in their order; it returns the output, or a dict of several by their names. Modules and
    parameters have the names of the weights, where these are PyTorch's, or of the nodes. ``shapes`` gives free axes
    their sizes, as :func:`edgesdk.network.onnx_graph.read` takes them. A file that is quantized already is taken as
    the float network that it stands for. Raises ``ModelError`` for a file that is damaged, or has an operator without a
    translation, ``UsageError`` for shapes that are missing or do not fit.
    """
    model = parsed(path)
    _check_kinds(model, path)
    with_weights(model, path)
    operators = quantized_in(model)
    model = dequantized(model, path.name) if operators else model
    floats = model.SerializeToString() if operators else None
    graph = model.graph
    held = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in held]
    free = not any(dim.dim_value for value in given for dim in value.type.tensor_type.shape.dim[:1])
    set_sizes(given, by_name(given, _as_the_file(given, shapes)))
    opsets = {entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in model.opset_import}
    translation = Translation(graph, opsets, path.name, free)
    with _unlogged():
        for node in _needed(graph):
            translation.add(node, TRANSLATIONS.get(node.op_type) if node.domain in STANDARD else None)
    outputs = tuple(dict.fromkeys(value.name for value in graph.output))
    if texts := [n for n in outputs if n in translation.constants and translation.constants[n].dtype.kind in "OSU"]:
        raise ModelError(f"the output {texts[0]} of {path.name} is text", "export it with outputs that are numbers")
    module = translation.finish(outputs)
    names = [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]
    inputs = dict(zip(names, (value.name for value in given), strict=True))
    module.meta[SOURCE] = Source(path.resolve(), inputs, outputs, weights_digest(module), floats)
    if operators:
        told = listed(f"{count} {operator}" for operator, count in operators.most_common())
        note = f"{path.name} is quantized already ({told}), and is taken as the float network that it stands for"
        module.meta[CARD] = Card(notes=(note,))
    return module.eval()


@contextmanager
def _unlogged() -> Iterator[None]:
    """PyTorch does not log what it cannot compute: the error that names the node says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _as_the_file(inputs: list[ValueInfoProto], shapes: Shapes) -> Shapes:
    """``shapes`` by the file's names, where they go by those of the module's arguments."""
    names = [value.name for value in inputs]
    own = dict(zip(identifiers(names), names, strict=True))
    if isinstance(shapes, Mapping):
        return {own.get(name, name): shape for name, shape in shapes.items()}
    described = [replace(s, name=own.get(s.name, s.name)) if isinstance(s, Tensor) else s for s in shapes or ()]
    return shapes if shapes is None else tuple(described)  # type: ignore[return-value]


def _check_kinds(model: ModelProto, path: Path) -> None:
    """Raise ``ModelError`` for what this cannot be made of: control flow, numbers of 16 bits."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            fact = f"{path.name} holds control flow ({node.op_type} {node.name or node.output[0]})"
            raise ModelError(fact, "export it without: with fixed sizes, and for inference alone")
        if node.op_type == "Constant" or constants.issuperset(filter(None, node.input)):
            constants.update(node.output)
    if not any(value.name not in constants for value in model.graph.input):
        raise ModelError(f"{path.name} has no input", "export it with one")
    opset = max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)
    if opset < OLDEST:
        fact = f"{path.name} is of opset {opset}, from before {OLDEST}"
        raise ModelError(fact, f"convert it with onnx.version_converter.convert_version(model, {OLDEST + 4})")
    computed = {name for node in _needed(model.graph) if node.op_type != "Cast" for name in node.input}
    kinds = [(tensor.name, tensor.data_type) for tensor in model.graph.initializer if tensor.name in computed]
    kinds += [(value.name, value.type.tensor_type.elem_type) for value in model.graph.input]
    if unusual := [(name, UNUSUAL[kind]) for name, kind in kinds if kind in UNUSUAL]:
        fact = f"{path.name} computes in {unusual[0][1]} ({listed(name for name, _ in unusual)})"
        raise ModelError(fact, "export it in float32: edgesdk chooses the precision of each layer")


def _needed(graph: GraphProto) -> list[Any]:
    """The nodes that an output needs, in their order."""
    wanted, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
