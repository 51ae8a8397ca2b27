"""``--time`` bounds a whole run, whatever takes how long: on a clock that moves by a script, with a real search."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scripted import ScriptedMeter, ScriptedPrices, ScriptedTraining, UnwrittenSetup, anchor

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.errors import BudgetError
from edgesdk.core.plan import Plan
from edgesdk.core.report import Measurement
from edgesdk.pipeline.candidates import Candidate
from edgesdk.pipeline.deadline import LEARNING, PRICING, SEARCH, SENSITIVITY, Deadline, show_seconds
from edgesdk.pipeline.loose import find_deployed
from edgesdk.pipeline.pricing import price_plan
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import Training
from edgesdk.price.operator import Operator

OVER, MORE_SECONDS = 1.1, 15.0  # what a run may take beyond its time
MOST_UNIT = 5.0  # seconds of what cannot be cut: an operator, a step, a file


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Speeds:
    """Seconds of an operator's price, a step of sensitivity, a file, a measurement at its full length, an epoch."""

    operator: float
    step: float
    file: float
    measurement: float
    epoch: float


class TimedPrices(ScriptedPrices):
    """Those of operators that were timed."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    def has_price(self, operator: Operator) -> bool:
        return operator.key in self.keys


@dataclass
class TimedMeter(ScriptedMeter):
    """Takes the seconds of a script to price and measure, in which it can be cut short as a bench can."""

    clock: Clock = field(default_factory=Clock)
    speeds: Speeds = field(default=Speeds(0.0, 0.0, 0.0, 0.0, 0.0))
    table: ScriptedPrices = field(default_factory=TimedPrices)

    def time(
        self, operators: Sequence[Operator], probe: Callable[[Operator], bytes],
        progress: Callable[[float], None] = lambda share: None, again: bool = False, seconds: float | None = None,
    ) -> int:  # fmt: skip
        assert isinstance(self.table, TimedPrices)
        end, done = self.clock.now + (float("inf") if seconds is None else seconds), 0
        for operator in operators:
            if self.clock.now >= end:
                break
            if again or operator.key not in self.table.keys:
                self.clock.now += self.speeds.operator
                self.table.keys.add(operator.key)
                done += 1
        return done

    def measure(
        self, artifacts: Mapping[str, Artifact], mode: str, baselines: Mapping[str, Path] | None = None,
        thorough: bool = True, seconds: float | None = None, **more: Any,
    ) -> Mapping[str, Measurement]:  # fmt: skip
        whole = self.speeds.measurement
        self.clock.now += whole if seconds is None else min(whole, max(1.0, seconds))
        return super().measure(artifacts, mode, baselines, thorough)


@dataclass
class TimedTraining(ScriptedTraining):
    """Takes the seconds of a script to learn, in which it ends when it is told to."""

    clock: Clock = field(default_factory=Clock)
    deadline: Deadline = field(default_factory=Deadline)
    speeds: Speeds = field(default=Speeds(0.0, 0.0, 0.0, 0.0, 0.0))

    def learn(self, epochs: float, share: float) -> None:
        until = self.deadline.share_out(share)
        end = self.clock.now + epochs * self.speeds.epoch
        self.clock.now = end if until is None else max(self.clock.now, min(end, until))

    def try_short(self, candidate: Candidate, share: float = 1.0, units: float = 4.0, told: str = "") -> float:
        self.learn(share, 0.3 * share / units)
        return super().try_short(candidate)

    def finish(self, candidate: Candidate, beside: Mapping[str, Artifact] | None = None) -> Result:
        self.learn(10.0, 0.9)
        self.clock.now += self.speeds.file
        return super().finish(candidate, beside)


@dataclass(frozen=True)
class Run:
    """What a run came to on a clock of its own: the plan, or why there is none."""

    took: float
    plan: Plan | None
    said: str
    meter: TimedMeter


def deploy(
    speeds: Speeds, seconds: float | None, budget: Budget, drop: Callable[[Plan], float] = lambda plan: 0.0,
    table: TimedPrices | None = None,
) -> Run:  # fmt: skip
    """A whole run in ``seconds``, with prices that an earlier one left in ``table``."""
    clock = Clock()
    deadline = Deadline(seconds, clock=clock)
    meter = TimedMeter(clock=clock, speeds=speeds, table=table or TimedPrices())

    def tell(stage: str, share: float | None) -> None:
        if stage.startswith("measuring sensitivity"):
            clock.now += speeds.step

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("EDGESDK_CACHE", f"{folder}/cache")
        real = UnwrittenSetup.write_file

        def write_file(self: Any, *given: Any) -> Artifact:
            clock.now += speeds.file
            return real(self, *given)

        patched.setattr("scripted.Unwritten.write_file", write_file)
        training = TimedTraining(drop, clock=clock, deadline=deadline, speeds=speeds)
        try:
            anchored = anchor([meter], Path(folder), deadline=deadline, tell=tell)
            study, result = find_deployed(anchored, budget, cast(Training, training), given=True)
        except BudgetError as error:
            return Run(clock.now, None, str(error), meter)
        assert budget.is_met_by(result.deployed.cost(budget)) or not result.plan.compresses(study.graph)
        return Run(clock.now, result.plan, deadline.note or "", meter)


def units(most: float) -> st.SearchStrategy[float]:
    return st.floats(1e-3, most)


SPEEDS = st.builds(Speeds, units(2.0), units(MOST_UNIT), units(2.0), units(300.0), units(1000.0))
BUDGETS = st.sampled_from([Budget(latency_ratio=of) for of in (0.1, 0.4, 0.7, 1.5)] + [Budget(max_drop=1.0)])
SEVERAL = settings(
    max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip


@SEVERAL
@given(SPEEDS, st.floats(20.0, 7200.0), BUDGETS)
def test_a_run_ends_within_its_time_and_so_does_the_next(speeds: Speeds, seconds: float, budget: Budget) -> None:
    drop = lambda plan: 1.4 * plan.proof.objective / (1 + plan.proof.objective)  # noqa: E731
    first = deploy(speeds, seconds, budget, drop)
    assert first.took <= OVER * seconds + MORE_SECONDS
    table = first.meter.table
    assert isinstance(table, TimedPrices)
    again = deploy(speeds, seconds, budget, drop, table)
    assert again.took <= OVER * seconds + MORE_SECONDS
    endless = deploy(speeds, None, budget, drop, table)
    assert "to end within" not in endless.said
    if first.plan is None:  # an honest verdict: there is none without end either, or it says what time cut
        assert endless.plan is None or "to end within" in first.said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """All that there is to choose."""
    return anchor([ScriptedMeter()], tmp_path_factory.mktemp("whole")).study()[0]


@SEVERAL
@given(SPEEDS, st.floats(20.0, 2000.0), st.floats(1.05, 10.0), st.sampled_from([0.2, 0.3, 0.4]))
def test_more_time_never_gives_a_worse_plan(
    whole: Study, speeds: Speeds, seconds: float, times: float, of: float
) -> None:
    short, long = (deploy(speeds, given, Budget(latency_ratio=of)) for given in (seconds, times * seconds))
    if short.plan is not None:
        assert long.plan is not None
        assert _loss(whole, long.plan) <= 1.002 * _loss(whole, short.plan) + 1e-9


def _loss(whole: Study, plan: Plan) -> float:
    return price_plan(whole.menu(), plan)[1]


def test_what_was_cut_is_said_in_a_line_and_nothing_where_there_was_time() -> None:
    slow, quick = Speeds(1.0, 0.5, 0.5, 10.0, 10.0), Speeds(1e-3, 1e-3, 1e-3, 1.0, 0.1)
    budget = Budget(latency_ratio=0.3)
    cut = deploy(slow, 150.0, budget)
    assert cut.said.startswith("to end within 2.5 min the run cut the pricing of ") and "\n" not in cut.said
    assert deploy(quick, 600.0, budget).said == ""
    hopeless = deploy(slow, 150.0, Budget(latency_ratio=0.001))
    assert hopeless.plan is None and "give it more --time, or allow" in hopeless.said


def test_stages_have_marks_and_what_ends_before_leaves_its_time() -> None:
    clock = Clock(100.0)
    deadline = Deadline(100.0, clock=clock)
    clock.now = 110.0
    deadline.plan(ending_seconds=5.0)  # 15 more to measure
    ends = [cast(float, deadline.until(stage)) for stage in (PRICING, SENSITIVITY, SEARCH, LEARNING)]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(180.0) and ends[0] == pytest.approx(131.0)
    assert deadline.left(PRICING) == pytest.approx(21.0) and deadline.left() == pytest.approx(90.0)
    assert deadline.share_out(0.5) == pytest.approx(145.0)
    clock.now = 150.0
    assert deadline.is_over(PRICING) and not deadline.is_over(SEARCH) and not deadline.is_over()
    assert deadline.ends(PRICING, "pricing") and deadline.note == "to end within 100 s the run cut pricing"
    clock.now = 500.0
    assert deadline.left() == 0.0 and deadline.share_out(0.5) == 500.0
    endless = Deadline()
    assert endless.until() is endless.left() is endless.share_out(1.0) is endless.note is None and not endless.is_over()


@pytest.mark.parametrize(("read", "asked", "least"), [(12.0, 8.0, 18.0), (300.0, 60.0, 306.0), (5.0, 20.0, None)])
def test_a_time_that_cannot_be_kept_is_said_with_the_least(read: float, asked: float, least: float | None) -> None:
    """What the command had taken before counts: it has begun when it was asked for."""
    clock = Clock(100.0)
    deadline = Deadline.of(Deadline(asked, clock=clock))
    clock.now += read
    told = deadline.find_shortfall(6.0)
    assert (told is None) == (least is None) == (deadline.note is None)
    if least is not None:
        assert told is not None and told == f"{deadline.note}: it ends as soon as it can"
        assert told.startswith(f"{show_seconds(asked)} cannot")
        assert f"about {show_seconds(float(f'{least:.2g}'))} at the least" in told
        deadline.note_cut("pricing")
        assert deadline.note is not None and deadline.note.endswith("at the least: the run cut pricing")
    assert Deadline.of("2min").seconds == 120.0 and Deadline.of(None).find_shortfall(1e6) is None


@pytest.mark.parametrize(("seconds", "said"), [(90.0, "90 s"), (600.0, "10 min"), (9000.0, "2.5 h")])
def test_a_time_reads_as_people_write_it(seconds: float, said: str) -> None:
    assert show_seconds(seconds) == said
