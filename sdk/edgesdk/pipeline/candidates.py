"""Plans that were carried out and measured: what a search goes by, whether they keep its budget or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgesdk.compress.apply import compressed
from edgesdk.core.budget import Budget, Cost, show
from edgesdk.core.errors import BudgetError
from edgesdk.core.plan import Plan
from edgesdk.core.report import DENSE
from edgesdk.pipeline.planning import Planned, at_full_width
from edgesdk.pipeline.study import Seen, Study
from edgesdk.pipeline.training import Candidate
from edgesdk.solve.milp import Unreachable

WHOLE = "dense int8"
TITLES = {
    "latency_ms": "latency", "latency_ratio": "latency", "peak_memory_bytes": "peak memory", "size_bytes": "size",
}  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """A plan that was carried out: ``cost`` is its own, at the budget's percentile, ``loss`` what was sensed of it.

    ``search`` says what it was found as, ``drop`` the points that it lost after a short recovery, where that was tried.
    """

    candidate: Candidate
    search: str
    cost: Cost
    loss: float
    drop: float | None = None

    @property
    def plan(self) -> Plan:
        return self.candidate.plan

    def step(self, goal: Budget) -> dict[str, Any]:
        """What the report says of it."""
        told = {} if self.drop is None else {"drop": self.drop}
        return {
            "runtime": self.candidate.known.runtime,
            "search": self.search,
            "plan": self.plan.digest,
            "predicted": self.plan.predicted,
            "measured": self.cost,
            "misses": goal.misses(self.cost),
            **told,
        }


def standing(known: Study, goal: Budget, target: str) -> tuple[Attempt, ...]:
    """The dense model, and with every layer integer that can be: both are there before any search."""
    models = {DENSE: ({}, lambda: known.dense_file)}
    if known.whole:
        models[WHOLE] = (known.whole, lambda: known.integer_file)
    found = []
    for name, (options, file) in models.items():
        one, report = at_full_width(known, options, target), known.anchors[name]
        candidate = Candidate(known, one.plan, known.network, file(), report)
        cost = report.cost(goal)
        if cost.latency_ratio is None:  # the dense model, or figures that were kept by an earlier version
            cost = replace(cost, latency_ratio=report.latency_ms() / known.anchors[DENSE].latency_ms())
        found.append(Attempt(candidate, name, cost, one.solution.loss))
    return tuple(found)


def build(known: Study, one: Planned) -> Candidate:
    """The plan carried out and measured, its ranges calibrated but nothing trained: latency does not need that.

    What it was measured at corrects the prices, unless the device throttled.
    """
    small, options = compressed(known.network, one.plan, known.data.example, known.scores)
    name = f"candidate-{one.plan.digest[:12]}"
    made = known.artefact(known.integer(small, options), options, name)
    report = known.measure({DENSE: known.dense_file, name: made}, "rapid")[name]
    if report.valid:
        known.observe(Seen(one.solution.choices, one.solution.kept, one.solution.dropped, report))
    return Candidate(known, one.plan, small, made, report)


def attempt(known: Study, one: Planned, goal: Budget, search: str) -> Attempt:
    """The plan carried out, as the budget ``goal`` sees it."""
    candidate = build(known, one)
    return Attempt(candidate, search, candidate.report.cost(goal), one.solution.loss)


def keeping(tried: Iterable[Attempt], goal: Budget) -> tuple[Attempt, ...]:
    """Those of ``tried`` that keep every bound on cost."""
    return tuple(one for one in tried if goal.is_met_by(one.cost))


def refusal(tried: Sequence[Attempt], goal: Budget, priced: Unreachable | None) -> BudgetError:
    """That none of ``tried`` keeps ``goal``: how near each bound was come to, by models that were built.

    ``priced`` is what the search said, where it found nothing at the prices that there are.
    """
    tightest = {name: min(tried, key=lambda one: getattr(one.cost, name)) for name in goal.bounds}
    short = {name: one for name, one in tightest.items() if getattr(one.cost, name) > goal.bounds[name]}
    together = not short
    if together:  # each can be kept alone: the model that comes nearest to all of them
        nearest = min(tried, key=lambda one: max(goal.misses(one.cost).values()))
        short = dict.fromkeys(goal.misses(nearest.cost), nearest)
    facts = ["each bound can be kept alone but not all together"] * together
    for name, one in short.items():
        most = priced.most.get("latency_ms" if name == "latency_ratio" else name) if priced else None
        facts.append(_out_of_reach(name, goal.bounds[name], one.cost, most))
    enough = [f"a {TITLES[name]} of {show(name, 1.006 * getattr(one.cost, name))}" for name, one in short.items()]
    first, one = next(iter(short.items()))
    return BudgetError(
        "; ".join(facts),
        f"allow {' and '.join(enough)}, or take another device or a smaller model",
        figure=first,
        asked=goal.bounds[first],
        tightest=getattr(one.cost, first),
        built=figures(one.cost),
    )


def _out_of_reach(name: str, asked: float, built: Cost, most: str | None) -> str:
    others = ", ".join(
        f"{TITLES[other]} {show(other, value)}"
        for other, value in figures(built).items()
        if TITLES[other] != TITLES[name] and other != "latency_ratio"
    )
    reached = show(name, getattr(built, name))
    verb = "measured" if built.basis == "measured" else "predicted"
    parts = f", most of it: {most}" if most else ""
    return (
        f"a {TITLES[name]} of {show(name, asked)} cannot be reached, "
        f"the tightest that was built is {verb} at {reached} ({others}{parts})"
    )


def figures(cost: Cost) -> dict[str, float]:
    """What ``cost`` says, by the names of its fields."""
    return {name: value for name in TITLES if (value := getattr(cost, name)) is not None}
