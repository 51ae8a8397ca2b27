"""What layers do in a run, and what a processor does at most: laws that hold of any graph, plan and price."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.budget import MEASURED, PREDICTED
from edgesdk.core.graph import ADD, CONV, LINEAR, MEAN, Branch, Graph, Group, Layer, Tensor
from edgesdk.core.plan import INT8, Form, Option
from edgesdk.core.target import target
from edgesdk.price.account import Account
from edgesdk.price.operator import Operator
from edgesdk.price.work import find_roofs, list_work

RUNTIMES = ("onnxruntime", "openvino", "litert", "ncnn")


def convolution(name: str, reads: str, inputs: int, outputs: int, group: str, before: str | None) -> Layer:
    return Layer(
        name, CONV, (reads,), (inputs, 8, 8), (outputs, 8, 8), "conv2d", (outputs, inputs, 3, 3), True, (3, 3), (1, 1),
        (1, 1), (1, 1), activation="relu", parameters=outputs * (inputs * 9 + 1), macs=64 * 9 * inputs * outputs,
        reads=before, writes=group,
    )  # fmt: skip


GRAPH = Graph(
    (Tensor("x", (3, 8, 8)),),
    (
        convolution("a", "x", 3, 32, "wide", None),
        convolution("b", "a", 32, 32, "inner", "wide"),
        convolution("c", "b", 32, 32, "wide", "inner"),
        Layer("sum", ADD, ("a", "c"), (32, 8, 8), (32, 8, 8), "add", reads="wide", writes="wide"),
        Layer("mean", MEAN, ("sum",), (32, 8, 8), (32,), "mean", reads="wide", writes="wide"),
        Layer("fc", LINEAR, ("mean",), (32,), (10,), "linear", (10, 32), True, parameters=330, macs=320, reads="wide"),
    ),
    ("fc",),
    (Group("wide", 32, ("a", "c")), Group("inner", 32, ("b",))),
    (Branch("branch", "sum", "a", ("b", "c")),),
)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_of_the_dense_model_the_work_is_that_of_its_shapes(runtime: str) -> None:
    works = list_work(GRAPH, Account.of(runtime))
    assert {name: work.macs for name, work in works.items()} == {layer.name: layer.macs for layer in GRAPH.layers}
    assert works["b"].moved_bytes == 4 * (32 * 32 * 9 + 32 + 2 * 32 * 64)
    assert works["sum"].moved_bytes == 4 * 3 * 32 * 64  # which reads two
    most = max(works, key=lambda name: works[name].live_bytes)
    assert most in ("c", "sum")  # while the first is kept for the sum
    assert all(work.live_bytes > 0 and work.scratch_bytes >= 0 for work in works.values())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_a_plan_makes_does_less(runtime: str) -> None:
    account = Account.of(runtime)
    dense = list_work(GRAPH, account)
    narrow = list_work(GRAPH, account, kept={"inner": 16})
    assert (narrow["b"].macs, narrow["c"].macs) == (dense["b"].macs // 2, dense["c"].macs // 2)
    assert narrow["b"].live_bytes < dense["b"].live_bytes and narrow["a"] == dense["a"]
    integer = list_work(GRAPH, account, {layer.name: Option(INT8, 8) for layer in GRAPH.layers})
    assert all(integer[name].macs == dense[name].macs for name in dense)
    assert all(integer[name].moved_bytes < 0.3 * dense[name].moved_bytes for name in ("b", "c", "sum"))
    factored = list_work(GRAPH, account, {"b": Option(form=Form("tucker", (4, 4)))})
    assert factored["b"].macs == 64 * (32 * 4 + 9 * 4 * 4 + 4 * 32)  # three convolutions, added up
    assert factored.keys() == dense.keys()
    without = list_work(GRAPH, account, dropped=("branch",))
    assert not {"b", "c"} & without.keys() and without["fc"] == dense["fc"]


@given(seed=st.integers(0, 400))
def test_every_layer_of_any_graph_has_work(seed: int) -> None:
    from graphs import random_graph

    graph = random_graph(seed)
    graph = replace(graph, layers=tuple(replace(layer, kind=ADD) for layer in graph.layers))
    for runtime in RUNTIMES:
        works = list_work(graph, Account.of(runtime))
        assert list(works) == [layer.name for layer in graph.layers]


def test_roofs_follow_from_the_facts_of_a_chip() -> None:
    pi5 = target("pi5")
    for threads, cores in ((1, 1), (3, 3), (9, 4)):  # which has four
        roofs = find_roofs(pi5, "onnxruntime", threads, [], Timed({}))
        assert roofs is not None and roofs.basis == PREDICTED and roofs.bandwidth_gbps == 17.1
        assert roofs.gmacs == pytest.approx({"fp32": 2.4 * 8 * cores, "int8": 2.4 * 32 * cores})
    half = find_roofs(pi5, "ncnn", 1, [], Timed({}))
    assert half is not None and half.gmacs["fp32"] == pytest.approx(2.4 * 16)  # which computes in fp16


class Timed:
    """Prices of operators by their keys, each with its error."""

    call_ms = None

    def __init__(self, times: dict[str, tuple[float, float]]) -> None:
        self.times = times

    def latency_ms(self, operator: Operator) -> float:
        return self.times[operator.key][0]

    def error_ms(self, operator: Operator) -> float:
        return self.times[operator.key][1]

    def is_timed(self, operator: Operator) -> bool:
        return operator.key in self.times

    def has_price(self, operator: Operator) -> bool:
        return self.is_timed(operator)


def test_where_nobody_knows_the_chip_roofs_are_what_operators_reached() -> None:
    square = Operator(LINEAR, "fp32", 100, 100)  # 10^4 multiply-accumulates, 40 800 bytes
    whole, wide, lost, never = (
        Operator(LINEAR, INT8, 100, 100), Operator(ADD, "fp32", 1000, 1000), Operator(LINEAR, "fp32", 999, 999),
        Operator(LINEAR, "fp32", 500, 500),
    )  # fmt: skip
    prices = Timed({
        square.key: (0.001, 1e-5), whole.key: (0.0005, 1e-5), wide.key: (0.0001, 1e-6), lost.key: (1e-4, 1e-4),
    })  # fmt: skip
    here = target("x86")
    roofs = find_roofs(here, "onnxruntime", 1, [square, whole, wide, lost, never], prices)
    assert roofs is not None and roofs.basis == MEASURED
    assert roofs.gmacs == pytest.approx({"fp32": 10.0, "int8": 20.0})  # what is lost in noise tells nothing
    assert roofs.bandwidth_gbps == pytest.approx(120.0)  # two read, one made
    assert find_roofs(here, "onnxruntime", 1, [lost, never], prices) is None
    emulated = find_roofs(here, "onnxruntime", 1, [square], prices, "emulated")
    assert emulated is not None and emulated.basis == "emulated"
