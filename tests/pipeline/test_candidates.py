"""Candidates and what they teach: observations, prices that are contradicted, and what has no price at all."""

from __future__ import annotations

from dataclasses import replace
from math import hypot
from pathlib import Path

import pytest
from scripted import ScriptedMeter, ScriptedPrices, make_study, with_script

from edgesdk.core.budget import Budget
from edgesdk.core.plan import INT8, Option
from edgesdk.core.report import DENSE
from edgesdk.pipeline.anchoring import DENSE_INT8
from edgesdk.pipeline.candidates import attempt, find_nearest, list_dense, refuse, select_keeping
from edgesdk.pipeline.corrections import MODEL_ERROR
from edgesdk.pipeline.planning import make_plan, plan_full_width
from edgesdk.pipeline.rounds import search_round, select_new, tighten
from edgesdk.pipeline.study import Study
from edgesdk.price.menu import Losses


def test_the_dense_models_are_there_before_any_search(study: Study) -> None:
    dense, whole = list_dense(study, Budget(latency_ms=1.0))
    assert (dense.search, whole.search) == (DENSE, DENSE_INT8)
    assert dense.cost.latency_ratio == 1.0 and (whole.cost.latency_ratio or 1.0) < 1.0
    assert not dense.plan.compresses(study.graph) and dense.loss == 0.0 < whole.loss
    assert {layer.option for layer in whole.plan.layers if layer.name in study.whole.options} == {Option(INT8, 8)}


def test_what_was_tried_is_not_applied_again(study: Study) -> None:
    own = with_script(study)
    budget = Budget(latency_ms=0.6 * own.dense.latency_ms())
    first = search_round(own, budget, ["even"], {}, ())
    applied = len(own.meter.asked)  # type: ignore[attr-defined]
    again = search_round(own, budget, ["even"], {}, first.attempts)
    assert len(own.meter.asked) - applied == len(select_new(again.attempts, first.attempts))  # type: ignore[attr-defined]


def test_each_bound_that_is_missed_is_tightened(study: Study) -> None:
    dense, _ = list_dense(study, Budget())
    tighter = tighten({"latency_ms": 0.97}, Budget(latency_ms=1e-9, size_bytes=1.0), [dense])
    assert tighter["latency_ms"] < 0.97 and tighter["size_bytes"] < 1.0 and "peak_memory_bytes" not in tighter


def test_a_candidate_is_observed_beside_its_parts(study: Study) -> None:
    own = with_script(study, script=lambda name, ms: 1.2 * ms)
    count = len(own.corrections.observations)
    latest = attempt(own, make_plan(own, Budget(latency_ms=0.7 * own.dense.latency_ms())), Budget(), "even")
    assert len(own.corrections.observations) == count + 1
    last = own.corrections.observations[-1]
    assert (
        last.measured_ms == latest.cost.latency_ms == pytest.approx(1.2 * (last.float_ms + last.integer_ms), rel=0.01)
    )
    assert len(study.corrections.observations) == count, "another's corrections are its own"
    assert own.corrections.find_error(latest.plan) is None, "no price was timed"


def test_parts_that_a_network_contradicts_are_timed_again_once(tmp_path: Path) -> None:
    true, table = ScriptedPrices(), ScriptedPrices(timed=True)
    table.factor = 3.0  # the device was slower while parts were timed
    meter = ScriptedMeter(measured=True, true=true, table=table)
    study = make_study(meter, tmp_path)
    (said,) = study.corrections.notes
    assert "operators were priced again: a network of them took" in said
    assert [again for _, again in meter.timed].count(True) == 1 and table.factor == 1.0
    first = study.corrections.observations[0]
    assert first.measured_ms == pytest.approx(first.float_ms + first.integer_ms, rel=0.01)
    dense, _ = list_dense(study, Budget())
    error = study.corrections.find_error(dense.plan)  # each part is off by 0.01 of it, by itself
    assert error is not None and MODEL_ERROR < error < hypot(MODEL_ERROR, 0.01)
    assert study.corrections.find_error(replace(dense.plan, kept={})) is None, "no network of that plan was seen"


def test_predicted_prices_are_never_timed_again(tmp_path: Path) -> None:
    table = ScriptedPrices()
    table.factor = 3.0
    meter = ScriptedMeter(table=table)
    study = make_study(meter, tmp_path)
    assert study.corrections.notes == [] and not any(again for _, again in meter.timed)


def test_what_keeps_and_what_is_nearest(study: Study) -> None:
    own = with_script(study)
    tried = list_dense(own, Budget())
    dense_ms = own.dense.latency_ms()
    assert select_keeping(tried, Budget(latency_ms=0.9 * dense_ms)) == tried[1:]
    hopeless = Budget(latency_ms=0.01 * dense_ms)
    assert find_nearest(tried, hopeless) is tried[1]
    error = refuse(tried, hopeless, None)
    assert error.tightest == tried[1].cost.latency_ms and "predicted at" in error.fact
    measured = [replace(attempt, cost=replace(attempt.cost, basis="measured")) for attempt in tried]
    assert "measured at" in refuse(measured, hopeless, None).fact


@pytest.mark.parametrize("missing", ["options", "widths"])
def test_what_has_no_price_in_accuracy_is_not_free(study: Study, missing: str) -> None:
    empty = {"options": {}, "widths": {}}[missing]
    losses: Losses = replace(study.losses, **{missing: empty})
    with pytest.raises(KeyError, match="no price in accuracy"):
        study.menu(losses)


def test_a_full_width_plan_is_the_dense_model_where_nothing_is_said(study: Study) -> None:
    assert not plan_full_width(study, {}).plan.compresses(study.graph)
    assert plan_full_width(study, study.whole.options).plan.compresses(study.graph)
    assert plan_full_width(study, {}).plan.target == "raspberry-pi-5"
