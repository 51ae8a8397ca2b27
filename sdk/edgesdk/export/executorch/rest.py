"""What is no layer in PyTorch's operators: functions of numbers, norms, reductions, movements, changes of grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from onnx import helper
from torch import Tensor
from torch.nn import functional as F

from edgesdk.export.executorch.lowering import Lowering, Value, refused
from edgesdk.export.reading import Node

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt, "Floor": torch.floor,
    "Ceil": torch.ceil, "Round": torch.round, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Erf": torch.erf,
    "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Not": torch.logical_not, "Sign": torch.sign,
    "Reciprocal": torch.reciprocal, "IsNaN": torch.isnan, "IsInf": torch.isinf, "HardSwish": F.hardswish,
    "Softplus": lambda x: F.softplus(x, threshold=80), "Mish": lambda x: x * torch.tanh(F.softplus(x, threshold=80)),
    "Softsign": lambda x: x / (x.abs() + 1), "Atan": torch.atan, "Asin": torch.asin, "Acos": torch.acos,
    "Sinh": torch.sinh, "Cosh": torch.cosh,
}  # fmt: skip
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Min": torch.minimum, "Max": torch.maximum,
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "Div": lambda a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
    "PRelu": lambda x, slope: torch.relu(x) - slope * torch.relu(-x),
}  # fmt: skip
REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: torch.mean(x, axes, keep),
    "ReduceSum": lambda x, axes, keep: torch.sum(x, axes, keep),
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keep),
    "ReduceL1": lambda x, axes, keep: torch.sum(x.abs(), axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.sum(x * x, axes, keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: torch.sum(x, axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: _log_sum_exp(x, axes, keep),
    "ReduceProd": lambda x, axes, keep: reduce(
        lambda y, axis: torch.prod(y, axis, keep), sorted(axes, reverse=True), x
    ),
}


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    most = torch.amax(x, axes, True)
    whole = torch.sum(torch.exp(x - most), axes, True).log() + most
    return whole if keep else whole.amax(axes)


def unary(graph: Lowering, node: Node) -> None:
    graph.make(node, UNARY[node.op](graph.real(node.inputs[0])))


def binary(graph: Lowering, node: Node) -> None:
    graph.make(node, reduce(BINARY[node.op], [graph.real(name) for name in node.inputs]))


def applied(function: Callable[[Tensor, Node], Tensor]) -> Callable[[Lowering, Node], None]:
    """What makes ``function`` of the input and the node."""
    return lambda graph, node: graph.make(node, function(graph.real(node.inputs[0]), node))


def clip(graph: Lowering, node: Node) -> None:
    if graph.bounds(node) is None:
        x, limits = graph.real(node.inputs[0]), node.inputs[1:3]
        for name, of in zip(limits, (torch.maximum, torch.minimum), strict=False):
            x = of(x, graph.real(name)) if name else x
        return graph.make(node, x)
    graph.make(node, graph.clipped(node, graph.real(node.inputs[0])))


def selu(x: Tensor, node: Node) -> Tensor:
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return (torch.relu(x) + (torch.exp(x.clamp(max=0.0)) - 1) * alpha) * gamma


def elu(x: Tensor, node: Node) -> Tensor:
    alpha = node.get("alpha", 1.0)
    inner = x.clamp(max=0.0) / alpha if node.op == "Celu" else x.clamp(max=0.0)
    return torch.relu(x) + (torch.exp(inner) - 1) * alpha


def power(graph: Lowering, node: Node) -> None:
    exponent = graph.array(node.inputs[1])
    if exponent is not None and exponent.size == 1 and exponent.ndim <= len(graph.shape(node.inputs[0])):
        by = float(exponent.ravel()[0])
        x = graph.real(node.inputs[0])
        return graph.make(node, x * x if by == 2.0 else x.sqrt() if by == 0.5 else torch.pow(x, by))
    graph.make(node, torch.pow(graph.real(node.inputs[0]), graph.real(node.inputs[1])))


def modulo(graph: Lowering, node: Node) -> None:
    of = torch.fmod if node.get("fmod", 0) else torch.remainder
    graph.make(node, of(graph.real(node.inputs[0]), graph.real(node.inputs[1])))


def norm(graph: Lowering, node: Node) -> None:
    scale, shift, mean, variance = (graph.constant(node, i, "statistics") for i in range(1, 5))
    factor = scale / np.sqrt(variance + np.float32(node.get("epsilon", 1e-5)))
    shape = [-1] + [1] * (len(graph.shape(node.inputs[0])) - 2)
    name = node.outputs[0]
    factors = graph.keep(name, "factors", lambda: factor.reshape(shape).astype(np.float32))
    added = graph.keep(name, "shifts", lambda: (shift - mean * factor).reshape(shape).astype(np.float32))
    graph.make(node, graph.real(node.inputs[0]) * factors + added)


def layer_norm(graph: Lowering, node: Node) -> None:
    x = graph.real(node.inputs[0])
    sizes = list(x.shape[int(node.get("axis", -1)) % x.ndim :])
    scale = graph.real(node.inputs[1]).reshape(sizes)
    shift = graph.real(node.inputs[2]).reshape(sizes) if len(node.inputs) > 2 and node.inputs[2] else None
    graph.make(node, F.layer_norm(x, sizes, scale, shift, float(node.get("epsilon", 1e-5))))


def rms_norm(graph: Lowering, node: Node) -> None:
    x = graph.real(node.inputs[0])
    axes = list(range(int(node.get("axis", -1)) % x.ndim, x.ndim))
    mean = torch.mean(x * x, axes, True)
    graph.make(node, x * torch.rsqrt(mean + float(node.get("epsilon", 1e-5))) * graph.real(node.inputs[1]))


def group_norm(graph: Lowering, node: Node) -> None:
    x = graph.real(node.inputs[0])
    groups = int(node.get("num_groups", x.shape[1]))  # an InstanceNormalization has one for each channel
    scale, shift = (graph.real(name) for name in node.inputs[1:3])
    graph.make(node, F.group_norm(x, groups, scale, shift, float(node.get("epsilon", 1e-5))))


def softmax(graph: Lowering, node: Node) -> None:
    of = torch.log_softmax if node.op == "LogSoftmax" else torch.softmax
    graph.make(node, of(graph.real(node.inputs[0]), int(node.get("axis", -1))))


def reduction(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    rank = len(shape)
    if node.op.startswith("Global"):
        axes, kind, keep = list(range(2, rank)), "ReduceMean" if "Average" in node.op else "ReduceMax", True
    else:
        kind, keep, given = node.op, bool(node.get("keepdims", 1)), node.get("axes", None)
        if len(node.inputs) > 1 and node.inputs[1]:
            given = graph.constant(node, 1, "axes")
        listed = [int(d) % rank for d in np.ravel(given)] if given is not None else []
        if not listed and node.get("noop_with_empty_axes", 0):
            return graph.make(node, graph.real(node.inputs[0]))
        axes = sorted(listed) or list(range(rank))
    if kind != "ReduceMean" or rank not in (3, 4) or axes != list(range(2, rank)):
        return graph.make(node, REDUCTIONS[kind](graph.real(node.inputs[0]), axes, keep))
    value, x = graph.values[node.inputs[0]], graph.real(node.inputs[0])
    if rank == 3:
        x = x.reshape(*shape[:2], 1, shape[2])
        x = x if value.grid is None else value.grid.dequantize(value.grid.quantize(x))
    mean = x.mean((2, 3), keepdim=True)  # XNNPACK has no other
    reader = graph.only_reader(node.outputs[0])
    target = graph.shape(node.outputs[0])
    if mean.shape == target:
        return graph.make(node, mean)
    if value.grid is None or reader is None or reader.op != "QuantizeLinear":
        return graph.make(node, mean.reshape(target))
    grid = graph.grid(reader)
    graph.done.add(id(reader))
    whole = grid.dequantize(grid.quantize(mean)).reshape(target)
    graph.values[reader.outputs[0]] = Value(grid.quantize(whole), grid)


def arg_max(graph: Lowering, node: Node) -> None:
    if node.get("select_last_index", 0):
        raise refused(node, "it wants the last index")
    of = torch.argmax if node.op == "ArgMax" else torch.argmin
    graph.make(node, of(graph.real(node.inputs[0]), int(node.get("axis", 0)), bool(node.get("keepdims", 1))))


def top_k(graph: Lowering, node: Node) -> None:
    count = int(graph.constant(node, 1, "number").ravel()[0])
    x, axis = graph.real(node.inputs[0]), int(node.get("axis", -1))
    graph.make(node, *torch.topk(x, count, axis, bool(node.get("largest", 1)), bool(node.get("sorted", 1))))


def cumulative(graph: Lowering, node: Node) -> None:
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise refused(node, "it leaves out the first, or begins with the last")
    graph.make(node, torch.cumsum(graph.real(node.inputs[0]), int(graph.constant(node, 1, "axis").ravel()[0])))


def viewed(graph: Lowering, node: Node) -> None:
    """A reshape of any name: the elements stay where they are."""
    shape = graph.shape(node.outputs[0])
    if shape == graph.shape(node.inputs[0]) and node.inputs[0] in graph.values:
        graph.values[node.outputs[0]] = graph.values[node.inputs[0]]
        return
    graph.move(node, lambda x: x.reshape(shape))


def transpose(graph: Lowering, node: Node) -> None:
    perm = [int(d) for d in node.get("perm", list(range(len(graph.shape(node.inputs[0]))))[::-1])]
    graph.move(node, lambda x: x.permute(perm))


def slice_(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    given = [graph.constant(node, 1 + i, "bounds") if name else None for i, name in enumerate(node.inputs[1:])]
    given += [None] * (4 - len(given))
    starts, ends, axes, steps = given
    assert starts is not None and ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    cuts = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[int(axis)]
        stop = None if step < 0 and end < -size else int(end)
        cuts.append((int(axis) % len(shape), range(*slice(int(start), stop, int(step)).indices(size))))

    def cut(x: Tensor) -> Tensor:
        for axis, part in cuts:
            if part == range(x.shape[axis]):
                continue
            if part.step < 0:  # from the last on: those from the first, turned round
                x = torch.flip(_part(x, axis, part[::-1]), [axis])
            else:
                x = _part(x, axis, part)
        return x

    graph.move(node, cut)


def _part(x: Tensor, axis: int, part: range) -> Tensor:
    return torch.ops.aten.slice.Tensor(x, axis, part.start, part.stop, part.step)


def split(graph: Lowering, node: Node) -> None:
    axis, at = int(node.get("axis", 0)), 0
    for name in node.outputs:
        begin, at = at, at + graph.shape(name)[axis]
        if name in graph.readers or name in graph.outputs:
            graph.move(node, lambda x, begin=begin, end=at: x.narrow(axis, begin, end - begin), name)


def gather(graph: Lowering, node: Node) -> None:
    shape, axis = graph.shape(node.inputs[0]), int(node.get("axis", 0))
    axis %= len(shape)
    index = graph.array(node.inputs[1])
    if index is None:
        x, picks = graph.real(node.inputs[0]), graph.real(node.inputs[1])
        if axis == 0 and x.ndim == 2:
            return graph.make(node, F.embedding(_from_the_end(picks, shape[0]), x))
        flat = torch.index_select(x, axis, _from_the_end(picks, shape[axis]).reshape(-1))
        return graph.make(node, flat.reshape(graph.shape(node.outputs[0])))
    run = np.where(index < 0, index + shape[axis], index)
    if index.ndim == 0:
        return graph.move(node, lambda x: x.select(axis, int(run)))
    if index.ndim == 1 and np.array_equal(run, np.arange(run[0], run[0] + len(run))):
        return graph.move(node, lambda x: x.narrow(axis, int(run[0]), len(run)))
    picked = graph.keep(node.inputs[1], f"index{shape[axis]}", lambda: run.ravel().astype(np.int64))
    target = graph.shape(node.outputs[0])
    graph.move(node, lambda x: torch.index_select(x, axis, picked).reshape(target))


def _from_the_end(index: Tensor, size: int) -> Tensor:
    return torch.where(index < 0, index + size, index)


def gather_elements(graph: Lowering, node: Node) -> None:
    axis = int(node.get("axis", 0))
    index = _from_the_end(graph.real(node.inputs[1]), graph.shape(node.inputs[0])[axis])
    graph.make(node, torch.gather(graph.real(node.inputs[0]), axis, index))


def concat(graph: Lowering, node: Node) -> None:
    values = [graph.values.get(name) for name in node.inputs]
    parts = [graph.real(name) for name in node.inputs]
    whole = torch.cat(parts, int(node.get("axis", 0))) if len(parts) > 1 else parts[0]
    grids = {None if value is None else value.grid for value in values}
    grid = next(iter(grids)) if len(grids) == 1 else None
    graph.values[node.outputs[0]] = Value(whole if grid is None else grid.quantize(whole), grid)


def pad(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    rank = len(shape)
    pads = graph.constant(node, 1, "borders")
    value = graph.constant(node, 2, "filling") if len(node.inputs) > 2 and node.inputs[2] else np.float32(0)
    axes = graph.constant(node, 3, "axes") if len(node.inputs) > 3 and node.inputs[3] else np.arange(rank)
    around = np.zeros((rank, 2), int)
    around[np.asarray(axes).astype(int) % rank] = pads.reshape(2, -1).T
    mode = node.get("mode", "constant")
    if mode == "constant":
        fill = np.ravel(value)[0].item()
        listed = [int(n) for row in around[::-1] for n in row]
        if fill == 0:  # which is on every grid
            return graph.move(node, lambda x: F.pad(x, listed, value=fill))
        return graph.make(node, F.pad(graph.real(node.inputs[0]), listed, value=fill))
    numpy_mode = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}.get(mode)
    if numpy_mode is None or np.any(around < 0):
        raise refused(node, f"its borders are of the kind {mode}, or cut")

    def picked(x: Tensor) -> Tensor:
        for axis in np.flatnonzero(around.any(1)):
            rows = np.pad(np.arange(shape[axis]), around[axis], numpy_mode)  # type: ignore[call-overload]
            index = graph.keep(node.outputs[0], f"rows{axis}", lambda rows=rows: rows.astype(np.int64))
            x = torch.index_select(x, int(axis), index)
        return x

    graph.move(node, picked)


def expand(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.outputs[0])
    graph.move(node, lambda x: x.expand(shape))


def tile(graph: Lowering, node: Node) -> None:
    times = [int(n) for n in graph.constant(node, 1, "numbers")]
    graph.move(node, lambda x: x.repeat(times))


def cast(graph: Lowering, node: Node) -> None:
    kind = graph.types.get(node.outputs[0])
    if kind is None and "to" in node.attributes:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(node.get("to", 1)))
    assert kind is not None
    x, target = graph.real(node.inputs[0]), torch.from_numpy(np.zeros(0, kind)).dtype
    graph.make(node, x if x.dtype == target else x.to(target))


def where(graph: Lowering, node: Node) -> None:
    graph.make(node, torch.where(*(graph.real(name) for name in node.inputs)))


def resize(graph: Lowering, node: Node) -> None:
    source, target = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    mode, place = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    rank = len(source)
    if source[:2] != target[:2] or node.get("antialias", 0) or rank not in (3, 4):
        raise refused(node, "it resizes channels, smooths, or has three dimensions")
    size = list(target[2:])
    whole = all(t % s == 0 for s, t in zip(source[2:], size, strict=True))
    if mode == "nearest":
        floors = node.get("nearest_mode", "round_prefer_floor")
        fits = (place == "asymmetric" and floors == "floor") or (
            whole and place in ("half_pixel", "pytorch_half_pixel") and floors == "round_prefer_floor"
        )
        if not fits:
            raise refused(node, f"it takes the nearest by {place} and {floors}")
        return graph.move(node, lambda x: F.interpolate(x, size, mode="nearest"))
    if place not in ("half_pixel", "align_corners") and not (place == "pytorch_half_pixel" and min(size) > 1):
        raise refused(node, f"it interpolates by {place}")
    kinds = {"linear": {3: "linear", 4: "bilinear"}, "cubic": {4: "bicubic"}}
    kind = kinds.get(mode, {}).get(rank)
    if kind is None or (mode == "cubic" and float(node.get("cubic_coeff_a", -0.75)) != -0.75):
        raise refused(node, f"it interpolates by {mode}")
    aligned = place == "align_corners"
    graph.make(node, F.interpolate(graph.real(node.inputs[0]), size, mode=kind, align_corners=aligned))


def depth_to_space(graph: Lowering, node: Node) -> None:
    block = int(node.get("blocksize", 1))
    if node.get("mode", "DCR") == "CRD":
        return graph.move(node, lambda x: F.pixel_shuffle(x, block))
    n, c, h, w = graph.shape(node.inputs[0])
    parts, shape = (n, block, block, c // block**2, h, w), graph.shape(node.outputs[0])
    graph.move(node, lambda x: x.reshape(parts).permute(0, 3, 4, 1, 5, 2).reshape(shape))


def space_to_depth(graph: Lowering, node: Node) -> None:
    block = int(node.get("blocksize", 1))
    n, c, h, w = graph.shape(node.inputs[0])
    parts, shape = (n, c, h // block, block, w // block, block), graph.shape(node.outputs[0])
    graph.move(node, lambda x: x.reshape(parts).permute(0, 3, 5, 1, 2, 4).reshape(shape))


def quantize(graph: Lowering, node: Node) -> None:
    grid, value = graph.grid(node), graph.values[node.inputs[0]]
    same = value.grid == grid
    graph.values[node.outputs[0]] = value if same else Value(grid.quantize(value.real), grid)


def dequantize(graph: Lowering, node: Node) -> None:
    name = node.inputs[0]
    if name not in graph.values:  # a constant that was on a grid of activations
        grid = graph.grid(node)
        integers, zero = graph.arrays[name], graph.arrays[node.inputs[2]]
        real = (integers.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * np.float32(grid.scale)
        graph.values[node.outputs[0]] = Value(graph.keep(name, "real", lambda: real))
        return
    graph.values[node.outputs[0]] = graph.values[name]


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), reduction),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"), viewed),
    "Relu": clip, "Clip": clip, "Pow": power, "Mod": modulo, "Where": where,
    "Gelu": applied(lambda x, node: F.gelu(x, approximate=node.get("approximate", "none"))),
    "LeakyRelu": applied(lambda x, node: F.leaky_relu(x, float(node.get("alpha", 0.01)))),
    "HardSigmoid": applied(lambda x, node: (x * node.get("alpha", 0.2) + node.get("beta", 0.5)).clamp(0.0, 1.0)),
    "Elu": applied(elu), "Celu": applied(elu), "Selu": applied(selu),
    "BatchNormalization": norm, "LayerNormalization": layer_norm, "RMSNormalization": rms_norm,
    "InstanceNormalization": group_norm, "GroupNormalization": group_norm,
    "Softmax": softmax, "LogSoftmax": softmax, "ArgMax": arg_max, "ArgMin": arg_max, "TopK": top_k,
    "CumSum": cumulative,
    "Transpose": transpose, "Slice": slice_, "Split": split, "Gather": gather, "GatherElements": gather_elements,
    "Concat": concat, "Pad": pad, "Expand": expand, "Tile": tile, "Cast": cast, "CastLike": cast, "Resize": resize,
    "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth,
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize,
}  # fmt: skip
