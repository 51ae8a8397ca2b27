"""The loop on a scripted meter: a profile's answers, distorted as a test says, with real small networks and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Studied

from edgesdk.core.artifact import Artefact
from edgesdk.core.budget import Budget
from edgesdk.core.errors import BudgetError
from edgesdk.core.pairing import Ratio
from edgesdk.core.report import DENSE, Prediction
from edgesdk.devices.meter import Meter
from edgesdk.pipeline.allowance import Allowance
from edgesdk.pipeline.choosing import ROUNDS
from edgesdk.pipeline.loop import find_result
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.rounds import plan_within
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import Training

Script = Callable[[int, Prediction], Prediction]


@dataclass
class Scripted:
    """Answers as ``inner`` does, every artefact but the dense one as ``script`` makes of its count and prediction."""

    inner: Meter
    script: Script
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def measure(
        self, artefacts: Mapping[str, Artefact], mode: str, baselines: Mapping[str, Path] | None = None,
        thorough: bool = True,
    ) -> dict[str, Prediction]:  # fmt: skip
        found = self.inner.measure(artefacts, mode, baselines, thorough)
        for name in [name for name in found if name != DENSE]:
            self.asked.append(name)
            told = self.script(len(self.asked), found[name])
            share = told.median_ms / found[DENSE].median_ms
            found[name] = replace(told, ratios={DENSE: Ratio(share, share, share, 0)})
        return found


def scripted(known: Study, script: Script) -> Study:
    """``known``, measured by the script."""
    return replace(known, meter=Scripted(known.meter, script))


def asked_of(known: Study) -> list[str]:
    """What was measured of it, one after the other."""
    assert isinstance(known.meter, Scripted)
    return known.meter.asked


def slower(by: float) -> Script:
    return lambda count, told: replace(told, median_ms=by * told.median_ms)


def no_faster_than(least_ms: float) -> Script:
    return lambda count, told: replace(told, median_ms=max(least_ms, told.median_ms))


def deployed(known: Study, goal: Budget, given: bool = True) -> Result:
    return find_result([known], goal, Training(known, Allowance(0), 0, lambda stage, share: None), given)[1]


def dense_ms(known: Study) -> float:
    return known.dense.latency_ms()


def notes(result: Result) -> str:
    return " ".join(step["note"] for step in result.history if "note" in step)


def test_a_budget_that_is_met_as_predicted_takes_one_round(studied: Studied) -> None:
    known = scripted(studied("conv"), slower(1.0))
    result = deployed(known, Budget(latency_ms=0.6 * dense_ms(known)))
    assert result.deployed.cost().latency_ms <= 0.6 * dense_ms(known)
    assert all(not step["misses"] for step in result.history if "misses" in step)
    assert len(asked_of(known)) <= 4  # a finalist for each leaning, and the model


def test_a_budget_that_is_missed_is_searched_again_at_corrected_prices(studied: Studied) -> None:
    known = scripted(studied("conv"), slower(1.4))
    result = deployed(known, Budget(latency_ms=0.6 * dense_ms(known)))
    steps = [step for step in result.history if "misses" in step]
    assert steps[0]["misses"]["latency_ms"] > 1 and not steps[-1]["misses"]
    assert steps[-1]["predicted"].latency_ms == pytest.approx(result.deployed.latency_ms(), rel=0.1)


def test_a_round_that_turned_out_faster_is_searched_again_for_what_more_fits(studied: Studied) -> None:
    goal = Budget(latency_ms=0.5 * dense_ms(studied("conv")))
    plain = deployed(scripted(studied("conv"), slower(1.0)), goal)
    faster = deployed(scripted(studied("conv"), slower(0.5)), goal)
    assert faster.deployed.latency_ms() <= goal.bounds["latency_ms"]
    assert faster.plan.digest != plain.plan.digest  # more fits
    assert faster.plan.proof.objective < plain.plan.proof.objective


def test_what_is_out_of_reach_was_built_and_says_so_in_numbers(studied: Studied) -> None:
    plain = studied("conv")
    least, asked = 0.8 * dense_ms(plain), 0.4 * dense_ms(plain)
    known = scripted(plain, no_faster_than(least))
    with pytest.raises(BudgetError, match="the tightest that was built is predicted at") as refused:
        deployed(known, Budget(latency_ms=asked))
    error = refused.value
    assert (error.figure, error.asked) == ("latency_ms", asked) and error.built is not None
    whole = known.anchors["dense int8"].latency_ms()  # measured before, and a candidate
    assert error.tightest == error.built["latency_ms"] == pytest.approx(min(least, whole))
    assert error.built["size_bytes"] > 0 and error.built["peak_memory_bytes"] > 0
    assert len(asked_of(known)) <= 3 * 2 * ROUNDS


def test_the_dense_model_in_integers_is_a_candidate_where_the_search_finds_none(studied: Studied) -> None:
    plain = studied("conv")
    assert plain.whole.options
    latency = plain.anchors["dense int8"].latency_ms()
    known = scripted(plain, slower(3.0))  # but for what was measured before
    asked = Budget(latency_ms=1.001 * latency)
    with pytest.raises(BudgetError) as refused:  # its last run is three times slower, too
        deployed(known, asked)
    assert refused.value.tightest == pytest.approx(3 * latency, rel=0.01)
    last = scripted(studied("conv"), lambda count, told: replace(told, median_ms=told.median_ms * (3, 1)[_is(told)]))
    assert deployed(last, asked).deployed.latency_ms() <= asked.bounds["latency_ms"]


def _is(told: Prediction) -> bool:
    """Whether it is what is deployed in the end."""
    return told.name == "deployed"


def test_a_bound_on_accuracy_is_judged_on_the_file(studied: Studied) -> None:
    known = studied("conv")
    tight = Budget(latency_ms=0.4 * dense_ms(known), max_drop=1e-6)
    try:
        result = deployed(known, tight)
    except BudgetError as error:
        assert error.figure == "max_drop" and error.tightest is not None and error.tightest > 1e-6
        assert error.built is not None and error.built["latency_ms"] <= tight.bounds["latency_ms"]
    else:
        assert result.dense_score - result.score <= 1e-6
    loose = Budget(latency_ms=1.01 * dense_ms(known), max_drop=1e-6)
    assert deployed(known, loose).score == 100.0  # the dense model keeps both


def test_with_a_drop_alone_the_dense_model_is_the_last_resort(studied: Studied) -> None:
    known = scripted(studied("conv"), slower(20.0))
    result = deployed(known, Budget(max_drop=1e-6))
    assert not result.plan.compresses(known.graph) and "nothing was compressed" in notes(result)


def test_a_bound_that_nobody_gave_is_eased_and_never_fails(studied: Studied) -> None:
    plain = studied("conv")
    known = scripted(plain, no_faster_than(0.7 * dense_ms(plain)))
    result = deployed(known, Budget(latency_ratio=0.5), given=False)
    assert 0.69 <= result.deployed.cost().latency_ratio <= 0.75  # type: ignore[operator]
    assert "the default, is out of reach here: it was eased to" in notes(result)


def test_where_nothing_is_faster_the_default_ends_at_the_dense_model(studied: Studied) -> None:
    known = scripted(studied("mlp"), slower(30.0))
    same = replace(known.anchors[DENSE], ratios={DENSE: Ratio(1.0, 1.0, 1.0, 0)})
    known = replace(known, anchors={**known.anchors, "dense int8": same})
    result = deployed(known, Budget(latency_ratio=0.5), given=False)
    assert not result.plan.compresses(known.graph)
    assert "nothing that was built is faster than the dense model" in notes(result)


def test_a_disturbed_run_corrects_no_prices_and_is_named(studied: Studied) -> None:
    known = scripted(studied("conv"), lambda count, told: replace(told, valid=False, reason="it throttled"))
    before = list(known.corrections.observations)
    result = deployed(known, Budget(latency_ms=0.6 * dense_ms(known)))
    assert known.corrections.observations == before
    assert "the last run was disturbed, so that its figures may not hold: it throttled" in notes(result)


def test_what_grows_unasked_is_said(studied: Studied) -> None:
    known = scripted(studied("conv"), lambda count, told: replace(told, peak_memory_bytes=9e6))
    result = deployed(known, Budget(latency_ms=0.6 * dense_ms(known)))
    assert "peak memory was not bounded and grew from" in notes(result)
    assert "latency was not bounded" not in notes(result)


def test_a_bound_on_size_alone_is_kept_no_slower_than_dense_where_that_can_be(studied: Studied) -> None:
    known = studied("conv")
    result = deployed(known, Budget(size_bytes=0.5 * known.dense.size_bytes))
    assert result.deployed.latency_ms() <= 1.02 * dense_ms(known)


def test_what_keeps_a_budget_from_being_used_is_named(studied: Studied) -> None:
    known = studied("mlp")
    share = known.anchors["dense int8"].latency_ms() / dense_ms(known)
    result = deployed(known, Budget(latency_ms=(0.5 + 0.5 * share) * dense_ms(known)))
    used = result.deployed.latency_ms() / ((0.5 + 0.5 * share) * dense_ms(known))
    assert used >= 0.95 or "of the latency that is allowed is used" in notes(result)


def test_a_plan_alone_is_refused_only_for_what_was_built(studied: Studied) -> None:
    known = studied("mlp")
    asked = Budget(latency_ms=0.01 * dense_ms(known))
    with pytest.raises(BudgetError, match="the tightest that was built") as refused:
        plan_within(known, asked, given=True)
    assert refused.value.built is not None and refused.value.built["latency_ms"] == refused.value.tightest
    nearest = plan_within(studied("mlp"), asked, given=False)
    assert nearest.predicted.latency_ms < dense_ms(known)
