"""Layer by layer: a file beside its simulation, with faults that are planted in one layer of a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from slow import core
from torch import Tensor, nn

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact, open_file
from edgesdk.core.errors import BundleError, ModelError, UsageError
from edgesdk.core.kernels import Kernel, KernelProfile
from edgesdk.core.plan import INT8, Option
from edgesdk.core.serialize import dumps
from edgesdk.export.formats import export, grid_of
from edgesdk.export.simulation import Simulation, read_simulation, write_simulation
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions
from edgesdk.workflows.diff import advise
from edgesdk.workflows.layer_errors import Error, FloatModel, LayerDiff, compare_layers
from edgesdk.workflows.overlays import COMPARED, check_overlays, write_overlays

SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml", "litert": ".tflite"}
WEIGHTED = ("stem", "block.conv", "block.dw", "block.project", "fc")


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dw = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        return torch.relu(x + self.project(nn.functional.relu6(self.dw(y))))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.pool = nn.MaxPool2d(2)
        self.block = Block(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.pool(torch.relu(self.stem(x)))).mean((2, 3)))


class Made(NamedTuple):
    """A network with its files, by runtime, and the simulations that these are made of."""

    model: nn.Module
    network: Network
    x: Tensor
    files: dict[str, Path]
    simulations: dict[str, Simulation]

    def compare(self, runtime: str, path: Path | None = None, floats: FloatModel | None = None) -> Any:
        artifact = Artifact(path or self.files[runtime], runtime=runtime)
        samples = [self.x[i : i + 1] for i in range(4)]
        return compare_layers(artifact, self.simulations[runtime], [[each] for each in samples], floats)


def made_of(
    folder: Path,
    left_float: tuple[str, ...] = (),
    x: Tensor | None = None,
    runtimes: tuple[str, ...] = tuple(SUFFIXES),
    ranges: str = "chosen",
) -> Made:
    torch.manual_seed(0)
    model, x = Small().eval(), torch.randn(8, 3, 20, 24) if x is None else x
    network = trace(model, x)
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if layer.name not in left_float}
    files: dict[str, Path] = {}
    simulations: dict[str, Simulation] = {}
    for runtime in runtimes:
        ready = integer(network, options, grid_of(runtime))
        calibrate(ready, [x], ranges)
        files[runtime] = folder / f"model{SUFFIXES[runtime]}"
        export(ready, x, files[runtime], runtime)
        write_simulation(ready, x, folder / f"{runtime}.pt2")
        simulations[runtime] = read_simulation(folder / f"{runtime}.pt2")
    return Made(model, network, x, files, simulations)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_of(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_of(tmp_path_factory.mktemp("mixed"), ("block.dw", "fc"))


@pytest.mark.parametrize("runtime", SUFFIXES)
def test_a_sound_file_computes_what_was_specified_in_every_layer(made: Made, runtime: str) -> None:
    compared = made.compare(runtime)
    simulation = made.simulations[runtime]
    step = simulation.step(simulation.outputs[0])
    assert step is not None and compared.ends_apart <= (1.01 * step if runtime == "openvino" else 0.0)
    assert compared.outputs < 0.02
    assert [layer.name for layer in compared.layers] == [layer.name for layer in made.network.graph.layers]
    assert not [layer.name for layer in compared.layers if layer.leaves]
    assert all(layer.tensor is not None for layer in compared.layers)
    assert all(layer.alone.largest_steps is not None for layer in compared.layers)


@pytest.mark.parametrize("runtime", SUFFIXES)
def test_layers_left_float_are_seen_too(mixed: Made, runtime: str) -> None:
    compared = mixed.compare(runtime)
    by_name = {layer.name: layer for layer in compared.layers}
    assert not any(layer.leaves for layer in compared.layers)
    assert by_name["fc"].alone.largest_steps is None
    assert by_name["stem"].alone.largest_steps is not None


class Covariance(nn.Module):
    """A cross-covariance attention: what a BatchNorm of its own makes getitems of are renumbered, parts lie in other
    orders in TFLite files, and a norm is read on its grid by a layer, and as it is by a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.stem, self.qkv = nn.BatchNorm2d(6), nn.Conv2d(3, 6, 1), nn.Linear(6, 18)
        self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 6)
        with torch.no_grad():
            self.bn.running_mean += 0.3  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(nn.functional.gelu(self.stem(x))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(y).reshape(len(y), -1, 3, 2, 3).permute(2, 0, 3, 4, 1).unbind(0)
        attention = nn.functional.normalize(q, dim=-1) @ nn.functional.normalize(k, dim=-1).transpose(-2, -1)
        y = self.norm(y + (attention.softmax(-1) @ v).permute(0, 3, 1, 2).reshape(y.shape))
        return self.out(y) * 0.5 + y.sigmoid()


@pytest.mark.parametrize("runtime", SUFFIXES)
def test_no_layer_is_taken_for_another_of_its_name(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Covariance().eval(), torch.randn(8, 3, 4, 5)
    network = trace(model, x)
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    ready = integer(network, options, grid_of(runtime))
    calibrate(ready, [x])
    path = tmp_path / f"model{SUFFIXES[runtime]}"
    export(ready, x, path, runtime)
    write_simulation(ready, x, tmp_path / "simulation.pt2")
    simulation = read_simulation(tmp_path / "simulation.pt2")
    compared = compare_layers(Artifact(path, runtime=runtime), simulation, [[x[i : i + 1]] for i in range(2)])
    assert not [layer.name for layer in compared.layers if layer.leaves]
    assert {"stem", "qkv", "out"} <= {layer.name for layer in compared.layers if layer.tensor is not None}


def change_onnx(path: Path, out: Path, name: str, change: Callable[[Any], Any]) -> None:
    model = onnx.load(str(path))
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    onnx.save(model, str(out))


def change_openvino(path: Path, out: Path, name: str, change: Callable[[Any], Any]) -> None:
    import openvino

    model = openvino.Core().read_model(str(path))
    (node,) = [node for node in model.get_ordered_ops() if node.get_friendly_name() == name]
    array = change(node.data.copy())
    node.output(0).replace(openvino.op.Constant(array).output(0))
    openvino.save_model(model, str(out), compress_to_fp16=False)


def change_tflite(path: Path, out: Path, name: str, change: Callable[[Any], Any]) -> None:
    from edgesdk.export.tflite.writer import schema

    kinds = schema()
    content = bytearray(path.read_bytes())
    model = kinds.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    (tensor,) = [t for i in range(graph.TensorsLength()) if (t := graph.Tensors(i)).Name().decode() == name]
    array = model.Buffers(tensor.Buffer()).DataAsNumpy()
    kind = np.int32 if tensor.Type() == kinds.TensorType.INT32 else np.int8
    array[:] = change(array.view(kind).copy()).view(np.uint8)
    out.write_bytes(content)


CHANGES = {"onnxruntime": change_onnx, "openvino": change_openvino, "litert": change_tflite}


def flip(array: Any) -> Any:
    """The largest weight of each of the first output channels with its sign turned round, the others as they are."""
    rows = array.reshape(len(array), -1)
    for row in rows[:4]:
        place = int(np.abs(row.astype(np.int64)).argmax())
        row[place] = -row[place]
    return array


def is_quick(runtime: str, layer: str) -> bool:
    """Every layer in one runtime, and one layer in every runtime."""
    return runtime == "onnxruntime" or layer == "block.dw"


def negate(array: Any) -> Any:
    return -array


@pytest.mark.parametrize("runtime, layer", core(product(SUFFIXES, WEIGHTED), is_quick))
def test_changed_weights_of_a_file_are_found_in_their_layer(
    made: Made, tmp_path: Path, runtime: str, layer: str
) -> None:
    faulty = tmp_path / f"faulty{SUFFIXES[runtime]}"
    CHANGES[runtime](made.files[runtime], faulty, f"{layer}.weight", negate if layer == "block.dw" else flip)
    compared = made.compare(runtime, faulty)
    assert [each.name for each in compared.layers if each.leaves] == [layer]


@pytest.mark.parametrize("layer", ["stem", "block.dw", "fc"])
def test_a_saturated_bias_is_found_in_its_layer(made: Made, tmp_path: Path, layer: str) -> None:
    def saturate(array: Any) -> Any:
        array[0] = 2**30
        return array

    faulty = tmp_path / "faulty.onnx"
    change_onnx(made.files["onnxruntime"], faulty, f"{layer}.bias", saturate)
    compared = made.compare("onnxruntime", faulty)
    assert [each.name for each in compared.layers if each.leaves] == [layer]


@pytest.mark.parametrize("layer", ["stem", "block.project"])
def test_a_scale_of_weights_is_found_in_its_layer(made: Made, tmp_path: Path, layer: str) -> None:
    faulty = tmp_path / "faulty.onnx"
    change_onnx(made.files["onnxruntime"], faulty, f"{layer}.weight_scale", lambda array: array * np.float32(1.5))
    compared = made.compare("onnxruntime", faulty)
    assert [each.name for each in compared.layers if each.leaves] == [layer]
    (advice, *_) = advise(compared.layers, layer, (), compared.runtime)
    assert advice.layer == layer and "--precision fp32" in advice.remedy


@pytest.mark.parametrize("layer", ["stem", "fc"])
def test_what_is_no_number_is_found_where_it_begins(mixed: Made, tmp_path: Path, layer: str) -> None:
    def spoil(array: Any) -> Any:
        array.reshape(-1)[0] = np.nan
        return array

    faulty = tmp_path / "faulty.onnx"
    name = "fc.bias" if layer == "fc" else f"{layer}.weight_scale"  # a layer that is left float, and one that is not
    change_onnx(mixed.files["onnxruntime"], faulty, name, spoil)
    compared = mixed.compare("onnxruntime", faulty)
    assert [each.name for each in compared.layers if each.leaves] == [layer]
    assert all(math.isfinite(value) for value in (compared.outputs, compared.ends_apart)) and compared.outputs > 0.05
    dumps(compared)


@pytest.mark.parametrize("layer", ["stem", "block.conv", "block.dw", "block.project"])
def test_an_activation_that_is_clipped_is_found_in_its_layer(made: Made, tmp_path: Path, layer: str) -> None:
    sound = made.files["onnxruntime"]
    (tensor,) = [each.tensor for each in made.compare("onnxruntime").layers if each.name == layer]
    (scale,) = [node.input[1] for node in onnx.load(str(sound)).graph.node if tensor in node.output]
    faulty = tmp_path / "faulty.onnx"
    change_onnx(sound, faulty, scale, lambda array: array / np.float32(2))
    compared = made.compare("onnxruntime", faulty)
    assert [each.name for each in compared.layers if each.leaves] == [layer]


def test_what_comes_after_a_fault_is_off_but_not_to_blame(made: Made, tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.onnx"
    change_onnx(made.files["onnxruntime"], faulty, "stem.weight", flip)
    last = made.compare("onnxruntime", faulty).layers[-1]
    assert last.file.largest_steps > last.alone.largest_steps and not last.leaves


def test_a_range_that_an_outlier_sets_costs_most_where_it_is(tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(8, 3, 20, 24)
    x[4, :, :2, :2] = 300.0  # in none of the samples that are compared
    wide = made_of(tmp_path, x=x, runtimes=("onnxruntime",), ranges="min-max")
    compared = wide.compare("onnxruntime")
    assert not any(layer.leaves for layer in compared.layers)
    assert "stem" in compared.costliest


@pytest.mark.parametrize(
    ("found", "why", "remedy"),
    [
        ({"clipped": 0.02}, "2 % of its values are beyond its range", "deploy with --data"),
        ({"spread_steps": 2.5}, "2.5 of 256 steps", 'ranges="mse"'),
        ({"uneven": 20.0}, "20 times the peak of the median one", "equalized=True"),
        ({"simulation": Error(9.0, 1.0, 30.0)}, "9 dB above its noise", "edgesdk export PLAN MODEL"),
    ],
)
def test_what_to_try_is_told_of_what_was_found(found: dict[str, Any], why: str, remedy: str) -> None:
    fine = LayerDiff("a", "a", None, None, Error(40.0, 0.1, 1.0), 0.0, 40.0, 2.0, False)
    assert not list(advise([fine], None, ["a"], "onnxruntime"))
    (advice,) = advise([fine, replace(fine, name="b", **found)], None, ["a", "b"], "onnxruntime")
    assert advice.layer == "b" and why in advice.why and remedy in advice.remedy


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_overlays_are_of_nodes_that_the_file_has(made: Made, tmp_path: Path, runtime: str) -> None:
    compared = made.compare(runtime)
    artifact = Artifact(made.files[runtime], runtime=runtime)
    write_overlays(compared.layers, artifact, tmp_path / "seen")
    for name in COMPARED:
        data = json.loads((tmp_path / "seen" / f"node-data-{name}.json").read_text())
        assert [stop["stop"] for stop in data["gradient"]] == [0, 1]
        assert set(data["results"]) <= names_in(artifact) and len(data["results"]) >= len(compared.layers)
        assert all(each["value"] >= 0 for each in data["results"].values())
    assert (tmp_path / "seen" / "model-netron.onnx").exists() == (runtime == "onnxruntime")


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_what_layers_took_is_laid_over_the_graph_once_each(made: Made, tmp_path: Path, runtime: str) -> None:
    """Also where a layer is of several parts in the file, and where several are fused in one kernel."""
    first, second, third, *others = made.compare(runtime).layers
    parts = [replace(third, name=f"{third.name}.0"), replace(third, name=f"{third.name}.1", tensor=None)]
    named = {(first.name, second.name): 2.0, (third.name,): 3.0, (): 5.0, ("gone",): 7.0}
    kernels = tuple(Kernel("k", "Conv", "CPU", None, names, None, ms) for names, ms in named.items())
    artifact = Artifact(made.files[runtime], runtime=runtime)
    write_overlays([first, second, *parts, *others], artifact, tmp_path / "seen", KernelProfile(runtime, "1", kernels))
    data = json.loads((tmp_path / "seen" / "node-data-time.json").read_text())["results"]
    assert sorted(each["value"] for each in data.values()) == [2.0, 3.0] and set(data) <= names_in(artifact)
    if runtime == "onnxruntime":
        copy = onnx.load(str(tmp_path / "seen" / "model-netron.onnx"))
        told = {prop.value for node in copy.graph.node for prop in node.metadata_props if "measured" in prop.key}
        assert told == {f"2 ms, with {second.name}", "3 ms"}


def open_tflite(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path))


def names_in(artifact: Artifact) -> set[str]:
    """What Model Explorer knows nodes by: in ONNX files their names, in TFLite files those of what they make."""
    if artifact.runtime == "onnxruntime":
        return {node.name for node in onnx.load(str(artifact.path)).graph.node}
    return {tensor["name"] for tensor in open_tflite(artifact.path).get_tensor_details()}


def test_a_copy_for_netron_says_what_was_found_and_is_the_same_model(made: Made, tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.onnx"
    change_onnx(made.files["onnxruntime"], faulty, "stem.weight", flip)
    layers, artifact = made.compare("onnxruntime", faulty).layers, Artifact(faulty)
    write_overlays(layers, artifact, tmp_path / "seen")
    copy = onnx.load(str(tmp_path / "seen" / "model-netron.onnx"))
    told = {node.name: {each.key: each.value for each in node.metadata_props} for node in copy.graph.node}
    assert told["stem"]["edgesdk.as specified"] == "no" and "steps" in told["stem"]["edgesdk.alone"]
    assert told["fc"]["edgesdk.layer"] == "fc" and told["fc"]["edgesdk.as specified"] == "yes"
    x = {"x": made.x[:1].numpy()}
    ours, theirs = (open_file(a).run(x)[0] for a in (artifact, Artifact(tmp_path / "seen" / "model-netron.onnx")))
    np.testing.assert_array_equal(ours, theirs)


def test_where_there_are_no_overlays(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no overlays for openvino"):
        check_overlays(Artifact(made.files["openvino"], runtime="openvino"), tmp_path / "seen")
    with pytest.raises(UsageError, match="exists"):
        check_overlays(Artifact(made.files["onnxruntime"]), tmp_path)


def test_the_float_model_of_a_user_is_compared_where_it_has_such_a_layer(made: Made) -> None:
    module, sites = made.network.module.eval(), made.network.sites
    floats = FloatModel(module, {name: site.output for name, site in sites.items()})
    compared = made.compare("onnxruntime", floats=floats)
    assert all(layer.simulation.snr_db > 10 for layer in compared.layers)
    assert compared.costliest


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all" * 99])
def test_what_is_no_simulation_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "simulation.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        read_simulation(path)


def test_a_program_without_places_is_said(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "plain.pt2")
    with pytest.raises(BundleError, match="where its layers are"):
        read_simulation(tmp_path / "plain.pt2")
