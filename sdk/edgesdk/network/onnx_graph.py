"""An ONNX file as a ``Graph``: read, given its sizes at batch 1, its constants folded. Runs no runtime."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, prod
from pathlib import Path

import onnx
from onnx import ModelProto, ValueInfoProto, external_data_helper, helper
from onnx.shape_inference import infer_shapes

from edgesdk.core.errors import EdgeSdkError, ModelError, UsageError
from edgesdk.core.graph import Graph, Shapes, Tensor
from edgesdk.core.plan import Option
from edgesdk.core.wording import said
from edgesdk.network.onnx_file import load_beside, parsed, with_weights
from edgesdk.network.onnx_fuse import fused
from edgesdk.network.onnx_nodes import FOUR_BITS

LARGE = 8192  # elements; no shape or bound is that long, so what is longer is a weight, whose values are not needed
GROWING = ("Pad", "OneHot", "Resize", "Upsample")  # what may be far larger than what it is made of
SIZED = ("ConstantOfShape", "Expand", "Tile", "Range")  # by the numbers in what they read
Shape = tuple[int, ...]
UNFOLDED = ("Constant", "QuantizeLinear", "DequantizeLinear")  # of constants alone, and left as they are
BY_SHAPE = (
    "Shape", "Size", "Expand", "Identity", "Dropout", "Cast", "CastLike", "Abs", "If", "Loop", "Scan",
    "ConstantOfShape", "SequenceConstruct", "SequenceAt", "ConcatFromSequence", "SplitToSequence",
)  # fmt: skip
"""Operators that the folder may replace although something that they read is no constant."""
UNTYPED: str = Tensor("", ()).dtype  # of a description that says nothing of its type
ANONYMOUS = ("", "?", "None")  # names of free axes that say nothing of their sizes being the same

# Operators on integers, by the operator on numbers that they stand for and which of their inputs that one takes.
INTEGER_OPERATORS: dict[str, tuple[str, slice | tuple[int, ...]]] = {
    "QLinearConv": ("Conv", (0, 3, 8)),
    "ConvInteger": ("Conv", (0, 1)),
    "QLinearMatMul": ("MatMul", (0, 3)),
    "MatMulInteger": ("MatMul", (0, 1)),
    "QGemm": ("Gemm", (0, 3, 6)),
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearSigmoid": ("Sigmoid", (0,)),
    "QLinearLeakyRelu": ("LeakyRelu", (0,)),
    "QLinearSoftmax": ("Softmax", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QuantizeLinear": ("QuantizeLinear", slice(None)),  # ONNX Runtime has forms of its own of these two
    "DequantizeLinear": ("DequantizeLinear", slice(None)),
}


def read(path: Path, shapes: Shapes = None) -> tuple[Graph, dict[str, Option]]:
    """The fused graph of an ONNX file at batch 1, as tracing describes the same network, and each layer's option.

    A free first axis is the batch. Other free axes take their size from ``shapes``: the shape of the single input, or
    of each input by name (or in the file's order), without the batch. The graph has no channel groups and no branches.
    A layer is INT8 where the file quantizes what it reads and its weights, or what it makes; weights have the bits that
    they are stored in. Half-precision files count as FP32.

    Raises ``UsageError`` where a size is missing or is not what the file takes, ``ModelError`` where the file is not
    whole or its shapes cannot be inferred.
    """
    model = _loaded(Path(path))
    try:
        weights = _without_weights(model, Path(path))
        given = [value for value in model.graph.input if value.name not in weights]
        set_sizes(given, by_name(given, shapes))
        model = _inferred(model, Path(path))
        inputs = tuple(_tensor(value) for value in model.graph.input if value.name not in weights)
        return fused(model.graph, inputs, weights)
    except EdgeSdkError:
        raise
    except Exception as error:  # a node with other inputs or attributes than its operator has
        fact = f"{path} is not as ONNX's operators are ({said(error)})"
        raise ModelError(fact, "see what onnx.checker says of it, and export it again") from error


def save_fixed(path: Path, shapes: Shapes, out: Path) -> None:
    """Write the file at ``path`` to ``out`` with inputs of ``shapes``, for one sample, its weights within."""
    model = parsed(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    set_sizes(given, by_name(given, shapes))
    _forget_sizes(model)
    with_weights(model, path)
    onnx.save(model, str(out))


def _loaded(path: Path) -> ModelProto:
    model = parsed(path)
    for node in model.graph.node:
        if node.op_type in INTEGER_OPERATORS:
            node.op_type, taken = INTEGER_OPERATORS[node.op_type]
            inputs = list(node.input)
            kept = inputs[taken] if isinstance(taken, slice) else [inputs[i] for i in taken if i < len(inputs)]
            node.domain = ""
            del node.input[:]
            node.input.extend(kept)
    return model


def _without_weights(model: ModelProto, path: Path) -> dict[str, int]:
    """The element type of each weight. The large ones become inputs: they need not be read to know their shapes."""
    graph = model.graph
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    declared = [value for value in graph.input if value.name not in weights]  # old files list weights as inputs
    small = []
    for tensor in graph.initializer:
        if prod(tensor.dims) > LARGE:
            declared.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            continue
        if external_data_helper.uses_external_data(tensor):
            load_beside(tensor, path)
        small.append(tensor)
    model.ir_version = max(4, model.ir_version)  # below it, weights that are no inputs have no shape
    light = helper.make_graph(graph.node, graph.name, declared, graph.output, small)
    graph.CopyFrom(light)
    return weights


def by_name(inputs: list[ValueInfoProto], shapes: Shapes) -> Mapping[str, Shape]:
    names = [value.name for value in inputs]
    if shapes is None:
        return {}
    if not isinstance(shapes, Mapping) and any(isinstance(shape, Tensor) for shape in shapes):
        if len(shapes) > len(names):
            fact = f"the file has the inputs {', '.join(names)}"
            raise UsageError(fact, f"give {len(names)} shapes, not {len(shapes)}")
        described = [shape for shape in shapes if isinstance(shape, Tensor)]
        typed = {tensor.name or name: tensor for tensor, name in zip(described, names, strict=False)}
        for value in inputs:
            own = _tensor(value).dtype
            if value.name in typed and typed[value.name].dtype not in (own, UNTYPED):
                fact = f"the input {value.name} of the file is {own}, not {typed[value.name].dtype}"
                raise UsageError(fact, "leave the type out of --shape")
        shapes = {name: tensor.shape for name, tensor in typed.items()}
    if not isinstance(shapes, Mapping):
        if len(names) != 1:
            raise UsageError(f"the file has the inputs {', '.join(names)}", "give --shape for each by its name")
        return {names[0]: tuple(size for size in shapes if isinstance(size, int))}
    if unknown := [name for name in shapes if name not in names]:
        raise UsageError(f"the file has no input {unknown[0]}", f"it has {', '.join(names)}")
    return shapes


def set_sizes(inputs: list[ValueInfoProto], given: Mapping[str, Shape]) -> None:
    """Set every axis of every input, in place. Axes of one name have one size."""
    if not inputs:
        raise ModelError("the file has no input", "export it with one")
    named: dict[str, int] = {}
    for value in inputs:
        dims = _dims(value)
        sizes = given.get(value.name)
        if not value.type.tensor_type.HasField("shape"):
            if sizes is None:
                raise UsageError(f"{value.name} has no shape in the file", "give --shape, without the batch")
            dims.extend(type(value.type.tensor_type.shape).Dimension() for _ in range(len(sizes) + 1))
            value.type.tensor_type.shape.SetInParent()
        takes = [str(d.dim_value) if d.dim_value > 0 else d.dim_param or "any" for d in dims]
        if sizes is not None:
            if len(sizes) == len(dims) and sizes[0] == 1:  # with the batch
                sizes = tuple(sizes)[1:]
            fits = len(sizes) == max(0, len(dims) - 1) and all(
                size > 0 and d.dim_value in (0, -1, size) for d, size in zip(dims[1:], sizes, strict=True)
            )
            if not fits:
                raise UsageError(f"{value.name} takes ({', '.join(takes[1:])}) without the batch, not {tuple(sizes)}",
                                 "give --shape as the file takes it")  # fmt: skip
        for axis, d in enumerate(dims):
            if d.dim_value <= 0 and (axis == 0 or sizes is not None):
                size = 1 if axis == 0 else sizes[axis - 1]  # type: ignore[index]
                if d.dim_param not in ANONYMOUS and named.setdefault(d.dim_param, size) != size:
                    raise UsageError(f"{d.dim_param} is given as {named[d.dim_param]} and {size}", "change --shape")
                d.dim_value = size
    first = _dims(inputs[0])
    if first and first[0].dim_value != 1:
        raise ModelError(f"{inputs[0].name} has {first[0].dim_value} as its first axis, which is to be the batch",
                         "export it with a free batch, or with 1")  # fmt: skip
    for value in inputs:
        for axis, d in enumerate(_dims(value)):
            if d.dim_value <= 0:
                if d.dim_param in ANONYMOUS or d.dim_param not in named:
                    raise UsageError(f"axis {axis} of input {value.name} is free", "give --shape, without the batch")
                d.dim_value = named[d.dim_param]


def _dims(value: ValueInfoProto):
    return value.type.tensor_type.shape.dim


def _forget_sizes(model: ModelProto) -> None:
    """Take out all sizes but those of inputs, for which the others were not made."""
    del model.graph.value_info[:]
    inputs = {value.name: value for value in model.graph.input}
    for output in model.graph.output:
        if output.name in inputs:
            output.CopyFrom(inputs[output.name])
        else:
            output.type.tensor_type.ClearField("shape")


def _inferred(model: ModelProto, path: Path) -> ModelProto:
    """``model`` with the shape of every tensor, and with its arithmetic on shapes folded away."""
    _forget_sizes(model)
    try:
        large = _folded(model) if _needs_folding(model) else []
        del model.graph.value_info[:]
        model = infer_shapes(model, strict_mode=True, data_prop=not large)  # which would make them whole
    except Exception as error:  # onnx and onnxscript raise several kinds
        while error.__cause__ is not None:
            error = error.__cause__
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        fact = f"the shapes in {path} cannot be inferred, ONNX's own inference stops at this: {reason}"
        raise ModelError(fact, "export it with fixed sizes, or run onnxsim over it; or mend --shape") from None
    if held := [n for n in model.graph.node if any(a.type in (a.GRAPH, a.GRAPHS) for a in n.attribute)]:
        raise ModelError(f"{path} holds control flow, {held[0].op_type} {held[0].name}", "export it without")
    return model


def _needs_folding(model: ModelProto) -> bool:
    """Whether anything is there to fold: the folder is slow to import, and most networks have nothing for it."""
    constant = {tensor.name for tensor in model.graph.initializer}
    constant.update(name for node in model.graph.node if node.op_type == "Constant" for name in node.output)
    return bool(model.functions) or any(
        node.op_type in BY_SHAPE or node.op_type not in UNFOLDED and constant.issuperset(filter(None, node.input))
        for node in model.graph.node
    )


def _folded(model: ModelProto) -> list[str]:
    """Fold arithmetic on constants and shapes in ``model``; the operators that were left, for they become large."""
    from onnxscript import optimizer  # half a second

    large: list[str] = []

    def may_fold(node) -> bool | None:
        allowed = _may_fold(node)
        large.extend([node.op_type] * (allowed is False and node.op_type in (*SIZED, *GROWING)))
        return allowed

    optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=may_fold)
    return large


def _may_fold(node) -> bool | None:
    """Whether the folder is to fold a node of constants: no 4-bit weights, which would hide how they are stored, and
    nothing that becomes large, for a few bytes may ask for all memory that there is."""
    if any(value is not None and value.dtype in FOUR_BITS for value in node.inputs):
        return False
    if node.op_type in GROWING:
        return False
    if node.op_type not in SIZED or any(value is None or value.const_value is None for value in node.inputs):
        return None
    values = [value.const_value.numpy() for value in node.inputs]
    if node.op_type == "Range":
        first, last, step = (float(value) for value in values)
        made = (last - first) / step if step else inf
    else:
        made = prod(values[-1].ravel().tolist()) * (values[0].size if node.op_type == "Tile" else 1)
    # ConstantOfShape is left alone by default, and yet part of some exporters' padding
    return False if made > LARGE else True if node.op_type == "ConstantOfShape" else None


def _tensor(value: ValueInfoProto) -> Tensor:
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return Tensor(value.name, tuple(d.dim_value for d in _dims(value))[1:], str(dtype))
