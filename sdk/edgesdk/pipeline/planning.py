"""From a study and a budget to a plan: the search at today's prices, before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from edgesdk.core.budget import Budget, Cost
from edgesdk.core.menu import Menu
from edgesdk.core.plan import NOT_SEARCHED, Option, Plan, Proof
from edgesdk.pipeline.deadline import SEARCH
from edgesdk.pipeline.least import descend
from edgesdk.pipeline.pricing import pick_full_width
from edgesdk.pipeline.study import Study
from edgesdk.solve.finalists import as_plan, leaning
from edgesdk.solve.milp import Solution, Unreachable, price, solve
from edgesdk.solve.program import LATENCY, LOSS, PEAK, SIZE

MARGIN = 0.03  # searched below the budget, so that noise between runs does not break it
ROUNDING = 1e-9
Tight = Mapping[str, float]  # what a bound is multiplied with for the search, by its name in ``Cost``
STEP = 0.3  # of what a solution lacks by the account, by which sums are raised beyond it
LEAST, GROWS = 0.002, 1.5  # of the bound, by which they are at least, and times the step before
TRIES = 16  # of searching so
SOLVING = 1.0, 10.0  # seconds of one search, at least and at most
EVEN = "even"
ENERGY = "energy_mj"
FIRST: Tight = {LATENCY: 1 - MARGIN, ENERGY: 1 - MARGIN}
FIXED = Proof(0.0, 0.0, 0.0, 0.0, NOT_SEARCHED)


@dataclass(frozen=True)
class Planned:
    """A plan, and the solution that it is."""

    plan: Plan
    solution: Solution


def make_plan(study: Study, budget: Budget, lean: str = EVEN, tight: Tight = FIRST, at: Menu | None = None) -> Planned:
    """The best plan at today's prices, as ``tight`` below the budget as that says.

    A latency that is not bounded is held at the dense model's where that is possible. Whoever makes several plans at
    the same prices gives their menu ``at``. Raises ``Unreachable`` where the prices know of no plan within the budget,
    with the nearest.
    """
    at = at or study.menu(losses=leaning(study.losses, lean))
    *tries, last = _narrow(study, budget, tight, _price_dense(at).latency_ms)
    for bounds in tries:
        try:
            return to_planned(study, at, solve_accounted(study, at, bounds))
        except Unreachable:
            continue
    return to_planned(study, at, solve_accounted(study, at, last))


def plan_tightest(study: Study, budget: Budget, name: str, at: Menu | None = None) -> Planned:
    """The plan with the least of the figure ``name`` within the other bounds, or at all where none keeps these."""
    at = at or study.menu()
    others, name = _to_solve(study, budget, {}), LATENCY if name == ENERGY else name
    others.pop(name, None)

    def begin(objective: str) -> Solution:
        try:
            return _account(study, _solve(study, at, others, objective))
        except Unreachable:
            return _account(study, _solve(study, at, {}, objective))

    if name not in (PEAK, SIZE):
        return to_planned(study, at, begin(name))
    # Sums leave branches in that take nothing of the figure there; what is fastest leaves all out.
    found = [descend(at, begin(start), lambda s: _account(study, s), name, others) for start in (name, LATENCY)]
    kept = [each for each in found if all(getattr(each.cost, n) <= bound for n, bound in others.items())] or found
    return to_planned(study, at, min(kept, key=lambda each: getattr(each.cost, name)))


def plan_full_width(study: Study, options: Mapping[str, Option], at: Menu | None = None) -> Planned:
    """The plan that leaves nothing out and carries layers out as ``options`` say, in fp32 where they say nothing."""
    at = at or study.menu()
    picked, kept = pick_full_width(at, options), _full_widths(at)
    cost, loss = price(at, picked, kept, ())
    return to_planned(study, at, _account(study, Solution(picked, kept, (), cost, loss, FIXED)))


def _full_widths(at: Menu) -> dict[str, int]:
    return {group.name: max(group.widths) for group in at.groups}


def _price_dense(at: Menu) -> Cost:
    """What the dense model costs at the prices of the menu ``at``."""
    return price(at, pick_full_width(at, {}), _full_widths(at), ())[0]


def _solve(study: Study, at: Menu, bounds: Mapping[str, float], objective: str = LOSS) -> Solution:
    """The best of the menu ``at``: where the run's time is bounded, in a part of what its search has left of it."""
    left = study.deadline.left(SEARCH)
    wall = None if left is None else max(SOLVING[0], left / 4)
    return solve(at, bounds, objective, seconds=SOLVING[1] if wall is None else min(wall, SOLVING[1]), wall=wall)


def to_planned(study: Study, at: Menu, solution: Solution) -> Planned:
    """``solution`` of the menu ``at`` with its plan, its latency as a share of the dense model's beside it."""
    cost = solution.cost
    energy = study.corrections.watts if study.by_energy else None
    cost = replace(
        cost, latency_ratio=cost.latency_ms / study.dense.latency_ms(),
        energy_mj=None if energy is None else energy * cost.latency_ms,
    )  # fmt: skip
    plan = as_plan(at, replace(solution, cost=cost), study.graph, study.target, study.runtime, study.meter.threads)
    return Planned(plan, solution)


def _narrow(study: Study, budget: Budget, tight: Tight, priced_ms: float) -> Iterable[Mapping[str, float]]:
    """The bounds to search within, one after the other; the last are the user's own figures.

    Where nobody bounds the latency it is the dense model's, or what that is priced at (ms) where prices are above it.
    """
    dense_ms = study.dense.latency_ms()
    tail = study.dense.latency_ms(budget.percentile) / dense_ms  # bounds hold at the percentile
    bounds = _to_solve(study, budget, {})
    narrow = _to_solve(study, budget, {**tight, LATENCY: tight.get(LATENCY, 1.0) / tail})
    if LATENCY not in bounds:
        yield {**narrow, LATENCY: max(dense_ms, (1 + ROUNDING) * priced_ms)}
        if narrow != bounds:
            yield narrow
    else:
        yield narrow
    yield bounds


def _to_solve(study: Study, budget: Budget, tight: Tight) -> dict[str, float]:
    """The bounds as the program has them, each times what ``tight`` says.

    Energy is the latency in which it is taken, by the power of the network that was measured last.
    """
    bounds = budget.against(study.dense.latency_ms()).bounds
    within = {name: bound * tight.get(name, 1.0) for name, bound in bounds.items()}
    energy, watts = within.pop(ENERGY, None), study.corrections.watts
    if energy is not None and watts is not None:
        within[LATENCY] = min(within.get(LATENCY, inf), energy / watts)
    return within


def solve_accounted(study: Study, at: Menu, bounds: Mapping[str, float]) -> Solution:
    """The best solution of the menu ``at`` whose bytes keep ``bounds`` by the account of whole networks.

    A search goes by sums. Where these promise less than the account says of a solution, they are raised, and the search
    is made again; after many such the nearest is taken. Raises ``Unreachable``, with the nearest by that account.
    """
    figures = [name for name in (PEAK, SIZE) if name in bounds]
    raised, step = dict.fromkeys(figures, 0.0), dict.fromkeys(figures, 0.0)
    seen: list[Solution] = []
    for attempt in range(TRIES):
        try:
            solution = _solve(study, _raise(at, raised), bounds)
        except Unreachable as error:
            if not seen or attempt == TRIES - 1:
                raise _add_nearest(study, bounds, error, seen) from None
            step = {name: value / 2 for name, value in step.items()}  # raised too far, perhaps
            raised = {name: value - step[name] for name, value in raised.items()}
            continue
        own = _account(study, solution)
        over = {name: _bytes(own, name) - bounds[name] for name in figures if _bytes(own, name) > bounds[name]}
        if not over:
            return own
        seen.append(own)
        for name, lacks in over.items():  # so far that this one is out of reach, and a share of what it lacks
            slack = max(bounds[name] - _bytes(solution, name), 0.0)
            step[name] = slack + max(STEP * lacks, LEAST * bounds[name], GROWS * step[name])
            raised[name] += step[name]
    return min(seen, key=lambda solution: max(_bytes(solution, name) / bounds[name] for name in figures))


def _raise(at: Menu, by: Mapping[str, float]) -> Menu:
    memory, size = (by.get(name, 0.0) for name in (PEAK, SIZE))
    if not memory and not size:
        return at  # itself, whose program there is
    return replace(at, memory_bytes=at.memory_bytes + memory, size_bytes=at.size_bytes + size)


def _bytes(solution: Solution, name: str) -> float:
    return getattr(solution.cost, name)


def _account(study: Study, solution: Solution) -> Solution:
    """``solution`` with its bytes as the account of whole networks has them, corrected by what was measured."""
    memory, size = study.pricing.bytes_of(solution.choices, solution.kept, solution.dropped)
    by = study.corrections.correction
    peak = by.memory_bytes + by.memory_scale * memory
    return replace(
        solution,
        cost=replace(solution.cost, peak_memory_bytes=peak, size_bytes=by.size_bytes + by.size_scale * size),
    )


def _add_nearest(
    study: Study, bounds: Mapping[str, float], error: Unreachable, seen: Sequence[Solution]
) -> Unreachable:
    """``error`` with what comes nearest to each figure by the account, of what the search tried."""
    nearest = {}
    for name, solution in error.nearest.items():
        every = [_account(study, solution), *(seen if name in (PEAK, SIZE) else ())]
        nearest[name] = min(every, key=lambda solution: _bytes(solution, name)) if name in (PEAK, SIZE) else every[0]
    return Unreachable(error.fact, error.remedy, nearest, error.most, bounds)
