"""The loop on a scripted meter: what it does where a budget is met, missed, met too well or out of reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any, cast

import pytest
from scripted import ScriptedMeter, ScriptedTraining, make_studies, make_study, with_script

from edgesdk.core.budget import Budget
from edgesdk.core.errors import BudgetError
from edgesdk.core.plan import Plan
from edgesdk.core.report import DENSE
from edgesdk.pipeline.anchoring import DENSE_INT8
from edgesdk.pipeline.candidates import list_dense
from edgesdk.pipeline.choosing import ROUNDS, Chosen, choose_runtime
from edgesdk.pipeline.loop import find_result
from edgesdk.pipeline.planning import FIXED, MARGIN, make_plan, plan_full_width
from edgesdk.pipeline.pricing import price_plan
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.rounds import plan_within
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import DEPLOYED, Training


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same network, wide enough that its memory is mostly weights, in a runtime that holds little else."""
    return make_study(ScriptedMeter(runtime="litert"), tmp_path_factory.mktemp("lite"), times=16)


def run(study: Study, budget: Budget, training: ScriptedTraining | None = None, given: bool = True) -> Result:
    return find_result([study], budget, cast(Training, training or ScriptedTraining()), given)[1]


def asked(study: Study) -> list[str]:
    assert isinstance(study.meter, ScriptedMeter)
    return study.meter.asked


def steps(result: Result) -> list[Any]:
    """What was built, without the model as it is."""
    return [step for step in result.history if "misses" in step and not step["search"].startswith("dense")]


def notes(result: Result) -> str:
    return " ".join(step["note"] for step in result.history if "note" in step)


def share(study: Study, of: float) -> float:
    return of * study.dense.latency_ms()


def without_integers(study: Study) -> Study:
    """``study`` where the dense model in integers was measured no better than in float."""
    return replace(study, anchors={**study.anchors, DENSE_INT8: study.anchors[DENSE]})


def by(factor: float) -> Callable[[str, float], float]:
    return lambda name, ms: factor * ms


def test_what_is_met_as_predicted_takes_one_round(study: Study) -> None:
    own = with_script(study)
    result = run(own, Budget(latency_ms=share(own, 0.6)))
    assert result.deployed.latency_ms() <= share(own, 0.6)
    assert not any(step["misses"] for step in steps(result))
    assert len(asked(own)) <= 4  # a finalist for each leaning, and what is deployed
    assert result.plan.predicted.latency_ms == pytest.approx(result.deployed.latency_ms(), rel=0.05)


@pytest.mark.parametrize("factor", [1.25, 1.6])
def test_what_is_missed_is_searched_again_at_corrected_prices(study: Study, factor: float) -> None:
    own = without_integers(with_script(study, script=by(factor)))
    first = make_plan(own, Budget(latency_ms=share(own, 0.8))).plan.predicted.latency_ms
    budget = Budget(latency_ms=1.001 * first / (1 - MARGIN))  # the same plan keeps that, as it was priced
    result = run(own, budget)
    missed, *_, last = steps(result)
    assert missed["misses"]["latency_ms"] == pytest.approx((1 - MARGIN) * factor, rel=0.05)
    assert budget.is_met_by(result.deployed.cost())
    off = [abs(log(step["predicted"].latency_ms / step["measured"].latency_ms)) for step in (missed, last)]
    assert off[1] < off[0]


@pytest.mark.parametrize("factor", [1.2, 1.5])
def test_memory_that_is_missed_is_searched_again_at_what_was_measured(lite: Study, factor: float) -> None:
    """The account of a plan is too low by a share that no dense file shows: what was built corrects it."""
    own = with_script(lite, memory=lambda name, peak: peak if name.startswith("dense") else factor * peak)
    own = without_integers(own)
    wanted = 0.95 * (own.dense.peak_memory_bytes or 0.0)
    first = make_plan(own, Budget(peak_memory_bytes=wanted)).plan.predicted.peak_memory_bytes
    budget = Budget(peak_memory_bytes=1.001 * first)  # the same plan keeps that by the account
    result = run(own, budget)
    found = [step for step in steps(result) if step["search"] not in (DENSE, DENSE_INT8)]
    assert found[0]["misses"]["peak_memory_bytes"] == pytest.approx(factor, rel=0.1)
    assert budget.is_met_by(result.deployed.cost())
    off = [abs(log(step["predicted"].peak_memory_bytes / step["measured"].peak_memory_bytes)) for step in found]
    assert off[-1] < off[0]


def test_what_is_met_too_well_is_searched_again_for_what_more_fits(study: Study) -> None:
    budget = Budget(latency_ms=share(study, 0.4))
    training = ScriptedTraining(drop=lambda plan: price_plan(study.menu(), plan)[1])
    plain, faster = (run(with_script(study, script=by(factor)), budget, training) for factor in (1.0, 0.5))
    assert faster.deployed.latency_ms() <= budget.bounds["latency_ms"]
    assert faster.plan.proof.objective < plain.plan.proof.objective  # more accurate, as far as was measured


@pytest.mark.parametrize(
    ("figure", "least", "wanted"), [("latency_ms", 0.8, 0.4), ("peak_memory_bytes", 0.9, 0.5)], ids=["ms", "memory"]
)
def test_what_is_out_of_reach_says_what_was_built(study: Study, figure: str, least: float, wanted: float) -> None:
    floor = least * getattr(study.dense.cost(), figure)
    own = with_script(study, script=lambda name, ms: max(ms, floor))
    if figure == "peak_memory_bytes":
        own = with_script(study, memory=lambda name, peak: floor)
    own = without_integers(own)
    with pytest.raises(BudgetError, match="the tightest that was built is predicted at") as refused:
        run(own, Budget(**{figure: wanted * getattr(study.dense.cost(), figure)}))
    error = refused.value
    assert error.figure == figure and error.built is not None
    assert error.tightest == error.built[figure] == pytest.approx(floor)
    assert len(asked(own)) <= 3 * 2 * ROUNDS


def test_bounds_that_hold_alone_and_not_together_are_said_to(study: Study) -> None:
    small = lambda name, ms: ms if name.startswith("dense") else max(ms, share(study, 0.9))  # noqa: E731
    whole = study.anchors[DENSE_INT8].cost()
    own = with_script(study, script=small)
    with pytest.raises(BudgetError) as refused:
        run(own, Budget(latency_ms=1.01 * whole.latency_ms, size_bytes=0.7 * whole.size_bytes))
    assert "together" in refused.value.fact and len(refused.value.built or {}) >= 3


def test_a_bound_on_accuracy_takes_the_next_finalist(study: Study) -> None:
    """Of what keeps the latency, what was searched for drops too much in full; the dense model in integers does not."""
    budget = Budget(latency_ms=share(study, 0.6), max_drop=1.0)
    training = ScriptedTraining(drop=lambda plan: 5.0 * (plan.proof != FIXED))
    result = run(with_script(study), budget, training)
    assert result.plan.options == plan_full_width(study, study.whole.options).plan.options
    assert len(training.finished) > 1 and training.finished[0] != result.plan.digest
    assert run(with_script(study), budget, ScriptedTraining(lambda plan: 0.5)).score == 99.5


def test_a_bound_on_accuracy_that_nothing_keeps_says_how_near_it_was(study: Study) -> None:
    budget = Budget(latency_ms=share(study, 0.6), max_drop=1.0)
    with pytest.raises(BudgetError, match=r"drops by 5\.00 points, more than 1") as refused:
        run(with_script(study), budget, ScriptedTraining(lambda plan: 5.0))
    assert refused.value.figure == "max_drop" and refused.value.tightest == 5.0
    assert refused.value.built is not None and refused.value.built["latency_ms"] <= budget.bounds["latency_ms"]


def test_a_drop_alone_finds_the_fastest_within_it(study: Study) -> None:
    def drop(plan: Plan) -> float:
        return 3.0 if plan.predicted.latency_ms < share(study, 0.5) else 0.25

    result = run(with_script(study), Budget(max_drop=1.0), ScriptedTraining(drop))
    assert share(study, 0.5) <= result.deployed.latency_ms() < share(study, 0.7)
    tried = [step["drop"] for step in result.history if "drop" in step]
    assert {3.0, 0.25} == set(tried)


def test_a_drop_that_nothing_keeps_ends_at_the_dense_model(study: Study) -> None:
    result = run(
        with_script(study), Budget(max_drop=0.1), ScriptedTraining(lambda plan: 9.0 * plan.compresses(study.graph))
    )
    assert not result.plan.compresses(study.graph) and "nothing was compressed" in notes(result)


@pytest.mark.parametrize(("tight", "fastest"), [(0.0, 0.71), (30.0, 1.0)])
def test_where_what_nobody_gave_is_out_of_reach_the_fastest_within_a_drop_is_taken(
    study: Study, tight: float, fastest: float
) -> None:
    """The tightest plan may have lost all: who asked for nothing does not get that."""
    own = without_integers(with_script(study, script=lambda name, ms: max(ms, share(study, 0.7))))

    def drop(plan: Plan) -> float:
        return tight if plan.predicted.latency_ms < share(study, 0.8) else 0.25

    result = run(own, Budget(latency_ratio=0.5), ScriptedTraining(drop), given=False)
    assert 0.69 <= (result.deployed.cost().latency_ratio or 0.0) <= fastest
    assert result.budget == Budget(max_drop=1.0) and result.dense_score - result.score <= 1.0
    assert result.eased == "a latency of 0.5x of dense, the default, is out of reach here"
    assert f"{result.eased}: the fastest model that drops by 1 point at the most was searched for" in notes(result)


def test_a_default_that_is_kept_after_all_is_not_called_out_of_reach(study: Study) -> None:
    def script(name: str, ms: float) -> float:
        return ms if name == DEPLOYED else max(ms, share(study, 0.7))

    result = run(without_integers(with_script(study, script=script)), Budget(latency_ratio=0.5), given=False)
    assert "out of reach" not in notes(result) or result.budget == Budget(max_drop=1.0)
    assert (result.budget is None) == ((result.deployed.cost().latency_ratio or 1.0) <= 0.5)


def test_where_nothing_is_faster_the_default_ends_at_the_dense_model(study: Study) -> None:
    own = with_script(study, script=by(30.0))
    own = without_integers(own)
    result = run(own, Budget(latency_ratio=0.5), given=False)
    assert not result.plan.compresses(own.graph)
    assert result.budget == Budget(max_drop=1.0) and "nothing was compressed" in notes(result)


def test_a_throttled_run_corrects_no_prices_and_is_named(study: Study) -> None:
    own = with_script(study, script=by(1.1), throttled=lambda name: True)
    before = list(own.corrections.observations)
    result = run(own, Budget(latency_ms=share(own, 0.7)))
    assert own.corrections.observations == before
    assert "the last run was disturbed, so that its figures may not hold: it throttled" in notes(result)


def test_what_grows_unasked_is_said(study: Study) -> None:
    result = run(with_script(study, memory=lambda name, peak: 2 * peak), Budget(latency_ms=share(study, 0.6)))
    assert "peak memory was not bounded and grew from" in notes(result)
    assert "latency was not bounded" not in notes(result)


def test_the_last_run_is_what_counts(study: Study) -> None:
    """A candidate keeps the budget, and the file that was made of it does not: it is refuted, and another is built."""
    first: list[str] = []

    def script(name: str, ms: float) -> float:
        if name == DEPLOYED and not first:
            first.append(name)
            return 2 * ms
        return ms

    own = with_script(study, script=script)
    result = run(own, Budget(latency_ms=share(own, 0.6)))
    assert [step["search"] for step in steps(result)].count("final") == 1
    assert result.deployed.latency_ms() <= share(own, 0.6)


def test_of_two_runtimes_the_better_goes_on_and_the_other_is_measured_beside(study: Study) -> None:
    fast, slow = with_script(study), with_script(study, runtime="openvino", script=by(1.3))
    training = cast(Training, ScriptedTraining(drop=lambda plan: float(plan.runtime == "openvino")))
    chosen = choose_runtime([slow, fast], Budget(latency_ms=share(study, 0.6)), training)
    assert (
        chosen.study is fast
        and chosen.best is not None
        and set(chosen.beside) == {"dense openvino", "finalist openvino"}
    )
    hopeless = without_integers(with_script(study, runtime="openvino", script=by(100.0)))
    chosen = choose_runtime([hopeless, fast], Budget(latency_ms=share(study, 0.6)), training)
    assert isinstance(chosen, Chosen) and chosen.study is fast and "cannot be reached" in chosen.refused["openvino"]
    with pytest.raises(BudgetError, match="cannot be reached"):
        choose_runtime([hopeless, replace(hopeless)], Budget(latency_ms=share(study, 0.6)), training)


@pytest.mark.parametrize("ratio", [0.55, 0.75])
def test_a_share_is_of_the_fastest_dense_model_in_each_run_whatever_the_device_does_between(
    tmp_path: Path, ratio: float
) -> None:
    """Of two runtimes the second is twice as fast; the device is slower by up to half from run to run."""
    paces = {"onnxruntime": 1.0, "openvino": 0.5}
    meters = [
        ScriptedMeter(runtime=name, paces=paces, measured=True, drift=lambda runs: 1 + 0.5 * (runs % 3 == 1))
        for name in paces
    ]
    studies = make_studies(meters, tmp_path)
    assert {study.shared_file.runtime for study in studies} == {"openvino"}
    assert studies[0].dense == studies[1].dense
    whole = [list_dense(study, Budget(latency_ratio=ratio)) for study in studies]
    assert [pair[0].cost.latency_ratio for pair in whole] == [pytest.approx(2.0), 1.0]
    training = cast(Training, ScriptedTraining(drop=lambda plan: float(plan.runtime == "openvino")))
    study, result = find_result(studies, Budget(latency_ratio=ratio), training, given=True)
    assert all(run[DENSE] == "openvino" for meter in meters for run in meter.runs[1:])
    assert result.dense.runtime == "openvino"
    share = result.deployed.cost().latency_ratio
    assert share is not None and share <= ratio
    assert share == pytest.approx(result.deployed.latency_ms() / result.dense.latency_ms())
    every = {*result.beside, f"{DENSE} openvino", f"finalist {study.runtime}"}
    assert {f"{DENSE} onnxruntime", f"{DENSE} openvino"} <= every


def test_a_plan_alone_is_refused_only_for_what_was_built(study: Study) -> None:
    budget = Budget(latency_ms=share(study, 0.001))
    with pytest.raises(BudgetError, match="the tightest that was built") as refused:
        plan_within(with_script(study), budget, given=True)
    assert refused.value.built is not None and refused.value.built["latency_ms"] == refused.value.tightest
    assert plan_within(with_script(study), budget, given=False).predicted.latency_ms < study.dense.latency_ms()


def test_a_bound_on_size_alone_leaves_the_latency_as_it_was_where_that_can_be(study: Study) -> None:
    result = run(with_script(study), Budget(size_bytes=0.8 * study.dense.size_bytes))
    assert result.deployed.latency_ms() <= study.dense.latency_ms()
    assert result.deployed.size_bytes <= 0.8 * study.dense.size_bytes


def test_what_keeps_a_budget_from_being_used_is_named(study: Study) -> None:
    """Every bound is used to 95 % or the next step on the menu is named, with what it would take."""
    unused = 0
    for of in (0.45, 0.62, 0.8):
        result = run(with_script(study), Budget(latency_ms=share(study, of)))
        used = result.deployed.latency_ms() / share(study, of)
        assert used >= 0.95 or "of the latency that is allowed is used" in notes(result)
        unused += used < 0.95
    assert unused, "a menu of so few steps leaves something of one of them"
