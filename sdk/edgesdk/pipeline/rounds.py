"""One round of the loop: the best plans at today's prices, applied and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesdk.core.budget import Budget
from edgesdk.core.plan import Plan
from edgesdk.core.report import DENSE
from edgesdk.pipeline.anchoring import DENSE_INT8
from edgesdk.pipeline.candidates import Attempt, attempt, find_nearest, list_dense, refuse, select_keeping
from edgesdk.pipeline.deadline import LEARNING, SEARCH
from edgesdk.pipeline.planning import FIRST, MARGIN, Tight, make_plan, plan_tightest, to_planned
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.trying import try_plans
from edgesdk.solve.milp import Unreachable


@dataclass(frozen=True)
class Round:
    """The candidates of one round, and what the search said where it found nothing at the prices that there are."""

    attempts: tuple[Attempt, ...]
    priced: Unreachable | None = None


def search_round(study: Study, budget: Budget, leans: Sequence[str], tight: Tight, tried: Sequence[Attempt]) -> Round:
    """The candidates of one round: the best plans of the search, or the tightest where it finds none in the bounds.

    What was ``tried`` before is not applied again.
    """
    try_plans(study, budget, tight)
    built = {attempt.plan.digest: attempt for attempt in tried}
    attempts: dict[str, Attempt] = {}
    for lean in leans:
        if attempts and study.deadline.ends(SEARCH, "finalists that lean otherwise"):
            break
        number = 1 + len(attempts) + sum(attempt.search not in (DENSE, DENSE_INT8) for attempt in tried)
        study.tell(f"searching and {study.finding} ({study.runtime}): candidate {number}, {lean}", None)
        priced, at = None, study.menu()
        try:
            plans = {lean: make_plan(study, budget, lean, tight)}
        except Unreachable as error:
            priced = error
            plans = {f"tightest {name}": to_planned(study, at, solution) for name, solution in error.nearest.items()}
        for search, planned in plans.items():
            if attempts and study.deadline.is_over():
                break
            if planned.plan.digest not in attempts:
                attempts[planned.plan.digest] = built.get(planned.plan.digest) or attempt(
                    study, planned, budget, search
                )
        if priced is not None:
            return Round(tuple(attempts.values()), priced)
    return Round(tuple(attempts.values()))


def select_new(attempts: Sequence[Attempt], tried: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """Those of ``attempts`` that were not ``tried`` before, or were measured again since."""
    before = {id(attempt) for attempt in tried}
    return tuple({id(attempt): attempt for attempt in attempts if id(attempt) not in before}.values())


def tighten(tight: Tight, budget: Budget, attempts: Sequence[Attempt]) -> Tight:
    """``tight`` with less of what ``attempts`` miss, and of the latency, which varies from run to run."""
    missed = {name for attempt in attempts for name in budget.misses(attempt.cost)} | {"latency_ms"}
    steps = {name: MARGIN / 2 if name == "latency_ms" else MARGIN for name in missed}
    return {**tight, **{name: tight.get(name, 1.0) - step for name, step in steps.items()}}


def build_tightest(study: Study, budget: Budget, tried: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """Where nothing that was ``tried`` keeps ``budget``: the plans with the least of each figure, applied."""
    if select_keeping(tried, budget):
        return ()
    attempts: list[Attempt] = []
    built = {attempt.plan.digest for attempt in tried}
    for name in budget.against(1.0).bounds:
        if study.deadline.ends(LEARNING, "the search for the tightest model"):
            break
        planned = plan_tightest(study, budget, name)
        if planned.plan.digest not in built:
            built.add(planned.plan.digest)
            attempts.append(attempt(study, planned, budget, f"tightest {name}"))
    return tuple(attempts)


def plan_within(study: Study, budget: Budget, given: bool) -> Plan:
    """The best plan at today's prices; where these know of none within ``budget``, what comes nearest is applied.

    Raises ``BudgetError`` where that does not keep it either, unless nobody gave it: then the nearest is taken.
    """
    try_plans(study, budget, FIRST)
    at = study.menu()
    try:
        return make_plan(study, budget).plan
    except Unreachable as error:
        nearest = [to_planned(study, at, solution) for solution in error.nearest.values()]
        tried = list_dense(study, budget)
        tried += tuple(attempt(study, planned, budget, "tightest") for planned in nearest)
        tried += build_tightest(study, budget, tried)
        if kept := select_keeping(tried, budget):
            return min(kept, key=lambda attempt: attempt.loss).plan
        if given:
            raise refuse(tried, budget, error) from None
        return find_nearest(tried, budget).plan
