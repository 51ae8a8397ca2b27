"""Convolutions and pools of three dimensions, made of those of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgesdk.export.reading import Node
from edgesdk.export.tflite import layers
from edgesdk.export.tflite.layers import VALID, bias, image, last, padded, refused, shares, weighted, windowed
from edgesdk.export.tflite.lowering import Lowering


def conv(graph: Lowering, node: Node) -> None:
    """A convolution of three dimensions as the sum of those of two over each place of its window along one axis.

    TFLite's CONV_3D has no groups, and XNNPACK does not have it. The axis is that of the least window: of a window that
    is flat along it no sum is left. Integer weights are widened: no integers are kept between the parts of a sum.
    """
    if len(graph.shapes[node.inputs[0]] or ()) != 5:
        return layers.conv(graph, node)
    x, name, file = graph.value(node.inputs[0]), node.inputs[1], graph.file
    stored = graph.weights.get(name)
    array = stored.integers if stored is not None else graph.array(name)
    if array is None:
        raise refused(node, "its weight is not constant")
    fused = graph.fuse(node)
    outputs, _, *kernel = array.shape
    dilations = list(node.get("dilations", [1] * 3))
    _, around = windowed(graph, node, [(n - 1) * d + 1 for n, d in zip(kernel, dilations, strict=True)], explicit=True)
    along = int(np.argmin(kernel))
    flat = [i for i in range(3) if i != along]
    order = (0, 2 + along, *(2 + i for i in flat), 1)
    strides = list(node.get("strides", [1] * 3))
    tensor = file.arranged(x, order)
    tensor, source = padded(graph, tensor, [x.shape[d] for d in order], [around[i] for i in (along, *flat)], None)
    shape = graph.shapes[node.outputs[0]]
    assert shape is not None
    target = (shape[0] * shape[2 + along], *(shape[2 + i] for i in flat), outputs)
    rows = (target[0], *source[2:])
    options = {
        "strideH": strides[flat[0]], "strideW": strides[flat[1]], "padding": VALID,
        "dilationHFactor": dilations[flat[0]], "dilationWFactor": dilations[flat[1]],
    }  # fmt: skip
    groups = node.get("group", 1)
    depthwise = groups == x.shape[1] and groups > 1
    kind, axis, layout = ("DEPTHWISE_CONV_2D", 3, (1, 2, 3, 0)) if depthwise else ("CONV_2D", 0, (0, 2, 3, 1))
    if depthwise:
        options["depthMultiplier"] = outputs // groups
    version = 2 if depthwise and max(dilations) > 1 else 1
    total = -1
    for place in range(kernel[along]):
        part = np.take(array, place, 2 + along).transpose(layout)
        first = place == 0
        begin, count = place * dilations[along], shape[2 + along]
        read = rows_along(graph, tensor, source, begin, count, strides[along], rows)
        weight, data = weighted(graph, node, name, part, axis, False, kind)
        third = bias(graph, node.inputs[2] if first and len(node.inputs) > 2 else "", outputs, None, data)
        ends = place == kernel[along] - 1
        label = f"{node.outputs[0]}/{place}"

        def made(last: bool, label: str) -> int:
            return (
                graph.produce(fused.name, order, target, None, fused.label)
                if last
                else file.fresh(label, target, np.float32)
            )

        one = made(ends and first, label)
        activation = {"fusedActivationFunction": fused.activation if ends and first else 0}
        file.operator(kind, [read, weight, third], [one], version, **options, **activation)
        if not first:
            one, addend = made(ends, f"{label}/sum"), one
            file.operator("ADD", [total, addend], [one], fusedActivationFunction=fused.activation if ends else 0)
        total = one


def rows_along(
    graph: Lowering, tensor: int, source: Sequence[int], begin: int, count: int, step: int, shape: tuple[int, ...]
) -> int:
    """Of a ``tensor`` of the shape ``source`` every ``step`` th of its second dimension, as images of ``shape``."""
    file, name = graph.file, graph.file.tensors[tensor].name
    if (begin, count, step) != (0, source[1], 1):
        cut = (source[0], count, *source[2:])
        ends = np.array([source[0], begin + (count - 1) * step + 1, *source[2:]], np.int32)
        places = [np.array([0, begin, 0, 0, 0], np.int32), ends, np.array([1, step, 1, 1, 1], np.int32)]
        part = file.fresh(f"{name}/from_{begin}", cut, np.float32)
        file.operator("STRIDED_SLICE", [tensor, *map(file.constant, places)], [part], 1)
        tensor = part
    rows = file.fresh(f"{name}/rows", shape, np.float32)
    file.operator("RESHAPE", [tensor, file.constant(np.array(shape, np.int32))], [rows])
    return rows


def pool(graph: Lowering, node: Node) -> None:
    """A pool of three dimensions as one over each image, and one over what these make, along the first axis."""
    if len(graph.shapes[node.inputs[0]] or ()) != 5:
        return layers.pool(graph, node)
    if (len(node.outputs) > 1 and node.outputs[1]) or max(node.get("dilations", [1])) > 1:
        raise refused(node, "its indices are read, or it is dilated")
    kernel = node.get("kernel_shape", [])
    x, file, largest = graph.value(node.inputs[0]), graph.file, node.op == "MaxPool"
    options, around = windowed(graph, node, kernel, explicit=True)
    share = None if largest else shares(graph, node, kernel, options)
    fused, order, strides = graph.fuse(node), last(5), list(node.get("strides", [1] * 3))
    target = image(graph, node.outputs[0])
    fill = float(np.finfo(np.float32).min) if largest else 0.0
    tensor, source = padded(graph, file.arranged(x, order), image(graph, node.inputs[0]), around, None, fill)
    kind = "MAX_POOL_2D" if largest else "AVERAGE_POOL_2D"
    label, (batch, depth, *_, channels) = node.outputs[0], source
    images = (batch * depth, *target[2:])
    flat = file.fresh(f"{label}/images", images, np.float32)
    rows = rows_along(graph, tensor, source, 0, depth, 1, (batch * depth, *source[2:]))
    file.operator(kind, [rows], [flat], **options, filterHeight=kernel[1], filterWidth=kernel[2])
    deep = (batch, depth, target[2] * target[3], channels)
    through = file.fresh(f"{label}/depths", deep, np.float32)
    file.operator("RESHAPE", [flat, file.constant(np.array(deep, np.int32))], [through])
    made = (batch, target[1], *deep[2:])
    along = {"strideH": strides[0], "strideW": 1, "padding": VALID, "filterHeight": kernel[0], "filterWidth": 1}
    if share is None:
        result = graph.produce(fused.name, order, made, None, fused.label)
        return file.operator(kind, [through], [result], **along, fusedActivationFunction=fused.activation)
    middle = file.fresh(f"{label}/windows", made, np.float32)
    file.operator(kind, [through], [middle], **along)
    result = graph.produce(fused.name, order, made, None, fused.label)
    ratio = file.constant(share.reshape(1, target[1], -1, 1))
    file.operator("MUL", [middle, ratio], [result], fusedActivationFunction=fused.activation)


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {"Conv": conv, "MaxPool": pool, "AveragePool": pool}
