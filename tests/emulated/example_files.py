"""The built-in example as files whose structure never changes: dense, and every layer in INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import format_of
from edgesdk.example.data import example_data, example_model
from edgesdk.export.formats import export, grid_of
from edgesdk.export.onnx import converted
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions

RUNTIMES = ("onnxruntime", "litert", "ncnn")
SCHEMES, SHOWN = ("dense", "int8"), "shown"
SHOWING = ("onnxruntime", "litert")  # which can be made to give what lies inside
INPUTS = "inputs.npz"


def write_example(folder: Path) -> dict[tuple[str, str], Path]:
    """Write the files by (runtime, scheme) into ``folder``, and ``INPUTS``.

    In ``SHOWN``, of those that can, every integer tensor of ``int8`` is an output: as it is for ONNX Runtime, in floats
    for LiteRT.
    """
    data = example_data()
    network = trace(example_model(), data.example)
    x = data.example[:64]
    np.savez(folder / INPUTS, **{network.graph.inputs[0].name: x.numpy()})
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    assert len(options) == len(network.graph.layers)
    written = {}
    for runtime in RUNTIMES:
        suffix = format_of(runtime).suffix
        shows = (SHOWN,) if runtime in SHOWING else ()
        paths = {scheme: folder / f"{scheme}{suffix}" for scheme in (*SCHEMES, *shows)}
        whole = integer(network, options, grid_of(runtime))
        calibrate(whole, [x for x, _ in data.calibration])
        export(network, x[:1], paths["dense"], runtime)
        export(whole, x[:1], paths["int8"], runtime)
        if shows:
            shown = _shown(converted(whole, x[:1]), runtime)
            if runtime == "litert":
                from edgesdk.export.tflite.convert import convert

                paths[SHOWN].write_bytes(convert(shown))
            else:
                onnx.save(shown, paths[SHOWN])
        written.update({(runtime, scheme): path for scheme, path in paths.items()})
    return written


def _shown(model: ModelProto, runtime: str) -> ModelProto:
    shapes = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    outputs = {value.name for value in model.graph.output}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        quantized = node.op_type == "DequantizeLinear" and node.input[0] in makers and node.output[0] not in outputs
        if quantized and makers[node.input[0]].op_type == "QuantizeLinear":
            name = node.output[0] if runtime == "litert" else node.input[0]
            kind, shape = shapes[name].type.tensor_type.elem_type, shapes[name].type.tensor_type.shape
            value = helper.make_tensor_value_info(name, kind, [each.dim_value for each in shape.dim])
            model.graph.output.append(value)
    return model


def operators(model: ModelProto) -> dict[str, str]:
    """Which operator made each integer tensor of an ONNX file, by the tensor's name and that of its floats."""
    makers = {name: node for node in model.graph.node for name in node.output}
    operator_of = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            maker = makers.get(node.input[0])
            while maker is not None and maker.op_type in ("Relu", "Clip", "Reshape", "Flatten", "Squeeze"):
                maker = makers.get(maker.input[0])
            operator_of[node.output[0]] = maker.op_type if maker is not None else "QuantizeLinear"
    readers = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {**operator_of, **{readers[name]: operator for name, operator in operator_of.items() if name in readers}}
