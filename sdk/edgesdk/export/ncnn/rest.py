"""All else as ncnn's layers: what works element by element, what gathers, and what only moves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from edgesdk.export.ncnn.file import Parameter
from edgesdk.export.ncnn.layers import image, natural_or_refused, together
from edgesdk.export.ncnn.lowering import DEEPEST, LARGEST, Lowering, Value, kept, refused
from edgesdk.export.reading import Node

UNARY = {
    "Abs": 0, "Neg": 1, "Floor": 2, "Ceil": 3, "Sqrt": 5, "Exp": 7, "Log": 8, "Sin": 9, "Cos": 10, "Tan": 11,
    "Asin": 12, "Acos": 13, "Atan": 14, "Reciprocal": 15, "Tanh": 16,
}  # fmt: skip
BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Max": 4, "Min": 5}
TURNED = {1: 7, 3: 8}  # where the first operand is a number, it is the second of these
SQUARE, ROOT, POWER = 4, 5, 6
REDUCTIONS = {"ReduceSum": 0, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5, "ReduceProd": 6, "ReduceL1": 7,
              "ReduceL2": 8}  # fmt: skip
PADS = {"constant": 0, "edge": 1, "reflect": 2}
NEAREST, BILINEAR, BICUBIC = 1, 2, 3


def like(graph: Lowering, node: Node, kind: str, parameters: dict[int, Parameter] | None = None) -> None:
    """A layer that makes of each element another, in the dimensions that they lie in."""
    blob = graph.real(node.inputs[0])
    graph.made(node, kind, [blob], graph.value(node.inputs[0]).mat, parameters)


def unary(graph: Lowering, node: Node) -> None:
    like(graph, node, "UnaryOp", {0: UNARY[node.op]})


def sigmoid(graph: Lowering, node: Node) -> None:
    """A sigmoid, or with the product after it a swish (Ramachandran et al. 2017)."""
    x, y = node.inputs[0], node.outputs[0]
    user = graph.only_reader(y)
    if user is not None and user.op == "Mul" and sorted(user.inputs) == sorted((x, y)):
        graph.done.add(id(user))
        return like(graph, Node(node.op, node.name, [x], user.outputs, {}), "Swish")
    like(graph, node, "Sigmoid")


def clip(graph: Lowering, node: Node) -> None:
    bounds = graph.bounds(node)
    if bounds is None:
        raise refused(node, "its bounds are not constant")
    if bounds == (0.0, np.inf):
        return like(graph, node, "ReLU")
    like(graph, node, "Clip", {place: float(np.clip(bound, -LARGEST, LARGEST)) for place, bound in enumerate(bounds)})


def gelu(graph: Lowering, node: Node) -> None:
    like(graph, node, "GELU", {0: int(node.get("approximate", "none") == "tanh")})


def prelu(graph: Lowering, node: Node) -> None:
    slope, shape = graph.array(node.inputs[1]), graph.shape(node.inputs[0])
    if slope is None or slope.size not in (1, shape[1]):
        raise refused(node, "its slope is not constant, or not by channel")
    mat = natural_or_refused(node, shape)
    blob = graph.real(node.inputs[0], mat)
    graph.made(node, "PReLU", [blob], mat, {0: slope.size}, [slope.ravel().astype(np.float32)])


def power(graph: Lowering, node: Node) -> None:
    exponent = graph.array(node.inputs[1])
    if exponent is None or exponent.size != 1:
        raise refused(node, "its exponent is no one number")
    value = float(exponent.ravel()[0])
    if value in (2.0, 0.5):
        return like(graph, node, "UnaryOp", {0: SQUARE if value == 2.0 else ROOT})
    if value.is_integer():
        raise refused(node, f"of a power of {value:g} it has that of no negative number")
    like(graph, node, "BinaryOp", {0: POWER, 1: 1, 2: value})


def binary(graph: Lowering, node: Node) -> None:
    if len(node.inputs) != 2:
        raise refused(node, f"it has {len(node.inputs)} operands")
    kind, (a, b) = BINARY[node.op], node.inputs
    numbers = [number_of(graph, name) for name in (a, b)]
    if numbers[0] is not None or numbers[1] is not None:
        value, turned = (b, TURNED.get(kind, kind)) if numbers[1] is None else (a, kind)
        number = numbers[0] if numbers[1] is None else numbers[1]
        assert number is not None
        if len(graph.shape(value)) == len(graph.shape(node.outputs[0])):
            blob = graph.real(value)
            graph.made(node, "BinaryOp", [blob], graph.value(value).mat, {0: turned, 1: 1, 2: number})
            return
    out = graph.shape(node.outputs[0])
    values = [graph.values.get(name) for name in (a, b)]
    if all(v is not None and v.shape == out for v in values) and values[0].mat == values[1].mat:  # type: ignore[union-attr]
        mat: tuple[int, ...] = values[0].mat  # type: ignore[union-attr]
        parts = [mat, mat]
    else:
        shapes = [(1,) * (len(out) - len(shape)) + shape for shape in map(graph.shape, (a, b))]
        mat, parts = together(node, out, shapes)
    blobs = [graph.real(name, part) for name, part in zip((a, b), parts, strict=True)]
    graph.made(node, "BinaryOp", blobs, mat, {0: kind})


def number_of(graph: Lowering, name: str) -> float | None:
    """The one number that the constant ``name`` has, ``None`` where it is none, or has more."""
    array = graph.array(name)
    return float(array.ravel()[0]) if array is not None and array.size == 1 else None


def norm(graph: Lowering, node: Node) -> None:
    """A BatchNorm that is computed."""
    shape = graph.shape(node.inputs[0])
    scale, shift, mean, variance = (graph.array(name) for name in node.inputs[1:5])
    if scale is None or shift is None or mean is None or variance is None:
        raise refused(node, "its statistics are not constant")
    mat = natural_or_refused(node, shape)
    parameters: dict[int, Parameter] = {0: shape[1], 1: float(node.get("epsilon", 1e-5))}
    arrays = [array.astype(np.float32) for array in (scale, mean, variance, shift)]
    graph.made(node, "BatchNorm", [graph.real(node.inputs[0], mat)], mat, parameters, arrays)


def layer_norm(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    axis = int(node.get("axis", -1)) % len(shape)
    size, rows = int(np.prod(shape[axis:])), int(np.prod(shape[:axis]))
    scale = graph.array(node.inputs[1])
    shift = graph.array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(size, np.float32)
    if scale is None or shift is None or scale.size != size or shift.size != size:
        raise refused(node, "its scale or shift is not constant")
    parameters: dict[int, Parameter] = {0: size, 1: float(node.get("epsilon", 1e-5)), 2: 1}
    arrays = [array.ravel().astype(np.float32) for array in (scale, shift)]
    graph.made(node, "LayerNorm", [graph.real(node.inputs[0], (rows, size))], (rows, size), parameters, arrays)


def instance_norm(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    scale, shift = (graph.array(name) for name in node.inputs[1:3])
    if shape[0] != 1 or scale is None or shift is None:
        raise refused(node, "its scale or shift is not constant, or it reads several samples")
    mat = (shape[1], 1, int(np.prod(shape[2:])))
    parameters: dict[int, Parameter] = {0: shape[1], 1: float(node.get("epsilon", 1e-5)), 2: 1}
    arrays = [array.ravel().astype(np.float32) for array in (scale, shift)]
    graph.made(node, "InstanceNorm", [graph.real(node.inputs[0], mat)], mat, parameters, arrays)


def group_norm(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    scale, shift = (graph.array(name) for name in node.inputs[1:3])
    if scale is None or shift is None or scale.size != shape[1]:
        raise refused(node, "its scale or shift is not constant")
    mat = (shape[1], 1, int(np.prod(shape[2:])))
    groups = int(node.get("num_groups", 1))
    parameters: dict[int, Parameter] = {0: groups, 1: shape[1], 2: float(node.get("epsilon", 1e-5)), 3: 1}
    arrays = [array.ravel().astype(np.float32) for array in (scale, shift)]
    graph.made(node, "GroupNorm", [graph.real(node.inputs[0], mat)], mat, parameters, arrays)


def axis_of(node: Node, shape: tuple[int, ...], axis: int) -> int:
    """Which dimension of its blob the ``axis`` of a tensor is."""
    dims = kept(shape)
    if axis % len(shape) not in dims:
        raise refused(node, "it works along the dimension of samples")
    return dims.index(axis % len(shape))


def softmax(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    mat = natural_or_refused(node, shape)
    place = axis_of(node, shape, int(node.get("axis", -1)))
    graph.made(node, "Softmax", [graph.real(node.inputs[0], mat)], mat, {0: place, 1: 1})


def reduction(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    rank = len(shape)
    if node.op.startswith("Global"):
        axes, kind = list(range(2, rank)), "ReduceMean" if "Average" in node.op else "ReduceMax"
    else:
        kind, given = node.op, node.get("axes", None)
        if len(node.inputs) > 1 and node.inputs[1]:
            given = graph.array(node.inputs[1])
            if given is None:
                raise refused(node, "its axes are not constant")
        listed = [int(d) % rank for d in np.ravel(given)] if given is not None else []
        if not listed and node.get("noop_with_empty_axes", 0):
            return viewed(graph, node)
        axes = sorted(listed) or list(range(rank))
    axes = [d for d in axes if shape[d] > 1]  # a dimension of one element is its own mean
    if not axes:
        return viewed(graph, node)
    pooled = {"ReduceMean": 1, "ReduceMax": 0}.get(kind)
    inner = [d for d in range(2, rank) if shape[d] > 1]
    if pooled is not None and shape[0] == 1 and axes == inner:
        mat = (shape[1], 1, int(np.prod(shape[2:]))) if rank != 4 else shape[1:]
        graph.made(node, "Pooling", [graph.real(node.inputs[0], mat)], (shape[1],), {0: pooled, 4: 1})
        return
    mat = natural_or_refused(node, shape)
    places = [axis_of(node, shape, d) for d in axes]
    left = tuple(1 if place in places else n for place, n in enumerate(mat))
    parameters: dict[int, Parameter] = {0: REDUCTIONS[kind], 1: 0, 3: places, 4: 1, 5: 1}
    graph.made(node, "Reduction", [graph.real(node.inputs[0], mat)], left, parameters)


def viewed(graph: Lowering, node: Node) -> None:
    """A reshape of any name: the elements stay where they are."""
    value = graph.value(node.inputs[0])
    graph.values[node.outputs[0]] = Value(value.blob, graph.shape(node.outputs[0]), value.mat, value.step)


def transpose(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    perm = [int(d) for d in node.get("perm", list(range(len(shape)))[::-1])]
    order = [d for d in perm if shape[d] > 1]
    ordered = sorted(order)
    if order == ordered:
        return viewed(graph, node)
    if len(order) > DEEPEST:
        raise refused(node, "it has more dimensions than the four of a blob")
    orders = list(itertools.permutations(range(len(order))))  # ncnn numbers them in this order
    place = orders.index(tuple(ordered.index(d) for d in order))
    blob = graph.real(node.inputs[0], tuple(shape[d] for d in ordered))
    graph.made(node, "Permute", [blob], tuple(shape[d] for d in order), {0: place})


def cut(graph: Lowering, node: Node, name: str, begin: Sequence[int], end: Sequence[int]) -> None:
    """Let the value ``name`` be the block of ``node``'s first input from ``begin`` to before ``end``."""
    shape = graph.shape(node.inputs[0])
    cutting = [d for d in range(len(shape)) if (begin[d], end[d]) != (0, shape[d])]
    size = tuple(e - b for b, e in zip(begin, end, strict=True))
    if not cutting:
        return viewed(graph, Node(node.op, node.name, node.inputs, [name], {}))
    mat = natural_or_refused(node, shape)
    places = [axis_of(node, shape, d) for d in cutting]
    parameters: dict[int, Parameter] = {9: [begin[d] for d in cutting], 10: [end[d] for d in cutting], 11: places}
    blob = graph.real(node.inputs[0], mat)
    graph.made(node, "Crop", [blob], tuple(size[d] for d in kept(shape)), parameters, name=name)


def slice_(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    given = [graph.array(name) if name else None for name in node.inputs[1:]]
    given += [None] * (4 - len(given))
    starts, ends, axes, steps = given
    if starts is None or ends is None:
        raise refused(node, "its bounds are not constant")
    axes = np.arange(len(starts)) if axes is None else axes
    begin, end = [0] * len(shape), list(shape)
    for place, axis in enumerate(axes):
        step = 1 if steps is None else int(steps[place])
        if step != 1:
            raise refused(node, "it takes every so many, or the last first")
        bounds = slice(int(starts[place]), int(ends[place])).indices(shape[int(axis)])
        begin[int(axis)], end[int(axis)] = bounds[0], bounds[1]
    cut(graph, node, node.outputs[0], begin, end)


def split(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    axis, at = int(node.get("axis", 0)) % len(shape), 0
    for name in node.outputs:
        begin, end = [0] * len(shape), list(shape)
        begin[axis], end[axis] = at, at + graph.shape(name)[axis]
        at = end[axis]
        if name in graph.readers or name in graph.outputs:
            cut(graph, node, name, begin, end)


def gather(graph: Lowering, node: Node) -> None:
    shape, index = graph.shape(node.inputs[0]), graph.array(node.inputs[1])
    axis = int(node.get("axis", 0)) % len(shape)
    if index is None or graph.array(node.inputs[0]) is not None:
        raise refused(node, "it picks by what is computed")
    run = np.where(index < 0, index + shape[axis], index).ravel()
    if index.ndim > 1 or not np.array_equal(run, np.arange(run[0], run[0] + len(run))):
        raise refused(node, "it picks what does not lie together")
    begin, end = [0] * len(shape), list(shape)
    begin[axis], end[axis] = int(run[0]), int(run[0]) + len(run)
    cut(graph, node, node.outputs[0], begin, end)
    value = graph.values[node.outputs[0]]
    graph.values[node.outputs[0]] = Value(value.blob, graph.shape(node.outputs[0]), value.mat, value.step)


def concat(graph: Lowering, node: Node) -> None:
    out = graph.shape(node.outputs[0])
    mat = natural_or_refused(node, out)
    place = axis_of(node, out, int(node.get("axis", 0)))
    blobs = [graph.real(name, tuple(graph.shape(name)[d] for d in kept(out))) for name in node.inputs]
    graph.made(node, "Concat", blobs, mat, {0: place})


def pad(graph: Lowering, node: Node) -> None:
    shape, out = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    rank = len(shape)
    pads = graph.array(node.inputs[1])
    value = graph.array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.float32(0)
    axes = graph.array(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else np.arange(rank)
    mode = node.get("mode", "constant")
    if pads is None or value is None or axes is None or np.any(pads < 0) or mode not in PADS:
        raise refused(node, f"its borders are not constant, cut, or are of the kind {mode}")
    around = np.zeros((rank, 2), int)
    around[np.asarray(axes).astype(int) % rank] = pads.reshape(2, -1).T
    mat = natural_or_refused(node, shape)
    dims = kept(shape)
    if len(mat) > 3 or np.any(around[[d for d in range(rank) if d not in dims]]):
        raise refused(node, "it adds samples, or has more than three other dimensions")
    inner = [(0, 0)] * (3 - len(mat)) + [(int(a), int(b)) for a, b in around[dims]]
    if mode != "constant" and any(inner[0]):
        raise refused(node, f"its borders of the kind {mode} are of channels")
    (front, behind), (top, bottom), (left, right) = inner
    parameters: dict[int, Parameter] = {
        0: top,
        1: bottom,
        2: left,
        3: right,
        4: PADS[mode],
        5: float(np.ravel(value)[0]),
        7: front,
        8: behind,
    }
    graph.made(node, "Padding", [graph.real(node.inputs[0], mat)], tuple(out[d] for d in dims), parameters)


def expand(graph: Lowering, node: Node) -> None:
    shape, out = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if int(np.prod(shape)) == int(np.prod(out)):
        return viewed(graph, node)
    mat, (part,) = together(node, out, [(1,) * (len(out) - len(shape)) + shape])
    ones = f"{node.outputs[0]}/ones"
    graph.arrays[ones] = np.ones(mat, np.float32)
    blobs = [graph.real(node.inputs[0], part), graph.constant(ones, mat)]
    graph.made(node, "BinaryOp", blobs, mat, {0: BINARY["Mul"]})


def cast(graph: Lowering, node: Node) -> None:
    viewed(graph, node)  # from real numbers to real numbers: others were refused


def resize(graph: Lowering, node: Node) -> None:
    source, target = image(graph, node, node.inputs[0]), image(graph, node, node.outputs[0])
    mode, where = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if source[0] != target[0] or node.get("antialias", 0):
        raise refused(node, "it resizes channels, or smooths")
    whole = all(target[i] % source[i] == 0 for i in (1, 2))
    aligned = where == "align_corners"
    if mode == "nearest":
        floors = node.get("nearest_mode", "round_prefer_floor")
        fits = (where == "asymmetric" and floors == "floor") or (
            whole and where in ("half_pixel", "pytorch_half_pixel") and floors == "round_prefer_floor"
        )
        if not fits:
            raise refused(node, f"it takes the nearest by {where} and {floors}")
    elif where not in ("half_pixel", "align_corners") and not (where == "pytorch_half_pixel" and min(target[1:]) > 1):
        raise refused(node, f"it interpolates by {where}")
    kind = {"nearest": NEAREST, "linear": BILINEAR, "cubic": BICUBIC}.get(mode)
    if kind is None or (kind == BICUBIC and float(node.get("cubic_coeff_a", -0.75)) != -0.75):
        raise refused(node, f"it interpolates by {mode}")
    scales = [float(target[i] / source[i]) for i in (1, 2)]
    parameters: dict[int, Parameter] = {
        0: kind,
        1: scales[0],
        2: scales[1],
        3: target[1],
        4: target[2],
        6: int(aligned),
    }
    graph.made(node, "Interp", [graph.real(node.inputs[0], source)], target, parameters)


def depth_to_space(graph: Lowering, node: Node) -> None:
    source, target = image(graph, node, node.inputs[0]), image(graph, node, node.outputs[0])
    parameters: dict[int, Parameter] = {0: int(node.get("blocksize", 1)), 1: int(node.get("mode", "DCR") == "DCR")}
    graph.made(node, "PixelShuffle", [graph.real(node.inputs[0], source)], target, parameters)


def quantize(graph: Lowering, node: Node) -> None:
    zero = graph.arrays[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1)
    scale = graph.arrays[node.inputs[1]]
    if scale.size != 1 or np.any(zero):
        raise refused(node, "its grid has a zero point, or one for each channel")
    value = graph.value(node.inputs[0])
    step = float(scale.ravel()[0])
    if value.step is not None and value.step != step:
        graph.real(node.inputs[0])
        value = graph.value(node.inputs[0])
    graph.values[node.outputs[0]] = Value(value.blob, value.shape, value.mat, step)


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), reduction),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"), viewed),
    "Relu": clip, "Clip": clip, "Sigmoid": sigmoid, "Gelu": gelu, "PRelu": prelu, "Pow": power,
    "LeakyRelu": lambda graph, node: like(graph, node, "ReLU", {0: float(node.get("alpha", 0.01))}),
    "Elu": lambda graph, node: like(graph, node, "ELU", {0: float(node.get("alpha", 1.0))}),
    "Selu": lambda graph, node: like(graph, node, "SELU"),
    "Softplus": lambda graph, node: like(graph, node, "Softplus"),
    "Mish": lambda graph, node: like(graph, node, "Mish"),
    "Erf": lambda graph, node: like(graph, node, "Erf"),
    "HardSwish": lambda graph, node: like(graph, node, "HardSwish", {0: 1 / 6, 1: 0.5}),
    "HardSigmoid": lambda graph, node: like(
        graph, node, "HardSigmoid", {0: float(node.get("alpha", 0.2)), 1: float(node.get("beta", 0.5))}
    ),
    "BatchNormalization": norm, "LayerNormalization": layer_norm, "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "Softmax": softmax, "Transpose": transpose, "Slice": slice_, "Split": split, "Gather": gather, "Concat": concat,
    "Pad": pad, "Expand": expand, "Cast": cast, "CastLike": cast, "Resize": resize, "DepthToSpace": depth_to_space,
    "QuantizeLinear": quantize, "DequantizeLinear": viewed,
}  # fmt: skip
