"""A file for TensorRT: it keeps the published rules, computes what the ONNX file computes, and has a twin in fp16."""

from __future__ import annotations

import functools
from collections.abc import Callable

import models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from slow import core
from torch import Tensor

from edgesdk.compress.integers import SIGNED, SYMMETRIC, UNSIGNED, Grid
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.errors import ModelError
from edgesdk.export.onnx import check, converted
from edgesdk.export.tensorrt import HALF_OPSET, OLDEST_OPSET, adapted, half, refused
from edgesdk.network.network import Network

NETWORKS = ("residual", "depthwise", "transformer", "recurrent", "example")
CASES = [(name, scheme) for name in NETWORKS for scheme in ("dense", "int8", "mixed")]
QUICK = ("example", "transformer")  # of the networks, where what is refused is of no single one
HALF_TOLERANCE = {"dense": 2e-3, "int8": 5e-2, "mixed": 5e-2}  # root mean square over the outputs' standard deviation


def quick(name: str, scheme: str) -> bool:
    """Every scheme of a small network, and the scheme with something of all others for every network."""
    return name == "example" or scheme == "mixed"


@functools.cache
def ready(name: str, scheme: str, grid: Grid = SYMMETRIC) -> tuple[Network, Tensor]:
    """A network under a scheme with its ranges calibrated, and inputs for it."""
    network, x = models.made(name)
    result = integer(network, models.assigned(network, scheme), grid)
    calibrate(result, [x])
    return result, x


@functools.cache
def exported(name: str, scheme: str, grid: Grid = SYMMETRIC) -> tuple[ModelProto, np.ndarray]:
    """Those as an ONNX model and arrays."""
    network, x = ready(name, scheme, grid)
    return converted(network, x), x.numpy()


def computed(model: ModelProto, x: np.ndarray) -> np.ndarray:
    """The output of ``model`` for each sample, every operator run as the file says it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    name = session.get_inputs()[0].name
    return np.concatenate([np.asarray(session.run(None, {name: x[i : i + 1]})[0]) for i in range(len(x))])


def copied(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Root-mean-square difference over the standard deviation of ``expected``."""
    return float(np.sqrt(np.mean((actual - expected) ** 2)) / expected.std())


@pytest.mark.parametrize(("name", "scheme"), core(CASES, quick))
def test_an_adapted_file_computes_the_same_and_breaks_no_rule(name: str, scheme: str) -> None:
    model, x = exported(name, scheme)
    before = model.SerializeToString()
    result = adapted(model)
    assert model.SerializeToString() == before
    assert refused(result) == []
    assert result.opset_import[0].version == OLDEST_OPSET < model.opset_import[0].version
    expected = computed(model, x)
    np.testing.assert_allclose(computed(result, x), expected, rtol=0, atol=1e-6 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", core(NETWORKS, lambda name: name in QUICK))
def test_an_adapted_file_is_quantized_as_specified(name: str) -> None:
    network, _ = ready(name, "int8")
    model, _ = exported(name, "int8")
    result = adapted(model)
    check(result, specification(network))
    assert any(tensor.data_type == TensorProto.INT32 for tensor in model.graph.initializer)
    assert not any(tensor.data_type == TensorProto.INT32 for tensor in result.graph.initializer)


@pytest.mark.parametrize("name", core(NETWORKS, lambda name: name in QUICK))
def test_activations_of_uint8_are_refused(name: str) -> None:
    reasons = refused(adapted(exported(name, "int8", UNSIGNED)[0]))
    assert any("integers are uint8, not int8" in line for line in reasons)


@pytest.mark.parametrize("name", core(NETWORKS, lambda name: name in QUICK))
def test_a_zero_point_that_is_not_zero_is_refused(name: str) -> None:
    reasons = refused(adapted(exported(name, "int8", SIGNED)[0]))
    assert reasons
    assert all(line.endswith("the zero point must be 0 [operators]") for line in reasons)


@pytest.mark.parametrize("name", core(NETWORKS, lambda name: name in QUICK))
def test_weights_of_four_bits_are_refused(name: str) -> None:
    assert any("4-bit weights" in line for line in refused(adapted(exported(name, "int4")[0])))


def test_a_bias_of_integers_is_refused() -> None:
    reasons = refused(exported("residual", "int8")[0])
    assert reasons
    assert all("int32 cannot be dequantized, a bias must be float" in line for line in reasons)


def node_of(model: ModelProto, test: Callable[[NodeProto], bool]) -> NodeProto:
    return next(node for node in model.graph.node if test(node))


def weight_of(model: ModelProto) -> NodeProto:
    """The DequantizeLinear of a weight with as many inputs as outputs."""
    return node_of(model, lambda n: n.op_type == "DequantizeLinear" and n.input[0] == "inner.0.weight")


def quantizer_of(model: ModelProto) -> NodeProto:
    return node_of(model, lambda n: n.op_type == "QuantizeLinear")


def given(model: ModelProto, node: NodeProto, index: int, values: np.ndarray) -> None:
    """Give ``node`` an input of its own; equal initializers are shared."""
    name = f"changed.{index}"
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    node.input[index] = name


def other_axis(model: ModelProto) -> str:
    node = weight_of(model)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))
    return "scales along axis 1, not the output channels of Conv, axis 0 [quantized]"


def fewer_scales(model: ModelProto) -> str:
    node = weight_of(model)
    given(model, node, 1, np.ones(8, np.float32))
    given(model, node, 2, np.zeros(8, np.int8))
    return "8 scales for 16 channels [parser]"


def moved_weight(model: ModelProto) -> str:
    given(model, weight_of(model), 2, np.full(16, 3, np.int8))
    return "the zero point must be 0 [operators]"


def negative_scale(model: ModelProto) -> str:
    given(model, weight_of(model), 1, np.full(16, -1.0, np.float32))
    return "scales must be positive [parser]"


def scale_per_channel(model: ModelProto) -> str:
    node = quantizer_of(model)
    given(model, node, 1, np.ones(3, np.float32))
    given(model, node, 2, np.zeros(3, np.int8))
    return "an activation has one scale [quantized]"


def without_zero_point(model: ModelProto) -> str:
    del quantizer_of(model).input[2]
    return "integers are uint8, not int8 [operators]"


def unknown_operator(model: ModelProto) -> str:
    node_of(model, lambda n: n.op_type == "Relu").op_type = "Compress"
    return "there is no operator Compress"


def custom_operator(model: ModelProto) -> str:
    node_of(model, lambda n: n.op_type == "Relu").domain = "com.microsoft"
    return "there is no operator Relu"


def cast_to_double(model: ModelProto) -> str:
    node = node_of(model, lambda n: n.op_type == "Relu")
    node.op_type = "Cast"
    node.attribute.append(helper.make_attribute("to", TensorProto.DOUBLE))
    return "no operator takes double [operators]"


def input_of_doubles(model: ModelProto) -> str:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return "no tensor of the network is double"


def new_opset(model: ModelProto) -> str:
    model.opset_import[0].version = 25
    return "opset 25 is above 24, the newest that TensorRT 10 takes"


CHANGES = [
    other_axis, fewer_scales, moved_weight, negative_scale, scale_per_channel, without_zero_point, unknown_operator,
    custom_operator, cast_to_double, input_of_doubles, new_opset,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_each_rule_that_is_broken_is_named(change: Callable[[ModelProto], str]) -> None:
    model = copied(adapted(exported("residual", "int8")[0]))
    assert refused(model) == []
    rule = change(model)
    reasons = refused(model)
    assert len(reasons) == 1
    assert reasons[0].endswith(f": {rule}")


@pytest.mark.parametrize(("name", "scheme"), core(CASES, quick))
def test_half_agrees_with_the_file_in_single_precision(name: str, scheme: str) -> None:
    model, x = exported(name, scheme)
    model = adapted(model)
    result = half(model)
    assert result.opset_import[0].version == HALF_OPSET
    assert refused(result) == []
    borders = (*result.graph.input, *result.graph.output)
    assert {value.type.tensor_type.elem_type for value in borders} == {TensorProto.FLOAT}
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer if t.data_type == TensorProto.INT8}
        for m in (model, result)
    )
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[tensor], after[tensor]) for tensor in before)
    assert 0 < difference(computed(result, x), computed(model, x)) <= HALF_TOLERANCE[scheme]


@pytest.mark.parametrize("name", core(NETWORKS, lambda name: name in QUICK))
def test_half_halves_what_is_float(name: str) -> None:
    model = adapted(exported(name, "dense")[0])
    result = half(model)
    kinds = {tensor.data_type for tensor in result.graph.initializer}
    assert TensorProto.FLOAT16 in kinds and TensorProto.FLOAT not in kinds
    assert len(result.SerializeToString()) < 0.6 * len(model.SerializeToString())
    assert result.SerializeToString() == half(model).SerializeToString()


def test_a_scale_that_fp16_would_move_stays_in_single_precision() -> None:
    model, x = exported("residual", "int8")
    model = copied(adapted(model))
    node = weight_of(model)
    scales = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == node.input[1])).copy()
    scales[0] = 3.3e-7  # 5.5 times the smallest fp16 number
    given(model, node, 1, scales)
    result = half(model)
    kept = next(t for t in result.graph.initializer if t.name == node.input[1])
    np.testing.assert_array_equal(numpy_helper.to_array(kept), scales)
    assert numpy_helper.to_array(kept).dtype == np.float32
    used = {name for other in result.graph.node for name in other.input}
    assert [t.name for t in result.graph.initializer if t.data_type == TensorProto.FLOAT and t.name in used] == [
        kept.name
    ]
    assert refused(result) == []
    assert difference(computed(result, x), computed(model, x)) <= HALF_TOLERANCE["int8"]


def test_a_weight_beyond_fp16_is_refused() -> None:
    model = copied(adapted(exported("residual", "dense")[0]))
    node = node_of(model, lambda n: n.op_type == "Gemm")
    values = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == node.input[1])).copy()
    values[0, 0] = 65600.0
    given(model, node, 1, values)
    with pytest.raises(ModelError, match=r"changed.1 holds 6.56e\+04, and fp16 ends at 65504"):
        half(model)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_a_gelu_is_spelled_out(approximate: str) -> None:
    value = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT, shape=[1, 1001])
    node = helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)
    graph = helper.make_graph([node], "gelu", [value("x")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    result = adapted(model)
    onnx.checker.check_model(result, full_check=True)
    assert result.opset_import[0].version == OLDEST_OPSET
    assert "Gelu" not in {n.op_type for n in result.graph.node}
    x = np.linspace(-6, 6, 1001, dtype=np.float32)[None]
    np.testing.assert_allclose(computed(result, x), computed(model, x), rtol=0, atol=1e-6)
