"""The closed loop: search, carry out, measure, correct the prices, until what is measured keeps the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgesdk.core.artifact import Artefact
from edgesdk.core.budget import Budget, show
from edgesdk.core.errors import BudgetError
from edgesdk.core.plan import Plan
from edgesdk.pipeline.candidates import Attempt, attempt, figures, keeping, refusal, standing
from edgesdk.pipeline.planning import EVEN, FIRST, MARGIN, Tight, as_planned, planned, tightest
from edgesdk.pipeline.remarks import remarks
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import Candidate, Training
from edgesdk.solve.finalists import LEANINGS
from edgesdk.solve.milp import Unreachable

ROUNDS = 6  # of searching, measuring and correcting
DROP_STEPS = 4  # bisections of the latency that a bound on accuracy allows
EASED = 1.1  # times a bound that nobody gave, at the least, where nothing keeps it


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


@dataclass(frozen=True)
class Searched:
    """What a search within bounds came to: the ``result`` that keeps them, or ``None`` with the ``error`` that says so.

    ``tried`` is all that was carried out, ``history`` what the report says of it.
    """

    result: Result | None
    error: BudgetError | None
    tried: tuple[Attempt, ...]
    history: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Round:
    """The candidates of one round, and what the search said where it found nothing at the prices that there are."""

    found: tuple[Attempt, ...]
    priced: Unreachable | None = None


def chosen(studies: Sequence[Study], goal: Budget, target: str, training: Training, given: bool = True) -> Chosen:
    """The runtime whose finalist is best: all are measured in one run, and recovered shortly to be told apart.

    Raises ``BudgetError``, with what each can reach, where none has a plan within the budget, unless nobody gave it.
    """
    if len(studies) == 1:
        return Chosen(studies[0])
    finalists: list[Candidate] = []
    history: list[Mapping[str, Any]] = []
    errors: dict[str, BudgetError] = {}
    for known in studies:
        try:
            one, tried = _first(known, goal, target, training, given)
        except BudgetError as error:
            errors[known.runtime] = error
        else:
            finalists.append(one.candidate)
            history += [other.step(goal) for other in tried]
    if not finalists:
        raise nowhere(errors)
    files = {c.known.runtime: c.artefact for c in finalists}
    reports = finalists[0].known.measure(files, "rapid")
    finalists = [replace(c, report=reports[c.known.runtime]) for c in finalists]
    if goal.bounds:
        best = training.best_of(finalists, history)
    else:
        best = min(finalists, key=lambda c: c.report.latency_ms())
    beside = {
        f"{kind} {c.known.runtime}": artefact
        for c in finalists
        if c is not best
        for kind, artefact in (("dense", c.known.dense_file), ("finalist", c.artefact))
    }
    refused = {runtime: str(error) for runtime, error in errors.items()}
    return Chosen(best.known, best, beside, refused, tuple(history))


def nowhere(errors: Mapping[str, BudgetError]) -> BudgetError:
    """That none of the runtimes has a plan within the budget, by name what each can reach."""
    if len(errors) == 1:
        return next(iter(errors.values()))
    nearest = min(errors.values(), key=lambda e: e.tightest / e.asked if e.tightest and e.asked else float("inf"))
    return BudgetError(
        "; ".join(f"{name}: {error.fact}" for name, error in errors.items()),
        "loosen the budget",
        figure=nearest.figure,
        asked=nearest.asked,
        tightest=nearest.tightest,
        built=nearest.built,
    )


def _first(
    known: Study, goal: Budget, target: str, training: Training, given: bool
) -> tuple[Attempt, tuple[Attempt, ...]]:
    """The first candidate of a runtime that keeps the budget, and all that were tried.

    The fastest within ``max_drop`` where that is all; the nearest to a budget that nobody gave and nothing keeps.
    """
    if not goal.bounds:
        tried = _bisected(known, goal, target, training)
        kept = [one for one in tried if one.drop is not None and one.drop <= (goal.max_drop or 0.0)]
        return (kept[-1] if kept else _slower(known, goal, target, 1.0)), tried
    tight = FIRST
    tried: tuple[Attempt, ...] = standing(known, goal, target)
    priced = None
    for _ in range(ROUNDS):
        step = _round(known, goal, target, [EVEN], tight, tried)
        new, priced = _new(step.found, tried), step.priced
        tried += new
        if kept := keeping(step.found, goal):
            return kept[0], tried
        if not new:
            break
        tight = _tighter(tight, goal, step.found)
    tried += _tightest(known, goal, target, tried)
    if kept := keeping(tried, goal):
        return min(kept, key=lambda one: one.loss), tried
    if given:
        raise refusal(tried, goal, priced)
    return min(tried, key=lambda one: max(goal.misses(one.cost).values())), tried


def _new(found: Sequence[Attempt], tried: Sequence[Attempt]) -> tuple[Attempt, ...]:
    known = {one.plan.digest for one in tried}
    return tuple(one for one in found if one.plan.digest not in known)


def _round(
    known: Study, goal: Budget, target: str, leans: Sequence[str], tight: Tight, tried: Sequence[Attempt]
) -> Round:
    """The candidates of one round: the best plans of the search, or the tightest where it finds none in the bounds.

    What was ``tried`` before is not carried out again.
    """
    built = {one.plan.digest: one for one in tried}
    found: dict[str, Attempt] = {}
    for lean in leans:
        known.tell(f"searching and measuring ({known.runtime})", None)
        priced, at = None, known.menu()
        try:
            plans = {lean: planned(known, goal, target, lean, tight)}
        except Unreachable as error:
            priced = error
            plans = {f"tightest {name}": as_planned(known, at, one, target) for name, one in error.nearest.items()}
        for search, one in plans.items():
            if one.plan.digest not in found:
                found[one.plan.digest] = built.get(one.plan.digest) or attempt(known, one, goal, search)
        if priced is not None:
            return Round(tuple(found.values()), priced)
    return Round(tuple(found.values()))


def _tightest(known: Study, goal: Budget, target: str, tried: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """Where nothing that was ``tried`` keeps ``goal``: the plans with the least of each figure, carried out."""
    if keeping(tried, goal):
        return ()
    found: list[Attempt] = []
    built = {one.plan.digest for one in tried}
    for name in goal.against(1.0).bounds:
        one = tightest(known, goal, target, name)
        if one.plan.digest not in built:
            built.add(one.plan.digest)
            found.append(attempt(known, one, goal, f"tightest {name}"))
    return tuple(found)


def _tighter(tight: Tight, goal: Budget, found: Sequence[Attempt]) -> Tight:
    """``tight`` with less of what ``found`` misses, and of the latency, which varies from run to run."""
    missed = {name for one in found for name in goal.misses(one.cost)} | {"latency_ms"}
    steps = {name: MARGIN / 2 if name == "latency_ms" else MARGIN for name in missed}
    return {**tight, **{name: tight.get(name, 1.0) - step for name, step in steps.items()}}


def plan_within(known: Study, goal: Budget, target: str, given: bool) -> Plan:
    """The best plan at today's prices; where these know of none within ``goal``, what comes nearest is carried out.

    Raises ``BudgetError`` where that does not keep it either, unless nobody gave it: then the nearest is taken.
    """
    at = known.menu()
    try:
        return planned(known, goal, target).plan
    except Unreachable as error:
        nearest = [as_planned(known, at, one, target) for one in error.nearest.values()]
        tried = standing(known, goal, target)
        tried += tuple(attempt(known, one, goal, "tightest") for one in nearest)
        if kept := keeping(tried, goal):
            return min(kept, key=lambda one: one.loss).plan
        if given:
            raise refusal(tried, goal, error) from None
        return min(tried, key=lambda one: max(goal.misses(one.cost).values())).plan


def within(choice: Chosen, goal: Budget, target: str, training: Training) -> Result:
    """The most accurate plan within the budget: search, measure, correct, until what is measured keeps it.

    Raises ``BudgetError`` where nothing that was built keeps it: the tightest plans among that.
    """
    tried = standing(choice.known, goal, target)
    searched = _searched(choice, goal, target, training, tried)
    if searched.result is None:
        assert searched.error is not None
        raise searched.error
    return _finished(searched.result, goal, choice.known, target, searched.history)


def eased(choice: Chosen, goal: Budget, target: str, training: Training) -> Result:
    """The most accurate plan within a bound on latency that nobody gave, or within the next above it that is kept.

    It ends at the dense model, and never fails.
    """
    tried, history, bound = standing(choice.known, goal, target), choice.history, goal
    dense = tried[0]
    (name,) = goal.bounds
    asked = f"a latency of {show(name, goal.bounds[name])}, the default, is out of reach here"
    while bound.bounds[name] < getattr(dense.cost, name):
        searched = _searched(replace(choice, history=history), bound, target, training, tried)
        if searched.result is not None:
            now = f"{asked}: it was eased to {show(name, bound.bounds[name])}"
            notes = (now,) if bound is not goal else ()
            return _finished(searched.result, bound, choice.known, target, searched.history, notes)
        tried, history = searched.tried, searched.history
        nearest = min(getattr(one.cost, name) for one in tried)
        bound = replace(bound, **{name: max(EASED * bound.bounds[name], (1 + MARGIN) * nearest)})
    result = training.full(dense.candidate, choice.beside)
    notes = (f"{asked}, and nothing that was built is faster than the dense model",)
    return _finished(result, Budget(), choice.known, target, history, notes)


def _searched(
    choice: Chosen, goal: Budget, target: str, training: Training, tried: tuple[Attempt, ...]
) -> Searched:  # fmt: skip
    """Search, carry out, measure and correct, until a model keeps ``goal`` as measured, or nothing new comes of it."""
    known, tight, priced = choice.known, FIRST, None
    history = list(choice.history)
    leans = list(LEANINGS) if known.losses.branches else [EVEN]
    refuted: dict[str, BudgetError] = {}
    for number in range(ROUNDS):
        if number and training.late:
            break
        step = _round(known, goal, target, leans, tight, tried)
        if over := _overpriced(step.found, goal):  # at what was measured, more fits
            looser = {**tight, "latency_ms": over * tight.get("latency_ms", 1.0)}
            closer = _round(known, goal, target, leans, looser, (*tried, *step.found))
            step = closer if keeping(closer.found, goal) else step
        new, priced = _new(step.found, tried), step.priced
        tried, history = (*tried, *new), [*history, *(one.step(goal) for one in new)]
        finalists = {one.plan.digest: one for one in keeping((*step.found, tried[0]), goal)}  # dense, too
        left = [one for digest, one in finalists.items() if digest not in refuted]
        judged = _judged(left, goal, choice, training)
        history += judged.history
        refuted |= judged.refuted
        if judged.result is not None:
            return Searched(judged.result, None, tried, tuple(history))
        if not new and not left:
            break
        tight = _tighter(tight, goal, step.found)
    last = _tightest(known, goal, target, tried)
    tried, history = (*tried, *last), [*history, *(one.step(goal) for one in last)]
    left = [one for one in keeping(tried, goal) if one.plan.digest not in refuted]
    judged = _judged(sorted(left, key=lambda one: one.loss)[:2], goal, choice, training)
    history += judged.history
    if judged.result is not None:
        return Searched(judged.result, None, tried, tuple(history))
    refuted |= judged.refuted
    dropped = [error for error in refuted.values() if error.figure == "max_drop"]
    if dropped:
        error = min(dropped, key=lambda error: error.tightest or 0.0)
    elif refuted:
        error = next(reversed(refuted.values()))
    else:
        error = refusal(tried, goal, priced)
    return Searched(None, error, tried, tuple(history))


@dataclass(frozen=True)
class Judged:
    """What finalists came to in full: the ``result`` that keeps the whole budget, or why those tried do not."""

    result: Result | None = None
    refuted: Mapping[str, BudgetError] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()


def _judged(finalists: Sequence[Attempt], goal: Budget, choice: Chosen, training: Training) -> Judged:
    """The best of ``finalists`` in full; where its accuracy drops too much, the best of those that are to lose less."""
    left, refuted, history = list(finalists), {}, []
    while left:
        result = training.best([one.candidate for one in left], choice.beside)
        history += result.history
        cost, drop = result.deployed.cost(goal), result.dense_score - result.score
        if result.plan.digest == left[0].plan.digest and not result.plan.compresses(choice.known.graph):
            cost = replace(cost, latency_ratio=1.0)
        own = next(one for one in left if one.plan.digest == result.plan.digest)
        missed = goal.misses(cost)
        if not missed and (goal.max_drop is None or drop <= goal.max_drop):
            return Judged(replace(result, history=()), refuted, tuple(history))
        if missed:
            history.append(replace(own, search="final", cost=cost).step(goal))
            refuted[own.plan.digest] = refusal([replace(own, cost=cost)], goal, None)
            break
        refuted[own.plan.digest] = _dropped(drop, goal, choice.known, figures(cost))
        left = [one for one in left if one.loss < own.loss]
    return Judged(None, refuted, tuple(history))


def _dropped(drop: float, goal: Budget, known: Study, built: Mapping[str, float]) -> BudgetError:
    assert goal.max_drop is not None
    return BudgetError(
        f"within that budget the {known.task.name} drops by {drop:.2f} points, more than {goal.max_drop:g}",
        f"allow {drop:.2f} points, loosen the budget, or give more --epochs",
        figure="max_drop",
        asked=goal.max_drop,
        tightest=drop,
        built=built,
    )


def _overpriced(found: Sequence[Attempt], goal: Budget) -> float | None:
    """By how much all that keep the budget were predicted slower than they are, where they leave much of its latency.

    That is twice the margin at least, of the bound and of the prediction; else it is ``None``.
    """
    bounds = {name: bound for name, bound in goal.bounds.items() if name.startswith("latency")}
    kept = keeping(found, goal)
    near = [one for one in kept for name, bound in bounds.items() if getattr(one.cost, name) > (1 - 2 * MARGIN) * bound]
    if not bounds or not kept or near:
        return None
    over = min(one.plan.predicted.latency_ms / one.candidate.report.latency_ms() for one in kept)
    return over if over > 1 + MARGIN else None


def fastest(choice: Chosen, goal: Budget, target: str, training: Training) -> Result:
    """The fastest plan whose accuracy drops by no more than ``max_drop`` points: bisection on the latency.

    The dense model is one at worst.
    """
    known, history = choice.known, choice.history
    assert goal.max_drop is not None and known.dense is not None
    dense, *whole = standing(known, goal, target)
    best = choice.best
    if best is None:
        tried = _bisected(known, goal, target, training)
        history += tuple(one.step(goal) for one in tried)
        kept = [one for one in tried if one.drop is not None and one.drop <= goal.max_drop]
        best = kept[-1].candidate if kept else None
    share = 1.0 if best is None else best.report.latency_ms() / known.dense.latency_ms()
    ways: list[Candidate | float] = [best] if best is not None else []
    while share < 1.0:
        share = min(1.0, share * 1.25)
        ways.append(share)
    ways += [one.candidate for one in whole if one.cost.latency_ms < dense.cost.latency_ms]
    for way in ways:
        candidate = way if isinstance(way, Candidate) else _slower(known, goal, target, way).candidate
        if candidate.report.latency_ms() >= known.dense.latency_ms():
            continue
        result = training.full(candidate, choice.beside)
        history += result.history
        faster = result.deployed.latency_ms() < result.dense.latency_ms()
        if faster and result.dense_score - result.score <= goal.max_drop:
            return _finished(result, goal, known, target, history)
    result = training.full(dense.candidate, choice.beside)
    return _finished(result, goal, known, target, (*history, *result.history))


def _bisected(known: Study, goal: Budget, target: str, training: Training) -> tuple[Attempt, ...]:
    """Candidates that bisect the latency, each with its drop after a short recovery: of those within, faster is later.

    The last that keeps ``max_drop`` is the fastest that does.
    """
    assert goal.max_drop is not None and known.dense is not None
    low, high = 0.1, 1.0
    tried: list[Attempt] = []
    reference = training.holdout(known.network)
    for _ in range(DROP_STEPS):
        share = (low * high) ** 0.5
        bound = replace(goal, latency_ms=known.dense.latency_ms() * share, max_drop=None)
        try:
            one = attempt(known, planned(known, bound, target), goal, EVEN)
        except Unreachable:
            low = share
            continue
        drop = reference - training.short(one.candidate)
        tried.append(replace(one, drop=drop))
        if drop <= goal.max_drop:
            high = share
        else:
            low = share
    return tuple(tried)


def _slower(known: Study, goal: Budget, target: str, share: float) -> Attempt:
    """The best plan at that share of the dense model's latency; at all of it, that is the dense model at worst."""
    assert known.dense is not None
    bound = replace(goal, latency_ms=known.dense.latency_ms() * share * (1 + MARGIN), max_drop=None)
    try:
        return attempt(known, planned(known, bound, target, tight={}), goal, EVEN)
    except Unreachable:
        return standing(known, goal, target)[0]


def _finished(
    result: Result, goal: Budget, known: Study, target: str, history: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> Result:  # fmt: skip
    """``result`` with all that led to it, and what a reader must know of its figures."""
    told = [{"note": note} for note in (*notes, *remarks(result, goal, known))]
    return replace(result, history=(*history, *told))
