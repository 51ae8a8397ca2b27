"""Operators that TFLite lacks, made of those that it has: functions of one number, norms, shuffles, sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgesdk.export.reading import Node
from edgesdk.export.tflite.layers import refused
from edgesdk.export.tflite.lowering import Lowering
from edgesdk.export.tflite.rest import binary, cast, like, real, reduction, unary
from edgesdk.export.tflite.writer import Data, Value, dense, reshaped

Expression = Any
"""A formula as nested tuples: a kind of operator and what it takes, which are formulas, numbers, or the input ``X``."""
X = "x"
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
ERF_SLOPE = 0.3275911  # Abramowitz and Stegun 1964, 7.1.26: within 1.5e-7
SOFTPLUS = ("ADD", ("RELU", X), ("LOG", ("ADD", ("EXP", ("NEG", ("ABS", X))), 1.0)))
SUMS = {
    "ReduceL1": ("ABS", ""), "ReduceL2": ("SQUARE", "SQRT"), "ReduceSumSquare": ("SQUARE", ""),
    "ReduceLogSum": ("", "LOG"),
}  # fmt: skip
"""What is done to each number before a sum, and to the sum."""


def _exponential(alpha: float, scale: float = 1.0) -> Expression:
    """An ELU (Clevert et al. 2016) whose argument is divided by ``scale`` where it is negative."""
    negative = ("MINIMUM", X, 0.0)
    inner = negative if scale == 1.0 else ("MUL", negative, 1 / scale)
    return ("ADD", ("RELU", X), ("MUL", ("SUB", ("EXP", inner), 1.0), alpha))


def _error_function() -> Expression:
    t = ("DIV", 1.0, ("ADD", ("MUL", ("ABS", X), ERF_SLOPE), 1.0))
    series: Expression = ERF[-1]
    for factor in ERF[-2::-1]:
        series = ("ADD", ("MUL", t, series), factor)
    tail = ("MUL", ("MUL", t, series), ("EXP", ("NEG", ("MUL", X, X))))
    return ("MUL", ("SIGN", X), ("SUB", 1.0, tail))


FORMULAS: dict[str, Callable[[Node], Expression]] = {
    "Softplus": lambda node: SOFTPLUS,
    "Mish": lambda node: ("MUL", X, ("TANH", SOFTPLUS)),
    "Elu": lambda node: _exponential(node.get("alpha", 1.0)),
    "Celu": lambda node: _exponential(node.get("alpha", 1.0), node.get("alpha", 1.0)),
    "Selu": lambda node: ("MUL", _exponential(node.get("alpha", 1.6732632)), node.get("gamma", 1.050701)),
    "Softsign": lambda node: ("DIV", X, ("ADD", ("ABS", X), 1.0)),
    "Reciprocal": lambda node: ("DIV", 1.0, X),
    "Erf": lambda node: _error_function(),
    "IsNaN": lambda node: ("NOT_EQUAL", X, X),
    "IsInf": lambda node: ("EQUAL", ("ABS", X), math.inf),
}


def formula(graph: Lowering, node: Node) -> None:
    """A function of one number, part by part; a part that occurs twice is computed once."""
    x, file = graph.value(node.inputs[0]), graph.file
    source, shape = real(graph, x)
    whole = FORMULAS[node.op](node)
    numbers: dict[Expression, int] = {X: source}

    def made(part: Expression) -> int:
        if isinstance(part, float):
            return file.constant(np.float32(part))
        if part not in numbers:
            kind, *inputs = part
            tensors = [made(value) for value in inputs]
            name = node.outputs[0]
            last = part is whole
            numbers[part] = like(graph, x, name, shape) if last else file.fresh(f"{name}/{kind.lower()}", shape, "f4")
            file.operator(kind, tensors, [numbers[part]])
        return numbers[part]

    made(whole)


def elu(graph: Lowering, node: Node) -> None:
    (unary if node.get("alpha", 1.0) == 1.0 else formula)(graph, node)


def summed(graph: Lowering, node: Node) -> None:
    """A sum of what is made of each number, and what is made of that."""
    before, after = SUMS[node.op]
    (x, *axes), y = node.inputs, node.outputs[0]
    each, total = f"{y}/each" if before else x, f"{y}/sum" if after else y
    graph.shapes |= {each: graph.value(x).shape, total: graph.shapes[y]}
    if before:
        unary(graph, type(node)(node.op, node.name, [x], [each], {}), before)
    reduction(graph, type(node)("ReduceSum", node.name, [each, *axes], [total], node.attributes))
    if after:
        unary(graph, type(node)(node.op, node.name, [total], [y], {}), after)


def remainder(graph: Lowering, node: Node) -> None:
    """What a division leaves: with the sign of what it is by, which TFLite has, or of what is divided (``fmod``)."""
    if not node.get("fmod", 0):
        return binary(graph, node)
    y, made = node.outputs[0], type(node)
    sizes = [f"{y}/{kind}" for kind in ("divided", "by")]
    sign, left = f"{y}/sign", f"{y}/left"
    shapes = [graph.value(name).shape for name in node.inputs]
    graph.shapes |= {**dict(zip(sizes, shapes, strict=True)), sign: shapes[0], left: graph.shapes[y]}
    for name, size in zip(node.inputs, sizes, strict=True):
        unary(graph, made("Abs", node.name, [name], [size], {}))
    unary(graph, made("Sign", node.name, node.inputs[:1], [sign], {}))
    binary(graph, made("Mod", node.name, sizes, [left], {}))
    binary(graph, made("Mul", node.name, [sign, left], [y], {}))


def divided(graph: Lowering, node: Node) -> None:
    """A division, of integers of 64 bits in 32, as TFLite has it."""
    kinds = {np.dtype(a.dtype if (a := graph.array(n)) is not None else graph.value(n).data.dtype) for n in node.inputs}
    if kinds != {np.dtype(np.int64)}:
        return binary(graph, node)
    y, made = node.outputs[0], type(node)
    narrow, result = [f"{y}/divided", f"{y}/by"], f"{y}/narrow"
    for name, short in zip(node.inputs, narrow, strict=True):
        if (array := graph.array(name)) is not None:
            if np.abs(array).max(initial=0) >= 2**31:
                raise refused(node, "a number has more than 32 bits")
            graph.arrays[short] = array.astype(np.int32)
            continue
        graph.shapes[short], graph.types[short] = graph.value(name).shape, np.dtype(np.int32)
        cast(graph, made("Cast", node.name, [name], [short], {}))
    graph.shapes[result], graph.types[result] = graph.shapes[y], np.dtype(np.int32)
    binary(graph, made("Div", node.name, narrow, [result], {}))
    cast(graph, made("Cast", node.name, [result], [y], {}))


def layer_norm(graph: Lowering, node: Node) -> None:
    """Ba et al. 2016."""
    if any(node.outputs[1:]):
        raise refused(node, "its mean is read")
    x = graph.value(node.inputs[0])
    first = node.get("axis", -1) % len(x.shape)
    _norm(graph, node, x, range(first, len(x.shape)), x.shape[first:])


def group_norm(graph: Lowering, node: Node) -> None:
    """Wu and He 2018; with as many groups as channels that of Ulyanov et al. 2017."""
    x = graph.value(node.inputs[0])
    batch, channels, *rest = x.shape
    groups = channels if node.op == "InstanceNormalization" else node.get("num_groups", 1)
    each = channels // groups
    apart = reshaped(x, (batch, groups, each, *rest))
    assert apart is not None  # a dimension alone is split
    _norm(graph, node, apart, range(2, len(apart.shape)), (groups, each, *[1] * len(rest)))
    graph.view(node.outputs[0], graph.values[node.outputs[0]], x.shape)


def _norm(graph: Lowering, node: Node, x: Value, axes: Sequence[int], wide: tuple[int, ...]) -> None:
    """``x`` less its mean over ``axes``, over its deviation, times a constant and plus another, where these are given.

    The constants are of the shape ``wide``, or broadcast to it from its end.
    """
    file, label = graph.file, node.outputs[0]
    order = file.order(x) or tuple(range(len(x.shape)))
    shape = tuple(x.shape[d] for d in order)
    short = tuple(1 if d in axes else x.shape[d] for d in order)
    where = file.constant(np.array([i for i, d in enumerate(order) if d in axes], np.int32))

    def op(kind: str, inputs: list[int], size: tuple[int, ...], **options: Any) -> int:
        result = file.fresh(f"{label}/{kind.lower()}", size, np.float32)
        file.operator(kind, inputs, [result], **options)
        return result

    source = file.arranged(x, order)
    centred = op("SUB", [source, op("MEAN", [source, where], short, keepDims=True)], shape)
    variance = op("MEAN", [op("MUL", [centred, centred], shape), where], short, keepDims=True)
    shifted = op("ADD", [variance, file.constant(np.float32(node.get("epsilon", 1e-5)))], short)
    y = op("MUL", [centred, op("RSQRT", [shifted], short)], shape)
    for kind, name in zip(("MUL", "ADD"), node.inputs[1:3], strict=False):
        if not name:
            continue
        array = graph.array(name)
        if array is None:
            raise refused(node, "its scale is not constant")
        array = array.reshape(wide) if array.size == math.prod(wide) else np.broadcast_to(array, wide)
        factor = array.reshape((1,) * (len(order) - len(wide)) + wide).transpose(order)
        while factor.ndim > 1 and factor.shape[0] == 1:
            factor = factor[0]
        y = op(kind, [y, file.constant(np.ascontiguousarray(factor, np.float32), name)], shape)
    data = Data(label, math.prod(shape), np.dtype(np.float32), reals={shape: y})
    graph.values[label] = Value(x.shape, dense(x.shape, order), data)


def shuffle(graph: Lowering, node: Node) -> None:
    """Channels to pixels or back: the elements are moved, as one transposition (Shi et al. 2016)."""
    x, b = graph.value(node.inputs[0]), node.get("blocksize", 1)
    batch, channels, height, width = x.shape
    if node.op == "SpaceToDepth":
        apart, perm = (batch, channels, height // b, b, width // b, b), (0, 3, 5, 1, 2, 4)
    elif node.get("mode", "DCR") == "CRD":
        apart, perm = (batch, channels // b**2, b, b, height, width), (0, 1, 4, 2, 5, 3)
    else:
        apart, perm = (batch, b, b, channels // b**2, height, width), (0, 3, 4, 1, 5, 2)
    parts = reshaped(x, apart)
    assert parts is not None  # dimensions are split, none is joined
    shape, dims = tuple(apart[d] for d in perm), tuple(parts.dims[d] for d in perm)
    target = graph.shapes[node.outputs[0]]
    assert target is not None
    graph.view(node.outputs[0], Value(shape, dims, x.data), target)


def cumulative(graph: Lowering, node: Node) -> None:
    x, axis = graph.value(node.inputs[0]), graph.array(node.inputs[1])
    if axis is None:
        raise refused(node, "its axis is not constant")
    place = graph.file.constant(np.array(int(axis.ravel()[0]) % len(x.shape), np.int32))
    options = {"exclusive": bool(node.get("exclusive", 0)), "reverse": bool(node.get("reverse", 0))}
    graph.file.operator("CUMSUM", [graph.file.plain(x), place], [graph.produce(node.outputs[0])], **options)


def gather_nd(graph: Lowering, node: Node) -> None:
    x, index = graph.value(node.inputs[0]), graph.array(node.inputs[1])
    if index is None or node.get("batch_dims", 0):
        raise refused(node, "its indices are not constant, or are of one sample each")
    sizes = np.array(x.shape[: index.shape[-1]])
    where = graph.file.constant(np.where(index < 0, index + sizes, index).astype(np.int32))
    graph.file.operator("GATHER_ND", [graph.file.plain(x), where], [graph.produce(node.outputs[0])])


def tile(graph: Lowering, node: Node) -> None:
    x, times = graph.value(node.inputs[0]), graph.array(node.inputs[1])
    if times is None:
        raise refused(node, "how often is not constant")
    inputs = [graph.file.plain(x), graph.file.constant(times.astype(np.int32))]
    graph.file.operator("TILE", inputs, [graph.produce(node.outputs[0])])


def triangle(graph: Lowering, node: Node) -> None:
    """What is above or below a diagonal; the rest is zero."""
    x, k = graph.value(node.inputs[0]), graph.array(node.inputs[1]) if len(node.inputs) > 1 else np.int64(0)
    if k is None:
        raise refused(node, "its diagonal is not constant")
    keep = np.tri(*x.shape[-2:], k=int(np.ravel(k)[0]) - (node.get("upper", 1)), dtype=bool)
    keep = ~keep if node.get("upper", 1) else keep
    mask = np.broadcast_to(keep, x.shape)
    inputs = [graph.file.constant(mask), graph.file.plain(x), graph.file.constant(np.zeros((), x.data.dtype))]
    graph.file.operator("SELECT_V2", inputs, [graph.produce(node.outputs[0])])


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    **dict.fromkeys(FORMULAS, formula),
    **dict.fromkeys(SUMS, summed),
    "Elu": elu,
    "LayerNormalization": layer_norm, "GroupNormalization": group_norm, "InstanceNormalization": group_norm,
    "DepthToSpace": shuffle, "SpaceToDepth": shuffle, "CumSum": cumulative, "GatherND": gather_nd, "Tile": tile,
    "Trilu": triangle, "Mod": remainder, "Div": divided,
}  # fmt: skip
