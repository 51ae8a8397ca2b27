"""What NVIDIA TensorRT takes of a quantized ONNX file: its rules in code, a file that keeps them, and that one in fp16.

TensorRT itself is not needed here, and not run. The rules are published, and named where they are used:

- [operators] onnx-tensorrt, docs/operators.md: the table as of TensorRT 10.15, opsets as of 8.6 and 10.15.
- [parser] onnx-tensorrt, onnxOpImporters.cpp, ``QuantDequantLinearHelper``: what the parser of TensorRT 10 checks.
- [quantized] TensorRT 10 documentation, "Working with Quantized Types", and the operators "Quantize" and "Dequantize".
- [migration] TensorRT 11 documentation, "Migrating from TensorRT 10.x to 11.x": networks are strongly typed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from edgesdk.compress.integers import TensorSpec
from edgesdk.core.errors import ModelError
from edgesdk.core.runtime import TENSORRT
from edgesdk.core.serialize import write
from edgesdk.export.origins import drop_origins

SHOWN = 3  # broken rules in an error
OLDEST_OPSET = 17  # the newest that TensorRT 8.6 takes [operators]
NEWEST_OPSET = 24  # the newest that TensorRT 10.15 takes; 11 takes 25 [operators]
HALF_OPSET = 19  # the first whose QuantizeLinear takes fp16
LARGEST_HALF = 65504.0
HALF_ERROR = 2.0**-11  # relative, of rounding to a normal fp16 number
LINEAR = ("QuantizeLinear", "DequantizeLinear")
FOUR_BITS = {TensorProto.INT4, TensorProto.UINT4}

ROWS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BlackmanWindow
    Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv
    DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If ImageScaler
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM
    LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression
    NonZero Not OneHot Or Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RMSNormalization RNN RoiAlign
    RotaryEmbedding Round STFT ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
    Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh TensorScatter
    ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
OPERATORS = frozenset(ROWS.split())  # [operators]: those with a Y
# [operators]: UINT8 at the borders alone; DOUBLE is cast to FLOAT and clamped, so it is not among them
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
TYPES = FLOATS | {TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
BORDER_TYPES = TYPES | {TensorProto.UINT8}


def write_model(model: ModelProto, path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """Write ``model`` within TensorRT's rules to ``path``, and in fp16 beside it.

    Raises ``ModelError`` for what breaks them all the same, and for weights that fp16 cannot hold.
    """
    model = adapted(model)
    if broken := refused(model):
        more = f" and {len(broken) - SHOWN} more" * (len(broken) > SHOWN)
        raise ModelError(f"TensorRT takes no such file: {'; '.join(broken[:SHOWN])}{more}", "choose another --runtime")
    (ending,) = TENSORRT.instead
    write(path.with_name(path.stem + ending), half(model).SerializeToString())
    write(path, model.SerializeToString())


def adapted(model: ModelProto) -> ModelProto:
    """A copy of ``model`` as TensorRT takes it, which computes the same: float biases, an old opset, no Gelu.

    What cannot be adapted is left as it is, for :func:`refused` to name.
    """
    converted = ModelProto()
    converted.CopyFrom(model)
    drop_origins(converted)
    _float_biases(converted)
    for node in [node for node in converted.graph.node if node.op_type == "Gelu"]:
        _spell_out(converted, node)
    _drop_unused(converted)
    return _in_oldest_opset(converted)


def _float_biases(model: ModelProto) -> None:
    """Biases as float initializers, ``int32 * scale``: DequantizeLinear takes no int32 [operators]."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type != "DequantizeLinear" or node.input[0] not in arrays:
            continue
        if arrays[node.input[0]].data_type == TensorProto.INT32:
            integers, scale = (numpy_helper.to_array(arrays[name]) for name in node.input[:2])
            values = integers.astype(np.float32) * scale  # of one dimension, as their scales are
            model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            model.graph.node.remove(node)


def _spell_out(model: ModelProto, gelu: NodeProto) -> None:
    """A Gelu as the arithmetic that it is: the operator is of opset 20, and TensorRT fuses its parts."""
    x, y = gelu.input[0], gelu.output[0]
    nodes: list[NodeProto] = []

    def made(kind: str, *inputs: str | float, name: str | None = None) -> str:
        output = name or f"{y}.{len(nodes)}"
        names = [value if isinstance(value, str) else f"{output}.constant" for value in inputs]
        for value in inputs:
            if isinstance(value, float):
                model.graph.initializer.append(
                    numpy_helper.from_array(np.array(value, np.float32), f"{output}.constant")
                )
        nodes.append(helper.make_node(kind, names, [output], output))
        return output

    if _attribute(gelu, "approximate", b"none") == b"tanh":
        cube = made("Mul", x, made("Mul", x, x))
        inner = made("Mul", made("Add", x, made("Mul", cube, 0.044715)), math.sqrt(2 / math.pi))
        share = made("Add", made("Tanh", inner), 1.0)
    else:
        share = made("Add", made("Erf", made("Mul", x, math.sqrt(0.5))), 1.0)
    made("Mul", made("Mul", x, share), 0.5, name=y)
    index = list(model.graph.node).index(gelu)
    model.graph.node.remove(gelu)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(index + offset, node)


def _in_oldest_opset(model: ModelProto) -> ModelProto:
    """``model`` in the oldest opset from ``OLDEST_OPSET`` on in which all of its operators can be said."""
    for node in model.graph.node:  # older operators have no name for these defaults
        for attribute in list(node.attribute):
            if (attribute.name, attribute.i) in (("saturate", 1), ("noop_with_empty_axes", 0)):
                node.attribute.remove(attribute)
    for opset in range(OLDEST_OPSET, _opset(model)):
        try:
            converted = version_converter.convert_version(model, opset)
            converted.ir_version = helper.find_min_ir_version_for(converted.opset_import)
            onnx.checker.check_model(converted, full_check=True)
        except (RuntimeError, ValueError, onnx.checker.ValidationError, version_converter.ConvertError):
            continue
        _drop_unused(converted)
        return converted
    return model


def _drop_unused(model: ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)


def refused(model: ModelProto) -> list[str]:
    """The published rules that ``model`` breaks, a line each with node and rule; none for a file that TensorRT takes.

    Dynamic shapes break none; trtexec then needs ``--minShapes``, ``--optShapes`` and ``--maxShapes``.
    """
    arrays = _constants(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    reasons = []
    if (opset := _opset(model)) > NEWEST_OPSET:
        reasons.append(f"the file: opset {opset} is above {NEWEST_OPSET}, the newest that TensorRT 10 takes")
    for value in (*model.graph.input, *model.graph.output):
        if (kind := value.type.tensor_type.elem_type) not in BORDER_TYPES:
            reasons.append(f"{value.name}: no tensor of the network is {_name_of(kind)}")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            rules: Iterator[str] = iter([f"there is no operator {node.op_type}"])
        elif node.op_type in LINEAR:
            rules = _of_grid(node, model, arrays, makers)
        else:
            rules = _of_operator(node, arrays)
        reasons += [f"{node.name or node.output[0]}: {rule}" for rule in rules]
    return reasons


def _of_operator(node: NodeProto, arrays: Mapping[str, TensorProto]) -> Iterator[str]:
    kinds = {arrays[name].data_type for name in node.input if name in arrays}
    if node.op_type == "Cast":
        kinds.add(_attribute(node, "to", TensorProto.FLOAT))
    taken = BORDER_TYPES if node.op_type == "Cast" else TYPES
    if kinds & FOUR_BITS:
        yield "4-bit weights are taken in blocks, by a DequantizeLinear before a MatMul or Gemm, alone [quantized]"
    for kind in sorted(kinds - taken - FOUR_BITS):
        yield f"no operator takes {_name_of(kind)} [operators]"
    outputs = sum(bool(name) for name in node.output)
    if node.op_type in ("LayerNormalization", "MaxPool", "Dropout") and outputs > 1:
        yield "only its first output is supported [operators]"
    if node.op_type in ("AveragePool", "MaxPool", "LpPool") and set(_attribute(node, "dilations", [1])) != {1}:
        yield "pooling has no dilations [operators]"
    if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1] and node.input[1] not in arrays:
        yield "its axes are not constant [operators]"
    if node.op_type == "LSTM" and (_attribute(node, "layout", 0) or _attribute(node, "input_forget", 0)):
        yield "layout and input_forget must be 0 [operators]"


def _of_grid(
    node: NodeProto, model: ModelProto, arrays: Mapping[str, TensorProto], makers: Mapping[str, NodeProto]
) -> Iterator[str]:
    """What is against the rules in a QuantizeLinear or DequantizeLinear."""
    source = node.input[0]
    if source not in arrays and source in makers and makers[source].op_type == "QuantizeLinear":
        source = makers[source].input[0]  # a weight that is quantized as the engine is built
    weight = arrays.get(source)
    readers = [other for other in model.graph.node if node.output[0] in other.input]
    scale = arrays.get(node.input[1])
    zero = arrays.get(node.input[2]) if len(node.input) > 2 else None
    kind = next((t.data_type for t in (arrays.get(node.input[0]), zero) if t is not None), TensorProto.UINT8)
    if node.op_type == "QuantizeLinear":
        kind = zero.data_type if zero is not None else TensorProto.UINT8  # ONNX's default
    if kind in FOUR_BITS:
        if not _attribute(node, "block_size", 0) or any(other.op_type not in ("MatMul", "Gemm") for other in readers):
            yield "4-bit weights are taken in blocks, before a MatMul or Gemm, alone [quantized]"
        return
    if kind == TensorProto.INT32:
        yield "int32 cannot be dequantized, a bias must be float [operators]"
    elif kind != TensorProto.INT8:
        yield f"integers are {_name_of(kind)}, not int8 [operators]"
    if len(node.input) > 2 and zero is None:
        yield "its zero point is not constant [parser]"
    elif zero is not None and np.any(numpy_helper.to_array(zero)):
        yield "the zero point must be 0 [operators]"
    if scale is None:
        yield "its scale is not constant [quantized]"
        return
    scales = numpy_helper.to_array(scale)
    if not np.all(scales > 0):
        yield "scales must be positive [parser]"
    if scales.size == 1:
        return
    if weight is None:
        yield "an activation has one scale [quantized]"
        return
    axis = _attribute(node, "axis", 1) % len(weight.dims)
    if scales.size != weight.dims[axis]:
        yield f"{scales.size} scales for {weight.dims[axis]} channels [parser]"
    for other in readers:
        expected = _output_axis(other, len(weight.dims))
        if expected is not None and other.input[1] == node.output[0] and axis != expected:
            yield f"scales along axis {axis}, not the output channels of {other.op_type}, axis {expected} [quantized]"


def _output_axis(node: NodeProto, rank: int) -> int | None:
    """The axis of the output channels in the weight of ``node``."""
    axes = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if _attribute(node, "transB", 0) else 1, "MatMul": rank - 1}
    return axes.get(node.op_type)


def half(model: ModelProto) -> ModelProto:
    """A copy of ``model``, which breaks no rule, that computes in fp16 between the same fp32 inputs and outputs.

    TensorRT 11 takes precisions from the file [migration], earlier versions with ``--stronglyTyped``. Integers stay
    what they are. A pair of QuantizeLinear and DequantizeLinear stays in fp32, between casts, where fp16 would move
    one of its scales by more than ``HALF_ERROR``. A weight below the smallest fp16 number becomes that number;
    ``ModelError`` is raised for one above the largest. What activations overflow, only running it tells.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    if _opset(model) < HALF_OPSET:
        model = version_converter.convert_version(model, HALF_OPSET)
        model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    arrays = _constants(model)
    linear = [node for node in model.graph.node if node.op_type in LINEAR]
    whole = [node.name for node in linear if not _survives(numpy_helper.to_array(arrays[node.input[1]]))]
    scales = {node.input[1] for node in linear}
    for name, tensor in arrays.items():
        if tensor.data_type == TensorProto.FLOAT and name not in scales:
            values = np.abs(numpy_helper.to_array(tensor))
            largest = float(values[np.isfinite(values)].max(initial=0.0))
            if largest > LARGEST_HALF:
                raise ModelError(f"{name} holds {largest:.3g}, and fp16 ends at {LARGEST_HALF:.0f}", "stay with fp32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is cut off
        converted = convert_float_to_float16(model, keep_io_types=True, op_block_list=[], node_block_list=whole)
    OnnxModel(converted).topological_sort()
    del converted.graph.value_info[:]
    onnx.checker.check_model(converted, full_check=True)
    return converted


def _survives(scale: np.ndarray) -> bool:
    """Whether ``scale`` is in fp16 what it is in fp32, but for rounding."""
    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16).astype(np.float64)
    return bool(np.all(np.abs(rounded - scale) <= HALF_ERROR * scale))


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    """Initializers, and what Constant nodes make: the parser takes one for the other."""
    nodes = [node for node in model.graph.node if node.op_type == "Constant"]
    made = {node.output[0]: value for node in nodes if (value := _attribute(node, "value", None)) is not None}
    return made | {tensor.name: tensor for tensor in model.graph.initializer}


def _opset(model: ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _name_of(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower()
