"""Which of several runtimes a deployment goes on with: the one whose finalist is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.errors import BudgetError
from edgesdk.core.report import DENSE
from edgesdk.pipeline.candidates import Attempt, Candidate, find_nearest, list_dense, refuse, select_keeping
from edgesdk.pipeline.deadline import SEARCH
from edgesdk.pipeline.fastest import allow_latency, bisect_latency, select_within
from edgesdk.pipeline.planning import EVEN, FIRST
from edgesdk.pipeline.rounds import build_tightest, search_round, select_new, tighten
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import Selected, Training

ROUNDS = 6  # of searching, measuring and correcting


@dataclass(frozen=True)
class Chosen:
    """The runtime that a deployment goes on with, and the candidates of the others, dense and compressed.

    ``best`` is its own finalist where it was told apart from others, ``refused`` says why a runtime has none.
    """

    study: Study
    best: Candidate | None = None
    beside: Mapping[str, Artifact] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()


def choose_runtime(studies: Sequence[Study], budget: Budget, training: Training, given: bool = True) -> Chosen:
    """The runtime whose finalist is best: all are measured in one run, and recovered shortly to be told apart.

    Raises ``BudgetError``, with what each can reach, where none has a plan within the budget, unless nobody gave it.
    """
    if len(studies) == 1:
        return Chosen(studies[0])
    finalists: list[Candidate] = []
    history: list[Mapping[str, Any]] = []
    errors: dict[str, BudgetError] = {}
    for study in studies:
        try:
            first = _find_first(study, budget, training, given)
        except BudgetError as error:
            errors[study.runtime] = error
        else:
            finalists.append(first.attempt.candidate)
            history += [attempt.step(budget) for attempt in first.tried]
    if not finalists:
        raise join_refusals(errors)
    first = finalists[0].study
    measured = first.measure({DENSE: first.shared_file, **{c.study.runtime: c.artifact for c in finalists}})
    finalists = [replace(c, measured=measured[c.study.runtime]) for c in finalists]
    selected = (
        training.select_best(finalists)
        if budget.bounds
        else Selected(min(finalists, key=lambda candidate: candidate.measured.latency_ms()))
    )
    best = selected.candidate
    beside = {f"{DENSE} {c.study.runtime}": c.study.dense_file for c in finalists if not c.study.shares_own}
    beside |= {f"finalist {c.study.runtime}": c.artifact for c in finalists if c is not best}
    refused = {runtime: str(error) for runtime, error in errors.items()}
    return Chosen(best.study, best, beside, refused, (*history, *selected.history))


def join_refusals(errors: Mapping[str, BudgetError]) -> BudgetError:
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
        basis=nearest.basis,
    )


@dataclass(frozen=True)
class _First:
    """The finalist of a runtime, and all that was tried for it."""

    attempt: Attempt
    tried: tuple[Attempt, ...]


def _find_first(study: Study, budget: Budget, training: Training, given: bool) -> _First:
    """The first candidate of a runtime that keeps the budget.

    The fastest within ``max_drop`` where that is all; the nearest to a budget that nobody gave and nothing keeps.
    """
    if not budget.bounds:
        max_drop = budget.max_drop or 0.0
        tried = bisect_latency(study, budget, max_drop, training)
        return _First(select_within(tried, max_drop) or allow_latency(study, budget, 1.0), tried)
    tight, priced = FIRST, None
    tried = list_dense(study, budget)
    for number in range(ROUNDS):
        if number and study.deadline.ends(SEARCH, f"the search in {study.runtime}"):
            break
        step = search_round(study, budget, [EVEN], tight, tried)
        new, priced = select_new(step.attempts, tried), step.priced
        tried += new
        if kept := select_keeping(step.attempts, budget):
            return _First(kept[0], tried)
        if not new:
            break
        tight = tighten(tight, budget, step.attempts)
    tried += build_tightest(study, budget, tried)
    if kept := select_keeping(tried, budget):
        return _First(min(kept, key=lambda attempt: attempt.loss), tried)
    if given:
        raise refuse(tried, budget, priced)
    return _First(find_nearest(tried, budget), tried)
