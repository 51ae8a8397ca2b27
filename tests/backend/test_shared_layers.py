"""A layer that runs several times: each call is priced and quantized by itself, the weights are one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import models
import pytest
import torch
from shared_models import MODELS, Steps, shared_model
from torch import Tensor, nn

from edgesdk.compress.apply import channels_to_keep, compressed
from edgesdk.compress.exits import fitted, split
from edgesdk.compress.quantize import calibrate, fold, integer, learning
from edgesdk.compress.refit import refit_weights
from edgesdk.core.artifact import Artifact
from edgesdk.core.graph import CONV, WEIGHTED
from edgesdk.core.plan import INT8, Option
from edgesdk.export.formats import export, grid_of
from edgesdk.export.onnx import converted
from edgesdk.export.parity import compared
from edgesdk.network.network import Network
from edgesdk.network.onnx_graph import read
from edgesdk.network.onnx_module.read import read as read_module
from edgesdk.network.shared import list_shared
from edgesdk.network.trace import trace
from edgesdk.price.account import Account
from edgesdk.price.menu import options

CALLS = {
    "siamese": {"trunk.0": 2, "trunk.3": 2},
    "levels": {"answer": 2},  # those of the tower part where their BatchNorms are folded
    "steps": {"gates": 3, "new": 3},
    "again": {"up": 3, "down": 3},
}
NEAR = 1e-4
SIZE = 0.25  # these files are small: half of them is names and nodes
RUNTIMES = ("onnxruntime", "openvino", "litert", "ncnn", "executorch")


def halved(network: Network) -> dict[str, int]:
    return {group.name: group.size // 2 for group in network.graph.groups if group.fixed is None}


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_each_call_is_a_layer_and_the_weights_are_one(name: str) -> None:
    model, x = shared_model(name)
    network = trace(model, x)
    assert {names[0]: len(names) for names in network.graph.shared} == CALLS[name]
    assert parameters(network.module) == parameters(model)
    torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-5)
    assert all(layer.fixed is None for layer in network.graph.layers if layer.kind in WEIGHTED)


@pytest.mark.parametrize("name", MODELS)
def test_channels_are_cut_out_of_all_calls_alike(name: str) -> None:
    model, x = shared_model(name)
    network = trace(model, x)
    kept = halved(network)
    assert kept
    small, _ = compressed(network, models.plan(network, kept), x, models.scores(network))
    before, after = list_shared(network.module), list_shared(small.module)
    assert before == after
    for first, *others in after.values():
        held = dict(small.module.get_submodule(first).named_parameters())
        for path in others:
            part = small.module.get_submodule(path)
            assert all(held[key] is value for key, value in part.named_parameters())
    assert parameters(small.module) < parameters(network.module)


@pytest.mark.parametrize("like", [False, True])
def test_a_state_that_begins_with_zeros_is_as_wide_as_what_it_becomes(like: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 16, 16)
    network = trace(Steps(like).eval(), x)
    (group,) = (group for group in network.graph.groups if group.fixed is None)
    assert (group.name, group.size) == ("gates", 24)
    small, _ = compressed(network, models.plan(network, {"gates": 6}), x, models.scores(network))
    assert small.submodule("new").get_parameter("weight").shape == (6, 12, 3, 3)


FILES = [*product(MODELS, RUNTIMES[:4], ["dense", "int8"]), ("siamese", "executorch", "int8")]


@pytest.mark.parametrize(("name", "runtime", "scheme"), FILES)
def test_files_hold_the_weights_once_where_the_format_can(name: str, runtime: str, scheme: str, tmp_path: Path) -> None:
    model, x = shared_model(name)
    network = trace(model, x)
    plan = models.plan(network, halved(network), models.assigned(network, scheme))
    small, given = compressed(network, plan, x, models.scores(network))
    made = integer(small, given, grid_of(runtime))
    if given:
        calibrate(made, [x])
    path = tmp_path / "model.file"
    export(made, x, path, runtime)
    file = Artifact(path, small.graph, runtime=runtime)
    assert compared(made.flat, file, [x[:8]], 0.01).error <= 0.01
    foretold = Account.of(runtime).size_bytes(small.graph, given)
    assert file.size_bytes / (1 + SIZE) <= foretold <= file.size_bytes * (1 + SIZE)
    parted = replace(small.graph, layers=tuple(replace(layer, shares=None) for layer in small.graph.layers))
    several = Account.of(runtime).size_bytes(parted, given)
    assert (several == foretold) == (runtime == "ncnn")


@pytest.mark.parametrize("scheme", ["dense", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_each_call_is_known_by_its_name_in_the_file(name: str, scheme: str) -> None:
    """A profiler tells what each takes by that; float products over rows are written with folded weights."""
    model, x = shared_model(name)
    network = trace(model, x)
    given = models.assigned(network, scheme)
    made = integer(network, given)
    if given:
        calibrate(made, [x])
    names = [node.name for node in converted(made, x).graph.node]
    known = [layer.name for layer in network.graph.layers if layer.kind == CONV or layer.kind in WEIGHTED and given]
    assert set(known) <= set(names)
    assert len(set(names)) == len(names)


def test_what_is_read_off_a_file_has_its_weights_once(tmp_path: Path) -> None:
    model, x = shared_model("again")
    network = trace(model, x)
    export(integer(network, {}), x, tmp_path / "model.onnx", "onnxruntime")
    graph, _ = read(tmp_path / "model.onnx")
    assert [len(names) for names in graph.shared] == [3, 3]
    bytes_ = Account.of("onnxruntime").size_bytes(graph, {})
    assert bytes_ == pytest.approx((tmp_path / "model.onnx").stat().st_size, rel=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_fitted_to_what_all_calls_are_to_make(name: str) -> None:
    model, x = shared_model(name)
    network = trace(model, x)
    plan, scores = models.plan(network, halved(network)), models.scores(network)
    small, _ = compressed(network, plan, x, scores)
    kept = channels_to_keep(network.graph, plan, scores)
    refitted, fits = refit_weights(small, network, kept, [x])
    assert {fit.layer for fit in fits} >= set(CALLS[name])
    assert len(fits) == len({fit.layer for fit in fits})
    for first, *others in list_shared(refitted.module).values():
        held = dict(refitted.module.get_submodule(first).named_parameters())
        assert all(
            held[key] is value
            for path in others
            for key, value in refitted.module.get_submodule(path).named_parameters()
        )
    with torch.no_grad():
        off = [float((each(x) - model(x)).square().mean()) for each in (refitted, small)]
    assert off[0] < off[1]


@pytest.mark.parametrize("name", MODELS)
def test_calls_in_integers_have_the_same_weights_and_ranges_of_their_own(name: str) -> None:
    model, x = shared_model(name)
    network = trace(model, x)
    every = {layer.name: Option(INT8, 4) for layer in network.graph.layers if layer.kind in WEIGHTED}
    made = {}
    for rounding in ("nearest", "adaptive"):
        made[rounding] = integer(network, every)
        calibrate(made[rounding], [x], rounding=rounding)
    quantized = made["adaptive"]
    for names in network.graph.shared:
        first, *others = (quantized.submodule(layer) for layer in names)
        assert all(part.inner.weight is first.inner.weight for part in others)
        assert all(part.inner.bias is not first.inner.bias for part in others)
        assert len({id(part.source[0]) for part in (first, *others)}) == len(names)
    with torch.no_grad():
        near, adapted = (float((made[way](x) - model(x)).square().mean()) for way in ("nearest", "adaptive"))
    assert adapted <= near * (1 + NEAR)
    with learning(quantized):
        learnt = [{id(quantized.submodule(layer).growth) for layer in names} for names in network.graph.shared]
    assert all(len(steps) == 1 for steps in learnt)


def test_no_other_form_is_on_the_menu_of_calls() -> None:
    model, x = shared_model("siamese")
    graph = trace(model, x).graph
    space = {layer.name: options(layer) for layer in graph.layers}
    assert all(option.form is None for names in graph.shared for name in names for option in space[name])


def test_a_shared_layer_of_a_branch_left_out_is_known_by_the_next_call() -> None:
    """The first of three blocks goes: its weights stay with the others, which still have them in common."""
    model, x = shared_model("again")
    network = trace(model, x)
    branch = network.graph.branches[0]
    assert "up" in branch.layers
    small, _ = compressed(network, models.plan(network, dropped=(branch.name,)), x, models.scores(network))
    assert {names[0]: len(names) for names in small.graph.shared} == {"up_call_2": 2, "down_call_2": 2}
    assert parameters(small.module) == parameters(network.module)
    folded = fold(small)
    torch.testing.assert_close(folded(x), small(x), rtol=1e-5, atol=1e-5)


class Tied(nn.Module):
    """An embedding whose weight the head reads, too, and a layer whose weight the loss of another reads: no calls of
    one operator."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(20, 12), nn.Linear(12, 12), nn.Linear(12, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(self.embed(x)).mean(1)) + self.inner.weight.sum(0))


def test_weights_that_other_operators_read_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randint(0, 20, (4, 6))
    network = trace(model, x)
    assert network.graph.shared == ()
    torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_network_in_stages_has_the_weights_in_each(tmp_path: Path) -> None:
    model, x = shared_model("again")
    network = trace(model, x)
    first, last = split(network, fitted(network, ["add_1"], [(x, None)], False), x)
    assert {names[0]: len(names) for names in first.graph.shared} == {"up": 2, "down": 2}
    assert last.graph.shared == ()
    carried = first.flat(x)[1]
    torch.testing.assert_close(last.flat(carried)[0], network(x), rtol=1e-5, atol=1e-5)
    for number, (part, given) in enumerate([(first, x), (last, carried)]):
        path = tmp_path / f"{number}.onnx"
        made = integer(part, models.assigned(part, "int8"))
        calibrate(made, [given])
        export(made, given, path, "onnxruntime")
        assert compared(made.flat, Artifact(path, part.graph), [given[:8]], 0.01).error <= 0.01


@pytest.mark.parametrize("name", MODELS)
def test_a_file_in_shares_what_it_holds_once(name: str, tmp_path: Path) -> None:
    """An ONNX file has a matrix once, and beside it the bias of each call."""
    model, x = shared_model(name)
    export(integer(trace(model, x), {}), x, tmp_path / "model.onnx", "onnxruntime")
    module = read_module(tmp_path / "model.onnx")
    torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-5)
    network = trace(module, x)
    assert sorted(map(len, network.graph.shared)) == sorted(CALLS[name].values())
    kept = halved(network)
    assert kept
    small, _ = compressed(network, models.plan(network, kept), x, models.scores(network))
    assert parameters(small.module) < parameters(network.module)
    torch.testing.assert_close(fold(small)(x), small(x), rtol=1e-5, atol=1e-5)


class OwnBiases(nn.Module):
    """Two layers of one weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        self.two.weight, self.head = self.one.weight, nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(torch.relu(self.first(x)))))))


def test_biases_are_cut_each_by_itself_where_they_are_their_own() -> None:
    torch.manual_seed(0)
    model, x = OwnBiases().eval(), torch.randn(16, 6)
    network = trace(model, x)
    assert [len(names) for names in network.graph.shared] == [2]
    (group,) = (group for group in network.graph.groups if group.fixed is None)
    scores = {group.name: torch.arange(24.0)}
    small, _ = compressed(network, models.plan(network, {group.name: 12}), x, scores)
    one, two = (small.submodule(name) for name in small.graph.shared[0])
    assert one.get_parameter("weight") is two.get_parameter("weight")
    torch.testing.assert_close(one.get_parameter("bias"), model.one.bias[12:])
    torch.testing.assert_close(two.get_parameter("bias"), model.two.bias[12:])
    refitted, _ = refit_weights(small, network, channels_to_keep(network.graph, models.plan(
        network, {group.name: 12}), scores), [x])  # fmt: skip
    torch.testing.assert_close(refitted.submodule(small.graph.shared[0][1]).get_parameter("bias"), model.two.bias[12:])
