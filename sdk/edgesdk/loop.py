"""The closed loop: search, carry out, measure, correct the prices, until what is measured keeps the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgesdk.artefact import Artefact
from edgesdk.budget import Budget, Cost, show
from edgesdk.compress.apply import compressed
from edgesdk.errors import BudgetError
from edgesdk.menu import Menu
from edgesdk.plan import Plan
from edgesdk.price.correct import Correction
from edgesdk.report import DENSE
from edgesdk.result import Result
from edgesdk.solve.finalists import LEANINGS, as_plan, leaning
from edgesdk.solve.milp import Solution, solve
from edgesdk.study import Study
from edgesdk.training import Candidate, Training

ROUNDS = 6  # of searching, measuring and correcting
MARGIN = 0.03  # searched below the budget, so that noise between runs does not break it
DROP_STEPS = 4  # bisections of the latency that a bound on accuracy allows
EVEN = "even"


@dataclass(frozen=True)
class Chosen:
    """The runtime that a deployment goes on with, and the candidates of the others, dense and compressed.

    ``best`` is its own finalist where it was told apart from others, ``refused`` says why a runtime has none.
    """

    known: Study
    best: Candidate | None = None
    beside: Mapping[str, Artefact] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()


def chosen(studies: Sequence[Study], goal: Budget, target: str, training: Training) -> Chosen:
    """The runtime whose finalist is best: all are measured in one run, and recovered shortly to be told apart.

    Raises ``BudgetError``, with what each can reach, where none has a plan within the budget.
    """
    if len(studies) == 1:
        return Chosen(studies[0])
    found: list[Candidate] = []
    history: list[Mapping[str, Any]] = []
    errors: dict[str, BudgetError] = {}
    for known in studies:
        try:
            found.append(_first(known, goal, target, training, history))
        except BudgetError as error:
            errors[known.runtime] = error
    if not found:
        raise nowhere(errors)
    files = {c.known.runtime: c.artefact for c in found}
    reports = found[0].known.measure(files, "rapid")
    found = [replace(c, report=reports[c.known.runtime]) for c in found]
    best = training.best_of(found, history) if goal.bounds else min(found, key=lambda c: c.report.latency_ms())
    beside = {
        f"{kind} {c.known.runtime}": artefact
        for c in found
        if c is not best
        for kind, artefact in (("dense", c.known.dense_file), ("finalist", c.artefact))
    }
    refused = {runtime: str(error) for runtime, error in errors.items()}
    return Chosen(best.known, best, beside, refused, tuple(history))


def nowhere(errors: Mapping[str, BudgetError]) -> BudgetError:
    """That none of the runtimes has a plan within the budget, by name what each can reach."""
    if len(errors) == 1:
        return next(iter(errors.values()))
    return BudgetError("; ".join(f"{name}: {error.fact}" for name, error in errors.items()), "loosen the budget")


def _first(known: Study, goal: Budget, target: str, training: Training, history: list[Mapping[str, Any]]) -> Candidate:
    """The first candidate of a runtime that keeps the budget; the fastest within ``max_drop`` where that is all."""
    if not goal.bounds:
        best = _bisected(known, goal, target, training, history)
        return best if best is not None else _slower(known, goal, target, 1.0)
    tight = 1 - MARGIN
    for attempt in range(ROUNDS):
        if finalists := _finalists(known, goal, target, f"first-{attempt}", [EVEN], tight, history):
            return finalists[0]
        tight -= MARGIN / 2
    raise _missed(goal, history)


def planned(
    known: Study, goal: Budget, target: str, lean: str = EVEN, tight: float = 1 - MARGIN
) -> tuple[Plan, Solution]:
    """The best plan at today's prices, its latency ``tight`` below the budget's."""
    at = known.menu(losses=leaning(known.losses, lean))
    assert known.dense is not None
    allowed = goal.against(known.dense.latency_ms()).bounds
    bounds = dict(allowed)
    if "latency_ms" in bounds:
        tail = known.dense.latency_ms(goal.percentile) / known.dense.latency_ms()  # bounds hold at the percentile
        bounds["latency_ms"] *= tight / tail
    try:
        solution = solve(at, bounds)
    except BudgetError:
        solution = solve(at, allowed)  # out of reach without the margin too: says so in the user's own figures
    return as_plan(at, solution, known.graph, target, known.runtime, known.bench.threads), solution


def _candidate(known: Study, plan: Plan, name: str) -> Candidate:
    """The plan carried out and measured, its ranges calibrated but nothing trained: latency does not need that."""
    small, options = compressed(known.network, plan, known.data.example, known.scores)
    made = known.artefact(known.integer(small, options), options, name)
    report = known.measure({DENSE: known.dense_file, name: made}, "rapid")[name]
    return Candidate(known, plan, small, made, report)


def _tried(known: Study, plan: Plan, solution: Solution, name: str) -> Candidate:
    """The plan carried out; what it was measured at corrects the prices."""
    candidate = _candidate(known, plan, name)
    plain = known.menu(Correction())
    known.observe(plain, _plain(plain, solution), solution.kept, solution.dropped, candidate.report)
    return candidate


def _finalists(
    known: Study, goal: Budget, target: str, name: str, leans: Sequence[str], tight: float,
    history: list[Mapping[str, Any]],
) -> list[Candidate]:  # fmt: skip
    """The candidates of one round that keep the budget as measured."""
    found: dict[str, Candidate] = {}
    for lean in leans:
        known.tell(f"searching and measuring ({known.runtime})", None)
        plan, solution = planned(known, goal, target, lean, tight)
        if plan.digest in found:
            continue
        candidate = _tried(known, plan, solution, f"{name}-{lean}")
        measured = candidate.report.cost(goal)
        misses = goal.misses(measured)
        history.append(_step(known, lean, candidate.plan, measured, misses))
        if not misses:
            found[plan.digest] = candidate
    return list(found.values())


def within(choice: Chosen, goal: Budget, target: str, training: Training) -> Result:
    """The most accurate plan within the budget: search, measure, correct, until what is measured keeps it."""
    tight, history, known = 1 - MARGIN, list(choice.history), choice.known
    for attempt in range(ROUNDS):
        finalists = _finalists(known, goal, target, f"candidate-{attempt}", list(LEANINGS), tight, history)
        if finalists and _far_below(finalists, goal):  # what was measured has corrected the prices: more fits
            closer = _finalists(known, goal, target, f"closer-{attempt}", list(LEANINGS), tight, history)
            finalists = closer or finalists
        if finalists:
            result = training.best(finalists, choice.beside)
            result = replace(result, history=(*history, *result.history))
            measured = result.deployed.cost(goal)
            if not goal.misses(measured):
                return _judged(result, goal, known)
            history = [*result.history, _step(known, "final", result.plan, measured, goal.misses(measured))]
        tight -= MARGIN / 2
    raise _missed(goal, history)


def _far_below(finalists: Sequence[Candidate], goal: Budget) -> bool:
    """Whether all of ``finalists`` turned out faster than predicted, and leave twice the margin of their bound."""
    bounds = {name: bound for name, bound in goal.bounds.items() if name.startswith("latency")}
    if not bounds:
        return False
    costs = [c.report.cost(goal) for c in finalists]
    return all(
        all(getattr(cost, name) < (1 - 2 * MARGIN) * bound for name, bound in bounds.items())
        and c.report.latency_ms() * (1 + MARGIN) < c.plan.predicted.latency_ms
        for c, cost in zip(finalists, costs, strict=True)
    )


def _missed(goal: Budget, history: Sequence[Mapping[str, Any]]) -> BudgetError:
    last = history[-1]["measured"]
    reached = ", ".join(f"{name.split('_')[0]} {show(name, getattr(last, name))}" for name in goal.bounds)
    return BudgetError(
        f"after {ROUNDS} rounds the measured model still misses the budget ({reached})", "loosen the budget"
    )


def fastest(choice: Chosen, goal: Budget, target: str, training: Training) -> Result:
    """The fastest plan whose accuracy drops by no more than ``max_drop`` points: bisection on the latency."""
    known, history = choice.known, list(choice.history)
    assert goal.max_drop is not None and known.dense is not None
    best = choice.best or _bisected(known, goal, target, training, history)
    share = 1.0 if best is None else best.report.latency_ms() / known.dense.latency_ms()
    while True:
        if best is None:  # nothing faster is known to be within it: try one that gives up less
            best = _slower(known, goal, target, share)
        result = training.full(best, choice.beside)
        drop = result.dense_score - result.score
        if drop <= goal.max_drop:
            return replace(result, history=(*history, *result.history))
        if share >= 1.0:
            break
        best, share = None, min(1.0, share * 1.25)
    raise BudgetError(
        f"no plan was found whose accuracy drops by at most {goal.max_drop:g} points",
        "give more --epochs or a larger drop",
    )


def _bisected(
    known: Study, goal: Budget, target: str, training: Training, history: list[Mapping[str, Any]]
) -> Candidate | None:
    """The fastest candidate that keeps ``max_drop`` after a short recovery, of a few that bisect the latency."""
    assert goal.max_drop is not None and known.dense is not None
    low, high = 0.1, 1.0
    best: Candidate | None = None
    reference = training.holdout(known.network)
    for step in range(DROP_STEPS):
        share = (low * high) ** 0.5
        bound = replace(goal, latency_ms=known.dense.latency_ms() * share, max_drop=None)
        try:
            plan, solution = planned(known, bound, target, EVEN)
        except BudgetError:
            low = share
            continue
        candidate = _tried(known, plan, solution, f"drop-{step}")
        drop = reference - training.short(candidate)
        history.append({**_step(known, EVEN, candidate.plan, candidate.report.cost(), {}), "drop": drop})
        if drop <= goal.max_drop:
            best, high = candidate, share
        else:
            low = share
    return best


def _slower(known: Study, goal: Budget, target: str, share: float) -> Candidate:
    """The best plan at that share of the dense model's latency; at all of it, that is the dense model at worst."""
    assert known.dense is not None
    bound = replace(goal, latency_ms=known.dense.latency_ms() * share * (1 + MARGIN), max_drop=None)
    return _candidate(known, planned(known, bound, target, tight=1.0)[0], f"slower-{share:.3f}")


def _judged(result: Result, goal: Budget, known: Study) -> Result:
    drop = result.dense_score - result.score
    if goal.max_drop is not None and drop > goal.max_drop:
        raise BudgetError(
            f"within that budget the {known.task.name} drops by {drop:.2f} points, more than {goal.max_drop:g}",
            f"allow {drop:.2f} points, loosen the budget, or give more --epochs",
        )
    return result


def _plain(at: Menu, solution: Solution) -> Mapping[str, Any]:
    """The solution's choices at the uncorrected prices of the menu ``at``."""
    by_name = {layer.name: layer for layer in at.layers}
    same = ("option", "reads", "writes", "skips")
    return {
        name: next(c for c in by_name[name].choices if all(getattr(c, f) == getattr(choice, f) for f in same))
        for name, choice in solution.choices.items()
    }


def _step(known: Study, lean: str, plan: Plan, measured: Cost, misses: Mapping[str, float]) -> dict[str, Any]:
    return {
        "runtime": known.runtime,
        "search": lean,
        "plan": plan.digest,
        "predicted": plan.predicted,
        "measured": measured,
        "misses": dict(misses),
    }
