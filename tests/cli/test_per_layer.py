"""`edgesdk benchmark --per-layer`: what the runtime ran for each layer, by its own profiler."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.parser
import pytest
import torch
import torch.nn.functional as F
from running import Run
from torch import nn

from edgesdk.bundle.bundle import Bundle
from edgesdk.devices.profiling import name_layers
from edgesdk.workflows.benchmark import benchmark, list_layers

LAYERS = {
    "conv": ("relu", "conv2d"), "conv1": (), "block.conv1": ("linear",), "add": ("relu_2",), "add_1": (), "fc": (),
    "a/b": (),
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["conv"], ("conv",)),
        (["conv1.0"], ("conv1",)),  # the first half of a low-rank form
        (["block.conv1.weight", "relu"], ("conv", "block.conv1")),
        (["node_add_1"], ("add_1",)),
        (["node_add", "fc.bias.unpack"], ("add", "fc")),
        (["a/b/Conv"], ("a/b",)),
        (["convolution", "Transpose", "fc2"], ()),
        (["conv2d"], ("conv",)),  # what lies within it, too
        (["relu_2"], ("add",)),  # what it makes is called so in the file
        (["relu_2", "fc.weight"], ("add", "fc")),
        (["relu_2/padded", "relu_20"], ()),
        (["relu_2", "linear"], ("block.conv1", "add")),
        ([], ()),
    ],
)
def test_names_of_a_file_are_those_of_layers(names: list[str], layers: tuple[str, ...]) -> None:
    assert name_layers(names, LAYERS) == layers


def test_every_weighted_layer_of_a_bundle_has_its_kernels(edgesdk: Run, deployed: tuple[Path, str]) -> None:
    bundle = deployed[0]
    done = edgesdk("benchmark", bundle, "--mode", "brief", "--per-layer", "--json").document
    profile = done["profiles"][bundle.name]
    kernels = profile["kernels"]
    assert {"conv", "fc"} <= {layer for kernel in kernels for layer in kernel["layers"]}
    assert sum(kernel["share"] for kernel in kernels) == pytest.approx(1)
    assert all(kernel["profiled_ms"] >= 0 for kernel in kernels)
    assert all(kernel["low_ms"] <= kernel["profiled_ms"] <= kernel["high_ms"] for kernel in kernels)
    assert profile["runs"] >= 4 and profile["run_ms"] > 0 and profile["plain_ms"] > 0
    plain = edgesdk("benchmark", bundle, "--mode", "brief", "--per-layer")
    assert "under the profiler and" in plain.out and "its kernels add up to" in plain.out and " fc " in plain.out
    without = edgesdk("benchmark", bundle, "--mode", "brief", "--json").document
    assert without["profiles"] == {} and without["command"] == f"edgesdk benchmark {bundle} --mode brief --json"


def test_each_runtime_tells_what_it_can(edgesdk: Run, deployed: tuple[Path, str], given: Path, tmp_path: Path) -> None:
    plan, model = deployed[0] / "plan.json", f"{given / 'models.py'}:Small"
    made = edgesdk("export", plan, model, "--data", given / "data.npz", "--out", tmp_path / "files")
    assert made.code == 0, made.err
    files = sorted(path for path in (tmp_path / "files").iterdir() if path.suffix in (".onnx", ".xml", ".tflite"))
    assert len(files) == 3
    done = edgesdk("benchmark", *files, "--mode", "brief", "--per-layer", "--json").document
    assert list(done["profiles"]) == [path.name for path in files]
    for path in files:
        profile = done["profiles"][path.name]
        kernels = profile["kernels"]
        whole = sum(kernel["profiled_ms"] for kernel in kernels)  # 0 where LiteRT counts none of each microsecond
        assert sum(kernel["share"] or 0 for kernel in kernels) == (pytest.approx(1) if whole else 0)
        assert whole or path.suffix == ".tflite"
        assert profile["runs"] >= 4 and profile["run_ms"] > 0 and profile["plain_ms"] > 0
        named = {name for kernel in kernels for name in kernel["layers"]}
        assert not any(re.search(r"\.weight|\.bias|^[cC]onstant_", name) for name in named), path
        told = [kernel for kernel in kernels if "conv" in kernel["operator"].lower() and kernel["layers"]]
        assert told and all(kernel["precision"] in ("fp32", "int8", "uint8") for kernel in told), path
        assert {kernel["precision"] for kernel in kernels} <= {"fp32", "int8", "uint8", "int32", "int64", None}


def test_a_bundle_knows_what_its_file_calls_what_layers_make(deployed: tuple[Path, str]) -> None:
    layers = list_layers(str(deployed[0]))
    assert layers is not None and list(layers) == [layer.name for layer in Bundle.open(deployed[0]).plan.layers]
    made = {name for node in onnx.load(deployed[0] / "model.onnx").graph.node for name in node.output}
    assert layers["conv"][0] in made and layers["conv"][0] != "conv"
    assert list_layers(str(deployed[0] / "model.onnx")) is None


def test_a_runtime_that_tells_no_times_is_said_to(edgesdk: Run, given: Path, tmp_path: Path) -> None:
    plan, out, how = tmp_path / "plan.json", tmp_path / "files", (f"{given / 'models.py'}:Small", "--data", "data.npz")
    found = edgesdk("search", *how, "--target", "pi5", "--precision", "fp32", "--max-drop", "100", "--out", plan)
    assert found.code == 0, found.err
    made = edgesdk("export", plan, *how, "--format", "ncnn", "--out", out)
    assert made.code == 0, made.err
    (path,) = out.glob("*.param")
    assert "tells no times of its kernels" in edgesdk("benchmark", path, "--mode", "brief", "--per-layer").out


class Fused(nn.Module):
    """Convolutions that a runtime fuses what follows in: an activation, a sum from either side, both."""

    def __init__(self, left: bool, activation: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, 1, 1) for _ in range(2))
        self.head, self.activation, self.left = nn.Conv2d(8, 8, 3, 1, 1), activation(), left

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.first(x))
        y = self.second(x)
        return self.head(self.activation(x + y if self.left else y + x))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("left", [True, False])
def test_what_is_fused_is_named_with_what_it_is_fused_in(
    tmp_path: Path, left: bool, activation: type[nn.Module]
) -> None:
    path = tmp_path / "fused.onnx"
    torch.onnx.export(
        Fused(left, activation).eval(), (torch.randn(1, 8, 16, 16),), path, input_names=["x"], verbose=False
    )
    nodes = {node.name: node.op_type for node in onnx.load(path).graph.node}
    (profile,) = benchmark(path, mode="brief", per_layer=True).profiles.values()
    told = [{*kernel.layers} & {*nodes} for kernel in profile.kernels]
    assert {name for names in told for name in names} == {*nodes}
    (sum_,) = [name for name, kind in nodes.items() if kind == "Add"]
    convolutions = [name for name, kind in nodes.items() if kind == "Conv"]
    (fused,) = [names for names in told if sum_ in names]
    if len(fused) > 1:  # in the second convolution, which ran when what it adds was there
        assert convolutions[1] in fused and not {convolutions[0], convolutions[2]} & fused


class Tokens(nn.Module):
    """A layer over tokens, and what is behind it."""

    def __init__(self, behind: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.behind = nn.Linear(32, 32), nn.Linear(32, 32), behind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.behind(x, self.first(x).relu()))


@pytest.mark.parametrize(
    ("operator", "inside", "behind"),
    [
        ("SkipLayerNormalization", ["Add", "LayerNormalization"], lambda x, y: F.layer_norm(x + y, [32])),
        ("SkipLayerNormalization", ["Add", "LayerNormalization"], lambda x, y: F.layer_norm(y.sin() + x, [32])),
        ("QuickGelu", ["Sigmoid", "Mul"], lambda x, y: F.silu(y) * x),
        ("FusedMatMul", ["Transpose", "MatMul"], lambda x, y: x @ y.mT @ x),
    ],
)
def test_a_kernel_that_is_called_as_no_node_has_the_nodes_between_its_tensors(
    tmp_path: Path, operator: str, inside: list[str], behind: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    path, x = tmp_path / "tokens.onnx", torch.randn(1, 8, 32)
    torch.onnx.export(Tokens(behind).eval(), (x,), path, input_names=["x"], verbose=False)
    nodes = {node.name: node.op_type for node in onnx.load(path).graph.node}
    (profile,) = benchmark(path, mode="brief", per_layer=True).profiles.values()
    kernels = [
        (kernel.operator, [nodes[name] for name in kernel.layers if name in nodes]) for kernel in profile.kernels
    ]
    assert (operator, inside) in kernels
    assert sorted(kind for _, kinds in kernels for kind in kinds) == sorted(nodes.values())  # each once
    products = [kinds for _, kinds in kernels if kinds[:2] == ["MatMul", "Add"]]
    assert products == [["MatMul", "Add"]] * 2


def test_a_node_that_runs_as_kernels_that_tell_no_tensors_is_in_no_other(tmp_path: Path) -> None:
    path, x = tmp_path / "tokens.onnx", torch.randn(1, 8, 32)
    model = Tokens(lambda x, y: F.hardswish(y).cos())  # ONNX Runtime has no such kernel, and inlines what it is made of
    torch.onnx.export(model.eval(), (x,), path, input_names=["x"], verbose=False)
    nodes = {node.name: node.op_type for node in onnx.load(path).graph.node}
    (profile,) = benchmark(path, mode="brief", per_layer=True).profiles.values()
    told = [[nodes[name] for name in kernel.layers if name in nodes] for kernel in profile.kernels]
    assert [kinds for kinds in told if kinds] == [["MatMul", "Add"], ["Relu"], ["Cos"], ["MatMul", "Add"]]


def test_weights_that_a_file_unpacks_are_no_layers(tmp_path: Path) -> None:
    path = tmp_path / "packed.onnx"
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        packed (float[1, 4] x) => (float[1, 4] y)
        <float scale = {0.1}, uint8 zero = {128}, int8[4, 4] packed = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7},
         int8 middle = {0}>
        {
            [taken] a = QuantizeLinear(x, scale, zero)
            [read] b = DequantizeLinear(a, scale, zero)
            [weight] w = DequantizeLinear(packed, scale, middle)
            [fc] c = MatMul(b, w)
            [made] d = QuantizeLinear(c, scale, zero)
            [given] y = DequantizeLinear(d, scale, zero)
        }
    """)
    onnx.save(model, path)
    (profile,) = benchmark(path, mode="brief", per_layer=True).profiles.values()
    assert [kernel.layers for kernel in profile.kernels] == [("taken",), ("read", "fc", "made"), ("given",)]
