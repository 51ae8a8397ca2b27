"""Convolutions, linear layers and pools in PyTorch's operators, as XNNPACK takes them.

A signal is an image of height 1: XNNPACK has windows over images alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgesdk.export.executorch.lowering import Lowering, Value, refused
from edgesdk.export.reading import Node
from edgesdk.export.windows import borders, two


def as_image(x: Tensor) -> Tensor:
    """A signal as an image of height 1: by a reshape, which XNNPACK has in integers, too."""
    return x.reshape(*x.shape[:2], 1, x.shape[2])


def as_signal(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], x.shape[3])


def image(graph: Lowering, name: str) -> Tensor:
    """``name`` as an image, of a grid of its own where it is on one."""
    value = graph.values.get(name)
    x = graph.real(name)
    if x.ndim != 3:
        return x
    x = as_image(x)
    return x if value is None or value.grid is None else value.grid.dequantize(value.grid.quantize(x))


def framed(x: Tensor, around: Sequence[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """``x`` with the borders of a window that are not alike on both sides, and those that are left to the window."""
    if around[0] == around[2] and around[1] == around[3]:
        return x, list(around[:2])
    return F.pad(x, [around[1], around[3], around[0], around[2]], value=value), [0, 0]


def made_image(graph: Lowering, node: Node, x: Tensor) -> None:
    """Let ``node`` make the image ``x``, a signal where that is its shape, quantized before it becomes one."""
    name = node.outputs[0]
    if len(graph.shape(name)) != 3:
        return graph.make(node, x)
    reader = graph.only_reader(name)
    if reader is not None and reader.op in ("Relu", "Clip") and graph.bounds(reader) is not None:
        x = graph.clipped(reader, x)
        graph.done.add(id(reader))
        name, reader = reader.outputs[0], graph.only_reader(reader.outputs[0])
    if reader is None or reader.op != "QuantizeLinear":
        graph.values[name] = Value(as_signal(x))
        return
    grid = graph.grid(reader)
    graph.done.add(id(reader))
    whole = as_signal(grid.dequantize(grid.quantize(x)))
    graph.values[reader.outputs[0]] = Value(grid.quantize(whole), grid)


def conv(graph: Lowering, node: Node) -> None:
    shape = list(graph.shape(node.inputs[1]))
    if len(shape) > 4:
        raise refused(node, f"it has {len(shape) - 2} dimensions")
    kernel = two(shape[2:])
    weight = graph.weight(node, node.inputs[1], 0, lambda w: w.reshape(-1, w.shape[1], *kernel))
    bias = _bias(graph, node, 2, shape[0])
    x = image(graph, node.inputs[0])
    target = two(graph.shape(node.outputs[0])[2:])
    x, pads = framed(x, borders(node, kernel, x.shape[2:], target))
    strides, dilations = two(node.get("strides", [])), two(node.get("dilations", []))
    made_image(graph, node, F.conv2d(x, weight, bias, strides, pads, dilations, int(node.get("group", 1))))


def _bias(graph: Lowering, node: Node, place: int, count: int) -> Tensor | None:
    if len(node.inputs) <= place or not node.inputs[place]:
        return None
    array = graph.constant(node, place, "bias")
    if array.size not in (1, count):
        raise refused(node, "it adds more than a bias")
    return graph.keep(node.inputs[place], "bias", lambda: np.broadcast_to(array.ravel(), count).astype(np.float32))


def conv_transpose(graph: Lowering, node: Node) -> None:
    array = graph.constant(node, 1, "weight")
    if array.ndim > 4 or node.get("auto_pad", "NOTSET") != "NOTSET":
        raise refused(node, "its padding is not given, or it has three dimensions")
    groups = int(node.get("group", 1))
    kernel, strides, dilations = two(array.shape[2:]), two(node.get("strides", [])), two(node.get("dilations", []))
    x = image(graph, node.inputs[0])
    top, left, *_ = borders(node, kernel, x.shape[2:], [])
    target = two(graph.shape(node.outputs[0])[2:])
    beyond = []
    for i, pad in enumerate((top, left)):
        least = (x.shape[2 + i] - 1) * strides[i] - 2 * pad + dilations[i] * (kernel[i] - 1) + 1
        beyond.append(target[i] - least)
    cut = any(n < 0 or n >= max(s, d) for n, s, d in zip(beyond, strides, dilations, strict=True))
    turn = lambda w: w.reshape(*w.shape[:2], *kernel)  # noqa: E731
    if groups > 1 or cut:  # a group's scales are not a channel's, and what is cut is not quantized at once
        weight = graph.keep(node.inputs[1], "turned", lambda: turn(array).astype(np.float32))
        graph.widened |= {graph.weights[name].name for name in node.inputs[1:2] if name in graph.weights}
    else:
        weight = graph.weight(node, node.inputs[1], 1, turn, 1)
    if cut:
        whole = F.conv_transpose2d(x, weight, _bias(graph, node, 2, array.shape[1] * groups), strides, 0, 0, groups,
                                   dilations)  # fmt: skip
        lacking = [max(top + target[0] - whole.shape[2], 0), max(left + target[1] - whole.shape[3], 0)]
        if any(lacking):
            raise refused(node, "its output reaches beyond its last window")
        y = whole[:, :, top : top + target[0], left : left + target[1]]
    else:
        bias = _bias(graph, node, 2, array.shape[1] * groups)
        y = F.conv_transpose2d(x, weight, bias, strides, [top, left], beyond, groups, dilations)
    made_image(graph, node, y)


def gemm(graph: Lowering, node: Node) -> None:
    transposed = bool(node.get("transB", 0))
    real = graph.array(node.inputs[1])
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    added = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = graph.array(added) if added else None
    if real is not None and alpha == beta == 1.0 and not node.get("transA", 0):
        if not added or (bias is not None and bias.size == real.shape[0 if transposed else 1]):
            return linear(graph, node, node.inputs[1], transposed, 2)
    a, b = graph.real(node.inputs[0]), graph.real(node.inputs[1])
    y = torch.matmul(a.t() if node.get("transA", 0) else a, b.t() if transposed else b)
    y = y if alpha == 1.0 else y * alpha
    if added:
        c = graph.real(added)
        y = y + (c if beta == 1.0 else c * beta)
    graph.make(node, y)


def matmul(graph: Lowering, node: Node) -> None:
    right = graph.array(node.inputs[1])
    if right is not None and right.ndim == 2 and len(graph.shape(node.inputs[0])) > 1:
        if found := graph.added_after(node, right.shape[1]):
            adder, other = found
            graph.done.add(id(adder))
            merged = Node(node.op, node.name, [*node.inputs, other], adder.outputs, {}, node.origin)
            return linear(graph, merged, node.inputs[1], False, 2)
        return linear(graph, node, node.inputs[1], False, 2)
    graph.make(node, torch.matmul(graph.real(node.inputs[0]), graph.real(node.inputs[1])))


def linear(graph: Lowering, node: Node, name: str, transposed: bool, bias: int) -> None:
    """A matrix of weights, stored (outputs, inputs) if ``transposed``, over the last dimension of the first input."""
    weight = graph.weight(node, name, 0 if transposed else 1, lambda w: w if transposed else w.T)
    graph.make(node, F.linear(graph.real(node.inputs[0]), weight, _bias(graph, node, bias, weight.shape[0])))


def pool(graph: Lowering, node: Node) -> None:
    shape = graph.shape(node.inputs[0])
    kernel = two(node.get("kernel_shape", []))
    strides, dilations = two(node.get("strides", [])), two(node.get("dilations", []))
    if len(shape) > 4 or len(node.outputs) > 1:
        raise refused(node, "it has three dimensions, or says which it took")
    size, target = two(shape[2:]), two(graph.shape(node.outputs[0])[2:])
    around = borders(node, kernel, size, target)
    for i in range(2):  # a last window that reaches beyond the border, or a border that no window reaches
        reach = (target[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        around[2 + i] = max(reach - size[i] - around[i], 0)

    def largest(x: Tensor) -> Tensor:
        x = as_image(x) if x.ndim == 3 else x
        fits = around[:2] == around[2:] and all(2 * p <= k for p, k in zip(around, kernel, strict=False))
        x, pads = (x, around[:2]) if fits else (F.pad(x, [around[1], around[3], around[0], around[2]], value=LEAST), 0)
        y = F.max_pool2d(x, kernel, strides, pads, dilations)
        return as_signal(y) if len(shape) == 3 else y

    if node.op == "MaxPool":
        return graph.move(node, largest)
    x = image(graph, node.inputs[0])
    pads = list(node.get("pads", [0] * 4))
    given = [*two(pads[: len(pads) // 2], 0), *two(pads[len(pads) // 2 :], 0)]
    counts = _counts(node, kernel, strides, size, target, around, given)
    alike = around[:2] == around[2:] and all(2 * p <= k for p, k in zip(around, kernel, strict=False))
    if not any(around):
        y = F.avg_pool2d(x, kernel, strides)
    elif alike and not node.get("count_include_pad", 0):
        y = F.avg_pool2d(x, kernel, strides, around[:2], count_include_pad=False)
    else:
        x, value = F.pad(x, [around[1], around[3], around[0], around[2]]), graph.values.get(node.inputs[0])
        if value is not None and value.grid is not None:  # ExecuTorch takes it to be on that grid anyway
            x = value.grid.dequantize(value.grid.quantize(x))
        y = F.avg_pool2d(x, kernel, strides)
        share = (np.prod(kernel) / counts).astype(np.float32)
        if not np.all(share == 1):
            y = y * graph.keep(node.outputs[0], "shares", lambda: share[None, None])
    made_image(graph, node, y)


LEAST = float(np.finfo(np.float32).min)


def _counts(
    node: Node, kernel: Sequence[int], strides: Sequence[int], size: Sequence[int], target: Sequence[int],
    around: Sequence[int], given: Sequence[int],
) -> np.ndarray:  # fmt: skip
    """How many elements ONNX counts in each window of an average."""
    counts = []
    for i in range(2):
        start = np.arange(target[i]) * strides[i] - around[i]
        low, high = (-around[i], size[i] + given[2 + i]) if node.get("count_include_pad", 0) else (0, size[i])
        counts.append(np.minimum(start + kernel[i], high) - np.maximum(start, low))
    return np.outer(*counts)


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul, "MaxPool": pool,
    "AveragePool": pool,
}  # fmt: skip
