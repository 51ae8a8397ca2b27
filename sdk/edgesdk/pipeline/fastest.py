"""The fastest plan whose accuracy drops by no more than a bound, where nothing else bounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.wording import counted
from edgesdk.data.points import point
from edgesdk.pipeline.candidates import Attempt, Candidate, attempt, list_dense
from edgesdk.pipeline.deadline import LEARNING, SEARCH
from edgesdk.pipeline.planning import EVEN, FIRST, MARGIN, make_plan
from edgesdk.pipeline.remarks import add_remarks
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.setup import Setup
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import Training
from edgesdk.pipeline.trying import try_plans
from edgesdk.solve.milp import Unreachable

DEFAULT_DROP = 1.0  # points, where nobody bounds anything and half of the latency is no bound to go by
STEPS = 4  # bisections of the latency that a bound on accuracy allows
FASTEST = 0.1  # of the dense model's latency, at which they begin
SLOWER = 1.25  # times the share before, where what was found drops too much in full


def default_drop(setup: Setup) -> float:
    """The bound on the drop where nobody gave any, in the metric of the task."""
    return DEFAULT_DROP * point(setup.task, setup.reference, setup.data.test)


def find_fastest(
    study: Study, budget: Budget, max_drop: float, training: Training, best: Candidate | None = None,
    beside: Mapping[str, Artifact] | None = None, history: tuple[Mapping[str, Any], ...] = (),
) -> Result:  # fmt: skip
    """The fastest plan whose accuracy drops by no more than ``max_drop`` points: bisection on the latency.

    ``best`` is where another search found that already. The dense model is the result at worst.
    """
    dense, *whole = list_dense(study, budget)
    dense_ms = study.dense.latency_ms()
    if best is None:
        tried = bisect_latency(study, budget, max_drop, training)
        history += tuple(attempt.step(budget) for attempt in tried)
        within = select_within(tried, max_drop)
        best = within.candidate if within is not None else None
    share = 1.0 if best is None else best.measured.latency_ms() / dense_ms
    ways: list[Candidate | float] = [best] if best is not None else []
    while share < 1.0:
        share = min(1.0, share * SLOWER)
        ways.append(share)
    ways += [attempt.candidate for attempt in whole if attempt.cost.latency_ms < dense.cost.latency_ms]
    return finish_first(study, budget, max_drop, training, ways, beside, history)


def finish_first(
    study: Study, budget: Budget, max_drop: float, training: Training, ways: Sequence[Candidate | float],
    beside: Mapping[str, Artifact] | None, history: tuple[Mapping[str, Any], ...],
) -> Result:  # fmt: skip
    """The first of ``ways``, candidates or shares of the dense model's latency, that is faster than the dense model and
    drops by no more than ``max_drop`` points once it learnt in full; else that model."""
    dense, dense_ms = list_dense(study, budget)[0], study.dense.latency_ms()
    for number, way in enumerate(ways):
        if number and study.deadline.ends(LEARNING, "the search for the fastest"):
            break
        candidate = way if isinstance(way, Candidate) else allow_latency(study, budget, way).candidate
        if candidate.measured.latency_ms() >= dense_ms:
            continue
        result = training.finish(candidate, beside)
        history += result.history
        faster = result.deployed.latency_ms() < result.dense.latency_ms()
        if faster and result.dense_score - result.score <= max_drop:
            return add_remarks(result, budget, study, history)
    result = training.finish(dense.candidate, beside)
    return add_remarks(result, budget, study, (*history, *result.history))


def bisect_latency(study: Study, budget: Budget, max_drop: float, training: Training) -> tuple[Attempt, ...]:
    """Candidates that bisect the latency, each with its drop after a short recovery.

    Of those within ``max_drop`` the faster is later.
    """
    low, high = FASTEST, 1.0
    tried: list[Attempt] = []
    dense_ms, reference = study.dense.latency_ms(), training.score_held_out(study.network)
    for step in range(STEPS):
        stage = SEARCH if step else LEARNING
        if study.deadline.ends(stage, f"the search for the fastest, after {counted(step, 'step')}"):
            break
        share = (low * high) ** 0.5
        bound = replace(budget, latency_ms=dense_ms * share, max_drop=None)
        try_plans(study, bound, FIRST)
        try:
            latest = attempt(study, make_plan(study, bound), budget, EVEN)
        except Unreachable:
            low = share
            continue
        drop = reference - training.try_short(latest.candidate)
        tried.append(replace(latest, drop=drop))
        if drop <= max_drop:
            high = share
        else:
            low = share
    return tuple(tried)


def select_within(tried: tuple[Attempt, ...], max_drop: float) -> Attempt | None:
    """Of those that :func:`bisect_latency` tried the last, and so the fastest, that drops by no more than that."""
    return next((attempt for attempt in reversed(tried) if attempt.drop is not None and attempt.drop <= max_drop), None)


def allow_latency(study: Study, budget: Budget, share: float) -> Attempt:
    """The best plan at that share of the dense model's latency; at all of it, that is the dense model at worst."""
    bound = replace(budget, latency_ms=study.dense.latency_ms() * share * (1 + MARGIN), max_drop=None)
    try:
        return attempt(study, make_plan(study, bound, tight={}), budget, EVEN)
    except Unreachable:
        return list_dense(study, budget)[0]
