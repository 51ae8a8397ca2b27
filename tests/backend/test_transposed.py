"""Transposed convolutions are layers with weights: known, folded, cut on both sides and fitted in closed form."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import models
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from slow import core
from torch import Tensor, nn

from edgesdk.compress.apply import channels_to_keep, compressed
from edgesdk.compress.forms import factorized, reconstructed
from edgesdk.compress.integers import IntegerLayer
from edgesdk.compress.quantize import calibrate, fold, integer, specification
from edgesdk.compress.refit import refit_weights
from edgesdk.compress.stored import stored
from edgesdk.core.artifact import Artifact
from edgesdk.core.graph import TRANSPOSED
from edgesdk.core.plan import FP32, INT8, Form, Option
from edgesdk.core.runtime import find_runtime, format_of
from edgesdk.core.stored import STORED
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.export.formats import grid_of, save
from edgesdk.export.onnx import converted, export
from edgesdk.export.packed import packed
from edgesdk.export.parity import fallbacks, parity
from edgesdk.export.probes import probe
from edgesdk.export.tflite.convert import convert_probe
from edgesdk.network.load import load_model
from edgesdk.network.network import Network
from edgesdk.network.onnx_graph import read as read_graph
from edgesdk.network.trace import trace
from edgesdk.price.forms import KINDS, forms
from edgesdk.price.operators import operators, precisions
from edgesdk.price.planned import layer_parts
from edgesdk.price.stored import forms as stored_forms
from edgesdk.price.stored import stored_bytes
from edgesdk.train.penalties import channels

WINDOWS = {
    "stride": dict(kernel_size=2, stride=2),
    "overlap": dict(kernel_size=4, stride=2, padding=1),
    "beyond": dict(kernel_size=3, stride=2, padding=1, output_padding=1),
    "no stride": dict(kernel_size=3, stride=1, padding=2, bias=False),
    "dilated": dict(kernel_size=3, stride=2, padding=1, dilation=2, output_padding=1),
    "uneven": dict(kernel_size=(2, 3), stride=(1, 3), padding=(0, 1), output_padding=(0, 2)),
    "gaps": dict(kernel_size=1, stride=2, output_padding=1),
    "few groups": dict(kernel_size=3, stride=2, groups=2, bias=False),
    "depthwise": dict(kernel_size=4, stride=2, padding=1, groups=16),
}


class Up(nn.Module):
    """A convolution, a transposed one with a BatchNorm behind it, and one that reads it; images (N, 3, 8, 8)."""

    def __init__(self, **window) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 16, **window), nn.BatchNorm2d(16), nn.ReLU())
        self.out = nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up(self.a(x)))


class Decoder(nn.Module):
    """Codes to signals, as an autoencoder has them; (N, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 96)
        self.ups = nn.Sequential(
            nn.ConvTranspose1d(16, 24, 4, 2, 1, bias=False), nn.BatchNorm1d(24), nn.ReLU(),
            nn.ConvTranspose1d(24, 16, 3, 2, 1, 1), nn.ReLU6(), nn.ConvTranspose1d(16, 2, 2, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.ups(self.first(x).relu().unflatten(1, (16, 6)))


class Net(nn.Module):
    """A U-Net of two levels, whose skips are joined with what comes up; images (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(*models.conv_bn(3, 8, 3), nn.ReLU())
        self.b = nn.Sequential(*models.conv_bn(8, 16, 3, 2), nn.ReLU())
        self.c = nn.Sequential(*models.conv_bn(16, 24, 3, 2), nn.ReLU())
        self.up1, self.d1 = nn.ConvTranspose2d(24, 16, 2, 2), nn.Sequential(*models.conv_bn(32, 16, 3), nn.ReLU())
        self.up2 = nn.Sequential(nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.d2, self.out = nn.Sequential(*models.conv_bn(16, 8, 3), nn.ReLU()), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        x = self.d1(torch.cat([b, self.up1(self.c(b))], 1))
        return self.out(self.d2(torch.cat([self.up2(x), a], 1)))


class Signed(nn.Module):
    """A transposed convolution of what is below zero, too; images (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.out = nn.Conv2d(3, 16, 3, 1, 1), nn.ConvTranspose2d(16, 16, 2, 2), nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.relu6(self.up(self.a(x))))


SHAPES = {"decoder": (Decoder, (12,)), "net": (Net, (3, 16, 16)), "signed": (Signed, (3, 8, 8))}


@cache
def made(name: str) -> tuple[nn.Module, Network, Tensor]:
    torch.manual_seed(0)
    make, shape = SHAPES.get(name, (lambda: Up(**WINDOWS[name]), (3, 8, 8)))
    model, x = make(), torch.randn(192, *shape)
    for part in model.modules():  # statistics, weights and biases of BatchNorms that are not 0 and 1
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    model.train()
    with torch.no_grad():
        model(x)
    return model.eval(), trace(model.eval(), x), x


def answers(model: nn.Module | Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", WINDOWS)
def test_it_is_a_layer_with_its_norm_its_weights_and_its_work(name: str) -> None:
    model, network, _ = made(name)
    layer, weight = network.graph.by_name["up.0"], model.get_parameter("up.0.weight")
    assert (layer.kind, layer.operator, layer.activation) == (TRANSPOSED, "conv_transpose2d", "relu")
    assert layer.weight_shape == tuple(weight.shape) and layer.outputs == 16 and layer.fixed is None
    assert network.sites["up.0"].norm == "up.1" and network.graph.by_name["out"].inputs == ("up.0",)
    work = weight[0].numel() * 16 * 64  # each number that it reads meets all weights of its channel
    assert layer.macs == work
    (operator,) = operators(layer, network.graph, Option(), None, None)
    assert (operator.macs, operator.after, operator.depthwise) == (work, layer.shape[1:], name == "depthwise")


@pytest.mark.parametrize("name", [*WINDOWS, *SHAPES])
def test_with_its_norm_folded_it_computes_the_same_in_pytorch_and_in_a_file(name: str) -> None:
    model, network, x = made(name)
    folded = fold(network)
    assert not any(isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)) for part in folded.module.modules())
    close(answers(folded, x), answers(model, x))
    file = converted(folded, x)
    names = {node.name for node in file.graph.node if node.op_type == "ConvTranspose"}
    assert names == {layer.name for layer in network.graph.layers if layer.kind == TRANSPOSED}
    close(torch.from_numpy(models.file_outputs(file, x[:2])), answers(model, x[:2]))


@pytest.mark.parametrize("name", [*WINDOWS, *SHAPES])
def test_it_is_cut_on_both_sides_and_fitted_to_what_the_whole_one_answers(name: str) -> None:
    model, network, x = made(name)
    graph = network.graph
    layers = [layer for layer in graph.layers if layer.kind == TRANSPOSED]
    ends = [layer for layer in layers if layer.name in graph.outputs]
    assert all(layer.reads for layer in layers) and all(layer.writes for layer in layers if layer not in ends)
    kept = {group.name: group.size // 2 for group in graph.groups if group.fixed is None}
    plan, scores = models.plan(network, kept), models.scores(network)
    small, _ = compressed(network, plan, x, scores)
    for layer in layers:
        left = small.graph.by_name[layer.name]
        assert left.input_shape[0] * 2 == layer.input_shape[0] and (left.outputs * 2 == layer.outputs or layer in ends)
    fitted, fits = refit_weights(small, network, channels_to_keep(graph, plan, scores), list(x[:128].split(32)))
    by_name = {fit.layer: fit for fit in fits}
    off = [by_name[layer.name] for layer in layers if by_name[layer.name].before > 1e-6]
    assert all(fit.after < fit.before for fit in off) and bool(off) == (name != "depthwise")
    wanted = answers(model, x[128:])
    before, after = ((answers(each, x[128:]) - wanted).square().mean() for each in (small, fitted))
    assert after < 0.8 * before


@cache
def integers(name: str, runtime: str, every: bool) -> Network:
    """A network in integers, ``every`` layer that some runtime has a kernel for or those that this one has; ncnn, which
    has none of transposed convolutions, is never given these."""
    _, network, x = made(name)
    row = find_runtime(runtime)
    options = {
        layer: option
        for layer, option in models.assigned(network, "int8").items()
        if every or row.is_integer(network.graph.by_name[layer], network.graph)
    }
    result = integer(network, options, grid_of(runtime))
    calibrate(result, [x])
    return result


def written(name: str, runtime: str, every: bool, folder: Path) -> tuple[Network, Artifact]:
    network, (*_, x) = integers(name, runtime, every), made(name)
    artifact = Artifact(folder / f"model{format_of(runtime).suffix}", network.graph, runtime=runtime)
    save(converted(network, x), specification(network), artifact.path, runtime)
    return network, artifact


FACES = ("stride", "overlap", "beyond", "no stride", "dilated", "uneven", "decoder", "net", "signed")
QUICK = ("overlap", "dilated", "net", "signed")
RUNTIMES = ("onnxruntime", "openvino", "litert", "ncnn", "executorch")


@pytest.mark.parametrize(
    ("name", "runtime"),
    core([(n, r) for n in FACES for r in RUNTIMES], lambda n, r: n in QUICK if r != "executorch" else n == "net"),
)
def test_in_integers_a_file_computes_what_the_simulation_does(name: str, runtime: str, tmp_path: Path) -> None:
    network, artifact = written(name, runtime, False, tmp_path)
    result = parity(network, artifact, [made(name)[2][:16]])
    assert result.error <= result.tolerance


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, Bench]]:
    with LocalDevice() as agent:
        yield {runtime: Bench(agent, runtime=runtime) for runtime in RUNTIMES}


@pytest.mark.parametrize(
    ("name", "runtime"),
    core([(n, r) for n in FACES for r in ("onnxruntime", "openvino", "litert")], lambda n, r: n in QUICK),
)
def test_a_runtime_has_integer_kernels_for_those_that_it_is_said_to(
    benches: dict[str, Bench], name: str, runtime: str, tmp_path: Path
) -> None:
    network, artifact = written(name, runtime, True, tmp_path)
    transposed = [layer for layer in network.graph.layers if layer.kind == TRANSPOSED]
    lacking = [layer.name for layer in transposed if not find_runtime(runtime).is_integer(layer, network.graph)]
    ran = [k for k in benches[runtime].kernels(artifact) if k["operator"] != "DEQUANTIZE"]  # of weights, once
    assert fallbacks(ran, [layer.name for layer in transposed]) == lacking
    whole = {"onnxruntime": False, "openvino": name != "signed", "litert": name != "dilated"}
    assert (not lacking) == whole[runtime]


def test_scales_are_of_output_channels_and_rounding_suits_their_windows() -> None:
    _, network, x = made("overlap")
    layer, small = network.submodule("up.0"), integers("overlap", "litert", False)
    part = small.submodule("up.0")
    assert isinstance(part, IntegerLayer) and part.axis == 1
    peaks = fold(network).submodule("up.0").get_parameter("weight").detach().abs().amax((0, 2, 3))
    close(torch.tensor(specification(small)["up.0.weight"].scale), peaks / 127)
    options = {name: Option(INT8, 4 if name == "up.0" else 8) for name in models.assigned(network, "int8")}
    off = {}
    for rounding in ("nearest", "adaptive"):
        rounded = integer(network, options)
        calibrate(rounded, [x[:128]], rounding=rounding)
        off[rounding] = (answers(rounded, x[128:]) - answers(network, x[128:])).square().mean()
    assert off["adaptive"] < off["nearest"] and layer.get_parameter("weight").shape == (16, 16, 4, 4)


@pytest.mark.parametrize("precision", (FP32, INT8))
@pytest.mark.parametrize("name", ("stride", "beyond", "uneven", "decoder", "depthwise"))
def test_each_has_a_probe_that_computes_what_it_does(name: str, precision: str) -> None:
    """Beside its maker and its reader, which have no window or one whose stride leaves a corner."""
    _, network, _ = made(name)
    layer = next(layer for layer in network.graph.layers if layer.kind == TRANSPOSED)
    option = Option(precision, 8 if precision == INT8 else 32)
    if precision not in precisions(layer):
        assert name == "depthwise" and precision == INT8
        return
    (operator,) = operators(layer, network.graph, option, None, None)
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(probe(operator)))
    nodes = [node for node in model.graph.node if node.op_type == "ConvTranspose"]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    assert nodes and all(shapes[node.output[0]] == [1, *layer.shape] for node in nodes)
    grids = {node.output[0]: node.attribute[0].i for node in model.graph.node if node.op_type == "DequantizeLinear"
             and node.attribute}  # fmt: skip
    assert all(grids.get(node.input[1]) == (1 if precision == INT8 else None) for node in nodes)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (given,) = session.get_inputs()
    assert all(
        np.isfinite(np.asarray(y)).all() for y in session.run(None, {given.name: np.ones(given.shape, np.float32)})
    )
    interpreter = Interpreter(model_content=convert_probe(probe(operator)))
    interpreter.allocate_tensors()
    interpreter.invoke()


def takes(runtime: str, method: str) -> bool:
    """Whether the format of ``runtime`` has that form of weights."""
    return method in format_of(runtime).holds


@pytest.mark.parametrize(
    ("runtime", "method"),
    [(r, m) for r in ("onnxruntime", "openvino", "litert", "ncnn") for m in STORED if takes(r, m)],
)
def test_its_weight_is_stored_in_each_form_that_a_format_has(runtime: str, method: str, tmp_path: Path) -> None:
    _, network, x = made("overlap")
    layer = network.graph.by_name["up.0"]
    (form, *_) = stored_forms(layer, [method], runtime)
    small = stored(network, {layer.name: Option(FP32, 32, form)})
    plain, path = converted(small, x), tmp_path / f"model{format_of(runtime).suffix}"
    save(packed(plain, small.stored, runtime), {}, path, runtime)
    artifact = Artifact(path, network.graph, runtime=runtime)
    assert parity(small, artifact, [x[:4]]).error <= 1e-3
    whole = tmp_path / f"whole{format_of(runtime).suffix}"
    save(plain, {}, whole, runtime)
    saved = Artifact(whole, network.graph, runtime=runtime).size_bytes - artifact.size_bytes
    weight = 4 * network.submodule("up.0").get_parameter("weight").numel()
    assert saved == pytest.approx(weight - stored_bytes(form, layer.weight_shape), abs=1500)


def test_of_a_lower_rank_a_convolution_of_single_pixels_comes_before_it() -> None:
    for name in WINDOWS:
        (layer,) = (layer for layer in made(name)[1].graph.layers if layer.kind == TRANSPOSED)
        ranks = [form.sizes for form in forms(layer, KINDS)]
        assert ranks == ([] if "groups" in name or name in ("depthwise", "gaps") else [(8,)])
        assert all(precisions(layer, form) == (FP32,) for form in forms(layer, KINDS))


@pytest.mark.parametrize("name", ("overlap", "beyond", "uneven", "dilated", "decoder"))
def test_its_low_rank_form_is_what_is_priced_and_nearest_to_it(name: str, tmp_path: Path) -> None:
    model, network, x = made(name)
    layer = next(layer for layer in network.graph.layers if layer.kind == TRANSPOSED)
    part, form = network.submodule(layer.name), Form("svd", (8,))
    weight = part.get_parameter("weight").detach()
    assert form in forms(layer)
    option = Option(form=form)
    plan = models.plan(network, {}, {layer.name: option})
    small, _ = compressed(network, plan, x, models.scores(network))
    parts = [small.graph.by_name[f"{layer.name}.{index}"] for index in range(2)]
    run = operators(layer, network.graph, option, None, None)
    expected = layer_parts(layer, network.graph, option, None, None)
    for own, op, wanted in zip(parts, run, expected, strict=True):
        assert (own.kind, own.operator, own.weight_shape, own.shape) == (
            wanted.kind, wanted.operator, wanted.weight_shape, wanted.shape,
        )  # fmt: skip
        assert (op.kind, op.macs, op.after) == (own.kind, own.macs, own.shape[1:])
    lost = torch.linalg.svdvals(weight.flatten(1).double())[8:].square().sum().sqrt()
    off = reconstructed(part, form) - weight
    torch.testing.assert_close(off.double().norm(), lost, rtol=1e-4, atol=0.0)
    given = torch.randn(2, *layer.input_shape)
    whole = copy.deepcopy(part)
    whole.weight = nn.Parameter(reconstructed(part, form))
    close(answers(factorized(part, form), given), answers(whole, given))
    fitted, _ = refit_weights(small, network, {}, list(x[:128].split(32)))
    wanted = answers(model, x[128:])
    before, after = ((answers(each, x[128:]) - wanted).square().mean() for each in (small, fitted))
    assert after < before
    for runtime in ("onnxruntime", "openvino", "ncnn", "litert"):
        path = tmp_path / f"model{format_of(runtime).suffix}"
        ready = fold(fitted)
        save(converted(ready, x), {}, path, runtime)
        assert parity(ready, Artifact(path, ready.graph, runtime=runtime), [x[:4]]).error <= 1e-3


@pytest.mark.parametrize("name", ("beyond", "uneven", "depthwise", "decoder", "net"))
def test_in_a_file_it_is_the_layer_that_it_is_in_pytorch(name: str, tmp_path: Path) -> None:
    model, network, x = made(name)
    path = tmp_path / "model.onnx"
    export(fold(network), x, path)
    read = trace(load_model(str(path)), x)
    close(answers(read, x), answers(model, x))
    known = [[(n.name, n.weight_shape, n.macs) for n in graph.layers if n.kind == TRANSPOSED]
             for graph in (network.graph, read.graph, read_graph(path)[0])]  # fmt: skip
    assert known[0] and known[0] == known[1] == known[2]
    assert [group.layers for group in read.graph.groups] == [group.layers for group in network.graph.groups]


def test_a_penalty_is_of_the_weights_of_each_channel_that_it_makes() -> None:
    model, network, _ = made("overlap")
    weight, norm = model.get_parameter("up.0.weight").detach(), model.get_submodule("up.1")
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    own = weight.transpose(0, 1).flatten(1) * (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()[:, None]
    close(channels(network)["up.0"].detach(), own)
