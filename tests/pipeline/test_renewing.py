"""A device that is first seen undisturbed while plans are measured is priced and searched for again, not for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from scripted import ScriptedMeter, ScriptedTraining, anchor, as_unwritten

from edgesdk.core.budget import Budget
from edgesdk.core.report import Report
from edgesdk.pipeline.deadline import SEARCH, Deadline
from edgesdk.pipeline.loop import find_result
from edgesdk.pipeline.renewing import RENEWALS, search_renewing
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.study import Anchored, Study
from edgesdk.pipeline.training import Training

BEFORE, FASTER = 0.02, 1.3
BUDGET = Budget(latency_ratio=0.5)
UNDISTURBED: dict[str, Callable[[int], float]] = {  # how many times as fast as at first, by the runs before
    "while plans are measured": lambda runs: FASTER if runs >= 2 else 1.0,
    "a little, which is none": lambda runs: 1.05 if runs >= 2 else 1.0,
    "by and by": lambda runs: FASTER**2 if runs >= 4 else FASTER if runs >= 2 else 1.0,
}


@dataclass
class Waking(ScriptedMeter):
    """A meter whose device turns out faster, by ``times``, as it is measured again and again."""

    times: Callable[[int], float] = lambda runs: 1.0

    def measure(self, *rest: Any, **more: Any) -> Any:
        now = self.times(len(self.runs))
        self.reference_ms = BEFORE / now
        self.drift = lambda runs: 1 / now
        return super().measure(*rest, **more)


@dataclass(frozen=True)
class Found:
    study: Study
    result: Result
    searches: int

    @property
    def notes(self) -> str:
        return " ".join(step["note"] for step in self.result.history if "note" in step)

    @property
    def state_ms(self) -> float:
        """What the references took when the dense model was measured that shares are of."""
        assert isinstance(self.study.dense, Report) and self.study.dense.undisturbed is not None
        return self.study.dense.undisturbed.reference_ms


@pytest.fixture(autouse=True)
def rapid(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESDK_MODE", "rapid")


def search_on(meter: ScriptedMeter, folder: Path, hurried: bool = False, learnt: bool = False) -> Found:
    searches: list[Study] = []
    folder.mkdir(exist_ok=True)
    anchored = anchor([meter], folder, budget=BUDGET)
    if hurried:
        anchored = replace(anchored, setups=tuple(replace(s, deadline=Hurried()) for s in anchored.setups))

    def find(known: Anchored) -> tuple[Study, Result]:
        searches.extend(as_unwritten(known.study()))
        return find_result(searches[-1:], BUDGET, cast(Training, ScriptedTraining()), given=True)

    study, result = search_renewing(anchored, find, lambda: not learnt)
    return Found(study, result, len(searches))


class Hurried(Deadline):
    """The time for searching is over from the start."""

    def is_over(self, stage: str = SEARCH) -> bool:
        return stage == SEARCH


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESDK_CACHE", str(tmp_path_factory.mktemp("cache")))
        return search_on(ScriptedMeter(measured=True, reference_ms=BEFORE), tmp_path_factory.mktemp("still"))


@pytest.mark.parametrize(
    ("seen", "searches"),
    [("while plans are measured", 2), ("a little, which is none", 1), ("by and by", 3)],
)
def test_the_search_begins_again_in_the_state_that_was_seen_on_its_way(
    still: Found, tmp_path: Path, seen: str, searches: int
) -> None:
    meter = Waking(measured=True, times=UNDISTURBED[seen])
    found = search_on(meter, tmp_path)
    assert found.searches == searches and "deploy again" not in found.notes
    assert found.result.plan.digest == still.result.plan.digest
    if seen != "a little, which is none":
        assert found.state_ms == pytest.approx(meter.reference_ms)


@pytest.mark.parametrize(("hurried", "learnt"), [(False, False), (True, False), (False, True)])
def test_a_device_that_becomes_faster_for_ever_is_said_to_and_not_priced_for_ever(
    tmp_path: Path, hurried: bool, learnt: bool
) -> None:
    found = search_on(Waking(measured=True, times=lambda runs: FASTER ** min(20, runs)), tmp_path, hurried, learnt)
    assert found.searches == (1 if hurried or learnt else 1 + RENEWALS)
    assert "deploy again" in found.notes
