"""Convolutions, linear layers and pools as ncnn's layers.

A signal is an image of height 1. Layers of integers quantize what they read themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgesdk.core.errors import ModelError
from edgesdk.export.ncnn.file import Parameter
from edgesdk.export.ncnn.lowering import INTEGER, Lowering, kept, multiplier, natural, refused
from edgesdk.export.reading import Node, Weight
from edgesdk.export.windows import borders, two


def image(graph: Lowering, node: Node, name: str) -> tuple[int, int, int]:
    """The dimensions of ``name`` as an image: channels, height, width."""
    shape = graph.shape(name)
    if len(shape) not in (3, 4):
        raise refused(node, f"it has {len(shape) - 2} dimensions")
    if shape[0] != 1:
        raise refused(node, f"it reads {shape[0]} images at a time")
    return (shape[1], shape[2] if len(shape) == 4 else 1, shape[-1])


def weight_of(graph: Lowering, node: Node, name: str, axis: int) -> tuple[np.ndarray, Weight | None]:
    """The numbers of a weight, and the integers that it is stored as, with scales along ``axis``."""
    real = graph.array(name)
    if real is None:
        raise refused(node, "its weight is not constant")
    stored = graph.weights.get(name)
    if stored is not None and stored.bits != 8:
        raise ModelError(f"ncnn has no weights of {stored.bits} bits ({stored.name})", "give that layer 8 bits")
    return real, stored if stored is not None and stored.lies_along(axis) else None


def stored_real(graph: Lowering, name: str, array: np.ndarray) -> np.ndarray:
    """``array`` as a file has it: in half precision where ``name`` was stored so, which ncnn widens as it loads."""
    return array.astype(np.float16 if name in graph.halves else np.float32)


def bias_of(graph: Lowering, node: Node, name: str, outputs: int) -> np.ndarray:
    array = graph.array(name) if name else np.zeros(outputs, np.float32)
    if array is None or array.size not in (1, outputs):
        raise refused(node, "its bias is not constant, or is more than one")
    return np.broadcast_to(array.ravel().astype(np.float32), outputs)


def integer_arrays(weight: Weight, step: float, integers: np.ndarray, bias: np.ndarray, count: int) -> list[np.ndarray]:
    """What a layer of integers loads: weights, bias, and by what the two sides are multiplied to become integers."""
    scale = np.broadcast_to(weight.scale.reshape(-1), count)
    steps = (np.float32(1) / scale.astype(np.float32)).astype(np.float32)
    return [integers.astype(np.int8), bias, steps, multiplier(np.float32(step))]


def conv(graph: Lowering, node: Node) -> None:
    real, stored = weight_of(graph, node, node.inputs[1], 0)
    source, target = image(graph, node, node.inputs[0]), image(graph, node, node.outputs[0])
    outputs, groups = real.shape[0], int(node.get("group", 1))
    kernel = two(real.shape[2:])
    top, left, bottom, right = borders(node, kernel, source[1:], target[1:])
    strides, dilations = two(node.get("strides", [])), two(node.get("dilations", []))
    bias = bias_of(graph, node, node.inputs[2] if len(node.inputs) > 2 else "", outputs)
    fused = graph.fuse(node)
    parameters: dict[int, Parameter] = {
        0: outputs, 1: kernel[1], 11: kernel[0], 2: dilations[1], 12: dilations[0], 3: strides[1], 13: strides[0],
        4: left, 14: top, 15: right, 16: bottom, 5: 1, 6: int(real.size), **({7: groups} if groups > 1 else {}),
    }  # fmt: skip
    parameters = {key: value for key, value in parameters.items() if not _usual(key, value, parameters)}
    kind = "ConvolutionDepthWise" if groups > 1 else "Convolution"
    value = graph.value(node.inputs[0])
    if stored is not None and groups not in (1, outputs):
        raise refused(node, "a convolution by groups has a scale per group there, not per channel")
    if value.step is not None and stored is not None:
        x = graph.arranged(value, source)
        arrays = integer_arrays(stored, value.step, stored.integers, bias, outputs)
        parameters[INTEGER] = 1
    else:
        x = graph.real(node.inputs[0], source)
        arrays = [stored_real(graph, node.inputs[1], real), bias]
    graph.made(node, kind, [x], target, {**parameters, **fused.parameters}, arrays, fused.name, tagged=1)


SAME_AS = {11: 1, 12: 2, 13: 3, 14: 4, 15: 4, 16: 14}  # parameters that are as others where they are left out
USUAL = {2: 1, 3: 1, 4: 0}


def _usual(key: int, value: Parameter, parameters: dict[int, Parameter]) -> bool:
    """Whether a parameter of a window can be left out."""
    if key in SAME_AS:
        return value == parameters[SAME_AS[key]]
    return key in USUAL and value == USUAL[key]


def conv_transpose(graph: Lowering, node: Node) -> None:
    real, _ = weight_of(graph, node, node.inputs[1], 1)
    source, target = image(graph, node, node.inputs[0]), image(graph, node, node.outputs[0])
    groups = int(node.get("group", 1))
    inputs, each = real.shape[:2]
    outputs, kernel = each * groups, two(real.shape[2:])
    strides, dilations = two(node.get("strides", [])), two(node.get("dilations", []))
    if node.get("auto_pad", "NOTSET") != "NOTSET":
        raise refused(node, "its padding is not given")
    top, left, *_ = borders(node, kernel, source[1:], target[1:])
    full = [(source[1 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(2)]
    after = [full[i] - (top, left)[i] - target[1 + i] for i in range(2)]  # below zero it has rows of its own
    weight = real.reshape(groups, inputs // groups, each, *kernel).transpose(0, 2, 1, 3, 4)
    fused = graph.fuse(node)
    parameters: dict[int, Parameter] = {
        0: outputs, 1: kernel[1], 11: kernel[0], 2: dilations[1], 12: dilations[0], 3: strides[1], 13: strides[0],
        4: left, 15: max(after[1], 0), 14: top, 16: max(after[0], 0), 18: max(-after[1], 0), 19: max(-after[0], 0),
        5: 1, 6: int(real.size), **({7: groups} if groups > 1 else {}),
    }  # fmt: skip
    bias = bias_of(graph, node, node.inputs[2] if len(node.inputs) > 2 else "", outputs)
    kind = "DeconvolutionDepthWise" if groups > 1 else "Deconvolution"
    x = graph.real(node.inputs[0], source)
    arrays = [stored_real(graph, node.inputs[1], weight), bias]
    graph.made(node, kind, [x], target, {**parameters, **fused.parameters}, arrays, fused.name, tagged=1)


def gemm(graph: Lowering, node: Node) -> None:
    alpha, beta = np.float32(node.get("alpha", 1.0)), np.float32(node.get("beta", 1.0))
    name, third = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else ""
    if node.get("transA", 0) or graph.array(name) is None:
        raise refused(node, "its input is transposed, or its weight is not constant")
    if alpha != 1 or (third and beta != 1):
        real, added = graph.array(name), graph.array(third) if third else None
        assert real is not None
        graph.arrays[f"{name}/scaled"], name = real * alpha, f"{name}/scaled"
        if added is not None:
            graph.arrays[f"{third}/scaled"], third = added * beta, f"{third}/scaled"
    linear(graph, node, node.inputs[0], name, bool(node.get("transB", 0)), third, node.outputs[0])


def linear(graph: Lowering, node: Node, x: str, name: str, transposed: bool, third: str, made: str) -> None:
    """A matrix of weights, stored (outputs, inputs) if ``transposed``, over the last dimension of ``x``."""
    real, stored = weight_of(graph, node, name, 0 if transposed else 1)
    if real.ndim != 2:
        raise refused(node, "its weight is no matrix")
    matrix = real if transposed else real.T
    outputs, inputs = matrix.shape
    shape = graph.shape(x)
    if shape[-1] != inputs:
        raise refused(node, "its weight does not fit what it reads")
    rows = int(np.prod(shape[:-1]))
    bias = bias_of(graph, node, third, outputs)
    fused = graph.fuse(type(node)(node.op, node.name, node.inputs, [made], node.attributes))
    source = (inputs,) if rows == 1 else (rows, inputs)
    target = (outputs,) if rows == 1 else (rows, outputs)
    parameters: dict[int, Parameter] = {0: outputs, 1: 1, 2: int(real.size)}
    value = graph.value(x)
    if value.step is not None and stored is not None:
        blob = graph.arranged(value, source)
        integers = stored.integers if transposed else stored.integers.T
        arrays = integer_arrays(stored, value.step, integers, bias, outputs)
        parameters[INTEGER] = 1
    else:
        blob = graph.real(x, source)
        arrays = [stored_real(graph, name, matrix), bias]
    graph.made(node, "InnerProduct", [blob], target, {**parameters, **fused.parameters}, arrays, fused.name, tagged=1)


def matmul(graph: Lowering, node: Node) -> None:
    right = graph.array(node.inputs[1])
    if right is not None and right.ndim == 2:
        if found := graph.added_after(node, right.shape[1]):
            adder, other = found
            graph.done.add(id(adder))
            return linear(graph, node, node.inputs[0], node.inputs[1], False, other, adder.outputs[0])
        return linear(graph, node, node.inputs[0], node.inputs[1], False, "", node.outputs[0])
    shapes = [graph.shape(name) for name in node.inputs]
    out = graph.shape(node.outputs[0])
    if min(map(len, shapes)) < 2:
        raise refused(node, "it multiplies a vector")
    mat, parts = together(node, out, [(1,) * (len(out) - len(shape)) + shape for shape in shapes], last=2)
    blobs = [graph.real(name, part) for name, part in zip(node.inputs, parts, strict=True)]
    graph.made(node, "MatMul", blobs, mat)


def together(
    node: Node, out: tuple[int, ...], shapes: list[tuple[int, ...]], last: int = 0
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The dimensions of a blob for ``out``, and for each of ``shapes``, as long ones that broadcast to it.

    So many of the ``last`` dimensions are kept whatever their size.
    """
    fixed = out[len(out) - last :] if last else ()
    try:
        dims = kept((*out[: len(out) - last], *(max(n, 2) for n in fixed)))
    except ValueError as error:
        raise refused(node, str(error)) from None
    return tuple(out[d] for d in dims) or (1,), [tuple(shape[d] for d in dims) or (1,) for shape in shapes]


def natural_or_refused(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions of a blob for ``shape``. Raises ``ModelError`` where there are none."""
    try:
        return natural(shape)
    except ValueError as error:
        raise refused(node, str(error)) from None


def pool(graph: Lowering, node: Node) -> None:
    if len(node.outputs) > 1 and node.outputs[1] and (node.outputs[1] in graph.readers):
        raise refused(node, "its indices are read")
    if max(node.get("dilations", [1])) > 1:
        raise refused(node, "its windows are dilated")
    source, target = image(graph, node, node.inputs[0]), image(graph, node, node.outputs[0])
    kernel, strides = two(node.get("kernel_shape", [])), two(node.get("strides", []))
    around = borders(node, kernel, source[1:], target[1:])
    average, counted = node.op == "AveragePool", bool(node.get("count_include_pad", 0))
    for i in range(2):  # borders that the last window does not reach, and those that it needs, are not told alike
        needed = (target[1 + i] - 1) * strides[i] + kernel[i] - source[1 + i] - around[i]
        if average and counted and needed > around[2 + i]:
            raise refused(node, "its last windows reach beyond what is counted")
        around[2 + i] = max(needed, 0)
    top, left, bottom, right = around
    parameters: dict[int, Parameter] = {
        0: int(average), 1: kernel[1], 11: kernel[0], 2: strides[1], 12: strides[0], 3: left, 13: top, 14: right,
        15: bottom, 5: 1, 6: int(counted),
    }  # fmt: skip
    graph.made(node, "Pooling", [graph.real(node.inputs[0], source)], target, parameters)


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul, "MaxPool": pool, "AveragePool": pool,
}  # fmt: skip
