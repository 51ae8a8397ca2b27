"""From a study and a budget to a plan: the search at today's prices, before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgesdk.budget import Budget
from edgesdk.menu import Menu
from edgesdk.plan import Option, Plan, Proof
from edgesdk.solve.finalists import as_plan, leaning
from edgesdk.solve.milp import Solution, Unreachable, price, solve
from edgesdk.solve.program import LATENCY
from edgesdk.study import Study

MARGIN = 0.03  # searched below the budget, so that noise between runs does not break it
EVEN = "even"
FIXED = Proof(0.0, 0.0, 0.0, 0.0, "not searched")


@dataclass(frozen=True)
class Planned:
    """A plan, and the solution that it is."""

    plan: Plan
    solution: Solution


def planned(known: Study, goal: Budget, target: str, lean: str = EVEN, tight: float = 1 - MARGIN) -> Planned:
    """The best plan at today's prices, its latency ``tight`` below the budget's.

    A latency that is not bounded is held at the dense model's where that is possible. Raises ``Unreachable`` where the
    prices know of no plan within the budget, with the nearest.
    """
    at = known.menu(losses=leaning(known.losses, lean))
    *tries, last = _narrowed(known, goal, tight)
    for bounds in tries:
        try:
            return as_planned(known, at, solve(at, bounds), target)
        except Unreachable:
            continue
    return as_planned(known, at, solve(at, last), target)


def _narrowed(known: Study, goal: Budget, tight: float) -> Iterable[Mapping[str, float]]:
    """The bounds to search within, one after the other; the last are the user's own figures."""
    assert known.dense is not None
    dense_ms = known.dense.latency_ms()
    bounds = goal.against(dense_ms).bounds
    if LATENCY in bounds:
        tail = known.dense.latency_ms(goal.percentile) / dense_ms  # bounds hold at the percentile
        yield {**bounds, LATENCY: bounds[LATENCY] * tight / tail}
    else:
        yield {**bounds, LATENCY: dense_ms}
    yield bounds


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
    return as_planned(known, at, Solution(picked, kept, (), cost, loss, FIXED), target)
