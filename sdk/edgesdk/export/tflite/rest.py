"""What is no layer as TFLite's operators: elementwise operators, reductions, movements of elements, changes of grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgesdk.export.reading import Node
from edgesdk.export.tflite.layers import check_steps, refused
from edgesdk.export.tflite.lowering import Lowering
from edgesdk.export.tflite.writer import Data, Grid, Value, merged

UNARY = {
    "Relu": "RELU", "Elu": "ELU", "HardSwish": "HARD_SWISH", "Sigmoid": "LOGISTIC", "Tanh": "TANH", "Exp": "EXP",
    "Log": "LOG", "Sqrt": "SQRT", "Neg": "NEG", "Abs": "ABS", "Floor": "FLOOR", "Ceil": "CEIL", "Sin": "SIN",
    "Cos": "COS", "Not": "LOGICAL_NOT", "Sign": "SIGN", "Round": "ROUND",
}  # fmt: skip
BINARY = {
    "Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV", "Min": "MINIMUM", "Max": "MAXIMUM", "Pow": "POW",
    "Equal": "EQUAL", "Greater": "GREATER", "GreaterOrEqual": "GREATER_EQUAL", "Less": "LESS",
    "LessOrEqual": "LESS_EQUAL", "And": "LOGICAL_AND", "Or": "LOGICAL_OR", "Xor": "NOT_EQUAL", "Mod": "FLOOR_MOD",
    "PRelu": "PRELU",
}  # fmt: skip
FUSING = ("ADD", "SUB", "MUL", "DIV")
REDUCTIONS = {
    "ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN",
    "ReduceProd": "REDUCE_PROD",
}  # fmt: skip


def like(graph: Lowering, source: Value, name: str, shape: tuple[int, ...], grid: Grid | None = None) -> int:
    """A new tensor for the value ``name``, which lies as ``source`` does."""
    tensor = graph.produce(name, None, shape, grid)
    graph.values[name] = Value(source.shape, source.dims, graph.values[name].data)
    return tensor


def real(graph: Lowering, value: Value) -> tuple[int, tuple[int, ...]]:
    """A tensor with the real numbers of ``value`` in the order in which they lie, and its shape."""
    data = value.data
    if not (data.reals or data.integers):
        graph.file.face(data, value.shape)
    shape = next(iter(data.reals or data.integers))
    return graph.file.face(data, shape), shape


def unary(graph: Lowering, node: Node, kind: str = "", version: int = 1, **options: Any) -> None:
    x = graph.value(node.inputs[0])
    source, shape = real(graph, x)
    graph.file.operator(kind or UNARY[node.op], [source], [like(graph, x, node.outputs[0], shape)], version, **options)


def chained(graph: Lowering, node: Node, steps: list[tuple[str, list[Any], dict[str, Any]]]) -> None:
    """Elementwise operators one after the other, each with constants after its first input."""
    x = graph.value(node.inputs[0])
    tensor, shape = real(graph, x)
    for i, (kind, constants, options) in enumerate(steps):
        end = i == len(steps) - 1
        name = node.outputs[0]
        dtype = x.data.dtype
        target = like(graph, x, name, shape) if end else graph.file.fresh(f"{name}/{kind.lower()}", shape, dtype)
        inputs = [tensor, *(graph.file.constant(np.array(c, dtype)) for c in constants)]
        graph.file.operator(kind, inputs, [target], **options)
        tensor = target


def rectified(graph: Lowering, node: Node) -> None:
    """A Relu or Clip that nothing before it takes in."""
    x, bounds = graph.value(node.inputs[0]), graph.bounds(node)
    if bounds is None:
        raise refused(node, "its bounds are not constant")
    kinds = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, 1.0): "RELU_0_TO_1"}
    kind = kinds.get(bounds) if np.issubdtype(x.data.dtype, np.floating) else None
    reader = graph.only_reader(node.outputs[0])
    if kind in ("RELU", "RELU6") and x.grid is not None and reader is not None and reader.op == "QuantizeLinear":
        graph.done.add(id(reader))
        shape, source = next(iter(x.data.integers.items()))
        result = graph.produce(reader.outputs[0], None, shape, graph.grid(reader), node.outputs[0])
        graph.values[reader.outputs[0]] = Value(x.shape, x.dims, graph.values[reader.outputs[0]].data)
        return graph.file.operator(kind, [source], [result], 2)
    if kind is not None:
        return unary(graph, node, kind)
    steps = [("MAXIMUM", [bounds[0]], {})] if bounds[0] > -np.inf else []
    steps += [("MINIMUM", [bounds[1]], {})] if bounds[1] < np.inf else []
    chained(graph, node, steps)


def leaky(graph: Lowering, node: Node) -> None:
    unary(graph, node, "LEAKY_RELU", alpha=node.get("alpha", 0.01))


def gelu(graph: Lowering, node: Node) -> None:
    unary(graph, node, "GELU", approximate=node.get("approximate", "none") == "tanh")


def hard_sigmoid(graph: Lowering, node: Node) -> None:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    relu6 = graph.file.schema.ActivationFunctionType.RELU6
    if np.float32(alpha) == np.float32(1 / 6) and beta == 0.5:
        steps = [("ADD", [3.0], {"fusedActivationFunction": relu6}), ("MUL", [1 / 6], {})]
    else:
        steps = [("MUL", [alpha], {}), ("ADD", [beta], {}), ("RELU_0_TO_1", [], {})]
    chained(graph, node, steps)


def power(graph: Lowering, node: Node) -> None:
    exponent, shape = graph.array(node.inputs[1]), graph.shapes.get(node.inputs[0])
    if exponent is not None and (kind := graph.value(node.inputs[0]).data.dtype) != exponent.dtype:
        name = f"{node.outputs[0]}/exponent"  # TFLite wants both of one type
        graph.arrays[name] = exponent = exponent.astype(kind)
        node = type(node)(node.op, node.name, [node.inputs[0], name], node.outputs, node.attributes)
    if exponent is None or exponent.size != 1 or graph.shapes[node.outputs[0]] != shape:
        return binary(graph, node)
    if float(exponent.ravel()[0]) == 0.5:
        return unary(graph, node, "SQRT")
    if float(exponent.ravel()[0]) == 2.0:
        x = graph.value(node.inputs[0])
        source, shape = real(graph, x)
        return graph.file.operator("MUL", [source, source], [like(graph, x, node.outputs[0], shape)])
    binary(graph, node)


def gridded(graph: Lowering, names: list[str]) -> bool:
    return all(graph.array(name) is None and graph.value(name).grid is not None for name in names)


def binary(graph: Lowering, node: Node) -> None:
    """An elementwise operator of two, whose smaller input is repeated; in integers where both are."""
    kind, names = BINARY[node.op], list(node.inputs)
    if len(names) > 2:  # Min and Max take any number
        rest = f"{node.outputs[0]}/{len(names)}"
        shapes = [graph.value(name).shape for name in names[:-1]]
        graph.shapes[rest] = tuple(int(n) for n in np.broadcast_shapes(*shapes))
        binary(graph, type(node)(node.op, node.name, names[:-1], [rest], {}))
        names = [rest, names[-1]]
    if len(names) == 1:
        return graph.view(node.outputs[0], graph.value(names[0]), graph.value(names[0]).shape)
    out = graph.shapes[node.outputs[0]]
    assert out is not None
    integer = kind in ("ADD", "MUL") and gridded(graph, names)
    name, label, grid, options = node.outputs[0], "", None, {}
    if kind in FUSING:
        fused = graph.fuse(node, integer)
        name, label, grid = fused.name, fused.label, fused.grid
        options = {"fusedActivationFunction": fused.activation}
    integer = grid is not None
    values = [graph.value(name) for name in names]
    if kind == "ADD":
        check_steps(node, [value.grid.scale[0] for value in values if value.grid is not None], grid)
    tensors, order, shape, dims = aligned(graph, values, out, integer, kind == "PRELU")
    result = graph.produce(name, order, shape, grid, label)
    if dims is not None:
        graph.values[name] = Value(out, dims, graph.values[name].data)
    graph.file.operator(kind, tensors, [result], 2 if integer else 1, **options)


def aligned(
    graph: Lowering, values: list[Value], out: tuple[int, ...], integer: bool, whole: bool = False
) -> tuple[list[int], Any, Any, Any]:
    """Tensors of ``values`` in one order, and the order, shape and atoms of what an operator makes of them.

    Constants are moved beforehand; of two orders that differ the one that is not plain is kept.
    """
    moving = [v for v in values if v.data.content is None]
    full = [v for v in moving if v.shape == out] or moving
    if len(full) == len(values) and all(v.shape == out and v.dims == full[0].dims for v in full):
        faces = [(v.data.integers if integer else v.data.reals or v.data.integers) for v in full]
        shape = next((s for s in faces[0] if all(s in face for face in faces)), next(iter(faces[0]), out))
        return [graph.file.face(v.data, shape, integer) for v in full], None, shape, full[0].dims
    rank = len(out)
    identity = tuple(range(rank))
    orders = [o for v in full if len(v.shape) == rank and (o := graph.file.order(v)) is not None]
    order = next((o for o in orders if o != identity), identity)
    tensors = []
    for v in values:
        missing = rank - len(v.shape)
        wide = Value((1,) * missing + v.shape, ((),) * missing + v.dims, v.data)
        shape = tuple(wide.shape[d] for d in order)
        if v.data.content is not None and not whole:
            while shape and shape[0] == 1:
                shape = shape[1:]
        elif whole and v.data.content is not None:
            shape = shape[1:]  # the slopes of a PRelu have no batch
        tensors.append(graph.file.arranged(wide, order, integer, shape))
    return tensors, order, None, None


def norm(graph: Lowering, node: Node) -> None:
    """BatchNormalization that stands alone: a product and a sum per channel."""
    scale, shift, mean, variance = (graph.array(name) for name in node.inputs[1:5])
    if scale is None or shift is None or mean is None or variance is None:
        raise refused(node, "its statistics are not constant")
    x = graph.value(node.inputs[0])
    factor = scale / np.sqrt(variance + np.float32(node.get("epsilon", 1e-5)))
    order = graph.file.order(x) or tuple(range(len(x.shape)))
    shape = [1] * len(x.shape)
    shape[order.index(1)] = -1
    file, name = graph.file, node.outputs[0]
    middle = file.fresh(f"{name}/scaled", tuple(x.shape[d] for d in order), np.float32)
    file.operator("MUL", [file.arranged(x, order), file.constant(factor.reshape(shape).astype(np.float32))], [middle])
    added = file.constant((shift - mean * factor).reshape(shape).astype(np.float32))
    fused = graph.fuse(node)
    result = graph.produce(fused.name, order)
    file.operator("ADD", [middle, added], [result], fusedActivationFunction=fused.activation)


def innermost(graph: Lowering, value: Value, axis: int) -> tuple[int, ...]:
    """An order of dimensions that ends with ``axis``: the one in which ``value`` lies, if it does so."""
    order = graph.file.order(value)
    rank = len(value.shape)
    if order is not None and order[-1] == axis % rank:
        return order
    return (*(d for d in range(rank) if d != axis % rank), axis % rank)


def softmax(graph: Lowering, node: Node) -> None:
    x = graph.value(node.inputs[0])
    order = innermost(graph, x, node.get("axis", -1))
    source, result = graph.file.arranged(x, order), graph.produce(node.outputs[0], order)
    if node.op == "LogSoftmax":
        return graph.file.operator("LOG_SOFTMAX", [source], [result])
    graph.file.operator("SOFTMAX", [source], [result], beta=1.0)


def reduction(graph: Lowering, node: Node) -> None:
    x = graph.value(node.inputs[0])
    rank = len(x.shape)
    if node.op.startswith("Global"):
        axes, keep, kind = list(range(2, rank)), True, "MEAN" if "Average" in node.op else "REDUCE_MAX"
    else:
        kind, keep = REDUCTIONS[node.op], bool(node.get("keepdims", 1))
        given = graph.array(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else node.get("axes", None)
        if given is None and len(node.inputs) > 1 and node.inputs[1]:
            raise refused(node, "its axes are not constant")
        axes = sorted(int(d) % rank for d in np.ravel(given)) if given is not None and len(given) else list(range(rank))
        if not len(np.ravel(given) if given is not None else []) and node.get("noop_with_empty_axes", 0):
            return graph.view(node.outputs[0], x, x.shape)
    fused = graph.fuse(node, kind == "MEAN" and x.grid is not None, relu=False)
    integer = fused.grid is not None
    order = graph.file.order(x) or tuple(range(rank))
    source = graph.file.arranged(x, order, integer)
    where = graph.file.constant(np.array([i for i, d in enumerate(order) if d in axes], np.int32))
    left = [d for d in order if d not in axes]
    keep = keep and not flattened(graph, node.outputs[0])
    logical = order if len(graph.shapes[node.outputs[0]] or ()) == rank else tuple(sorted(left).index(d) for d in left)
    shape = [1 if d in axes else x.shape[d] for d in order] if keep else [x.shape[d] for d in left]
    result = graph.produce(fused.name, logical, shape, fused.grid, fused.label)
    graph.file.operator(kind, [source, where], [result], 2 if integer else 1, keepDims=keep)


def flattened(graph: Lowering, name: str) -> bool:
    """Whether all that happens to ``name`` is that its shape changes: it need not have that of an image then."""
    reader = graph.only_reader(name)
    while reader is not None and reader.op in ("QuantizeLinear", "DequantizeLinear"):
        reader = graph.only_reader(reader.outputs[0])
    return reader is not None and reader.op in ("Reshape", "Flatten", "Squeeze")


def arg_extreme(graph: Lowering, node: Node) -> None:
    x = graph.value(node.inputs[0])
    if node.get("select_last_index", 0):
        raise refused(node, "it wants the last index")
    axis = node.get("axis", 0) % len(x.shape)
    result = graph.file.fresh(node.outputs[0], tuple(n for d, n in enumerate(x.shape) if d != axis), np.int64)
    where = graph.file.constant(np.array(axis, np.int32))
    kind = graph.file.schema.TensorType.INT64
    name = {"ArgMax": "ARG_MAX", "ArgMin": "ARG_MIN"}[node.op]
    graph.file.operator(name, [graph.file.plain(x), where], [result], outputType=kind)
    shape = graph.shapes[node.outputs[0]]
    assert shape is not None
    target = graph.produce(node.outputs[0])
    graph.file.operator("RESHAPE", [result, graph.file.constant(np.array(shape, np.int32))], [target])


def top(graph: Lowering, node: Node) -> None:
    """The largest of an axis and where they are, which TFLite looks for along the last axis, in 32 bits."""
    x = graph.value(node.inputs[0])
    rank = len(x.shape)
    axis, count = node.get("axis", -1) % rank, graph.array(node.inputs[1])
    if not node.get("largest", 1) or count is None:
        raise refused(node, "it wants the smallest" if count is not None else "how many it wants is not constant")
    order = (*(d for d in range(rank) if d != axis), axis)
    found, places = node.outputs[0], node.outputs[1] if len(node.outputs) > 1 else ""
    shape = [*(x.shape[d] for d in order[:-1]), int(count.item())]
    logical = tuple(shape[order.index(d)] for d in range(rank))
    values = graph.produce(found or f"{places}/values", order, shape, logical=logical)
    numbers = graph.file.fresh(f"{places or found}/places", shape, np.int32)
    many = graph.file.constant(np.array(shape[-1], np.int32))
    graph.file.operator("TOPK_V2", [graph.file.arranged(x, order), many], [values, numbers])
    if places:
        kinds = graph.file.kinds
        options = {"inDataType": kinds[np.dtype(np.int32)], "outDataType": kinds[np.dtype(np.int64)]}
        graph.file.operator("CAST", [numbers], [graph.produce(places, order, shape, logical=logical)], **options)


def viewed(graph: Lowering, node: Node) -> None:
    """A reshape of any name: the elements stay where they are."""
    shape = graph.shapes[node.outputs[0]]
    assert shape is not None
    graph.view(node.outputs[0], graph.value(node.inputs[0]), shape)


def transpose(graph: Lowering, node: Node) -> None:
    x = graph.value(node.inputs[0])
    perm = node.get("perm", list(range(len(x.shape)))[::-1])
    shape, dims = tuple(x.shape[d] for d in perm), tuple(x.dims[d] for d in perm)
    graph.values[node.outputs[0]] = Value(shape, dims, x.data)


def cut(graph: Lowering, x: Value, name: str, begin: list[int], size: list[int]) -> None:
    """Let the value ``name`` be the block of ``x`` that starts at ``begin``."""
    shape = graph.shapes[name]
    assert shape is not None
    if tuple(size) == x.shape:
        return graph.view(name, x, shape)
    cutting = [d for d, n in enumerate(size) if n != x.shape[d]]
    data, d = x.data, cutting[0]
    if len(cutting) == 1 and data.parts and (atoms := merged(x.dims[d]))[0][0] * atoms[0][1] == data.size:
        stride, length = atoms[0][1], data.size // len(data.parts)
        if len(atoms) == 1 and stride % length == 0:
            picked = data.parts[begin[d] * stride // length : (begin[d] + size[d]) * stride // length]
            part = Data(name, size[d] * stride, data.dtype, parts=picked)
            if len(picked) == 1:
                kind = graph.file.tensors[picked[0]]
                part.reals[tuple(int(n) for n in kind.shape)] = picked[0]
            dims = list(x.dims)
            dims[d] = ((size[d], stride),) if size[d] > 1 else ()
            return graph.view(name, Value(tuple(size), tuple(dims), part), shape)
    integer, order = x.grid is not None, graph.file.order(x) or tuple(range(len(x.shape)))
    source = graph.file.arranged(x, order, integer)
    result = graph.produce(name, order, [size[d] for d in order], x.grid, logical=tuple(size))
    graph.view(name, graph.values[name], shape)
    inputs = [source, *(graph.file.constant(np.array([v[d] for d in order], np.int32)) for v in (begin, size))]
    version = 5 if len(order) > 4 else 2 if integer else 1
    graph.file.operator("SLICE", inputs, [result], version)


def slice_(graph: Lowering, node: Node) -> None:
    x = graph.value(node.inputs[0])
    rank = len(x.shape)
    given = [graph.array(name) if name else None for name in node.inputs[1:]]
    if any(name and array is None for name, array in zip(node.inputs[1:], given, strict=True)):
        raise refused(node, "its bounds are not constant")
    given += [None] * (4 - len(given))
    starts, ends, axes, steps = given
    assert starts is not None and ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    ranges = [range(n) for n in x.shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[int(axis)]
        stop = None if step < 0 and end < -size else int(end)
        ranges[int(axis)] = range(*slice(int(start), stop, int(step)).indices(size))
    begin, size = [r.start for r in ranges], [len(r) for r in ranges]
    if all(r.step == 1 for r in ranges):
        return cut(graph, x, node.outputs[0], begin, size)
    integer, order = x.grid is not None, graph.file.order(x) or tuple(range(rank))
    source, result = graph.file.arranged(x, order, integer), graph.produce(node.outputs[0], order, None, x.grid)
    ends = [r.start + len(r) * r.step for r in ranges]
    mask = sum(1 << i for i, d in enumerate(order) if ends[d] < 0)
    columns = ([v[d] for d in order] for v in (begin, ends, [r.step for r in ranges]))
    inputs = [source, *(graph.file.constant(np.array(column, np.int32)) for column in columns)]
    version = 4 if rank > 4 else 2 if integer else 1
    graph.file.operator("STRIDED_SLICE", inputs, [result], version, beginMask=0, endMask=mask)


def split(graph: Lowering, node: Node) -> None:
    x = graph.value(node.inputs[0])
    axis, at = node.get("axis", 0) % len(x.shape), 0
    for name in node.outputs:
        shape = graph.shapes[name]
        assert shape is not None
        begin, size = [0] * len(x.shape), list(x.shape)
        begin[axis], size[axis] = at, shape[axis]
        if name in graph.readers or name in graph.outputs:
            cut(graph, x, name, begin, size)
        at += shape[axis]


def gather(graph: Lowering, node: Node) -> None:
    x, index = graph.value(node.inputs[0]), graph.array(node.inputs[1])
    axis = node.get("axis", 0) % len(x.shape)
    if index is not None:
        index = np.where(index < 0, index + x.shape[axis], index).astype(np.int32)
        run = index.ravel()
        if index.ndim < 2 and np.array_equal(run, np.arange(run[0], run[0] + len(run))):
            begin, size = [0] * len(x.shape), list(x.shape)
            begin[axis], size[axis] = int(run[0]), len(run)
            return cut(graph, x, node.outputs[0], begin, size)
        where = graph.file.constant(index)
    else:
        where = graph.file.plain(graph.value(node.inputs[1]))
    integer, order = x.grid is not None, tuple(range(len(x.shape)))
    if index is not None and index.ndim == 1:
        order = graph.file.order(x) or order
    result = graph.produce(node.outputs[0], order if index is not None and index.ndim == 1 else None, None, x.grid)
    inputs = [graph.file.arranged(x, order, integer), where]
    graph.file.operator("GATHER", inputs, [result], 2 if integer else 1, axis=order.index(axis), batchDims=0)


def concat(graph: Lowering, node: Node) -> None:
    values = [graph.value(name) for name in node.inputs]
    out = graph.shapes[node.outputs[0]]
    assert out is not None
    axis = node.get("axis", 0) % len(out)
    grids = {v.grid for v in values}
    grid = grids.pop() if len(grids) == 1 and all(v.data.content is None for v in values) else None
    orders = [o for v in values if v.data.content is None and (o := graph.file.order(v)) is not None]
    identity = tuple(range(len(out)))
    order = next((o for o in orders if o != identity), identity)
    inputs = [graph.file.arranged(v, order, grid is not None) for v in values]
    result = graph.produce(node.outputs[0], order, None, grid)
    graph.file.operator("CONCATENATION", inputs, [result], 2 if grid else 1, axis=order.index(axis))


def pad(graph: Lowering, node: Node) -> None:
    x = graph.value(node.inputs[0])
    rank = len(x.shape)
    pads = graph.array(node.inputs[1])
    value = graph.array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.float32(0)
    axes = graph.array(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else np.arange(rank)
    mode = node.get("mode", "constant")
    if pads is None or value is None or axes is None or np.any(pads < 0):
        raise refused(node, "its borders are not constant, or it cuts")
    borders = np.zeros((rank, 2), np.int32)
    borders[axes.astype(int) % rank] = pads.reshape(2, -1).T
    if mode in ("edge", "wrap"):
        return repeated(graph, node, x, borders, mode)
    fill = float(np.ravel(value)[0])
    grid = x.grid if mode == "reflect" or fill == 0.0 else None
    order = graph.file.order(x) or tuple(range(rank))
    inputs = [graph.file.arranged(x, order, grid is not None), graph.file.constant(borders[list(order)])]
    result = graph.produce(node.outputs[0], order, None, grid)
    if mode == "reflect":
        return graph.file.operator("MIRROR_PAD", inputs, [result], 2 if grid else 1, mode=0)
    if fill == 0.0:
        return graph.file.operator("PAD", inputs, [result], 2 if grid else 1)
    graph.file.operator("PADV2", [*inputs, graph.file.constant(np.array([fill], np.float32))], [result])


def repeated(graph: Lowering, node: Node, x: Value, borders: np.ndarray, mode: str) -> None:
    """``x`` with borders of its own elements, picked axis by axis."""
    order, integer = graph.file.order(x) or tuple(range(len(x.shape))), x.grid is not None
    tensor, shape = graph.file.arranged(x, order, integer), [x.shape[d] for d in order]
    changed = [i for i, d in enumerate(order) if np.any(borders[d])]
    for i in changed:
        index = np.pad(np.arange(shape[i], dtype=np.int32), borders[order[i]], mode)  # type: ignore[call-overload]
        shape[i] = len(index)
        name = node.outputs[0]
        if i == changed[-1]:
            target = graph.produce(name, order, None, x.grid)
        else:
            target = graph.file.fresh(f"{name}/{i}", shape, x.data.dtype, x.grid)
        inputs = [tensor, graph.file.constant(index)]
        graph.file.operator("GATHER", inputs, [target], 2 if integer else 1, axis=i, batchDims=0)
        tensor = target


def expand(graph: Lowering, node: Node) -> None:
    x, shape = graph.value(node.inputs[0]), graph.shapes[node.outputs[0]]
    assert shape is not None
    if x.shape == shape:
        return graph.view(node.outputs[0], x, shape)
    inputs = [graph.file.plain(x), graph.file.constant(np.array(shape, np.int32))]
    graph.file.operator("BROADCAST_TO", inputs, [graph.produce(node.outputs[0])], 2)


def cast(graph: Lowering, node: Node) -> None:
    x = graph.value(node.inputs[0])
    source, shape = real(graph, x)
    target = graph.types.get(node.outputs[0])
    if target is None or target not in graph.file.kinds:
        raise refused(node, f"to {target}")
    if target == x.data.dtype:
        return graph.view(node.outputs[0], x, x.shape)
    result = like(graph, x, node.outputs[0], shape)
    kinds = graph.file.kinds
    options = {"inDataType": kinds[np.dtype(x.data.dtype)], "outDataType": kinds[target]}
    graph.file.operator("CAST", [source], [result], **options)


def where(graph: Lowering, node: Node) -> None:
    out = graph.shapes[node.outputs[0]]
    assert out is not None
    tensors, order, shape, dims = aligned(graph, [graph.value(name) for name in node.inputs], out, False)
    result = graph.produce(node.outputs[0], order, shape)
    if dims is not None:
        graph.values[node.outputs[0]] = Value(out, dims, graph.values[node.outputs[0]].data)
    graph.file.operator("SELECT_V2", tensors, [result])


def quantize(graph: Lowering, node: Node) -> None:
    graph.values[node.outputs[0]] = graph.file.quantized(graph.value(node.inputs[0]), graph.grid(node))


def dequantize(graph: Lowering, node: Node) -> None:
    graph.values[node.outputs[0]] = graph.value(node.inputs[0])


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), reduction),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"), viewed),
    "Relu": rectified, "Clip": rectified, "LeakyRelu": leaky, "Gelu": gelu, "HardSigmoid": hard_sigmoid,
    "Pow": power, "BatchNormalization": norm, "Softmax": softmax, "LogSoftmax": softmax,
    "ArgMax": arg_extreme, "ArgMin": arg_extreme, "TopK": top, "Transpose": transpose, "Slice": slice_, "Split": split,
    "Gather": gather, "Concat": concat, "Pad": pad, "Expand": expand, "Cast": cast, "CastLike": cast, "Where": where,
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize,
}  # fmt: skip
