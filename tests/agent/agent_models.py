"""Tiny models of every format, and a reason to skip where there is nothing to build or run them with."""

from __future__ import annotations

import base64
import importlib.util
import os
import unittest
import zlib
from typing import Any


def _needs(*modules: str):
    there = all(importlib.util.find_spec(name) for name in modules)
    return unittest.skipUnless(there, f"{' and '.join(modules)} are not all installed")


needs_runtime = _needs("onnx", "onnxruntime", "numpy")
needs_openvino = _needs("onnx", "openvino", "numpy")
needs_ncnn = _needs("ncnn", "numpy")
needs_litert = _needs("ai_edge_litert", "flatbuffers", "numpy")

# What dense() below makes, for where nothing is installed that makes it.
DENSE = zlib.decompress(
    base64.b64decode(
        "eNpVkr1OAkEUhQ8LkgUmuAkUFBYUFhbGbGJn45IYKwoKe7dwgySGEPAHjcWWlhaWFpQ+gS34JsTaZ3A9c/fuj8C3zNw5d+bO2bsH4OJ8eNxFD1"
        "14MJy7sJ8a5xBeyEEF+HCAKscVWQU+f5PEqGZIdsgimt9H/KcU+6r7SZKkqmOb+yhnGFKTs5zS2lNp/2/mZfGl6t6Jkfrqkl9XbSyx+AuYkZCM"
        "SEB80iceAdlugA1ZkZgEBHa8RrrHKR8BfyQmK7IhW4IB9yF94pOAjEhIZoMl67W1elJj6qat0WjM+vhK3vQuZxoHmrm2qffz9N6WzHNHtG3x2+"
        "pb1LfVf2upp+OafIucarouc5aYZDFHY1APVyQkhzp/ptbVWqzP8+jm7sQv8iSnpLHv/yqaLiL815i8r1IvjK71dCw5Rw/RZHx9i1I/uLJu8n7M"
        "etPesaW9NpmOL5csKjsv6yc/fw8edktnd3If0THiYbF3I403/gBE71G9"
    )
)


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
    return as_bytes(graph)


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
    return as_bytes(graph)


def two_outputs() -> bytes:
    """``sum`` and ``positive``, the one after the other, of ``b`` and ``a``; other nodes make them the other way."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Relu", ["b"], ["p"], name="relu"),
        helper.make_node("Identity", ["p"], ["positive"], name="identity"),
        helper.make_node("Add", ["a", "b"], ["sum"], name="add"),
    ]
    described = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("a", "b", "sum", "positive")}
    outputs = [described["sum"], described["positive"]]
    return as_bytes(helper.make_graph(nodes, "tiny", [described["b"], described["a"]], outputs))


def ir(folder: str, model: bytes) -> str:
    """``model`` as an OpenVINO IR, ``tiny.xml`` with ``tiny.bin`` beside it. Returns the path of the first."""
    import openvino

    path = os.path.join(folder, "tiny.xml")
    openvino.save_model(openvino.Core().read_model(model), path, compress_to_fp16=False)
    return path


def dense(dtype: str = "float32", batch: int | None = 1, signature: bool = True) -> bytes:
    """A TFLite file: a fully connected layer from 8 to 4 and a ReLU of it, first ``y``, which is that, then ``z``.

    Those are the signature's names, ``x`` that of the input; the tensors have others. The weights are -16 to 15.
    """
    import flatbuffers
    import numpy
    from ai_edge_litert import schema_py_generated as schema

    def made(kind, **fields):
        instance = getattr(schema, kind + "T")()
        for name, value in fields.items():
            setattr(instance, name, value)
        return instance

    def tensor(name, size, buffer=0):
        scale = made("QuantizationParameters", scale=[1.0], zeroPoint=[0]) if dtype == "int8" else None
        shape, fixed = ([4, 8], None) if buffer else ([1, size], [-1, size] if batch is None else None)
        fields = {"name": name, "shape": shape, "shapeSignature": fixed, "buffer": buffer, "quantization": scale}
        return made("Tensor", type=getattr(schema.TensorType, dtype.upper()), **fields)

    def opcode(name, version):
        code = getattr(schema.BuiltinOperator, name)
        return made("OperatorCode", builtinCode=code, deprecatedBuiltinCode=code, version=version)

    weights = numpy.arange(-16, 16).astype(dtype).reshape(4, 8)
    graph = made(
        "SubGraph",
        tensors=[tensor("serving_x:0", 8), tensor("dense.weight", 0, 1), tensor("dense", 4), tensor("relu:0", 4)],
        inputs=[0],
        outputs=[3, 2],
        operators=[
            made(
                "Operator",
                opcodeIndex=0,
                inputs=[0, 1, -1],
                outputs=[2],
                builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
                builtinOptions=schema.FullyConnectedOptionsT(),
            ),
            made("Operator", opcodeIndex=1, inputs=[2], outputs=[3]),
        ],
    )
    names = {"x": 0, "z": 2, "y": 3}
    maps = {name: made("TensorMap", name=name, tensorIndex=index) for name, index in names.items()}
    signed = made("SignatureDef", signatureKey="serve", inputs=[maps["x"]], outputs=[maps["z"], maps["y"]])
    model = made(
        "Model",
        version=3,
        operatorCodes=[opcode("FULLY_CONNECTED", 4 if dtype == "int8" else 1), opcode("RELU", 2)],
        subgraphs=[graph],
        buffers=[made("Buffer"), made("Buffer", data=numpy.frombuffer(weights.tobytes(), "uint8"))],
        signatureDefs=[signed] if signature else [],
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def as_bytes(graph: Any) -> bytes:
    """``graph`` as a model for ONNX Runtime 1.14 and later."""
    from onnx import helper

    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def write(path: str, content: bytes) -> str:
    """Write ``content`` to ``path``, and return it."""
    with open(path, "wb") as file:
        file.write(content)
    return path
