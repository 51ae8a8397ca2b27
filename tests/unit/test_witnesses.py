"""Prices that were never timed undisturbed: what witnesses of their kind took meanwhile sets them right."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.graph import ADD, CONV, LINEAR
from edgesdk.core.plan import FP32, INT8
from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline
from edgesdk.price.table import CALL, Price, Table
from edgesdk.price.witnesses import (
    ALIKE,
    WITNESSES,
    Steepness,
    _pool,
    choose_witnesses,
    learn_steepness,
    set_right,
    tell_excess,
    with_baselines,
)
from edgesdk_targets.agent.undisturbed import SLOPE, beyond

LEVEL = 0.01  # ms that the references take undisturbed
WINDOW = ((3, 3), (1, 1), (1, 1), (1, 1))
FLOATS = [Operator(CONV, FP32, 16, outputs, (8, 8), *WINDOW) for outputs in (8, 16, 24, 32, 40, 48)]
INTEGERS = [replace(op, precision=INT8) for op in FLOATS]
VECTORS = [Operator(LINEAR, FP32, inputs, 10) for inputs in (16, 32, 64)]
SUMS = [Operator(ADD, FP32, 16, 16, (size, size)) for size in (8, 16)]
EVERY = [*FLOATS, *INTEGERS, *VECTORS, *SUMS]
DOUBTFUL = [FLOATS[1], FLOATS[4], INTEGERS[0], VECTORS[2], SUMS[0]]
SURE = [op for op in EVERY if op not in DOUBTFUL]
STEEP = st.floats(-SLOPE, SLOPE)


def true_ratio(op: Operator) -> float:
    """What an operator takes by itself beside the references; a baseline is one."""
    return 5.0 + op.inputs / 8 if not op.probed else 1.0 + 4e-5 * op.macs * (0.5 if op.precision == INT8 else 1.0)


def slowed(probe: Operator, steep: dict[tuple[str, str], float], by: float) -> Price:
    """What a probe takes where the references are slower by the logarithm ``by``, each part in its own way."""
    parts = [probe, baseline(probe)] if probe.probed else [probe]
    ratio = sum(true_ratio(part) * math.exp(steep.get((part.kind, part.precision), 0.0) * by) for part in parts)
    return Price(ratio, 0.01, LEVEL * math.exp(by))


def priced(folder: Path, steep: dict[tuple[str, str], float], by: float, sure: list[Operator] = SURE) -> Table:
    """A table in which all but those that are ``sure`` was timed on a machine that was disturbed, baselines too."""
    table = Table.open(folder, {"cpu": "one"}, 4)
    table.settle({"ms": LEVEL, "disturbed": 0.2, "visits": 1000})
    quiet = {probe.key for probe in with_baselines(sure)}
    probes = with_baselines(EVERY)
    table.add({probe.key: slowed(probe, steep, 0.0 if probe.key in quiet else by) for probe in probes})
    return table


@given(st.lists(STEEP, min_size=8, max_size=8), st.floats(0.2, 0.8))
def test_doubtful_prices_come_out_true_within_their_error(tmp_path_factory, steepness: list[float], by: float) -> None:
    kinds = sorted({(probe.kind, probe.precision) for probe in with_baselines(EVERY)})
    steep = dict(zip(kinds, steepness, strict=True))
    table = priced(tmp_path_factory.mktemp("table"), steep, by)
    doubtful = [probe for probe in with_baselines(DOUBTFUL) if table.doubtful(probe)]
    beside = with_baselines([*choose_witnesses(table, doubtful, with_baselines(EVERY)), *doubtful])
    timed = {probe.key: slowed(probe, steep, by) for probe in beside}
    right = set_right(table, beside, timed, learn_steepness(table, beside, timed))
    assert set(right) == {probe.key for probe in doubtful}
    for probe in doubtful:
        true = slowed(probe, steep, 0.0).ratio
        assert abs(math.log(right[probe.key].ratio / true)) <= min(0.04, 0.01 + right[probe.key].error), probe
        assert right[probe.key].error < table.error(probe) and right[probe.key].level_ms == LEVEL


def test_witnesses_are_a_few_of_each_kind_that_has_doubtful_ones_and_sure_themselves(tmp_path: Path) -> None:
    table = priced(tmp_path, {}, 0.5)
    chosen = choose_witnesses(table, [FLOATS[1], SUMS[0]], EVERY)
    assert {op.kind for op in chosen} == {CONV, ADD} and {op.precision for op in chosen} == {FP32}
    assert set(chosen) <= set(SURE) and 2 <= len([op for op in chosen if op.kind == CONV]) <= WITNESSES
    assert max(FLOATS, key=lambda op: op.macs) in chosen
    many = [replace(FLOATS[0], outputs=outputs) for outputs in range(8, 800, 8)]
    table.add({op.key: slowed(op, {}, 0.0) for op in many})
    assert len(choose_witnesses(table, [FLOATS[1]], many)) == WITNESSES


@pytest.mark.parametrize("sure", [[], VECTORS[:2], [*VECTORS[:2], *INTEGERS[1:]]], ids=["none", "vectors", "integers"])
def test_without_a_witness_of_its_kind_a_price_stays_doubtful(tmp_path: Path, sure: list[Operator]) -> None:
    steep = {(CONV, FP32): -0.2, (CONV, INT8): 0.2}
    table = priced(tmp_path, steep, 0.5, sure)
    beside = with_baselines(EVERY)
    timed = {probe.key: slowed(probe, steep, 0.5) for probe in beside}
    right = set_right(table, beside, timed, learn_steepness(table, beside, timed))
    kinds = {op.kind + op.precision for op in sure}
    assert {op for op in EVERY if op.key in right} == {
        op for op in EVERY if op.kind + op.precision in kinds and op not in sure
    }


def test_nothing_is_learnt_from_a_machine_that_is_undisturbed_or_unknown(tmp_path: Path) -> None:
    table = priced(tmp_path, {}, 0.5)
    beside = with_baselines(EVERY)
    assert learn_steepness(table, beside, {probe.key: slowed(probe, {}, 0.0) for probe in beside}) == {}
    table.reference_ms = None
    assert learn_steepness(table, beside, {probe.key: slowed(probe, {}, 0.5) for probe in beside}) == {}


@given(st.lists(STEEP, min_size=8, max_size=8), st.floats(0.2, 0.8))
def test_a_network_is_slowed_down_as_its_parts_are(tmp_path_factory, steepness: list[float], by: float) -> None:
    kinds = sorted({(probe.kind, probe.precision) for probe in with_baselines(EVERY)})
    steep = dict(zip(kinds, steepness, strict=True))
    table = priced(tmp_path_factory.mktemp("table"), steep, by, EVERY)
    table.add({CALL.key: slowed(CALL, steep, 0.0)})
    beside = [*with_baselines(EVERY), CALL]
    learnt = learn_steepness(table, beside, {probe.key: slowed(probe, steep, by) for probe in beside})
    network = [FLOATS[3], INTEGERS[2], INTEGERS[5], SUMS[1], VECTORS[0]]
    parts = [(CALL, table.probe_ms(CALL)), *((op, table.latency_ms(op)) for op in network)]
    slow = sum(ms * math.exp(steep.get((op.kind, op.precision), 0.0) * by) for op, ms in parts)
    told = tell_excess(table, network, learnt, math.exp(by))
    off = abs(told.share - math.log(slow / sum(ms for _, ms in parts)))
    assert off <= min(0.04, 0.005 + told.error) and told.error < SLOPE * by


@pytest.mark.parametrize("network", [[], [FLOATS[0]], [FLOATS[0], SUMS[0]]], ids=["nothing", "one", "two"])
@pytest.mark.parametrize("times", [0.97, 1.0, 1.8])
def test_of_kinds_without_witnesses_as_much_is_uncertain_as_kernels_may_differ(
    tmp_path: Path, network: list[Operator], times: float
) -> None:
    told = tell_excess(priced(tmp_path, {}, 0.5), network, {}, times)
    assert told.share == pytest.approx(0.0) and told.error == pytest.approx(beyond(times, 1.0))


@given(STEEP, st.integers(1, 6), st.floats(0.0, 0.2))
def test_witnesses_that_differ_say_that_others_may(middle: float, count: int, apart: float) -> None:
    alike, unlike = (
        _pool([Steepness(middle + by * (-1) ** number, 0.01) for number in range(count)]) for by in (0.0, apart)
    )
    assert alike.error <= unlike.error <= math.hypot(ALIKE, apart) * 1.5
    assert apart / 2 <= unlike.error and (count < 6 or alike.error < ALIKE / 2)
    assert abs(alike.share - middle) <= alike.error
