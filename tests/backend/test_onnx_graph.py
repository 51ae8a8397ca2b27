"""An ONNX file is read as the network that it was written from, and says which of its layers are integer."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from slow import core
from torch import Tensor, nn

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.errors import ModelError, UsageError
from edgesdk.core.graph import OTHER, WEIGHTED, Graph, Layer
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.export.formats import export
from edgesdk.network.network import Network
from edgesdk.network.onnx_graph import read

NETWORKS = ("residual", "depthwise", "transformer", "recurrent")
PLANS = [(name, plan) for name in (*NETWORKS, "example") for plan in ("dense", "int8", "mixed", "int4")]


@functools.cache
def traced(name: str) -> tuple[Network, Tensor]:
    return models.made(name, 8)


def seen(graph: Graph) -> list[tuple]:
    """What is to be equal of the weighted layers, in their order."""
    return [
        (layer.kind, layer.operator, layer.weight_shape, layer.kernel, layer.stride, layer.padding, layer.dilation,
         layer.groups, layer.input_shape, layer.shape, layer.macs, layer.activation)
        for layer in graph.layers
        if layer.kind in WEIGHTED
    ]  # fmt: skip


def written(model: nn.Module, shape: Sequence[int], path: Path, dynamo: bool, opset: int, free: bool = True) -> Path:
    x = torch.randn(2 if free else 1, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            sizes = ({0: torch.export.Dim("batch")},) if free else None
            torch.onnx.export(
                model.eval(), (x,), path, dynamo=True, opset_version=opset, dynamic_shapes=sizes, verbose=False,
                external_data=False,
            )  # fmt: skip
        else:
            axes = {"x": {0: "batch"}} if free else None
            torch.onnx.export(
                model.eval(), (x,), path, dynamo=False, opset_version=opset, dynamic_axes=axes, input_names=["x"]
            )
    return path


@pytest.mark.parametrize(("dynamo", "opset"), [(True, 20), (False, 17)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_has_the_weighted_layers_of_the_model(name: str, dynamo: bool, opset: int, tmp_path: Path) -> None:
    network, x = traced(name)
    kind, shape = models.SHAPES[name]
    torch.manual_seed(1)
    graph, options = read(written(kind(), shape, tmp_path / "model.onnx", dynamo, opset))
    assert seen(graph) == seen(network.graph)
    assert graph.inputs[0].shape == tuple(x.shape[1:])
    assert sum(layer.macs for layer in graph.layers) == sum(layer.macs for layer in network.graph.layers)
    assert set(options.values()) == {Option()}
    assert list(options) == [layer.name for layer in graph.layers]


@functools.cache
def quantized(name: str, scheme: str) -> Network:
    network, x = traced(name)
    result = integer(network, models.assigned(network, scheme))
    calibrate(result, [x])
    return result


@pytest.mark.parametrize(("name", "scheme"), core(PLANS, lambda name, scheme: name == "example" or scheme == "mixed"))
def test_an_exported_plan_is_read_back(name: str, scheme: str, tmp_path: Path) -> None:
    network, x = traced(name)
    export(quantized(name, scheme), x, tmp_path / "model.onnx")
    graph, options = read(tmp_path / "model.onnx")
    plan = models.assigned(network, scheme)
    assert seen(graph) == seen(network.graph)
    weighted = [layer.name for layer in network.graph.layers if layer.kind in WEIGHTED]
    names = [layer.name for layer in graph.layers if layer.kind in WEIGHTED]
    assert [options[name] for name in names] == [plan.get(name, Option()) for name in weighted]
    assert [name for name in weighted if name in plan] == [name for name in names if options[name].precision == INT8]
    integers = [layer for layer in graph.layers if layer.kind != OTHER and options[layer.name].precision == INT8]
    asked = [layer for layer in network.graph.layers if layer.name in plan]
    assert [(layer.kind, layer.shape) for layer in integers] == [(layer.kind, layer.shape) for layer in asked]


class Around(nn.Module):
    """A convolution before a part, so that what is fused into it shows."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part = nn.Conv2d(3, 8, 3, padding=1), part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.conv(x))


def parts(graph: Graph) -> list[str]:
    return [layer.operator for layer in graph.layers]


@pytest.mark.parametrize(("dynamo", "opset"), [(True, 20), (False, 13)])
@pytest.mark.parametrize(
    ("part", "operators"),
    [
        (nn.SiLU(), ["silu"]), (nn.Hardswish(), ["hardswish"]), (nn.GELU(), ["gelu"]), (nn.Sigmoid(), ["sigmoid"]),
        (nn.Hardsigmoid(), ["hardsigmoid"]), (nn.Tanh(), ["tanh"]), (nn.LeakyReLU(0.1), ["leaky_relu"]),
        (nn.ELU(), ["elu"]), (nn.PReLU(8), ["prelu"]), (nn.ReLU(), []), (nn.ReLU6(), []),
        (nn.Hardtanh(-1, 1), ["hardtanh"]), (nn.BatchNorm2d(8), []), (nn.Identity(), []), (nn.Dropout(), []),
        (nn.MaxPool2d(2), ["max_pool2d"]), (nn.AvgPool2d(2), ["avg_pool2d"]),
        (nn.AdaptiveAvgPool2d(1), ["adaptive_avg_pool2d"]), (nn.Flatten(), ["view"]),
        (nn.ConvTranspose2d(8, 4, 2, 2), ["conv_transpose2d"]), (nn.PixelShuffle(2), ["pixel_shuffle"]),
        (nn.Upsample(scale_factor=2), ["upsample"]), (nn.ZeroPad2d(1), ["pad"]), (nn.Softmax(1), ["softmax"]),
        (nn.LogSoftmax(1), ["log_softmax"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_operators_have_the_names_of_aten(
    part: nn.Module, operators: list[str], dynamo: bool, opset: int, tmp_path: Path
) -> None:
    if isinstance(part, nn.AdaptiveAvgPool2d) and dynamo:
        operators = ["mean"]  # as that exporter writes it
    graph, _ = read(written(Around(part), (3, 8, 8), tmp_path / "model.onnx", dynamo, opset))
    assert parts(graph) == ["conv2d", *operators]
    with torch.no_grad():
        assert graph.layers[-1].shape == tuple(Around(part).eval()(torch.zeros(1, 3, 8, 8)).shape[1:])


def test_products_and_recurrence_count_their_work(tmp_path: Path) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 6, 3, 2, groups=2)
            self.lstm = nn.LSTM(17, 5, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x).flatten(2).mean(2, keepdim=True) + torch.zeros(17)
            y, _ = self.lstm(y)
            return y @ y.transpose(1, 2)

    graph, _ = read(written(Several(), (4, 8, 8), tmp_path / "model.onnx", False, 17))
    macs = {layer.operator: layer.macs for layer in graph.layers if layer.macs}
    assert macs == {
        "conv_transpose2d": 4 * 3 * 3 * 3 * 64,
        "lstm": 6 * 2 * 4 * 5 * (17 + 5),
        "matmul": 6 * 6 * 10,
    }
    lstm = next(layer for layer in graph.layers if layer.operator == "lstm")
    assert (lstm.input_shape, lstm.shape) == ((6, 17), (6, 10))
    assert lstm.parameters == sum(p.numel() for p in Several().lstm.parameters())


def model(nodes: list[onnx.NodeProto], inputs: dict[str, tuple], weights: dict[str, np.ndarray], opset: int = 20):
    kinds = {name: TensorProto.INT64 if name == "ids" else TensorProto.FLOAT for name in inputs}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def only(read: tuple[Graph, dict[str, Option]]) -> Layer:
    (layer,) = read[0].layers
    return layer


@pytest.mark.parametrize(
    ("attributes", "padding", "shape"),
    [
        ({"auto_pad": "SAME_UPPER"}, (0, 1), (4, 4, 4)),
        ({"auto_pad": "SAME_LOWER"}, (1, 2), (4, 4, 4)),
        ({"auto_pad": "VALID"}, (0, 0), (4, 3, 2)),
        ({"pads": [0, 1, 1, 2]}, (0, 1), (4, 4, 4)),
    ],
)
def test_padding_is_what_lies_before_the_first_pixel(attributes: dict, padding, shape, tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], **attributes)
    layer = only(read(saved(model([node], {"x": ("n", 2, 8, 7)}, {"w": ones(4, 2, 3, 4)}), tmp_path)))
    assert (layer.name, layer.padding, layer.shape) == ("y", padding, shape)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("Conv", {"group": "one"}), ("Conv", {"strides": 2.0}), ("MaxPool", {"kernel_shape": ["two", "two"]})],
)
def test_an_attribute_of_a_type_that_its_operator_lacks_is_refused(op: str, attributes: dict, tmp_path: Path) -> None:
    node = helper.make_node(op, ["x", *["w"] * (op == "Conv")], ["y"], **attributes)
    with pytest.raises(ModelError, match=next(iter(attributes))):
        read(saved(model([node], {"x": (1, 2, 8, 8)}, {"w": ones(4, 2, 3, 3)}), tmp_path))


def test_a_batchnorm_and_a_bias_of_their_own_are_part_of_the_layer_before(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *"ssss"], ["d"]),
        helper.make_node("Clip", ["d", "low", "high"], ["y"]),
    ]
    weights = {"w": ones(4, 2, 3, 3), "b": ones(4, 1, 1), "s": ones(4), "low": ones()[()] * 0, "high": ones()[()] * 6}
    layer = only(read(saved(model(nodes, {"x": (1, 2, 8, 8)}, weights), tmp_path)))
    assert (layer.name, layer.activation, layer.has_bias, layer.parameters) == ("first", "relu6", True, 76)


def test_names_that_are_no_names_give_way_to_the_output(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["a"], "same"), helper.make_node("Exp", ["a"], ["b"], "same"),
        helper.make_node("Exp", ["b"], ["c"], "x"), helper.make_node("Exp", ["c"], ["d"], "once"),
        helper.make_node("Exp", ["d"], ["y"]),
    ]  # fmt: skip
    graph, _ = read(saved(model(nodes, {"x": (1, 4)}, {}), tmp_path))
    assert [layer.name for layer in graph.layers] == ["a", "b", "c", "once", "y"]
    assert graph.outputs == ("y",)


def test_axes_that_are_free_take_the_shape_that_is_given(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "ids"], ["a"]), helper.make_node("Mul", ["a", "x"], ["y"])]
    inputs = {"ids": ("batch", "steps"), "x": ("batch", "steps", 8)}
    path = saved(model(nodes, inputs, {"table": ones(4000, 8)}), tmp_path)
    with pytest.raises(UsageError, match="axis 1 of input ids is free: give --shape"):
        read(path)
    graph, _ = read(path, {"ids": (12,)})
    assert [(t.name, t.shape, t.dtype) for t in graph.inputs] == [("ids", (12,), "int64"), ("x", (12, 8), "float32")]
    assert [(layer.operator, layer.shape, layer.parameters) for layer in graph.layers] == [
        ("embedding", (12, 8), 32000), ("mul", (12, 8), 0),
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"x takes \(steps, 8\) without the batch, not \(12, 9\)"):
        read(path, {"x": (12, 9)})
    with pytest.raises(UsageError, match="steps is given as 12 and 13"):
        read(path, {"ids": (12,), "x": (13, 8)})
    with pytest.raises(UsageError, match="no input z: it has ids, x"):
        read(path, {"z": (12,)})
    with pytest.raises(UsageError, match="the file has the inputs ids, x"):
        read(path, (12,))


def test_a_shape_that_the_file_does_not_take_is_an_error(tmp_path: Path) -> None:
    path = saved(model([helper.make_node("Exp", ["x"], ["y"])], {"x": ("n", 3, "h", "w")}, {}), tmp_path)
    assert only(read(path, (3, 8, 9))).shape == (3, 8, 9)
    for shape in ((1, 8, 8), (8, 8), (3, 0, 8)):
        with pytest.raises(UsageError, match=r"x takes \(3, h, w\) without the batch"):
            read(path, shape)
    with pytest.raises(ModelError, match="x has 4 as its first axis, which is to be the batch"):
        read(saved(model([helper.make_node("Exp", ["x"], ["y"])], {"x": (4, 3)}, {}), tmp_path))


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    whole = saved(model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ("n", 3)}, {"w": ones(3, 4)}), tmp_path)
    assert only(read(whole)).operator == "linear"
    cut = tmp_path / "cut.onnx"
    for content in (b"", b"no model at all", whole.read_bytes()[:-20], whole.read_bytes()[:40]):
        cut.write_bytes(content)
        with pytest.raises(ModelError, match="is not an ONNX file, or is cut short"):
            read(cut)
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            read(path)


def test_shapes_that_cannot_be_inferred_are_an_error(tmp_path: Path) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(ModelError, match="cannot be inferred"):
        read(saved(model([product], {"x": ("n", 3)}, {"w": ones(5, 4)}), tmp_path))
    nodes = [helper.make_node("Own", ["x"], ["a"], domain="own"), helper.make_node("Exp", ["a"], ["y"])]
    own = model(nodes, {"x": ("n", 3)}, {})
    own.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(ModelError, match="cannot be inferred"):
        read(saved(own, tmp_path))
    with pytest.raises(ModelError, match="nothing in it makes missing"):
        read(saved(model([helper.make_node("Exp", ["missing"], ["y"])], {"x": ("n", 3)}, {}), tmp_path))


def test_a_files_weights_need_not_be_there(tmp_path: Path) -> None:
    file = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ("n", 300)}, {"w": ones(300, 400)})
    onnx.save(file, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    assert only(read(tmp_path / "model.onnx")).macs == 300 * 400


def image_model(folder: Path) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    return written(network, (3, 8, 8), folder / "float.onnx", False, 17, free=False)


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
def test_a_file_that_another_tool_quantized_is_integer(form: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Data(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"x": np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)}] * 2)

        def get_next(self):
            return next(self.left, None)

    source = image_model(tmp_path)
    quantize_static(source, tmp_path / "int8.onnx", Data(), quant_format=QuantFormat[form], per_channel=True)
    graph, options = read(tmp_path / "int8.onnx")
    whole, _ = read(source)
    assert seen(graph) == [(*layer[:-1], None) for layer in seen(whole)]  # a ReLU is a matter of its output's range
    assert [options[layer.name] for layer in graph.layers if layer.kind in WEIGHTED] == [Option(INT8, 8)] * 3
    assert [layer.operator for layer in graph.layers] == [layer.operator for layer in whole.layers]


def test_integer_operators_that_find_their_scales_as_they_run_are_integer(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(image_model(tmp_path), tmp_path / "int8.onnx")
    graph, options = read(tmp_path / "int8.onnx")
    assert {layer.name for layer in graph.layers if layer.kind in WEIGHTED} == {
        n for n in options if options[n] != Option()
    }
    assert [option for option in options.values() if option != Option()] == [Option(INT8, 8)] * 3


def test_a_half_precision_file_counts_as_float(tmp_path: Path) -> None:
    file = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ("n", 3)}, {"w": ones(3, 4).astype(np.float16)})
    for value in (*file.graph.input, *file.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    graph, options = read(saved(file, tmp_path))
    assert (graph.inputs[0].dtype, graph.layers[0].parameters, options["y"]) == ("float16", 12, Option(FP32, 32))


def test_a_file_with_integer_weights_alone_computes_in_float(tmp_path: Path) -> None:
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["d"]), helper.make_node("MatMul", ["x", "d"], ["y"])]
    weights = {"w": np.ones((3, 4), np.int8), "s": ones()[()] / 4}
    graph, options = read(saved(model(nodes, {"x": ("n", 3)}, weights), tmp_path))
    assert parts(graph) == ["linear"]
    assert options["y"] == Option(FP32, 8)
