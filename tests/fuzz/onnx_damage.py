"""ONNX networks of a few operators, and what can be wrong with how they are put together."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper

CHANGES = ("read", "make", "operator", "attribute", "dims", "type", "axis", "more", "order")
ATTRIBUTES = ("pads", "strides", "group", "axis", "transB", "kernel_shape", "dilations")
SIZES = (-1, 0, 1, 2, 3, 2**31, 2**40, 2**63 - 1, -(2**63))
OPERATORS = (
    "Conv", "Identity", "Expand", "Tile", "Constant", "ConstantOfShape", "Gemm", "MatMul", "LSTM", "Split",
    "QLinearConv", "Concat", "Pad", "Resize", "BatchNormalization", "Loop", "Sum", "Shape", "Clip", "Erf", "Cast",
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "Mul",
)  # fmt: skip


def network() -> onnx.ModelProto:
    """A convolution, quantized weights, and shapes that are computed, at a free batch."""
    return _made(
        [
            helper.make_node("Conv", ["x", "weight"], ["a"], "conv", pads=[0, 0, 0, 0], strides=[1, 1]),
            helper.make_node("Relu", ["a"], ["b"], "relu"),
            helper.make_node("Reshape", ["b", "shape"], ["c"], "reshape"),
            helper.make_node("DequantizeLinear", ["integers", "scale"], ["d"], "widen"),
            helper.make_node("Gemm", ["c", "d"], ["e"], "gemm", transB=1),
            helper.make_node("Sigmoid", ["e"], ["f"], "gate"),
            helper.make_node("Mul", ["e", "f"], ["y"], "silu"),
        ],
        weight=np.ones((4, 3, 3, 3), np.float32),
        integers=np.ones((3, 64), np.int8),
        scale=np.array(0.1, np.float32),
        shape=np.array([0, -1], np.int64),
    )


def quantized() -> onnx.ModelProto:
    """The same quantized already: an operator on integers, a pair, and sums of what is quantized as it runs."""
    return _made(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
            helper.make_node(
                "QLinearConv", ["q", "scale", "zero", "weight", "scales", "zeros", "scale", "zero", "bias"], ["a"],
                "conv",
            ),
            helper.make_node("DequantizeLinear", ["a", "scale", "zero"], ["b"], "widen"),
            helper.make_node("Reshape", ["b", "shape"], ["c"], "reshape"),
            helper.make_node("DynamicQuantizeLinear", ["c"], ["d", "ds", "dz"], "look"),
            helper.make_node("MatMulInteger", ["d", "integers", "dz"], ["e"], "sum"),
            helper.make_node("Cast", ["e"], ["f"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", ["ds", "scale"], ["step"], "step"),
            helper.make_node("Mul", ["f", "step"], ["y"], "real"),
        ],
        weight=np.ones((4, 3, 3, 3), np.int8),
        bias=np.ones(4, np.int32),
        integers=np.ones((64, 3), np.int8),
        scale=np.array(0.1, np.float32),
        zero=np.array(0, np.uint8),
        scales=np.full(4, 0.1, np.float32),
        zeros=np.zeros(4, np.int8),
        shape=np.array([0, -1], np.int64),
    )  # fmt: skip


def _made(nodes: list[NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@st.composite
def rewired(draw: Any, model: onnx.ModelProto) -> bytes:
    """``model`` with names, operators, attributes, types and sizes of it changed, as a file's content."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    tensors = [name for node in made.graph.node for name in (*node.input, *node.output)]
    names = st.sampled_from([*dict.fromkeys(tensors), "", "none"])
    for _ in range(draw(st.integers(1, 3))):
        node = draw(st.sampled_from(list(made.graph.node)))
        tensor = draw(st.sampled_from(list(made.graph.initializer)))
        axes = made.graph.input[0].type.tensor_type.shape.dim
        what, size = draw(st.sampled_from(CHANGES)), draw(st.sampled_from(SIZES))
        if what == "read":
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(names)
        elif what == "make":
            node.output[0] = draw(names)
        elif what == "operator":
            node.op_type = draw(st.sampled_from(OPERATORS))
        elif what == "attribute":
            value = draw(st.sampled_from([size, [size] * 2, 0.5, "a"]))
            node.attribute.append(helper.make_attribute(draw(st.sampled_from(ATTRIBUTES)), value))
        elif what == "dims":
            tensor.dims.append(size)
        elif what == "type":
            tensor.data_type = draw(st.integers(0, 30))
        elif what == "axis":
            draw(st.sampled_from(list(axes))).dim_value = size
        elif what == "more":
            node.input.append(draw(names))
        else:
            nodes = list(made.graph.node)[::-1]
            del made.graph.node[:]
            made.graph.node.extend(nodes)
    return made.SerializeToString()
