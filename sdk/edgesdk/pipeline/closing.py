"""Closing in on a bound on latency: what keeps it and leaves much of it is seldom the best that does."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from math import log

from edgesdk.core.budget import Budget
from edgesdk.core.menu import Menu
from edgesdk.core.report import is_predicted
from edgesdk.pipeline.candidates import Attempt, attempt, select_keeping
from edgesdk.pipeline.deadline import SEARCH
from edgesdk.pipeline.measuring import measure_beside
from edgesdk.pipeline.planning import EVEN, MARGIN, Tight, make_plan
from edgesdk.pipeline.pricing import price_plan
from edgesdk.pipeline.study import Study
from edgesdk.solve.milp import Unreachable
from edgesdk.solve.program import LATENCY

STEPS = 4  # of closing in, for each of which a plan is applied and measured
ENOUGH = 1 - 2 * MARGIN  # of a bound, from which it is used
INSIDE = 0.2, 0.8  # of the way from what keeps a bound to what misses it, between which the next plan is
BEYOND = 1.05  # times where a bound is aimed at, where nothing up to there is better: prices may be off by as much
LESS = 1e-3  # of a loss, by which a plan must be better to be one to try
AGAIN, CLOSER = "measured again", "closer"


def close_in(
    study: Study, budget: Budget, tight: Tight, found: Sequence[Attempt], tried: Sequence[Attempt],
    refuted: Container[str],
) -> tuple[Attempt, ...]:  # fmt: skip
    """Attempts beside those of ``found`` that keep ``budget``, where these leave much of its latency.

    Where one of them keeps it and is better than what was found, the best such comes last.

    A model that a disturbed run measured as slow corrects the prices, so that what is searched for after it is tighter
    than it need be. So what missed the bound though it should be better is measured again; then plans are searched for
    between what keeps the bound and what misses it, by what both were measured at. Of what was ``tried`` before nothing
    is applied again, and what was ``refuted`` in full counts no more.
    """
    known = {each.plan.digest: each for each in (*tried, *found) if each.plan.digest not in refuted}
    kept = [known[each.plan.digest] for each in select_keeping(found, budget) if each.plan.digest in known]
    if not kept or not _list_bounds(budget):
        return ()
    below, at = max(kept, key=lambda each: _use(each, budget)), study.menu()  # whose losses no correction changes
    if _use(below, budget) > ENOUGH:
        return ()
    closer = _measure_again(study, budget, at, below, list(known.values()))
    known |= {each.plan.digest: each for each in closer}
    below = min((below, *select_keeping(closer, budget)), key=lambda each: _find_loss(at, each))
    for step in range(STEPS):
        if _use(below, budget) > ENOUGH or study.deadline.is_over(SEARCH):
            break
        study.tell(f"searching and {study.finding} ({study.runtime}): closer to the bound, step {step + 1}", None)
        aim, most = _aim(study, budget, below, list(known.values())), (1 - LESS) * _find_loss(at, below)
        try:
            planned = make_plan(study, budget, EVEN, {**tight, **aim})
            beyond = planned.solution.loss >= most
            if beyond:  # what just misses the bound by its price may keep it
                planned = make_plan(study, budget, EVEN, {**tight, LATENCY: BEYOND * aim[LATENCY]})
        except Unreachable:
            break
        digest = planned.plan.digest
        if digest in refuted or (beyond and digest in known) or planned.solution.loss >= most:
            break
        latest = known.get(digest) or attempt(study, planned, budget, CLOSER)
        known[digest] = latest
        closer.append(latest)
        below = latest if budget.is_met_by(latest.cost) else below
    return tuple(sorted(closer, key=lambda each: each is below))


def _list_bounds(budget: Budget) -> dict[str, float]:
    return {name: bound for name, bound in budget.bounds.items() if name.startswith("latency")}


def _use(tried: Attempt, budget: Budget) -> float:
    """How much of the bounds on latency that takes."""
    return max(getattr(tried.cost, name) / bound for name, bound in _list_bounds(budget).items())


def _find_loss(at: Menu, tried: Attempt) -> float:
    """What that should lose: the same for each leaning of the search."""
    return price_plan(at, tried.plan)[1]


def _measure_again(study: Study, budget: Budget, at: Menu, below: Attempt, known: Sequence[Attempt]) -> list[Attempt]:
    """Those of ``known`` that are to lose less than ``below``, and miss only a latency that they were to keep, measured
    once more: in one interleaved run, whose figures take the place of those before."""
    enough, slow = _find_loss(at, below) * (1 - LESS), _list_bounds(budget).keys()
    doubtful = [
        each
        for each in known
        if (missed := budget.misses(each.cost).keys())
        and missed <= slow
        and not missed & budget.misses(each.plan.predicted).keys()
        and each.search != AGAIN
        and not is_predicted(each.candidate.measured)
        and each.plan.compresses(study.graph)
        and _find_loss(at, each) < enough
    ]
    if not doubtful or study.deadline.is_over(SEARCH):
        return []
    study.tell(f"searching and {study.finding} ({study.runtime}): again, what was slower than it should be", None)
    files = {f"candidate-{each.plan.digest[:12]}": each.candidate.artifact for each in doubtful}
    measured = measure_beside(study, files, anew=True)
    again = []
    for name, each in zip(files, doubtful, strict=True):
        study.corrections.amend(each.candidate.measured, measured[name])
        candidate = replace(each.candidate, measured=measured[name])
        again.append(replace(each, candidate=candidate, search=AGAIN, cost=measured[name].cost(budget)))
    return again


def _aim(study: Study, budget: Budget, below: Attempt, known: Sequence[Attempt]) -> Tight:
    """What the bound on latency is to be multiplied with, so that what is found then just keeps it as it is measured.

    Between ``below`` and the fastest that misses it prices are taken to be off as they are there; where there is none,
    as they are for ``below``.
    """
    at = study.menu()
    low, use, goal = price_plan(at, below.plan)[0].latency_ms, _use(below, budget), 1 - MARGIN
    times = goal / use
    above = min((each for each in known if _use(each, budget) > 1), key=lambda each: _use(each, budget), default=None)
    high = low if above is None else price_plan(at, above.plan)[0].latency_ms
    if above is not None and high > low:
        least, most = INSIDE
        times = (high / low) ** min(max(log(times) / log(_use(above, budget) / use), least), most)
    dense_ms = study.dense.latency_ms()
    tail = study.dense.latency_ms(budget.percentile) / dense_ms
    return {LATENCY: low * times * tail / budget.against(dense_ms).bounds[LATENCY]}
