"""The closed loop: search, apply, measure, correct the prices, until what is measured keeps the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgesdk.core.budget import Budget, Cost, show
from edgesdk.core.errors import BudgetError, UsageError
from edgesdk.core.report import DENSE, is_predicted
from edgesdk.core.wording import counted
from edgesdk.pipeline.candidates import Attempt, list_dense, list_figures, refuse, select_keeping
from edgesdk.pipeline.choosing import ROUNDS, Chosen, choose_runtime
from edgesdk.pipeline.closing import close_in
from edgesdk.pipeline.deadline import SEARCH
from edgesdk.pipeline.fastest import default_drop, find_fastest
from edgesdk.pipeline.measuring import measure_beside
from edgesdk.pipeline.planning import EVEN, FIRST
from edgesdk.pipeline.remarks import add_remarks
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.rollback import cut_in_rounds
from edgesdk.pipeline.rounds import build_tightest, search_round, select_new, tighten
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import DEPLOYED, Training
from edgesdk.solve.finalists import LEANINGS

Told = tuple[Mapping[str, Any], ...]  # what the report says of each step


def find_result(studies: Sequence[Study], budget: Budget, training: Training, given: bool) -> tuple[Study, Result]:
    """The best that any of ``studies`` comes to within ``budget``, and the study that it is of.

    Where nothing keeps a bound on cost that was not ``given`` by anybody, a bound on accuracy takes its place, as where
    that is all there is: the fastest within it is found. Raises ``BudgetError`` where nothing that was built keeps what
    was given.
    """
    try:
        study, result = _find(studies, budget, training, given)
    except BudgetError as error:
        note = studies[0].deadline.note
        raise error if note is None else error.but_for_time(note) from None
    return study, result


def _find(studies: Sequence[Study], budget: Budget, training: Training, given: bool) -> tuple[Study, Result]:
    chosen = choose_runtime(studies, budget, training, given)
    if budget.bounds:
        result = (search_within if given else search_eased)(chosen, budget, training)
    elif budget.max_drop is not None and training.recovery.rollback:
        result = cut_in_rounds(
            chosen.study, budget, budget.max_drop, training, chosen.best, chosen.beside, chosen.history
        )
    elif budget.max_drop is not None:
        result = find_fastest(
            chosen.study, budget, budget.max_drop, training, chosen.best, chosen.beside, chosen.history
        )
    else:
        raise UsageError("a budget without any bound", "bound the latency, memory, size or drop")
    return chosen.study, replace(result, refused=chosen.refused)


def search_within(chosen: Chosen, budget: Budget, training: Training) -> Result:
    """The most accurate plan within the budget: search, measure, correct, until what is measured keeps it.

    Raises ``BudgetError`` where nothing that was built keeps it: the tightest plans among that.
    """
    searched = _search(chosen.study, budget, training, Tried(list_dense(chosen.study, budget), chosen.history), chosen)
    if isinstance(searched.outcome, BudgetError):
        raise searched.outcome
    return add_remarks(searched.outcome, budget, chosen.study, searched.tried.told)


def search_eased(chosen: Chosen, budget: Budget, training: Training) -> Result:
    """The most accurate plan within a bound on latency that nobody gave; where nothing keeps that, the fastest within
    the drop that is the default where nothing is measured, as the tightest plan may have lost all.

    It ends at the dense model, and never fails.
    """
    study = chosen.study
    searched = _search(study, budget, training, Tried(list_dense(study, budget), chosen.history), chosen)
    if isinstance(searched.outcome, Result):
        return add_remarks(searched.outcome, budget, study, searched.tried.told)
    most = default_drop(study)
    instead = replace(budget, latency_ms=None, latency_ratio=None, max_drop=most)
    result = find_fastest(study, instead, most, training, None, chosen.beside, searched.tried.told)
    if budget.is_met_by(result.deployed.cost(budget)):  # after all: what missed it was slower than it is
        return result
    (name,) = budget.bounds
    eased = f"a latency of {show(name, budget.bounds[name])}, the default, is out of reach here"
    note = f"{eased}: the fastest model that drops by {counted(most, 'point', '.3g')} at the most was searched for"
    return replace(result, budget=instead, eased=eased, history=(*result.history, {"note": note}))


@dataclass(frozen=True)
class Tried:
    """All that was applied so far, and what the report says of it."""

    attempts: tuple[Attempt, ...]
    told: Told = ()

    def and_then(self, new: Sequence[Attempt], budget: Budget) -> Tried:
        return Tried((*self.attempts, *new), (*self.told, *(attempt.step(budget) for attempt in new)))


@dataclass(frozen=True)
class Searched:
    """What a search within bounds came to: the result that keeps them, or the error that says why none does."""

    outcome: Result | BudgetError
    tried: Tried


def _search(study: Study, budget: Budget, training: Training, tried: Tried, chosen: Chosen) -> Searched:
    """Search, apply, measure and correct, until a model keeps ``budget`` or nothing new comes of it."""
    tight, priced = FIRST, None
    leans = list(LEANINGS) if study.losses.branches else [EVEN]
    refuted: dict[str, BudgetError] = {}
    for number in range(ROUNDS):
        enough = number > 0 or study.deadline.is_over() or bool(select_keeping(tried.attempts, budget))
        if enough and study.deadline.ends(SEARCH, f"the search, after {counted(number, 'round')}"):
            break
        step = search_round(study, budget, leans, tight, tried.attempts)
        closer = close_in(study, budget, tight, step.attempts, tried.attempts, refuted)
        new, priced = select_new((*step.attempts, *closer), tried.attempts), step.priced
        tried = tried.and_then(new, budget)
        kept = select_keeping((*closer[-1:], *step.attempts, tried.attempts[0]), budget)
        finalists = {attempt.plan.digest: attempt for attempt in kept}
        left = [attempt for digest, attempt in finalists.items() if digest not in refuted]  # dense, too
        judged = judge(left, budget, training, chosen)
        tried, refuted = replace(tried, told=(*tried.told, *judged.told)), {**refuted, **judged.refuted}
        if judged.result is not None:
            return Searched(judged.result, tried)
        if not new and not left:
            break
        tight = tighten(tight, budget, step.attempts)
    tried = tried.and_then(build_tightest(study, budget, tried.attempts), budget)
    closer = close_in(study, budget, tight, tried.attempts, (), refuted)
    tried = tried.and_then(select_new(closer, tried.attempts), budget)
    left = [attempt for attempt in select_keeping(tried.attempts, budget) if attempt.plan.digest not in refuted]
    judged = judge(sorted(left, key=lambda attempt: attempt.loss)[:2], budget, training, chosen)
    tried, refuted = replace(tried, told=(*tried.told, *judged.told)), {**refuted, **judged.refuted}
    if judged.result is not None:
        return Searched(judged.result, tried)
    dropped = [error for error in refuted.values() if error.figure == "max_drop"]
    if dropped:
        return Searched(min(dropped, key=lambda error: error.tightest or 0.0), tried)
    return Searched(next(reversed(refuted.values())) if refuted else refuse(tried.attempts, budget, priced), tried)


@dataclass(frozen=True)
class Judged:
    """What finalists came to in full: the ``result`` that keeps the whole budget, or why those tried do not."""

    result: Result | None = None
    refuted: Mapping[str, BudgetError] = field(default_factory=dict)
    told: Told = ()


def judge(finalists: Sequence[Attempt], budget: Budget, training: Training, chosen: Chosen) -> Judged:
    """The best of ``finalists`` in full; where its accuracy drops too much, the best of those that are to lose less."""
    left, refuted, told = list(finalists), {}, ()
    while left:
        if refuted and chosen.study.deadline.is_over():
            left = [min(left, key=lambda attempt: attempt.loss)]  # there is time for one at most: the safest
        result = training.finish_best([attempt.candidate for attempt in left], chosen.beside)
        told += result.history
        cost, drop = _find_cost(result, budget, chosen.study), result.dense_score - result.score
        if any(name.startswith("latency") for name in budget.misses(cost)):  # its candidate kept that in another run
            result = _measure_again(result, chosen)
            cost = _find_cost(result, budget, chosen.study)
        own = next(attempt for attempt in left if attempt.plan.digest == result.plan.digest)
        missed = budget.misses(cost)
        if missed:
            told += (replace(own, search="final", cost=cost).step(budget),)
            return Judged(None, {**refuted, own.plan.digest: refuse([replace(own, cost=cost)], budget, None)}, told)
        if budget.max_drop is None or drop <= budget.max_drop:
            return Judged(replace(result, history=()), refuted, told)
        refuted[own.plan.digest] = _refuse_drop(drop, budget.max_drop, chosen.study.task.name, cost)
        left = [attempt for attempt in left if attempt.loss < own.loss]
    return Judged(None, refuted, told)


def _find_cost(result: Result, budget: Budget, study: Study) -> Cost:
    cost = result.deployed.cost(budget)
    one_file = study.shares_own and not result.plan.compresses(study.graph)
    return replace(cost, latency_ratio=1.0) if one_file else cost  # which is no share of itself


def _measure_again(result: Result, chosen: Chosen) -> Result:
    """``result`` with the figures of another run: of two that differ, one was disturbed."""
    if is_predicted(result.deployed):
        return result
    files = {DEPLOYED: result.artifact, **chosen.beside}
    measured = measure_beside(chosen.study, files, thorough=True, anew=True)
    beside = {name: measured[name] for name in result.beside}
    return replace(result, dense=measured[DENSE], deployed=measured[DEPLOYED], beside=beside)


def _refuse_drop(drop: float, max_drop: float, metric: str, built: Cost) -> BudgetError:
    return BudgetError(
        f"within that budget the {metric} drops by {drop:.2f} points, more than {max_drop:g}",
        f"allow {drop:.2f} points, loosen the budget, or give more --epochs",
        figure="max_drop",
        asked=max_drop,
        tightest=drop,
        built=list_figures(built),
        basis=built.basis,
    )
