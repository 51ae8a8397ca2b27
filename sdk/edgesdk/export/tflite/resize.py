"""Resizing of images and signals in TFLite, whatever the mode: by its own operators, or by a matrix per axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgesdk.export.reading import Node
from edgesdk.export.resizing import interpolation
from edgesdk.export.tflite.layers import image, last, refused
from edgesdk.export.tflite.lowering import Lowering
from edgesdk.export.tflite.writer import Data, Value, dense


def resize(graph: Lowering, node: Node) -> None:
    """As TFLite's own operator where that is the same to the last place, by matrices where it is not."""
    x, out = graph.value(node.inputs[0]), graph.shapes[node.outputs[0]]
    assert out is not None
    mode, place = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    rounding = node.get("nearest_mode", "round_prefer_floor")
    spatial = [out[d] / x.shape[d] for d in range(2, len(out))]
    given = graph.array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    exact = given is None or np.allclose(given[-len(spatial) :], spatial, rtol=1e-6)
    exact &= len(out) in (3, 4) and out[:2] == x.shape[:2] and not node.get("antialias", 0)
    if mode == "nearest":
        exact &= (place, rounding) in (("asymmetric", "floor"), ("half_pixel", "round_prefer_ceil"))
        exact |= (place, rounding) == ("half_pixel", "round_prefer_floor") and all(r % 1 == 0 for r in spatial)
        kind = "RESIZE_NEAREST_NEIGHBOR"
    else:
        exact &= mode == "linear" and place in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
        exact &= place != "pytorch_half_pixel" or min(out[2:]) > 1
        kind = "RESIZE_BILINEAR"
    if not exact:
        return _as_products(graph, node)
    source = graph.file.arranged(x, last(len(out)), False, image(graph, node.inputs[0]))
    size = graph.file.constant(np.array(image(graph, node.outputs[0])[1:3], np.int32))
    result = graph.produce(node.outputs[0], last(len(out)), image(graph, node.outputs[0]))
    half = place.endswith("half_pixel")
    options = {"alignCorners": place == "align_corners", "halfPixelCenters": half}
    graph.file.operator(kind, [source, size], [result], 3, **options)


def _as_products(graph: Lowering, node: Node) -> None:
    """A Resize of any kind as a product with a matrix per axis, or as a choice of rows where it only picks."""
    x, out = graph.value(node.inputs[0]), graph.shapes[node.outputs[0]]
    assert out is not None
    if node.get("coordinate_transformation_mode", "") == "tf_crop_and_resize" or len(out) != len(x.shape):
        raise refused(node, "it crops")
    scales = graph.array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    axes = [int(axis) % len(out) for axis in node.get("axes", range(len(out)))]
    for place, axis in enumerate(axes):
        scale = None if scales is None else float(scales[place])
        if x.shape[axis] != out[axis] or scale not in (None, 1.0):
            x = _along(graph, node, x, axis, out[axis], scale)
    graph.view(node.outputs[0], x, out)


def _along(graph: Lowering, node: Node, x: Value, axis: int, size: int, scale: float | None) -> Value:
    """``x`` resized along one axis."""
    file, before = graph.file, x.shape[axis]
    matrix = interpolation(node.attributes, before, size, scale)
    picks = bool(np.all((matrix == 0) | (matrix == 1)) and np.all(matrix.sum(1) == 1))
    order = file.order(x) or tuple(range(len(x.shape)))
    if not picks:
        order = (*(d for d in order if d != axis), axis)
    place = order.index(axis)
    shape = tuple(size if d == axis else x.shape[d] for d in order)
    source = file.arranged(x, order)
    result = file.fresh(f"{node.outputs[0]}/{axis}", shape, np.float32)
    if picks:
        index = file.constant(matrix.argmax(1).astype(np.int32))
        file.operator("GATHER", [source, index], [result], axis=place, batchDims=0)
    else:
        weight = file.constant(matrix, f"{node.outputs[0]}/{axis}/weights")
        file.operator("FULLY_CONNECTED", [source, weight, -1], [result], 6, keepNumDims=True)
    logical = tuple(size if d == axis else n for d, n in enumerate(x.shape))
    data = Data(node.outputs[0], math.prod(shape), np.dtype(np.float32), reals={shape: result})
    return Value(logical, dense(logical, order), data)


OPERATORS: dict[str, Callable[[Lowering, Node], None]] = {"Resize": resize}
