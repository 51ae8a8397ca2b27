"""The front of a study at today's prices: for each of several latencies the plan that costs the least accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, hypot, log

from edgesdk.core.budget import Budget
from edgesdk.core.menu import Menu
from edgesdk.core.processes import count_cores
from edgesdk.core.report import DENSE
from edgesdk.pipeline.anchoring import DENSE_INT8
from edgesdk.pipeline.planning import Planned, make_plan, plan_full_width, plan_tightest
from edgesdk.pipeline.study import Study
from edgesdk.solve.milp import Unreachable
from edgesdk.solve.program import LATENCY

PLAN = "plan"
ROOM = 1e-6  # above the tightest, so that rounding does not put it out of reach


@dataclass(frozen=True)
class FrontPlan:
    """One plan of a front, and what it is: ``plan``, ``dense`` or ``dense int8``."""

    kind: str
    planned: Planned


@dataclass(frozen=True)
class Traced:
    """The plans of a front, and why there is none at some latencies, by the latency in ms."""

    plans: tuple[FrontPlan, ...]
    unreachable: Mapping[float, Unreachable]


def trace_front(study: Study, budget: Budget, count: int, bounds: Sequence[Budget] = ()) -> Traced:
    """The best plans at ``count`` latencies from the tightest that there is to the dense model's, evenly spaced in
    their logarithms, or at ``bounds`` alone; within what ``budget`` says of memory and size. With them the dense model
    and its integer form, as they are, where they keep these.

    A plan that is the best at several latencies is given once.
    """
    dense_ms, at = study.dense.latency_ms(), study.menu()
    others = replace(budget, latency_ms=None, latency_ratio=None)
    asked = [ms for bound in bounds if (ms := bound.against(dense_ms).latency_ms) is not None]
    wanted = asked or _spaced(study, others, count, at)
    by_digest: dict[str, FrontPlan] = {}
    unreachable: dict[float, Unreachable] = {}
    for kind, options in ((DENSE, {}), (DENSE_INT8, study.whole.options)):
        planned = plan_full_width(study, options, at)
        if others.is_met_by(planned.solution.cost):
            by_digest.setdefault(planned.plan.digest, FrontPlan(kind, planned))
    for bound_ms, planned in zip(wanted, _plan_at_each(study, others, wanted, at), strict=True):
        if isinstance(planned, Unreachable):
            unreachable[bound_ms] = planned
        else:
            by_digest.setdefault(planned.plan.digest, FrontPlan(PLAN, planned))
    return Traced(tuple(by_digest.values()), unreachable)


def _plan_at_each(study: Study, bounds: Budget, latencies: Sequence[float], at: Menu) -> list[Planned | Unreachable]:
    """The best plan at each of ``latencies``, or why there is none: no search knows of another, so that as many run at
    a time as there are cores."""

    def plan(latency_ms: float) -> Planned | Unreachable:
        try:
            return plan_at(study, bounds, latency_ms, at)
        except Unreachable as error:
            return error

    with ThreadPoolExecutor(count_cores()) as pool:
        try:
            return list(pool.map(plan, latencies))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def plan_at(study: Study, bounds: Budget, latency_ms: float, at: Menu | None = None) -> Planned:
    """The best plan at that latency, and within what ``bounds`` say of memory and size. Raises ``Unreachable``."""
    return make_plan(study, replace(bounds, latency_ms=latency_ms, latency_ratio=None), tight={}, at=at)


def _spaced(study: Study, budget: Budget, count: int, at: Menu) -> list[float]:
    least = plan_tightest(study, budget, LATENCY, at).solution.cost.latency_ms * (1 + ROOM)
    most = max(least, plan_full_width(study, {}, at).solution.cost.latency_ms)
    steps = max(count - 1, 1)
    return [exp(log(least) + step / steps * log(most / least)) for step in range(count)]


def undominated(figures: Sequence[tuple[float, ...]]) -> list[bool]:
    """Of each of ``figures``, less being better, whether no other is as good in all of a row and better in one."""
    return [
        not any(_is_better(other, own) for other in figures) and own not in figures[:place]
        for place, own in enumerate(figures)
    ]


def _is_better(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))


def rank_knees(figures: Sequence[tuple[float, float]]) -> list[int]:
    """The places of ``figures`` (ms, loss), from fast to slow and none beaten by another, by what is won there.

    A knee is where the front lies farthest below the straight line between its ends, each axis from 0 to 1 over the
    front, milliseconds by ratios: that of Satopää et al., "Finding a 'Kneedle' in a haystack" (2011). It parts the
    front in two, in which the next is found in the same way, as Ramer (1972) and Douglas and Peucker (1973) find the
    points of a simplified line. After all between the ends comes the fastest, then the slowest.
    """
    last = len(figures) - 1
    ends = [*dict.fromkeys((0, last))] if figures else []
    ms, losses = _from_zero_to_one([log(ms) for ms, _ in figures]), _from_zero_to_one([loss for _, loss in figures])
    scaled = list(zip(ms, losses, strict=True))
    ranked: list[int] = []
    while len(ranked) + len(ends) < len(figures):
        below = {
            place: _below(scaled[place], scaled[left], scaled[right])
            for left, right in pairwise(sorted({*ends, *ranked}))
            for place in range(left + 1, right)
        }
        ranked.append(max(below, key=lambda place: below[place]))
    return [*ranked, *ends]


def _from_zero_to_one(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def _below(point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> float:
    """How far ``point`` lies below the straight line from ``left`` to ``right``, across it."""
    across, up = right[0] - left[0], right[1] - left[1]
    return (up * (point[0] - left[0]) - across * (point[1] - left[1])) / (hypot(across, up) or 1.0)
