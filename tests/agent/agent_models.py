"""Tiny ONNX models, and a reason to skip where there is nothing to build or run them with."""

from __future__ import annotations

import importlib.util
import unittest

HAS_RUNTIME = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "numpy"))
needs_runtime = unittest.skipUnless(HAS_RUNTIME, "onnx and onnxruntime are not installed")


def conv(channels: int = 8, size: int = 8, batch: object = 1) -> bytes:
    """A 3x3 convolution with a ReLU, from ``x`` to ``y``."""
    import numpy
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy.random.RandomState(0).standard_normal((channels, channels, 3, 3)).astype("float32")
    shape = [batch, channels, size, size]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["z"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["z"], ["y"], name="relu"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    return _bytes(graph)


def gather() -> bytes:
    """A model with an integer input ``i`` beside the half-precision ``x``; ``y`` is ``x`` at the rows ``i``."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "i"], ["y"], name="gather")],
        "tiny",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT16, [4, 3]),
            helper.make_tensor_value_info("i", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [2, 3])],
    )
    return _bytes(graph)


def _bytes(graph: object) -> bytes:
    from onnx import helper

    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def write(path: str, content: bytes) -> str:
    """Write ``content`` to ``path``, and return it."""
    with open(path, "wb") as file:
        file.write(content)
    return path
