"""Plans that were applied and measured: what a search goes by, whether they keep its budget or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgesdk.compress.apply import compressed
from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import MEASURED, Budget, Cost, show
from edgesdk.core.errors import BudgetError
from edgesdk.core.plan import Option, Plan
from edgesdk.core.report import DENSE, Measurement
from edgesdk.network.network import Network
from edgesdk.pipeline.anchoring import DENSE_INT8
from edgesdk.pipeline.corrections import Seen
from edgesdk.pipeline.measuring import measure_beside
from edgesdk.pipeline.pairs import keep_faster
from edgesdk.pipeline.planning import Planned, plan_full_width
from edgesdk.pipeline.study import Study
from edgesdk.solve.milp import Unreachable

TITLES = {
    "latency_ms": "latency", "latency_ratio": "latency", "peak_memory_bytes": "peak memory", "size_bytes": "size",
    "energy_mj": "run's energy",
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A plan with the network that it makes, its file before any training, and what that was measured at."""

    study: Study
    plan: Plan
    network: Network
    artifact: Artifact
    measured: Measurement

    @property
    def options(self) -> Mapping[str, Option]:
        return self.artifact.options


@dataclass(frozen=True)
class Attempt:
    """A candidate as a budget sees it: ``cost`` at the budget's percentile, ``loss`` what its plan should lose.

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

    def step(self, budget: Budget) -> dict[str, Any]:
        """What the report says of it."""
        told = {} if self.drop is None else {"drop": self.drop}
        return {
            "runtime": self.candidate.study.runtime,
            "search": self.search,
            "plan": self.plan.digest,
            "predicted": self.plan.predicted,
            "measured": self.cost,
            "misses": budget.misses(self.cost),
            "plan_loss": self.loss,
            **told,
        }


def list_dense(study: Study, budget: Budget) -> tuple[Attempt, ...]:
    """The dense model, and with every layer integer that can be: both are there before any search."""
    whole = study.whole
    models = {DENSE: {}, **({DENSE_INT8: whole.options} if whole.options else {})}
    attempts = []
    for name, options in models.items():
        planned, measured = plan_full_width(study, options), study.anchors[name]
        artifact = whole.artifact if options else study.dense_file
        cost = price_anchor(measured, study.dense, budget)
        candidate = Candidate(study, planned.plan, study.network, artifact, measured)
        attempts.append(Attempt(candidate, name, cost, planned.solution.loss))
    return tuple(attempts)


def price_anchor(measured: Measurement, dense: Measurement, budget: Budget) -> Cost:
    """What an anchor costs, its latency as a share of what the ``dense`` model takes."""
    cost = measured.cost(budget)
    if cost.latency_ratio is None:  # the dense model, or figures that were kept by an earlier version
        cost = replace(cost, latency_ratio=measured.latency_ms() / dense.latency_ms())
    return cost


def attempt(study: Study, planned: Planned, budget: Budget, search: str) -> Attempt:
    """The plan applied and measured, as ``budget`` sees it; where engines are built, with the integers that gain."""
    candidate = build(study, planned)
    if paired := keep_faster(study, candidate.plan, candidate.network, candidate.artifact, budget):
        candidate = replace(candidate, plan=paired.plan, artifact=paired.artifact, measured=paired.measured)
    return Attempt(candidate, search, candidate.measured.cost(budget), planned.solution.loss)


def build(study: Study, planned: Planned) -> Candidate:
    """The plan applied and measured, its ranges calibrated but nothing trained: latency does not need that.

    What it was measured at corrects the prices, unless the device throttled.
    """
    small, options = compressed(study.network, planned.plan, study.data.example, study.scores)
    name = f"candidate-{planned.plan.digest[:12]}"
    artifact = study.write_file(study.quantize(small, options), options, name)
    measured = measure_beside(study, {name: artifact})[name]
    if measured.valid:
        solution = planned.solution
        study.corrections.observe(Seen(solution.choices, solution.kept, solution.dropped, measured))
    return Candidate(study, planned.plan, small, artifact, measured)


def select_keeping(tried: Iterable[Attempt], budget: Budget) -> tuple[Attempt, ...]:
    """Those of ``tried`` that keep every bound on cost."""
    return tuple(attempt for attempt in tried if budget.is_met_by(attempt.cost))


def find_nearest(tried: Iterable[Attempt], budget: Budget) -> Attempt:
    """That one of ``tried`` which comes nearest to all bounds together."""
    return min(tried, key=lambda attempt: max(budget.misses(attempt.cost).values()))


def refuse(tried: Sequence[Attempt], budget: Budget, priced: Unreachable | None) -> BudgetError:
    """That none of ``tried`` keeps ``budget``: how near each bound was come to, by models that were built.

    ``priced`` is what the search said, where it found nothing at the prices that there are.
    """
    tightest = {name: min(tried, key=lambda attempt: getattr(attempt.cost, name)) for name in budget.bounds}
    short = {name: attempt for name, attempt in tightest.items() if getattr(attempt.cost, name) > budget.bounds[name]}
    together = not short
    if together:  # each can be kept alone: the model that comes nearest to all of them
        nearest = find_nearest(tried, budget)
        short = dict.fromkeys(budget.misses(nearest.cost), nearest)
    facts = ["each bound can be kept alone but not all together"] * together
    for name, attempt in short.items():
        most = priced.most.get("latency_ms" if name == "latency_ratio" else name) if priced else None
        facts.append(_describe_miss(name, budget.bounds[name], attempt.cost, most))
    enough = [
        f"a {TITLES[name]} of {show(name, 1.006 * getattr(attempt.cost, name))}" for name, attempt in short.items()
    ]
    first, attempt = next(iter(short.items()))
    return BudgetError(
        "; ".join(facts),
        f"allow {' and '.join(enough)}, or take another device or a smaller model",
        figure=first,
        asked=budget.bounds[first],
        tightest=getattr(attempt.cost, first),
        built=list_figures(attempt.cost),
        basis=attempt.cost.basis,
    )


def _describe_miss(name: str, asked: float, built: Cost, most: str | None) -> str:
    others = ", ".join(
        f"{TITLES[other]} {show(other, value)}"
        for other, value in list_figures(built).items()
        if TITLES[other] != TITLES[name] and other != "latency_ratio"
    )
    reached = show(name, getattr(built, name))
    verb = "measured" if built.basis == MEASURED else "predicted"
    parts = f", most of it: {most}" if most else ""
    return (
        f"a {TITLES[name]} of {show(name, asked)} cannot be reached, "
        f"the tightest that was built is {verb} at {reached} ({others}{parts})"
    )


def list_figures(cost: Cost) -> dict[str, float]:
    """What ``cost`` says, by the names of its fields."""
    return {name: value for name in TITLES if (value := getattr(cost, name)) is not None}
