"""TFLite files compute what the ONNX model does, and hold its integers."""

from __future__ import annotations

import functools
from itertools import product
from typing import Any

import models
import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgesdk.compress.integers import TensorSpec
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.errors import FidelityError, ModelError
from edgesdk.export.onnx import converted
from edgesdk.export.probes import probe
from edgesdk.export.tflite.check import check
from edgesdk.export.tflite.convert import convert
from edgesdk.price.designed import designed

NETWORKS = ("residual", "depthwise", "transformer", "recurrent")
SCHEMES = ("dense", "int8", "mixed", "int4")
ONNX_OF = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}


class Model:
    """An ONNX model made by hand: operators one after the other, constants where they are needed."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: list[onnx.TensorProto] = []
        self.x = [f"x{i}" for i in range(len(shapes))]
        self.inputs = [helper.make_tensor_value_info(n, 1, s) for n, s in zip(self.x, shapes, strict=True)]

    def constant(self, value: Any, name: str = "") -> str:
        name = name or f"c{len(self.arrays)}"
        self.arrays.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def normal(self, *shape: int) -> str:
        return self.constant(self.random.standard_normal(shape).astype(np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, f"{kind}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def grid(self, x: str, scale: float = 0.05, zero: int = 128, signed: bool = False) -> str:
        """``x`` on a grid of integers."""
        point = np.int8(zero - 128) if signed else np.uint8(zero)
        names = [self.constant(np.float32(scale)), self.constant(point)]
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *names), *names)

    def weight(self, *shape: int, source: float = 0.05) -> list[str]:
        """An integer weight, whose scales lie a factor of a hundred apart, and its bias."""
        scale = np.geomspace(1e-4, 1e-2, shape[0]).astype(np.float32)
        stored = self.constant(self.random.integers(-127, 128, shape).astype(np.int8), f"weight{len(self.arrays)}")
        bias = self.constant(self.random.integers(-999, 999, shape[0]).astype(np.int32))
        zero = self.constant(np.zeros(shape[0], np.int8))
        return [
            self.op("DequantizeLinear", stored, self.constant(scale), zero, axis=0),
            self.op("DequantizeLinear", bias, self.constant(scale * np.float32(source)), axis=0),
        ]

    def proto(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "g", self.inputs, [helper.make_empty_tensor_value_info(n) for n in outputs], self.arrays
        )
        for value in graph.output:
            value.type.tensor_type.elem_type = TensorProto.UNDEFINED
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        shaped = onnx.shape_inference.infer_shapes(model)
        kinds = {v.name: v for v in shaped.graph.value_info}
        for value in model.graph.output:
            value.CopyFrom(next((v for v in shaped.graph.output if v.name == value.name), None) or kinds[value.name])
        return model


def operators(content: bytes) -> list[str]:
    plain = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    return [operator["op_name"] for operator in plain._get_ops_details()]


def ran(content: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return Interpreter(model_content=content, num_threads=1).get_signature_runner()(**feeds)


def compared(model: onnx.ModelProto, seed: int = 0) -> tuple[bytes, float]:
    """The file, and the largest root mean square error of an output over its deviation."""
    import onnxruntime

    content = convert(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    random = np.random.default_rng(seed)
    feeds = {i.name: random.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
    wanted = map(np.asarray, session.run(None, feeds))
    outputs = ran(content, feeds)
    details = Interpreter(model_content=content).get_output_details()
    assert [detail["name"] for detail in details] == [output.name for output in session.get_outputs()]
    errors = []
    for output, want in zip(session.get_outputs(), wanted, strict=True):
        got = outputs[output.name]
        assert got.shape == want.shape and got.dtype == want.dtype
        want = want.astype(np.float64)
        scale = want.std() if want.size > 1 else np.abs(want).max()
        errors.append(float(np.sqrt(np.mean((got - want) ** 2)) / max(scale, 1e-6)))
    return content, max(errors)


def right(model: onnx.ModelProto, tolerance: float = 1e-5) -> list[str]:
    """Check the outputs of ``model``; the names of the operators in its file."""
    content, error = compared(model)
    assert error <= tolerance
    return operators(content)


@functools.cache
def made(name: str, scheme: str) -> tuple[onnx.ModelProto, dict]:
    network, x = models.made(name, 8)
    network = integer(network, models.assigned(network, scheme))
    calibrate(network, [x])
    return converted(network, x), specification(network)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_what_its_onnx_model_does(name: str, scheme: str) -> None:
    model, specs = made(name, scheme)
    content, error = compared(model)
    assert error <= (1e-5 if scheme == "dense" else 5e-2)
    check(content, specs)


def test_integer_layers_are_integer_operators() -> None:
    content = convert(made("residual", "int8")[0])
    operator_names = operators(content)
    assert (
        operator_names.count("QUANTIZE"),
        operator_names.count("DEQUANTIZE"),
        operator_names.count("TRANSPOSE"),
    ) == (1, 1, 1)
    assert operator_names.count("CONV_2D") == 6 and "RELU" not in operator_names and "MUL" not in operator_names


def test_a_network_keeps_its_names() -> None:
    content = convert(made("residual", "int8")[0])
    interpreter = Interpreter(model_content=content)
    assert [d["name"] for d in interpreter.get_input_details()] == ["x"]
    assert [d["name"] for d in interpreter.get_output_details()] == ["output"]
    names = {d["name"] for d in interpreter.get_tensor_details()}
    assert {"stem.0.weight", "fc.weight", "fc.bias"} <= names


def test_check_finds_a_changed_scale_and_a_changed_width() -> None:
    model, specs = made("depthwise", "int8")
    content = convert(model)
    check(content, specs)
    for name, spec in specs.items():
        other = type(spec)(
            spec.bits, spec.low, spec.high, (float(np.nextafter(np.float32(spec.scale[0]), 1)), *spec.scale[1:]),
            spec.zero_point, spec.axis,
        )  # fmt: skip
        with pytest.raises(FidelityError, match="not quantized in the file as specified"):
            check(content, specs | {name: other})
    first = next(name for name in specs if name.endswith("weight"))
    with pytest.raises(FidelityError, match=first):
        check(convert(made("depthwise", "dense")[0]), {first: specs[first]})
    with pytest.raises(FidelityError):
        check(convert(made("residual", "int8")[0]), made("residual", "int4")[1])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_probes(precision: str) -> None:
    taken: dict[str, int] = {}
    for operator in designed(precision):
        if taken.setdefault(operator.kind, 0) < 2:
            taken[operator.kind] += 1
            _, error = compared(onnx.load_from_string(probe(operator)))
            assert error <= (1e-5 if precision == "fp32" else 5e-2), operator
    assert len(taken) == 7


def convolution(size: int, channels: int, per: int, k: int, stride: int, pad: int, dilation: int, kind: str) -> Model:
    rank = 1 if kind == "signal" else 2
    groups = channels if kind == "depthwise" else 2 if kind == "grouped" else 1
    channels, outputs = channels * (2 if kind == "grouped" else 1), per * max(groups, 1)
    model = Model((1, channels, *[size] * rank))
    y = model.op(
        "Conv", "x0", model.normal(outputs, channels // groups, *[k] * rank), model.normal(outputs),
        kernel_shape=[k] * rank, strides=[stride] * rank, pads=[pad] * rank * 2, dilations=[dilation] * rank,
        group=groups,
    )  # fmt: skip
    model.out = model.op("Relu", y)  # type: ignore[attr-defined]
    return model


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.integers(7, 12), channels=st.integers(1, 5), per=st.integers(1, 3), k=st.integers(1, 3),
    stride=st.integers(1, 3), pad=st.integers(0, 2), dilation=st.integers(1, 2),
    kind=st.sampled_from(["full", "depthwise", "grouped", "signal"]),
)  # fmt: skip
def test_convolutions_of_any_shape(size, channels, per, k, stride, pad, dilation, kind) -> None:
    model = convolution(size, channels, per, k, stride, pad, dilation, kind)
    right(model.proto(model.out), 1e-5)  # type: ignore[attr-defined]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    size=st.integers(5, 9), channels=st.integers(1, 4), per=st.integers(1, 3), k=st.integers(1, 3),
    stride=st.integers(1, 2), pad=st.integers(0, 1), groups=st.sampled_from(["full", "depthwise", "grouped"]),
    signed=st.booleans(),
)  # fmt: skip
def test_integer_convolutions_of_any_shape(size, channels, per, k, stride, pad, groups, signed) -> None:
    channels *= 2 if groups == "grouped" else 1
    count = {"full": 1, "depthwise": channels, "grouped": 2}[groups]
    model = Model((1, channels, size, size))
    x = model.grid("x0", 0.05, 120, signed)
    y = model.op(
        "Conv", x, *model.weight(per * count, channels // count, k, k), kernel_shape=[k, k],
        strides=[stride, stride], pads=[pad] * 4, group=count,
    )  # fmt: skip
    content, error = compared(model.proto(model.grid(model.op("Relu", y), 0.02, 0, signed)))
    assert error <= 5e-2
    assert operators(content).count("QUANTIZE") == 1


def test_same_padding_is_kept_and_other_padding_is_explicit() -> None:
    same = convolution(8, 3, 4, 3, 1, 1, 1, "full")
    assert "PAD" not in right(same.proto(same.out))  # type: ignore[attr-defined]
    other = convolution(8, 3, 4, 3, 2, 1, 1, "full")
    assert "PAD" in right(other.proto(other.out))  # type: ignore[attr-defined]


def test_a_linear_layer_has_a_scale_per_output() -> None:
    model = Model((1, 40))
    y = model.op("Gemm", model.grid("x0"), *model.weight(24, 40), transB=1)
    result = right(model.proto(model.grid(y, 0.1)), 2e-2)
    assert result == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]


def test_integer_weights_before_an_activation_that_has_no_grid() -> None:
    model = Model((1, 4, 6, 6))
    y = model.op("HardSwish", model.op("Conv", model.grid("x0"), *model.weight(8, 4, 3, 3)))
    content, error = compared(model.proto(model.grid(y)))
    assert error <= 2e-2
    assert "HARD_SWISH" in operators(content)


def test_what_a_division_leaves_has_the_sign_that_is_asked_for() -> None:
    model = Model((1, 3, 5, 4), (1, 3, 5, 4))
    by = model.op("Add", model.op("Abs", "x1"), model.constant(np.float32(0.3)))
    signed = model.op("Sub", by, model.constant(np.array([0.1, 2, 0.1, 3], np.float32)))
    constant = model.constant(np.array([0.3, -0.5, 0.7, 1], np.float32))
    numbers = [by, signed, constant, model.constant(np.float32(-0.4))]
    right(model.proto(*(model.op("Mod", "x0", number, fmod=1) for number in numbers)), 1e-4)


def test_powers_by_whole_numbers() -> None:
    model = Model((1, 3, 4))
    powers = [np.int64(3), np.int32(2), np.array([[1], [2], [3]], np.int64), np.float32(3)]
    right(model.proto(*(model.op("Pow", "x0", model.constant(power)) for power in powers)))


def test_where_the_least_lies() -> None:
    model = Model((1, 3, 5, 4))
    kinds = product(["ArgMin", "ArgMax"], [1, 3], [0, 1])
    right(model.proto(*(model.op(kind, "x0", axis=axis, keepdims=keep) for kind, axis, keep in kinds)))


@pytest.mark.parametrize("signal", [False, True])
@pytest.mark.parametrize(
    "stride,pad,ceil,whole", [(2, 0, 0, 0), (2, 1, 0, 0), (1, 1, 0, 1), (2, 1, 1, 0), (2, 1, 1, 1)]
)
def test_pools(stride: int, pad: int, ceil: int, whole: int, signal: bool) -> None:
    rank = 1 if signal else 2
    model = Model((1, 5, *[9, 8][:rank]))
    options: dict[str, Any] = dict(
        kernel_shape=[3] * rank, strides=[stride] * rank, pads=[pad] * rank * 2, ceil_mode=ceil
    )
    x = model.op("Neg", model.op("Abs", "x0"))  # zeros in the padding would be the largest
    outputs = [model.op("MaxPool", x, **options), model.op("AveragePool", x, count_include_pad=whole, **options)]
    right(model.proto(*outputs, model.op("GlobalAveragePool", x), model.op("GlobalMaxPool", x)))


@pytest.mark.parametrize(
    "kernel,strides,pads,dilations,groups",
    [
        ((3, 3, 3), (1, 2, 2), (1, 1, 1), (1, 1, 1), 1),
        ((1, 3, 2), (1, 1, 2), (0, 1, 0), (1, 1, 1), 1),  # flat along each axis in turn: no sum
        ((3, 1, 3), (2, 1, 1), (1, 0, 1), (1, 1, 1), 2),
        ((2, 3, 1), (1, 2, 3), (0, 0, 0), (1, 1, 1), 1),
        ((3, 2, 3), (1, 2, 1), (1, 1, 2), (2, 1, 2), 4),  # depthwise, dilated
        ((1, 1, 1), (2, 2, 2), (0, 0, 0), (1, 1, 1), 1),
    ],
)
def test_convolutions_of_three_dimensions(kernel, strides, pads, dilations, groups) -> None:
    model = Model((1, 4, 6, 7, 8))
    options = {"kernel_shape": kernel, "strides": strides, "pads": pads * 2, "dilations": dilations, "group": groups}
    y = model.op("Relu", model.op("Conv", "x0", model.normal(8, 4 // groups, *kernel), model.normal(8), **options))
    z = model.op("Conv", model.op("Sin", y), model.normal(2, 8, 1, 1, 1), kernel_shape=[1, 1, 1])
    assert "CONV_3D" not in right(model.proto(y, z))


@pytest.mark.parametrize("groups", [1, 4])
def test_integer_weights_of_three_dimensions_are_kept_and_widened(groups: int) -> None:
    model = Model((1, 4, 5, 6, 7))
    x, weight = model.grid("x0"), model.weight(8, 4 // groups, 2, 3, 3)
    y = model.op("Conv", x, *weight, kernel_shape=[2, 3, 3], pads=[0, 1, 1] * 2, group=groups)
    content, error = compared(model.proto(model.grid(model.op("Relu", y), 0.02, 0)))
    assert error <= 2e-2
    (name,) = (tensor.name for tensor in model.arrays if tensor.name.startswith("weight"))
    scale = np.geomspace(1e-4, 1e-2, 8).astype(np.float32)
    check(content, {name: TensorSpec(8, -127, 127, tuple(scale.tolist()), (0,) * 8, 0)})
    with pytest.raises(FidelityError, match=name):
        check(content, {name: TensorSpec(8, -127, 127, tuple((2 * scale).tolist()), (0,) * 8, 0)})


@pytest.mark.parametrize(
    "stride,pad,ceil,whole", [(2, 0, 0, 0), (2, 1, 0, 0), (1, 1, 0, 1), (2, 1, 1, 0), (3, 0, 1, 0)]
)
def test_pools_of_three_dimensions(stride: int, pad: int, ceil: int, whole: int) -> None:
    model = Model((1, 3, 7, 8, 9))
    options: dict[str, Any] = dict(kernel_shape=[3, 3, 4], strides=[stride, 2, stride], pads=[pad] * 6, ceil_mode=ceil)
    x = model.op("Neg", model.op("Abs", "x0"))
    outputs = [model.op("MaxPool", x, **options), model.op("AveragePool", x, count_include_pad=whole, **options)]
    right(model.proto(*outputs, model.op("GlobalAveragePool", x)))


def test_integer_pools() -> None:
    model = Model((1, 6, 9, 9))
    x = model.grid("x0")
    options: dict[str, Any] = dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    best = model.op("MaxPool", x, **options)
    mean = model.op("AveragePool", x, count_include_pad=1, **options)
    whole = model.op("GlobalAveragePool", x)
    inside = model.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    outputs = [model.grid(best), model.grid(mean, 0.03), model.grid(whole, 0.005), model.grid(inside)]
    content, error = compared(model.proto(*outputs))
    assert error <= 5e-2
    operator_names = operators(content)
    assert operator_names.count("QUANTIZE") == 1
    assert {"MAX_POOL_2D", "DEPTHWISE_CONV_2D", "MEAN", "AVERAGE_POOL_2D"} <= set(operator_names)


def test_additions_with_broadcasting_in_both_orders() -> None:
    model = Model((1, 6, 5, 4), (1, 6, 1, 1), (5, 4), (1, 6, 5, 4))
    inner = model.op("Conv", "x0", model.normal(6, 6, 1, 1))
    outputs = [
        model.op(kind, inner, other)
        for kind, other in (
            ("Add", "x1"), ("Sub", "x2"), ("Mul", "x3"), ("Add", model.normal(6, 1, 1)), ("Mul", model.normal(4)),
            ("Div", model.constant(np.float32(3))), ("Max", "x1"), ("Min", model.normal(1, 6, 1, 4)), ("Add", inner),
        )
    ]  # fmt: skip
    right(model.proto(*outputs, model.op("Sub", model.normal(6, 5, 4), "x3"), model.op("Max", "x0", "x1", "x2")))


def test_integer_additions_take_two_grids() -> None:
    model = Model((1, 8, 4, 4), (1, 8, 4, 4), (1, 8, 1, 1))
    a, b, c = model.grid("x0", 0.05), model.grid("x1", 0.02, 100), model.grid("x2", 0.03, 90)
    added = model.grid(model.op("Relu", model.op("Add", a, b)), 0.04, 0)
    content, error = compared(model.proto(added, model.grid(model.op("Mul", a, c), 0.06)))
    assert error <= 2e-2
    operator_names = operators(content)
    assert operator_names.count("QUANTIZE") == 3 and operator_names.count("DEQUANTIZE") == 2


def test_elementwise_operators() -> None:
    model = Model((1, 4, 3, 5))
    inner = model.op("Conv", "x0", model.normal(4, 4, 1, 1))
    positive = model.op("Exp", "x0")
    bounds = [(0.0, 6.0), (0.0, 1.0), (-1.0, 1.0), (-0.3, 0.7)]
    outputs = [model.op(kind, inner) for kind in ("Relu", "Elu", "HardSwish", "Sigmoid", "Tanh", "Neg", "Abs", "Sin")]
    outputs += [model.op(kind, positive) for kind in ("Log", "Sqrt", "Reciprocal", "Floor")]
    outputs += [model.op("Clip", inner, *(model.constant(np.float32(b)) for b in pair)) for pair in bounds]
    outputs += [model.op("Clip", inner, "", model.constant(np.float32(0.4)))]
    outputs += [model.op("LeakyRelu", inner, alpha=0.2), model.op("HardSigmoid", inner, alpha=1 / 6, beta=0.5)]
    outputs += [model.op("HardSigmoid", inner, alpha=0.3, beta=0.4), model.op("PRelu", inner, model.normal(4, 1, 1))]
    outputs += [model.op("Pow", positive, model.constant(np.float32(p))) for p in (0.5, 2, 3.3)]
    result = right(model.proto(*outputs))
    assert {"RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "HARD_SWISH", "SQRT"} <= set(result)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    model = Model((1, 7, 9))
    right(model.proto(model.op("Gelu", "x0", approximate=approximate)), 1e-3)


def test_softmax_normalizations_and_reductions() -> None:
    model = Model((1, 6, 4, 5))
    inner = model.op("Conv", "x0", model.normal(6, 6, 1, 1))
    outputs = [model.op(kind, x, axis=a) for kind in ("Softmax", "LogSoftmax") for x in ("x0", inner) for a in (1, -1)]
    positive = model.constant(np.abs(model.random.standard_normal(6)).astype(np.float32) + 0.5)
    outputs += [model.op("BatchNormalization", x, model.normal(6), model.normal(6), model.normal(6), positive)
                for x in ("x0", inner)]  # fmt: skip
    outputs += [model.op("LayerNormalization", x, model.normal(5), model.normal(5)) for x in ("x0", inner)]
    outputs += [model.op("LayerNormalization", inner, model.normal(6, 4, 5), model.normal(6, 4, 5), axis=1)]
    outputs += [model.op("LayerNormalization", inner, model.normal(1, 5), axis=2)]
    for kind in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"):
        for axes, keep in (([1], 0), ([2, 3], 1), ([-1, 1], 0)):
            outputs.append(model.op(kind, inner, model.constant(np.array(axes)), keepdims=keep))
    right(model.proto(*outputs, model.op("ReduceMean", inner)))


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (2, 3, 5, 6)])
def test_products_of_matrices(shape: tuple[int, ...]) -> None:
    model = Model(shape, (*shape[:-2], 7, 6))
    turned = model.op("Transpose", "x1", perm=[*range(len(shape) - 2), len(shape) - 1, len(shape) - 2])
    layer = model.op("Relu", model.op("Add", model.op("MatMul", "x0", model.normal(6, 9)), model.normal(9)))
    outputs = [model.op("MatMul", "x0", turned), model.op("MatMul", "x0", model.normal(6, 4)), layer]
    result = right(model.proto(*outputs))
    assert result.count("FULLY_CONNECTED") == 2 and "ADD" not in result and "RELU" not in result


def test_gemm() -> None:
    model = Model((3, 6))
    outputs = [
        model.op("Gemm", "x0", model.normal(6, 5)),
        model.op("Gemm", "x0", model.normal(5, 6), model.normal(5), transB=1, alpha=0.5, beta=2.0),
        model.op("Gemm", "x0", model.normal(5, 6), model.constant(np.array([0.7], np.float32)), transB=1),
    ]
    right(model.proto(*outputs))


def test_a_matrix_product_of_a_sequence_needs_no_reshape() -> None:
    model = Model((1, 8, 6))
    rows = model.op("Reshape", model.grid("x0"), model.constant(np.array([-1, 6])))
    y = model.op("Gemm", rows, *model.weight(4, 6), transB=1)
    y = model.grid(model.op("Reshape", y, model.constant(np.array([1, 8, 4]))))
    assert right(model.proto(y), 2e-2) == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]


def test_movements() -> None:
    model = Model((1, 6, 4, 5))
    inner = model.op("Conv", "x0", model.normal(6, 6, 1, 1))
    ints = lambda *values: model.constant(np.array(values, np.int64))  # noqa: E731
    pads = ints(0, 1, 0, 2, 0, 0, 3, 1)
    outputs = [
        model.op("Slice", inner, ints(1), ints(5), ints(1), ints(2)),
        model.op("Slice", inner, ints(-1), ints(-99), ints(2), ints(-1)),
        model.op("Slice", inner, ints(1, 0), ints(3, -1), ints(2, 3)),
        *model.op("Split", inner, ints(1, 2, 3), outputs=3, axis=1),
        *model.op("Split", inner, outputs=2, axis=2, num_outputs=2),
        model.op("Gather", inner, model.constant(np.int64(2)), axis=2),
        model.op("Gather", inner, ints(3, 0, -1), axis=3),
        model.op("Gather", inner, model.constant(np.array([[0, 2], [1, 1]])), axis=1),
        model.op("Concat", inner, "x0", model.normal(1, 2, 4, 5), axis=1),
        model.op("Pad", inner, pads),
        model.op("Pad", inner, pads, model.constant(np.float32(2.5))),
        model.op("Pad", inner, ints(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect"),
        model.op("Expand", model.op("ReduceMean", inner, ints(2), keepdims=1), ints(1, 6, 4, 5)),
        model.op("Flatten", inner, axis=2),
        model.op("Squeeze", model.op("Unsqueeze", model.op("Transpose", inner, perm=[0, 2, 3, 1]), ints(2)), ints(0)),
        model.op("Reshape", inner, ints(3, 40)),
        model.op("Reshape", model.op("Transpose", inner, perm=[3, 0, 1, 2]), ints(10, -1)),
        model.op("Where", model.op("Greater", inner, "x0"), inner, model.constant(np.float32(0))),
        model.op("Cast", model.op("Less", inner, "x0"), to=TensorProto.FLOAT),
        model.op("Identity", "x0"),
    ]
    right(model.proto(*outputs))


def test_movements_of_integers_stay_integer() -> None:
    model = Model((1, 6, 4, 5))
    ints = lambda *values: model.constant(np.array(values, np.int64))  # noqa: E731
    x = model.grid("x0")
    moved = [
        model.op("Slice", x, ints(1), ints(3), ints(2)),
        model.op("Slice", x, ints(0), ints(4), ints(2), ints(2)),
        model.op("Gather", x, ints(3, 0), axis=1),
        model.op("Gather", x, model.constant(np.int64(-1)), axis=3),
        model.op("Transpose", x, perm=[0, 2, 3, 1]),
        model.op("Concat", x, x, axis=1),
        model.op("Pad", x, ints(0, 0, 1, 1, 0, 0, 1, 1)),
        model.op("Flatten", x),
    ]
    content, error = compared(model.proto(*(model.grid(m) for m in moved)))
    assert error <= 1e-6
    assert operators(content).count("QUANTIZE") == 1


def test_a_change_of_grid_is_one_operator() -> None:
    model = Model((1, 6, 4, 4))
    best = model.op("MaxPool", model.grid("x0"), kernel_shape=[2, 2])
    result = right(model.proto(model.grid(best, 0.1, 100)), 3e-2)
    assert result.count("QUANTIZE") == 2 and result.count("DEQUANTIZE") == 1


@pytest.mark.parametrize("mode,place,rounding,factor", [
    ("nearest", "asymmetric", "floor", 2), ("nearest", "half_pixel", "round_prefer_floor", 3),
    ("linear", "half_pixel", "floor", 2), ("linear", "align_corners", "floor", 1.5),
    ("linear", "asymmetric", "floor", 2),
])  # fmt: skip
def test_resizing(mode: str, place: str, rounding: str, factor: float) -> None:
    model = Model((1, 3, 4, 6))
    scales = model.constant(np.array([1, 1, factor, factor], np.float32))
    options: dict[str, Any] = dict(mode=mode, coordinate_transformation_mode=place, nearest_mode=rounding)
    right(model.proto(model.op("Resize", "x0", "", scales, **options)))


@pytest.mark.parametrize("stride,pad,extra", [(2, 1, 1), (2, 0, 0), (1, 1, 0)])
def test_transposed_convolutions(stride: int, pad: int, extra: int) -> None:
    model = Model((1, 4, 5, 6))
    y = model.op(
        "ConvTranspose", "x0", model.normal(4, 3, 3, 3), model.normal(3), kernel_shape=[3, 3],
        strides=[stride, stride], pads=[pad] * 4, output_padding=[extra, extra],
    )  # fmt: skip
    right(model.proto(y))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("strides,dilations,pads,extra", [
    ([2, 2], [1, 1], [1, 1, 1, 1], [1, 1]), ([2, 3], [2, 1], [0, 1, 0, 1], [0, 2]),
    ([1, 1], [1, 2], [2, 2, 2, 2], [0, 0]), ([3, 2], [1, 1], [0, 0, 2, 1], [0, 0]),
])  # fmt: skip
def test_transposed_convolutions_that_tflite_lacks(
    groups: int, strides: list[int], dilations: list[int], pads: list[int], extra: list[int]
) -> None:
    model = Model((1, 4, 5, 6))
    y = model.op(
        "ConvTranspose", "x0", model.normal(4, 2, 3, 3), model.normal(2 * groups), kernel_shape=[3, 3], group=groups,
        strides=strides, pads=pads, output_padding=extra, dilations=dilations,
    )  # fmt: skip
    right(model.proto(y))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind,late", [("GRU", 1), ("GRU", 0), ("LSTM", 0)])
def test_recurrent_layers(kind: str, late: int, direction: str) -> None:
    model, gates, count = Model((7, 2, 5)), 3 if kind == "GRU" else 4, 2 if direction == "bidirectional" else 1
    weights = [model.normal(count, gates * 6, n) for n in (5, 6)]
    first = [model.normal(count, 2, 6) for _ in range(gates - 2)]
    options = dict(linear_before_reset=late) if kind == "GRU" else {}
    outputs = model.op(
        kind, "x0", *weights, model.normal(count, gates * 12), "", *first, outputs=gates - 1, hidden_size=6,
        direction=direction, **options,
    )  # fmt: skip
    end = model.op("Gather", outputs[0], model.constant(np.int64(-1)), axis=0)
    right(model.proto(*outputs, end, model.op("Transpose", outputs[0], perm=[2, 0, 1, 3])))


def test_only_the_last_step_of_a_sequence_is_kept_where_no_other_is_read() -> None:
    content = convert(made("recurrent", "dense")[0])
    assert "CONCATENATION" not in operators(content)


def test_all_operators_that_tflite_lacks_are_named() -> None:
    model = Model((1, 4))
    y = model.op("Relu", model.op("Atan", model.op("Asinh", "x0")))
    with pytest.raises(ModelError, match=r"TFLite has no Asinh \(Asinh_0\), Atan \(Atan_1\)"):
        convert(model.proto(y))


def test_shapes_must_be_fixed() -> None:
    model = Model((1, 4))
    proto = model.proto(model.op("Relu", "x0"))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ModelError, match="x0 is not fixed"):
        convert(proto)


def test_weights_with_a_zero_point_are_refused() -> None:
    model = Model((1, 4))
    stored = model.constant(np.ones((3, 4), np.int8), "weight")
    scale, zero = model.constant(np.ones(3, np.float32)), model.constant(np.array([0, 1, 0], np.int8))
    y = model.op("Gemm", "x0", model.op("DequantizeLinear", stored, scale, zero, axis=0), transB=1)
    with pytest.raises(ModelError, match="weight has a zero point"):
        convert(model.proto(y))


@pytest.mark.parametrize("kind,inputs,options", [
    ("Elu", 1, {"alpha": 0.5}), ("Resize", 3, {"mode": "cubic"}), ("Pad", 2, {"mode": "edge"}),
])  # fmt: skip
def test_what_tflite_lacks_is_made_of_what_it_has(kind: str, inputs: int, options: dict) -> None:
    model = Model((1, 2, 4, 4))
    scales, pads = np.array([1, 1, 2, 2], np.float32), np.array([0, 0, 1, 2, 0, 0, 0, 1])
    more = [["", model.constant(scales)], [model.constant(pads)], []]
    right(model.proto(model.op(kind, "x0", *more[3 - inputs], **options)))


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from edgesdk.core.errors import DeviceError

    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    model = Model((1, 4))
    with pytest.raises(DeviceError, match=r"pip install 'edgesdk\[tflite\]'"):
        convert(model.proto(model.op("Relu", "x0")))
