"""Resizing as a product with a matrix along each axis, for what a runtime resizes otherwise, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgesdk.export.spelling import Held, Put, Shapes, spell

OPSET = 21
FLAT = ("axes", "keep_aspect_ratio_policy")  # of a Resize, what says nothing of one axis alone


@dataclass(frozen=True)
class Resize:
    """A Resize of (n, c, length) or (n, c, h, w) along its last axes: from ``before`` to ``after``, by ``scales`` where
    these are given; ``how`` are its attributes."""

    how: Mapping[str, Any]
    before: tuple[int, ...]
    after: tuple[int, ...]
    scales: tuple[float, ...] | None

    @property
    def smooth(self) -> bool:
        return bool(self.how.get("antialias", 0))

    @property
    def cubic(self) -> bool:
        return self.how.get("mode", b"nearest") in ("cubic", b"cubic")

    @property
    def shrinks(self) -> bool:
        return any(a < b for a, b in zip(self.after, self.before, strict=True))

    @property
    def exact(self) -> bool:
        """Whether the scales are those that the sizes have."""
        ratios = [a / b for a, b in zip(self.after, self.before, strict=True)]
        return self.scales is None or np.allclose(self.scales, ratios, rtol=1e-6)

    def matrix(self, axis: int) -> np.ndarray:
        """By what the values along ``axis`` are multiplied, (after, before)."""
        scale = None if self.scales is None else self.scales[axis]
        return interpolation(self.how, self.before[axis], self.after[axis], scale)


def spell_out(model: ModelProto, which: Callable[[Resize], bool]) -> ModelProto:
    """``model`` with products with matrices for each Resize of which ``which`` holds; itself where there is none.

    Those of channels, of three dimensions, and that crop are left.
    """

    def find(node: NodeProto, held: Held, shapes: Shapes) -> Put | None:
        resize = _read(node, held, shapes) if node.op_type == "Resize" else None
        if resize is None or not which(resize):
            return None
        return partial(_products, node=node, resize=resize, shape=shapes[node.input[0]])

    return spell(model, find)


def _read(node: NodeProto, arrays: Held, shapes: Shapes) -> Resize | None:
    how = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    source, target = (list(shapes.get(name, ())) for name in (node.input[0], node.output[0]))
    rank = len(source)
    crops = how.get("coordinate_transformation_mode", b"half_pixel") == b"tf_crop_and_resize"
    if rank not in (3, 4) or len(target) != rank or source[:2] != target[:2] or crops or not all(source + target):
        return None
    scales = None
    if len(node.input) > 2 and node.input[2] in arrays and (given := numpy_helper.to_array(arrays[node.input[2]])).size:
        of = {int(axis) % rank: float(s) for axis, s in zip(how.get("axes", range(rank)), given, strict=True)}
        scales = tuple(of.get(axis, 1.0) for axis in range(2, rank))
    return Resize(how, tuple(source[2:]), tuple(target[2:]), scales)


def _products(model: ModelProto, node: NodeProto, resize: Resize, shape: Sequence[int]) -> None:
    graph, made, shape = model.graph, node.input[0], list(shape)
    rank = len(resize.before)
    wanted = [axis for axis in range(rank) if not np.array_equal(resize.matrix(axis), np.eye(resize.before[axis]))]
    for axis in wanted or [rank - 1]:
        matrix, out = resize.matrix(axis), f"{node.output[0]}.{axis}"
        shape[2 + axis] = resize.after[axis]
        if axis == (wanted or [rank - 1])[-1]:
            out = node.output[0]
        else:
            graph.value_info.append(helper.make_tensor_value_info(out, 1, shape))
        weight = f"{node.output[0]}.by.{axis}"
        matrix = matrix.T if axis == rank - 1 else matrix
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix), weight))
        given = [made, weight] if axis == rank - 1 else [weight, made]
        graph.node.append(helper.make_node("MatMul", given, [out], f"{node.name}.{axis}", doc_string=node.doc_string))
        made = out


def interpolation(how: Mapping[str, Any], before: int, size: int, scale: float | None) -> np.ndarray:
    """The matrix by which a Resize with the attributes ``how`` resizes an axis, as ONNX Runtime does it to the rows of
    the identity."""
    name, values = ("scales", [1.0, 1.0, scale, 1.0]) if scale else ("sizes", [1, 1, size, before])
    given = np.array(values, np.float32 if scale else np.int64)
    kept = {key: value for key, value in how.items() if key not in FLAT}
    node = helper.make_node("Resize", ["x", "", name] if scale else ["x", "", "", name], ["y"], **kept)
    eye = np.eye(before, dtype=np.float32)[None, None]
    ends = [helper.make_tensor_value_info(end, 1, None) for end in ("x", "y")]
    graph = helper.make_graph([node], "resize", ends[:1], ends[1:], [numpy_helper.from_array(given, name)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": eye})
    return np.ascontiguousarray(np.asarray(y)[0, 0], np.float32)
