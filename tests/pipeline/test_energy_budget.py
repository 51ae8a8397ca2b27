"""A bound on energy: kept by what a meter said of what was built, whatever power the dense model's promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from scripted import ScriptedMeter, ScriptedTraining, anchor, as_unwritten, with_script

from edgesdk.core.budget import Budget
from edgesdk.core.energy import Energy
from edgesdk.core.errors import BudgetError, DeviceError
from edgesdk.pipeline.loop import find_result
from edgesdk.pipeline.loose import DENSE_KEEPS, find_deployed
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.rounds import plan_within
from edgesdk.pipeline.study import Study, anchor_setups
from edgesdk.pipeline.training import Training

WATTS = 3.0
SOUND = Energy(1.0, 0.01, 2.0, WATTS + 1.0, 1.0, 3, "a meter")


def taking(watts: Callable[[str], float]) -> Callable[[str, float], Energy]:
    """A meter by which a file at work takes the ``watts`` that its name has."""
    return lambda name, ms: replace(SOUND, mj=watts(name) * ms)


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Study:
    meter = ScriptedMeter(measured=True, power=taking(lambda name: WATTS))
    before = anchor([meter], tmp_path_factory.mktemp("metered"))
    setups = [replace(setup, by_energy=True) for setup in before.setups]
    return as_unwritten(anchor_setups(setups, before.dense, before.budget).study())[0]


def run(study: Study, budget: Budget) -> Result:
    return find_result([study], budget, cast(Training, ScriptedTraining()), True)[1]


def share(study: Study, of: float) -> float:
    """That of what the dense model takes, in mJ."""
    return of * WATTS * study.dense.latency_ms()


@pytest.mark.parametrize("of", [0.6, 0.8])
@pytest.mark.parametrize("more", [1.0, 1.3, 0.7])
def test_it_is_kept_as_measured_whatever_power_what_is_built_takes(metered: Study, of: float, more: float) -> None:
    own = with_script(metered, power=taking(lambda name: WATTS * (1.0 if name.startswith("dense") else more)))
    budget = Budget(energy_mj=share(own, of))
    result = run(own, budget)
    measured = result.deployed.cost()
    assert measured.basis == "measured" and measured.energy_mj is not None
    assert measured.energy_mj <= share(own, of) and budget.is_met_by(measured)
    assert measured.energy_mj == pytest.approx(more * WATTS * measured.latency_ms) or not result.plan.kept
    tried = [step for step in result.history if "misses" in step and not step["search"].startswith("dense")]
    assert all(step["predicted"].energy_mj is not None for step in tried if step["predicted"].basis == "predicted")
    missed = [step["misses"] for step in tried if step["misses"]]
    assert all(set(misses) == {"energy_mj"} for misses in missed)


def test_what_is_taken_less_of_leaves_room_for_more(metered: Study) -> None:
    """What takes half the power may take longer: at prices of the dense model's power it would have been cut more."""
    budget = Budget(energy_mj=share(metered, 0.6))
    results = [
        run(with_script(metered, power=taking(lambda name, watts=watts: watts)), budget) for watts in (WATTS, WATTS / 2)
    ]
    assert results[1].deployed.latency_ms() >= results[0].deployed.latency_ms()


def test_with_other_bounds_all_are_kept(metered: Study) -> None:
    ms, mj = 0.9 * metered.dense.latency_ms(), share(metered, 0.7)
    result = run(with_script(metered), Budget(latency_ms=ms, energy_mj=mj, size_bytes=metered.dense.size_bytes))
    cost = result.deployed.cost()
    assert cost.latency_ms <= ms and (cost.energy_mj or 0.0) <= mj


def test_a_plan_alone_says_what_it_would_take_as_predicted(metered: Study) -> None:
    plan = plan_within(with_script(metered), Budget(energy_mj=share(metered, 0.6)), True)
    assert plan.predicted.basis == "predicted" and plan.predicted.energy_mj is not None
    assert plan.predicted.energy_mj == pytest.approx(WATTS * plan.predicted.latency_ms)
    assert plan.predicted.energy_mj <= share(metered, 0.6)


def test_what_is_out_of_reach_is_said_in_mj(metered: Study) -> None:
    with pytest.raises(BudgetError) as caught:
        run(with_script(metered), Budget(energy_mj=share(metered, 1e-4)))
    error = caught.value
    assert (error.figure, error.basis) == ("energy_mj", "measured") and "a run's energy of" in error.fact
    assert error.tightest is not None and error.tightest > share(metered, 1e-4) and " mJ" in error.remedy


def test_a_loose_bound_is_kept_by_the_dense_model(tmp_path: Path) -> None:
    meter = ScriptedMeter(measured=True, power=taking(lambda name: WATTS))
    before = anchor([meter], tmp_path)
    setups = [replace(setup, by_energy=True) for setup in before.setups]
    anchored = anchor_setups(setups, before.dense, before.budget)
    budget = Budget(energy_mj=1.1 * WATTS * anchored.anchors[0].shared.latency_ms())
    _, result = find_deployed(anchored, budget, cast(Training, ScriptedTraining()), True)
    assert DENSE_KEEPS in [step.get("note") for step in result.history]


def test_a_meter_that_fails_is_an_error_and_no_candidate(metered: Study) -> None:
    failed = replace(SOUND, mj=None, error_mj=None, reason="the meter stopped: 2 s without a reading")
    own = with_script(metered, power=lambda name, ms: failed)
    with pytest.raises(DeviceError, match="the energy of a run is not known: the meter stopped"):
        run(own, Budget(energy_mj=share(metered, 0.6)))
