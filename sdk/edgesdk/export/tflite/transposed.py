"""Transposed convolutions: TFLite's own, or, of those that it lacks, plain ones over zeros."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgesdk.export.reading import Node
from edgesdk.export.tflite.layers import (
    SAME,
    VALID,
    bias,
    check_steps,
    image,
    last,
    made_image,
    padded,
    refused,
    weighted,
)
from edgesdk.export.tflite.lowering import Lowering


def conv_transpose(graph: Lowering, node: Node) -> None:
    x, name = graph.value(node.inputs[0]), node.inputs[1]
    stored = graph.weights.get(name)
    array = stored.integers if stored is not None else graph.array(name)
    if array is None:
        raise refused(node, "its weight is not constant")
    if node.get("auto_pad", "NOTSET") != "NOTSET" or array.ndim > 4:
        raise refused(node, "its padding is not given, or it has three dimensions")
    if node.get("group", 1) != 1 or max(node.get("dilations", [1])) > 1:
        return _between_zeros(graph, node)
    integer = stored is not None and x.grid is not None and stored.lies_along(1) and _is_quantized_behind(graph, node)
    fused = graph.fuse(node, integer, relu=integer)
    grid = x.grid if fused.grid is not None else None
    array = array[:, :, None] if array.ndim == 3 else array
    strides = list(node.get("strides", [1, 1]))
    strides = [1] * (2 - len(strides)) + strides
    source, target = image(graph, node.inputs[0]), image(graph, node.outputs[0])
    pads = list(node.get("pads", [0] * 4))
    before = [0] * (2 - len(pads) // 2) + pads[: len(pads) // 2]
    file = graph.file
    tensor = file.arranged(x, last(len(x.shape)), grid is not None, source)
    full = [(source[1 + i] - 1) * strides[i] + array.shape[2 + i] for i in range(2)]
    beyond = [max(0, before[i] + target[1 + i] - full[i]) for i in range(2)]  # its last window, where the bias is all
    more = [-(-beyond[i] // strides[i]) for i in range(2)]
    tensor, source = padded(graph, tensor, source, [[0, n] for n in more], grid)
    full = [full[i] + more[i] * strides[i] for i in range(2)]
    weight, data = weighted(graph, node, name, array.transpose(1, 2, 3, 0), 0, grid is not None, "TRANSPOSE_CONV")
    third = bias(graph, node.inputs[2] if len(node.inputs) > 2 else "", target[3], grid, data)
    if grid is not None and data is not None:
        check_steps(node, grid.scale[0] * data.scale.reshape(-1), fused.grid)
    # As TFLite has it, as many pixels go at both ends, or one more at the last.
    same = all(
        target[1 + i] == source[1 + i] * strides[i] and before[i] == max(0, full[i] - target[1 + i]) // 2
        for i in range(2)
    )
    whole = target if same else (source[0], *full, target[3])
    uncut = whole == target
    result = (
        made_image(graph, node, fused.name, fused.label, fused.grid)
        if uncut
        else file.fresh(f"{fused.label}/whole", whole, np.float32, fused.grid)
    )
    inputs = [file.constant(np.array(whole, np.int32)), weight, tensor, third]
    padding = SAME if same else VALID
    file.operator("TRANSPOSE_CONV", inputs, [result], 3, padding=padding, strideH=strides[0], strideW=strides[1])
    if not uncut:
        begin, size = np.array([0, *before, 0], np.int32), np.array(target, np.int32)
        cut = made_image(graph, node, fused.name, fused.label, fused.grid)
        version = 2 if grid is not None else 1
        file.operator("SLICE", [result, file.constant(begin), file.constant(size)], [cut], version)


def _is_quantized_behind(graph: Lowering, node: Node) -> bool:
    """Whether what ``node`` makes is read in integers alone, whose grid ends where an activation between ends: the
    operator has none of its own in most versions."""
    user = graph.only_reader(node.outputs[0])
    bounds = graph.bounds(user) if user is not None else None
    reader = graph.only_reader(user.outputs[0]) if user is not None and bounds is not None else user
    if reader is None or reader.op != "QuantizeLinear":
        return False
    if bounds is None:
        return True
    grid = graph.grid(reader)
    (scale,), (zero,) = grid.scale, grid.zero
    low, high = (bound / scale + zero for bound in bounds)
    return round(low) <= -128 and (np.isinf(high) or round(high) >= 127)


def _between_zeros(graph: Lowering, node: Node) -> None:
    """One in groups or with dilation as a convolution, by the kernel turned round, over its input with zeros between
    the pixels (Dumoulin and Visin 2016, section 4.5), in real numbers: TRANSPOSE_CONV has neither."""
    x, name, file = graph.value(node.inputs[0]), node.inputs[1], graph.file
    stored, groups = graph.weights.get(name), node.get("group", 1)
    kept = stored is not None and groups == 1  # of a group a scale is not a channel's
    array = stored.integers if stored is not None and kept else graph.array(name)
    assert array is not None
    array = array[:, :, None] if array.ndim == 3 else array
    inputs, each, *kernel = array.shape
    rows = array.reshape(groups, inputs // groups, each, *kernel).transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
    rows = rows.reshape(groups * each, inputs // groups, *kernel)
    source, target = image(graph, node.inputs[0]), image(graph, node.outputs[0])
    strides, dilations = ([1] * (4 - len(x.shape)) + list(node.get(n, [1] * (len(x.shape) - 2)))
                          for n in ("strides", "dilations"))  # fmt: skip
    pads = list(node.get("pads", [0] * 4))
    begins = [0] * (2 - len(pads) // 2) + pads[: len(pads) // 2]
    tensor = file.arranged(x, last(len(x.shape)), False, source)
    batch, height, width, channels = source
    if max(strides) > 1:
        spread = (batch * height, strides[0], width, strides[1], channels)
        tensor = _reshaped(graph, node.inputs[0], tensor, (batch * height, 1, width, 1, channels))
        borders = [[0, 0], [0, strides[0] - 1], [0, 0], [0, strides[1] - 1], [0, 0]]
        between = file.fresh(f"{node.inputs[0]}/spread", spread, np.float32)
        file.operator("PAD", [tensor, file.constant(np.array(borders, np.int32))], [between])
        tensor = between
        source = (batch, height * strides[0], width * strides[1], channels)
        tensor = _reshaped(graph, node.inputs[0], tensor, source)
    reach = [(n - 1) * d for n, d in zip(kernel, dilations, strict=True)]
    before = [reach[i] - begins[i] for i in range(2)]
    after = [target[1 + i] + reach[i] - before[i] - source[1 + i] for i in range(2)]
    if min(before) < 0:
        raise refused(node, "its padding is wider than its window")
    if min(after) < 0:  # zeros that no window comes to
        source = (batch, *(source[1 + i] + min(after[i], 0) for i in range(2)), channels)
        shorter = file.fresh(f"{node.inputs[0]}/shorter", source, np.float32)
        ends = [file.constant(np.array(n, np.int32)) for n in ([0, 0, 0, 0], source)]
        file.operator("SLICE", [tensor, *ends], [shorter])
        tensor = shorter
    tensor, _ = padded(graph, tensor, source, [[before[i], max(after[i], 0)] for i in range(2)], None)
    options: dict[str, Any] = {"strideH": 1, "strideW": 1, "padding": VALID}
    options |= {"dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}
    kind, layout = "CONV_2D", (0, 2, 3, 1)
    if groups == inputs and groups > 1:
        kind, layout, options["depthMultiplier"] = "DEPTHWISE_CONV_2D", (1, 2, 3, 0), each
    rows = np.ascontiguousarray(rows.transpose(layout))
    if stored is None or kept:
        weight, _ = weighted(graph, node, name, rows, 0, False, kind)
    else:
        weight = file.constant(rows.astype(np.float32), name)
    third = bias(graph, node.inputs[2] if len(node.inputs) > 2 else "", groups * each, None, None)
    result = made_image(graph, node, node.outputs[0], "", None)
    version = 2 if max(dilations) > 1 and kind != "CONV_2D" else 1
    file.operator(kind, [tensor, weight, third], [result], version, **options)


def _reshaped(graph: Lowering, name: str, tensor: int, shape: tuple[int, ...]) -> int:
    result = graph.file.fresh(f"{name}/reshaped", shape, np.float32)
    graph.file.operator("RESHAPE", [tensor, graph.file.constant(np.array(shape, np.int32))], [result])
    return result


OPERATORS = {"ConvTranspose": conv_transpose}
