"""Convolutions, linear layers and pools as TFLite's operators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_dtypes import int4

from edgesdk.core.errors import ModelError
from edgesdk.export.reading import Node, Weight
from edgesdk.export.tflite.lowering import ELSEWHERE, Lowering
from edgesdk.export.tflite.writer import Grid

SAME, VALID = 0, 1
WIDEST = 256  # steps of an output that a step of the sums that are rounded to it is less than


def refused(node: Node, why: str) -> ModelError:
    return ModelError(f"TFLite cannot run {node.told}: {why}", ELSEWHERE)


def last(rank: int) -> tuple[int, ...]:
    """The dimensions of a channels-last tensor, in the numbers of a channels-first one."""
    return (0, *range(2, rank), 1)


def image(graph: Lowering, name: str) -> tuple[int, ...]:
    """The shape of ``name`` as a channels-last image; a signal has the height 1."""
    shape = graph.shapes[name]
    assert shape is not None
    return (shape[0], *([1] if len(shape) == 3 else []), *shape[2:], shape[1])


def windowed(
    graph: Lowering, node: Node, kernel: Sequence[int], explicit: bool = False
) -> tuple[dict[str, Any], list[list[int]]]:
    """The options of a window that slides over an image, and what borders the image needs.

    ``kernel`` is its extent with dilation, in two or three dimensions; ``explicit`` borders are none of the operator's
    own.
    """
    rank = len(kernel)
    source, target = image(graph, node.inputs[0]), image(graph, node.outputs[0])
    strides = node.get("strides", [1] * rank)
    strides = [1] * (rank - len(strides)) + list(strides)
    before = padding(node, kernel, source, target, strides)
    around, same = [], True
    for i in range(rank):
        reach = max((target[1 + i] - 1) * strides[i] + kernel[i] - source[1 + i], 0)
        around.append([before[i], max(reach - before[i], 0)])
        same &= -(-source[1 + i] // strides[i]) == target[1 + i] and reach // 2 == before[i]
    options = {"strideH": strides[-2], "strideW": strides[-1], "padding": VALID}
    if same and not explicit and np.any(around):
        return options | {"padding": SAME}, [[0, 0]] * rank
    return options, around


def padding(node: Node, kernel: Sequence[int], source: Sequence[int], target: Sequence[int], strides: Any) -> list[int]:
    """How far the window reaches beyond the top and the left."""
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        reach = zip(source[1:], target[1:], strides, kernel, strict=False)
        total = [max((made - 1) * stride + size - given, 0) for given, made, stride, size in reach]
        return [(n + (auto == "SAME_LOWER")) // 2 for n in total]
    pads = list(node.get("pads", [0] * 2 * len(kernel)))
    return [0] * (len(kernel) - len(pads) // 2) + pads[: len(pads) // 2]


def padded(
    graph: Lowering, tensor: int, shape: Any, around: list[list[int]], grid: Grid | None, fill: float = 0.0
) -> tuple[int, tuple[int, ...]]:
    """An image with borders of ``fill``, and its shape."""
    if not np.any(around):
        return tensor, tuple(shape)
    borders = np.array([[0, 0], *around, [0, 0]], np.int32)
    shape = tuple(int(n) for n in np.array(shape) + borders.sum(1))
    result = graph.file.fresh(f"{graph.file.tensors[tensor].name}/padded", shape, np.float32, grid)
    inputs = [tensor, graph.file.constant(borders)]
    if fill == 0.0:
        graph.file.operator("PAD", inputs, [result], 2 if grid else 1)
    else:
        value = np.array([fill], np.float32) if grid is None else np.array([-128], np.int8)
        graph.file.operator("PADV2", [*inputs, graph.file.constant(value, grid=grid)], [result], 2 if grid else 1)
    return result, shape


def weighted(
    graph: Lowering, node: Node, name: str, value: np.ndarray, axis: int, integer: bool, kind: str
) -> tuple[int, Weight | None]:
    """The tensor of a weight, laid out as ``value``; ``axis`` is that of its scales."""
    weight = graph.weights.get(name)
    if weight is None and name in graph.halves:
        return _real(graph, graph.file.constant(value.astype(np.float16), name), name, value.shape, 3), None
    if weight is None:
        return graph.file.constant(value.astype(np.float32), name), None
    scale = np.broadcast_to(weight.scale.reshape(-1), weight.scale.size)
    grid = Grid(tuple(scale.tolist()), (0,), axis)
    if weight.bits == 4 and not integer:
        raise ModelError(f"TFLite has no real {kind} with 4-bit weights ({weight.name})", "give that layer 8 bits")
    stored = graph.file.constant(value.astype(int4 if weight.bits == 4 else np.int8), weight.name, grid)
    if integer:
        return stored, weight
    return _real(graph, stored, weight.name, value.shape, 2), weight


def _real(graph: Lowering, stored: int, name: str, shape: tuple[int, ...], version: int) -> int:
    """The tensor of a weight that the runtime widens to real numbers, once, as it loads."""
    real = graph.file.fresh(f"{name}/real", shape, np.float32)
    graph.file.operator("DEQUANTIZE", [stored], [real], version)
    return real


def bias(graph: Lowering, name: str, channels: int, source: Grid | None, weight: Weight | None) -> int:
    """The tensor of a bias; that of an integer layer has the scale of its input times that of its weight."""
    real = graph.array(name) if name else np.zeros(channels, np.float32)
    assert real is not None
    real = real.reshape(-1).astype(np.float32)
    if real.size != channels:
        real = np.broadcast_to(real, channels)
    stored = graph.weights.get(name)
    label = stored.name if stored is not None else name
    if source is None or weight is None:
        return graph.file.constant(real, label)
    scale = np.broadcast_to(np.float32(source.scale[0]) * weight.scale.reshape(-1), channels)
    if stored is not None and np.array_equal(np.broadcast_to(stored.scale, channels), scale):
        integers = stored.integers.reshape(-1)
    else:
        integers = np.clip(np.rint(real.astype(np.float64) / scale), -(2**31), 2**31 - 1)
    return graph.file.constant(integers.astype(np.int32), label, Grid(tuple(scale.tolist())))


def check_steps(node: Node, sums: Sequence[float] | np.ndarray, grid: Grid | None) -> None:
    """Raise ``ModelError`` where a step of ``sums`` is as wide as LiteRT's integer kernels refuse, or compute wrongly.

    XNNPACK creates none from a ratio of 256 on; TFLite's own sum overflows there.
    """
    widest = float(np.max(sums)) / grid.scale[0] if grid is not None else 0.0
    if widest >= WIDEST:
        raise ModelError(
            f"{node.name} rounds sums whose step is {widest:.0f} times that of its output, and LiteRT's integer kernels"
            f" have less than {WIDEST}",
            "calibrate it for litert, leave it in float, or export to onnx or openvino",
        )


def conv(graph: Lowering, node: Node) -> None:
    x, name = graph.value(node.inputs[0]), node.inputs[1]
    stored = graph.weights.get(name)
    array = stored.integers if stored is not None else graph.array(name)
    if array is None:
        raise refused(node, "its weight is not constant")
    if array.ndim > 4:
        raise refused(node, f"it has {array.ndim - 2} dimensions")
    integer = stored is not None and x.grid is not None and stored.lies_along(0)
    fused = graph.fuse(node, integer)
    integer = fused.grid is not None
    if array.ndim == 3:
        array = array[:, :, None]
    outputs, _, *kernel = array.shape
    dilations = [1] * (4 - len(x.shape)) + list(node.get("dilations", [1] * (len(x.shape) - 2)))
    options, around = windowed(graph, node, [(n - 1) * d + 1 for n, d in zip(kernel, dilations, strict=True)])
    options |= {"dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}
    groups = node.get("group", 1)
    if groups == x.shape[1] and groups > 1:
        kind, axis, layout = "DEPTHWISE_CONV_2D", 3, array.transpose(1, 2, 3, 0)
        options["depthMultiplier"] = outputs // groups
    else:
        kind, axis, layout = "CONV_2D", 0, array.transpose(0, 2, 3, 1)
    grid = x.grid if integer else None
    tensor = graph.file.arranged(x, last(len(x.shape)), integer, image(graph, node.inputs[0]))
    tensor, _ = padded(graph, tensor, image(graph, node.inputs[0]), around, grid)
    weight, data = weighted(graph, node, name, layout, axis, integer, kind)
    third = bias(graph, node.inputs[2] if len(node.inputs) > 2 else "", outputs, grid, data)
    if grid is not None and data is not None:
        check_steps(node, grid.scale[0] * data.scale.reshape(-1), fused.grid)
    result = made_image(graph, node, fused.name, fused.label, fused.grid)
    version = 3 if integer else 2 if max(dilations) > 1 and kind != "CONV_2D" else 1
    if data is not None and data.bits == 4:
        version = 7
    options["fusedActivationFunction"] = fused.activation
    graph.file.operator(kind, [tensor, weight, third], [result], version, **options)


def made_image(graph: Lowering, node: Node, name: str, label: str, grid: Grid | None) -> int:
    shape = graph.shapes[node.outputs[0]]
    assert shape is not None
    return graph.produce(name, last(len(shape)), image(graph, node.outputs[0]), grid, label)


def gemm(graph: Lowering, node: Node) -> None:
    name = node.inputs[1]
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    stored, real = graph.weights.get(name), graph.array(name)
    constant = node.inputs[2] if len(node.inputs) > 2 else ""
    if real is None or node.get("transA", 0) or (constant and graph.array(constant) is None):
        raise refused(node, "its weight or bias is not constant, or its input is transposed")
    transposed = bool(node.get("transB", 0))
    rows = real.shape[0 if transposed else 1]
    added = graph.array(constant) if constant else None
    if added is not None and added.size not in (1, rows):
        raise refused(node, "it adds more than a bias")
    if alpha != 1.0 or (constant and beta != 1.0):
        if stored is not None:
            raise refused(node, "it scales integers")
        name = f"{name}/scaled"
        graph.arrays[name] = real * np.float32(alpha)
        if added is not None:
            constant = f"{constant}/scaled"
            graph.arrays[constant] = added * np.float32(beta)
    linear(graph, type(node)(node.op, node.name, [node.inputs[0], name], node.outputs, {}), transposed, constant)


def matmul(graph: Lowering, node: Node) -> None:
    right = graph.array(node.inputs[1])
    if right is not None and right.ndim == 2 and len(graph.shapes[node.inputs[0]] or ()) > 1:
        if found := graph.added_after(node, right.shape[1]):
            adder, other = found
            graph.done.add(id(adder))
            merged = type(node)(node.op, node.name, node.inputs, adder.outputs, node.attributes)
            return linear(graph, merged, False, other)
        return linear(graph, node, False, "")
    a, b = graph.value(node.inputs[0]), graph.value(node.inputs[1])
    rank = len(graph.shapes[node.outputs[0]] or ())
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise refused(node, "it multiplies a vector")
    file, order = graph.file, list(range(len(b.shape)))
    flipped = bool(b.dims[-2]) and b.dims[-2][-1][1] == 1 and len(b.dims[-1]) > 0
    if flipped:
        order[-2:] = order[:-3:-1]
    shape = (1,) * (rank - len(b.shape)) + tuple(b.shape[d] for d in order)
    left = file.arranged(a, range(len(a.shape)), False, (1,) * (rank - len(a.shape)) + a.shape)
    inputs = [left, file.arranged(b, order, False, shape)]
    file.operator("BATCH_MATMUL", inputs, [graph.produce(node.outputs[0])], adjX=False, adjY=flipped)


def linear(graph: Lowering, node: Node, transposed: bool, constant: str) -> None:
    """A matrix of weights, stored (outputs, inputs) if ``transposed``, over the last dimension of the first input."""
    x, name = graph.value(node.inputs[0]), node.inputs[1]
    stored = graph.weights.get(name)
    array = stored.integers if stored is not None else graph.array(name)
    assert array is not None
    axis = 0 if transposed else 1
    integer = stored is not None and x.grid is not None and stored.lies_along(axis)
    fused = graph.fuse(node, integer)
    integer = fused.grid is not None
    array = array if transposed else array.T
    outputs, inputs = array.shape
    data = graph.file.settled(x).data
    shapes = data.integers if integer else data.reals or data.integers
    shape = next((s for s in shapes if s and s[-1] == inputs and len(s) > 1), x.shape)
    tensor = graph.file.face(data, shape, integer)
    grid = x.grid if integer else None
    weight, origin = weighted(graph, node, name, np.ascontiguousarray(array), 0, integer, "FULLY_CONNECTED")
    third = bias(graph, constant, outputs, grid, origin) if constant else -1
    if grid is not None and origin is not None:
        check_steps(node, grid.scale[0] * origin.scale.reshape(-1), fused.grid)
    result = graph.produce(fused.name, None, (*shape[:-1], outputs), fused.grid, fused.label)
    keep = len(shape) > 2
    version = 5 if keep else 4 if integer else 1
    if third < 0:
        version = max(version, 6)
    graph.file.operator(
        "FULLY_CONNECTED", [tensor, weight, third], [result], version,
        fusedActivationFunction=fused.activation, keepNumDims=keep,
    )  # fmt: skip


def pool(graph: Lowering, node: Node) -> None:
    x = graph.value(node.inputs[0])
    if len(x.shape) not in (3, 4):
        raise refused(node, f"it has {len(x.shape) - 2} dimensions")
    if len(node.outputs) > 1 and node.outputs[1]:
        raise refused(node, "its indices are read")
    kernel = [1] * (4 - len(x.shape)) + list(node.get("kernel_shape", []))
    if max(node.get("dilations", [1])) > 1:
        raise refused(node, "it is dilated")
    options, around = windowed(graph, node, kernel, bool(node.get("count_include_pad", 0)))
    options |= {"filterHeight": kernel[0], "filterWidth": kernel[1]}
    order, shape = last(len(x.shape)), image(graph, node.inputs[0])
    if node.op == "MaxPool":
        integer = x.grid is not None
        tensor = graph.file.arranged(x, order, integer, shape)
        tensor, _ = padded(graph, tensor, shape, around, x.grid, float(np.finfo(np.float32).min))
        fill = x.grid
        result = made_image(graph, node, node.outputs[0], "", fill)
        return graph.file.operator("MAX_POOL_2D", [tensor], [result], 2 if integer else 1, **options)
    share = shares(graph, node, kernel, options)
    after = graph.only_reader(node.outputs[0])
    same = after is not None and after.op == "QuantizeLinear" and graph.grid(after) == x.grid
    fused = graph.fuse(node, x.grid is not None and share is None and (same or options["padding"] == VALID))
    integer = fused.grid is not None
    tensor = graph.file.arranged(x, order, integer, shape)
    tensor, _ = padded(graph, tensor, shape, around, x.grid if integer else None)
    options["fusedActivationFunction"] = fused.activation
    if share is None:
        result = made_image(graph, node, fused.name, fused.label, fused.grid)
        if integer and options["padding"] == VALID:
            return averaged(graph, node, tensor, result, kernel, options)
        return graph.file.operator("AVERAGE_POOL_2D", [tensor], [result], 2 if integer else 1, **options)
    target = image(graph, node.outputs[0])
    middle = graph.file.fresh(f"{node.outputs[0]}/windows", target, np.float32)
    activation = options.pop("fusedActivationFunction")
    graph.file.operator("AVERAGE_POOL_2D", [tensor], [middle], **options)
    result = made_image(graph, node, fused.name, fused.label, None)
    graph.file.operator("MUL", [middle, graph.file.constant(share)], [result], fusedActivationFunction=activation)


def averaged(
    graph: Lowering, node: Node, tensor: int, result: int, kernel: Sequence[int], options: dict[str, Any]
) -> None:
    """An integer average as a convolution whose weights are all one: XNNPACK has no integer average, and TFLite's own
    takes six times as long and no other grid."""
    x = graph.value(node.inputs[0])
    assert x.grid is not None
    scale, channels = np.float32(1 / np.prod(kernel)), x.shape[1]
    label = f"{node.outputs[0]}/ones"
    ones = np.ones((1, *kernel, channels), np.int8)
    weight = graph.file.constant(ones, label, Grid((float(scale),) * channels, (0,), 3))
    moved = float(np.float32(x.grid.scale[0]) * scale)
    third = graph.file.constant(np.zeros(channels, np.int32), f"{label}/bias", Grid((moved,) * channels))
    slid = {name: value for name, value in options.items() if not name.startswith("filter")}
    slid |= {"depthMultiplier": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    graph.file.operator("DEPTHWISE_CONV_2D", [tensor, weight, third], [result], 3, **slid)


def shares(graph: Lowering, node: Node, kernel: Sequence[int], options: dict[str, Any]) -> np.ndarray | None:
    """By what an average over whole windows is too small at each place, or ``None`` where it is right.

    ONNX counts what lies inside the image, or inside its given borders; TFLite what is inside the image under SAME
    padding, and whole windows otherwise.
    """
    source, target = image(graph, node.inputs[0]), image(graph, node.outputs[0])
    axes = len(kernel)
    strides = list(node.get("strides", [1] * axes))
    strides = [1] * (axes - len(strides)) + strides
    before = padding(node, kernel, source, target, strides)
    whole = bool(node.get("count_include_pad", 0))
    pads = list(node.get("pads", [0] * 2 * axes))
    after = [0] * (axes - len(pads) // 2) + pads[len(pads) // 2 :]
    counts, inside = [], []
    for i in range(axes):
        start = np.arange(target[1 + i]) * strides[i] - before[i]
        low, high = (-before[i], source[1 + i] + after[i]) if whole else (0, source[1 + i])
        counts.append(np.minimum(start + kernel[i], high) - np.maximum(start, low))
        inside.append(np.minimum(start + kernel[i], source[1 + i]) - np.maximum(start, 0))
    wanted, within = (functools.reduce(np.multiply.outer, each) for each in (counts, inside))
    if options["padding"] == SAME and np.array_equal(wanted, within):
        return None
    ratio = within / wanted if options["padding"] == SAME else np.prod(kernel) / wanted
    return None if np.all(ratio == 1) else ratio.astype(np.float32)[None, ..., None]


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    "Conv": conv, "Gemm": gemm, "MatMul": matmul, "MaxPool": pool,
    "AveragePool": pool,
}  # fmt: skip
