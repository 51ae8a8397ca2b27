"""From a study and a budget to a plan: the search at today's prices, before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgesdk.core.budget import Budget
from edgesdk.core.menu import Menu
from edgesdk.core.plan import Option, Plan, Proof
from edgesdk.pipeline.study import Study
from edgesdk.solve.finalists import as_plan, leaning
from edgesdk.solve.milp import Solution, Unreachable, price, solve
from edgesdk.solve.program import LATENCY, PEAK, SIZE

MARGIN = 0.03  # searched below the budget, so that noise between runs does not break it
Tight = Mapping[str, float]  # what a bound is multiplied with for the search, by its name in ``Cost``
STEP = 0.3  # of what a solution lacks by the account, by which sums are raised beyond it
LEAST, GROWS = 0.002, 1.5  # of the bound, by which they are at least, and times the step before
TRIES = 16  # of searching so
EVEN = "even"
FIRST: Tight = {LATENCY: 1 - MARGIN}
FIXED = Proof(0.0, 0.0, 0.0, 0.0, "not searched")


@dataclass(frozen=True)
class Planned:
    """A plan, and the solution that it is."""

    plan: Plan
    solution: Solution


def planned(known: Study, goal: Budget, target: str, lean: str = EVEN, tight: Tight = FIRST) -> Planned:
    """The best plan at today's prices, as ``tight`` below the budget as that says.

    A latency that is not bounded is held at the dense model's where that is possible. Raises ``Unreachable`` where the
    prices know of no plan within the budget, with the nearest.
    """
    at = known.menu(losses=leaning(known.losses, lean))
    *tries, last = _narrowed(known, goal, tight)
    for bounds in tries:
        try:
            return as_planned(known, at, accounted(known, at, bounds), target)
        except Unreachable:
            continue
    return as_planned(known, at, accounted(known, at, last), target)


def tightest(known: Study, goal: Budget, target: str, name: str) -> Planned:
    """The plan with the least of the figure ``name`` within the other bounds, or at all where none keeps these."""
    assert known.dense is not None
    at = known.menu()
    others = dict(goal.against(known.dense.latency_ms()).bounds)
    others.pop(name, None)
    try:
        found = solve(at, others, name)
    except Unreachable:
        found = solve(at, {}, name)
    return as_planned(known, at, _with_account(known, found), target)


def _narrowed(known: Study, goal: Budget, tight: Tight) -> Iterable[Mapping[str, float]]:
    """The bounds to search within, one after the other; the last are the user's own figures."""
    assert known.dense is not None
    dense_ms = known.dense.latency_ms()
    bounds = goal.against(dense_ms).bounds
    tail = known.dense.latency_ms(goal.percentile) / dense_ms  # bounds hold at the percentile
    narrow = {name: bound * tight.get(name, 1.0) / (tail if name == LATENCY else 1.0) for name, bound in bounds.items()}
    if LATENCY not in bounds:
        yield {**narrow, LATENCY: dense_ms}
        if narrow != bounds:
            yield narrow
    else:
        yield narrow
    yield bounds


def accounted(known: Study, at: Menu, bounds: Mapping[str, float]) -> Solution:
    """The best solution of the menu ``at`` whose bytes keep ``bounds`` by the account of whole networks.

    A search goes by sums. Where these promise less than the account says of a solution, they are raised, and the search
    is made again; after many such the nearest is taken. Raises ``Unreachable``, with the nearest by that account.
    """
    figures = [name for name in (PEAK, SIZE) if name in bounds]
    raised, step = dict.fromkeys(figures, 0.0), dict.fromkeys(figures, 0.0)
    seen: list[Solution] = []
    for attempt in range(TRIES):
        try:
            found = solve(_raised(at, raised), bounds)
        except Unreachable as error:
            if not seen or attempt == TRIES - 1:
                raise _nearest(known, at, bounds, error, seen) from None
            step = {name: value / 2 for name, value in step.items()}  # raised too far, perhaps
            raised = {name: value - step[name] for name, value in raised.items()}
            continue
        own = _with_account(known, found)
        over = {name: _bytes(own, name) - bounds[name] for name in figures if _bytes(own, name) > bounds[name]}
        if not over:
            return own
        seen.append(own)
        for name, lacks in over.items():  # so far that this one is out of reach, and a share of what it lacks
            slack = max(bounds[name] - _bytes(found, name), 0.0)
            step[name] = slack + max(STEP * lacks, LEAST * bounds[name], GROWS * step[name])
            raised[name] += step[name]
    return min(seen, key=lambda solution: max(_bytes(solution, name) / bounds[name] for name in figures))


def _raised(at: Menu, by: Mapping[str, float]) -> Menu:
    memory, size = (by.get(name, 0.0) for name in (PEAK, SIZE))
    return replace(at, memory_bytes=at.memory_bytes + memory, size_bytes=at.size_bytes + size)


def _bytes(solution: Solution, name: str) -> float:
    return getattr(solution.cost, name)


def _with_account(known: Study, found: Solution) -> Solution:
    """``found`` with its bytes as the account of whole networks has them, corrected by what was measured."""
    memory, size = known.bytes_of(found.choices, found.kept, found.dropped)
    by = known.correction
    peak = by.memory_bytes + by.memory_scale * memory
    return replace(
        found,
        cost=replace(found.cost, peak_memory_bytes=peak, size_bytes=by.size_bytes + by.size_scale * size),
    )


def _nearest(
    known: Study, at: Menu, bounds: Mapping[str, float], error: Unreachable, seen: Sequence[Solution]
) -> Unreachable:
    """``error`` with what comes nearest to each figure by the account, of what the search tried."""
    nearest = {}
    for name, one in error.nearest.items():
        found = [_with_account(known, one), *(seen if name in (PEAK, SIZE) else ())]
        nearest[name] = min(found, key=lambda solution: _bytes(solution, name)) if name in (PEAK, SIZE) else found[0]
    return Unreachable(error.fact, error.remedy, nearest, error.most, bounds)


def as_planned(known: Study, at: Menu, solution: Solution, target: str) -> Planned:
    """``solution`` of the menu ``at`` with its plan."""
    return Planned(as_plan(at, solution, known.graph, target, known.runtime, known.bench.threads), solution)


def at_full_width(known: Study, options: Mapping[str, Option], target: str) -> Planned:
    """The plan that leaves nothing out and carries layers out as ``options`` say, in fp32 where they say nothing."""
    at = known.menu()
    picked = {}
    for layer in at.layers:
        wanted = options.get(layer.name, Option())
        found = [choice for choice in layer.choices if choice.option == wanted and not choice.skips]
        picked[layer.name] = max(found, key=lambda choice: (choice.reads or 0, choice.writes or 0))
    kept = {group.name: max(group.widths) for group in at.groups}
    cost, loss = price(at, picked, kept, ())
    found = _with_account(known, Solution(picked, kept, (), cost, loss, FIXED))
    return as_planned(known, at, found, target)
