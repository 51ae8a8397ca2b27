"""Menus made of tables that hold nonsense: nothing that runs is for nothing, and what is slower is where it may be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesdk.core.budget import Budget
from edgesdk.core.graph import CONV, LINEAR, MEAN, Graph, Group, Layer, Tensor
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.price.correct import NEAR, Correction
from edgesdk.price.menu import Losses, all_widths, drop_slower, full_width, menu, options
from edgesdk.price.operator import Operator
from edgesdk.price.operators import operators
from edgesdk.price.table import Price, Table
from edgesdk.solve.finalists import FAR, as_plan
from edgesdk.solve.milp import solve

WINDOW = dict(kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1))


def convolution(name: str, before: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], groups: int, **more) -> Layer:
    weight = (shapes[1][0], shapes[0][0] // groups, 3, 3)
    return Layer(
        name, CONV, (before,), *shapes, "conv", weight, groups=groups, activation="relu", macs=1000, **WINDOW, **more
    )


IMAGE, WIDE = (3, 8, 8), (16, 8, 8)
GRAPH = Graph(
    (Tensor("x", IMAGE),),
    (
        convolution("stem", "x", (IMAGE, WIDE), 1, writes="g"),
        convolution("depthwise", "stem", (WIDE, WIDE), 16, reads="g", writes="g"),
        convolution("grouped", "depthwise", (WIDE, WIDE), 2, reads="g"),  # which has no probe
        convolution("last", "grouped", (WIDE, WIDE), 1),
        Layer("mean", MEAN, ("last",), WIDE, (16,), "mean"),
        Layer("fc", LINEAR, ("mean",), (16,), (10,), "linear", (10, 16), macs=160),
    ),
    ("fc",),
    (Group("g", 16, ("stem", "depthwise", "grouped")),),
)
SPACE = {layer.name: options(layer) for layer in GRAPH.layers}
LOSSES = Losses(
    widths={"g": {kept: 0.1 + 0.01 * (16 - kept) for kept in range(17)}},
    options={name: dict.fromkeys(every, 0.1) for name, every in SPACE.items()},
)


def table_of(folder: Path, price) -> Table:
    """A table in which ``price`` says what each probe takes."""
    opened = Table.open(folder, {"cpu": "one"}, 4)
    opened.settle({"ms": 0.01, "disturbed": 0.2, "visits": 1000})
    opened.add({probe.key: price(probe) for probe in opened.wanted(all_widths(GRAPH, SPACE))})
    return opened


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.floats(0, 0.5), st.sampled_from(NEAR))
def test_nothing_that_runs_is_for_nothing_and_no_reason_is_absurd(tmp_path_factory, seed: int, error, scale) -> None:
    random = Random(seed)
    noisy = lambda probe: Price(random.lognormvariate(1, 2), error * random.random(), 0.01)  # noqa: E731
    table = table_of(tmp_path_factory.mktemp("table"), noisy)
    at = menu(GRAPH, SPACE, table, LOSSES, Correction(scales={FP32: scale, INT8: scale}))
    for layer in at.layers:
        for choice in layer.choices:
            own = GRAPH.by_name[layer.name]
            run = operators(own, GRAPH, choice.option, choice.reads, choice.writes)
            least = scale * sum(table.error_ms(op) for op in run)
            assert choice.latency_ms >= 0.999 * least and (least > 0 or not any(op.probed for op in run))
        probed = {op.probed for c in layer.choices for op in operators(own, GRAPH, c.option, c.reads, c.writes)}
        assert len(probed) == 1, "an option without a price beside one that has one would look free"
    plan = as_plan(at, solve(at, {}, "latency_ms"), GRAPH, "x86", "onnxruntime", 1)
    for layer in plan.layers:
        match = re.search(r"([\d.e+]+)x faster", layer.reason)
        assert match is None or 1 <= float(match[1]) <= FAR
        assert layer.latency_ms > 0 or layer.name == "grouped"


@pytest.mark.parametrize(
    ("budget", "stays"),
    [
        (Budget(size_bytes=1e4), True), (Budget(peak_memory_bytes=1e4, max_drop=1.0), True),
        (Budget(size_bytes=1e4, latency_ms=1.0), False), (Budget(size_bytes=1e4, latency_ratio=0.5), False),
        (Budget(max_drop=1.0), False), (Budget(), False),
    ],
)  # fmt: skip
def test_what_is_slower_and_smaller_stays_where_latency_is_not_bounded(tmp_path, budget: Budget, stays: bool) -> None:
    forms = {option.form for option in SPACE["last"] if option.form is not None}
    assert forms
    plain = {op.key for op in full_width(GRAPH, {name: (Option(), Option(INT8, 8)) for name in SPACE})}
    table = table_of(tmp_path, lambda probe: Price(1.0 if probe.key in plain else 1.4, 0.01, 0.01))
    kept, rejected = drop_slower(GRAPH, SPACE, table, budget)
    assert ({option.form for option in kept["last"]} >= forms) == stays
    assert stays or {item.layer for item in rejected} >= {"last"}
    assert all(Option() in left for left in kept.values())


class Unsure:
    """Prices that grow with the work, each with the same standard error."""

    call_ms = None

    def __init__(self, error: float) -> None:
        self.error = error

    def latency_ms(self, operator: Operator) -> float:
        return 1.0 + 1e-3 * operator.macs

    def error_ms(self, operator: Operator) -> float:
        return self.error

    def is_timed(self, operator: Operator) -> bool:
        return True

    def has_price(self, operator: Operator) -> bool:
        return True


@pytest.mark.parametrize("error", [0.0, 0.3, 3.0, 1e6])
def test_a_width_that_saves_less_than_the_noise_is_not_bought(error: float) -> None:
    def find_prices(table: Unsure) -> dict[str, dict[int, float]]:
        at = menu(GRAPH, SPACE, table, LOSSES, Correction())
        return {
            layer.name: {c.writes: c.latency_ms for c in layer.choices if c.option == Option() and c.writes}
            for layer in at.layers
            if layer.writes == "g"
        }

    exact, own = find_prices(Unsure(0.0)), find_prices(Unsure(error))
    told: set[bool] = set()
    for layer, prices in exact.items():
        assert own[layer][16] == prices[16], "the widest is as it was priced"
        for kept, took in prices.items():
            saves = prices[16] - took >= error * 2**0.5
            told.add(saves or kept == 16)
            assert own[layer][kept] == (took if saves else prices[16])
    assert told == {0.0: {True}, 1e6: {True, False}}.get(error, told)
    only_plain = {name: (Option(),) for name in SPACE}
    at = menu(GRAPH, only_plain, Unsure(error), LOSSES, Correction())
    fastest = solve(at, {"latency_ms": 1.001 * solve(at, {}, "latency_ms").cost.latency_ms})
    assert (fastest.kept == {"g": 16}) == (error == 1e6), "where nothing is won the wider network wins"


class Uneven(Unsure):
    """Integers are faster where there is much to compute, and slower where there is little."""

    def latency_ms(self, operator: Operator) -> float:
        whole = super().latency_ms(operator)
        return whole if operator.precision == FP32 else whole * (0.2 if operator.macs > 10_000 else 1.5)


@pytest.mark.parametrize("alone", [False, True])
def test_what_one_call_loses_and_another_gains_is_looked_at_together(alone: bool) -> None:
    """Of two calls of a layer the option is one: it stays on the menu of both, and the search weighs their sum."""
    large, small = (16, 32, 32), (16, 2, 2)
    shares = None if alone else "one"
    graph = Graph(
        (Tensor("x", large), Tensor("y", small)),
        tuple(
            replace(convolution(name, given, (shape, shape), 1), shares=shares, macs=16 * 16 * 9 * shape[1] ** 2)
            for name, given, shape in (("one", "x", large), ("two", "y", small))
        ),
        ("one", "two"),
    )
    space = {layer.name: (Option(), Option(INT8, 8)) for layer in graph.layers}
    kept, rejected = drop_slower(graph, space, Uneven(0.0), Budget(latency_ratio=0.5))
    assert [item.layer for item in rejected] == (["two"] if alone else [])
    losses = Losses(options={name: {Option(): 0.0, Option(INT8, 8): 0.1} for name in space})
    at = menu(graph, kept, Uneven(0.0), losses, Correction())
    chosen = solve(at, {}, "latency_ms").choices
    assert [chosen[name].option.precision for name in space] == ([INT8, FP32] if alone else [INT8, INT8])
