"""Budgets that a model keeps which is there before any search: the dense one, or that with every layer integer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.plan import Plan
from edgesdk.core.report import DENSE
from edgesdk.pipeline.anchoring import DENSE_INT8
from edgesdk.pipeline.candidates import Attempt, list_dense, price_anchor, select_keeping
from edgesdk.pipeline.choosing import Chosen
from edgesdk.pipeline.loop import find_result, judge
from edgesdk.pipeline.remarks import add_remarks
from edgesdk.pipeline.renewing import search_renewing
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.study import Anchored, Study
from edgesdk.pipeline.training import Training

NOTHING_LOST = 1e-3  # of the dense model's held-out score, up to which what is lost is nothing that a search could win
NOT_SEARCHED = "nothing was searched for"
DENSE_KEEPS = "the dense model keeps the budget: nothing was searched for"
INTEGERS_KEEP = "every layer in integers keeps the budget and loses nothing on held-out data: nothing else was priced"


def ignore(taken: Attempt) -> None:
    """Nobody asks what was taken without a search."""


def find_deployed(
    anchored: Anchored, budget: Budget, training: Training, given: bool,
    study: Callable[[Anchored], Sequence[Study]] = Anchored.study, seen: Callable[[Attempt], None] = ignore,
) -> tuple[Study, Result]:  # fmt: skip
    """The best within ``budget``, and the study that it is of: at once where the budget is loose, else after a search.

    Nothing within a budget that the dense model keeps can be expected to be more accurate than that, nor within one
    that the model in integers keeps where that answers as well on held-out data. ``study`` gives the studies to search
    in, which may be there already; where nothing is searched for, what is taken instead is ``seen``. Raises
    ``BudgetError`` as :func:`find_result` does.
    """

    def find(known: Anchored) -> tuple[Study, Result]:
        return _find_loose(known, budget, training, seen) or find_result(study(known), budget, training, given)

    return search_renewing(anchored, find, lambda: not training.allowance.spent)


def find_loose_plan(anchored: Anchored, budget: Budget) -> Plan | None:
    """The plan that leaves all as it is, where that keeps ``budget``."""
    dense = _find_dense(anchored, budget)
    return None if dense is None else dense.attempt.plan


def _find_loose(
    anchored: Anchored, budget: Budget, training: Training, seen: Callable[[Attempt], None]
) -> tuple[Study, Result] | None:
    """What keeps ``budget`` and loses nothing, without a search; ``None`` where nothing does."""
    if (dense := _find_dense(anchored, budget)) is not None:
        return _finish(dense, budget, training, DENSE_KEEPS, seen)
    if (integers := _find_integers(anchored, budget)) is None:
        return None
    most = training.score_held_out(anchored.setups[0].network)
    lost = most - training.try_short(integers.attempt.candidate)
    return _finish(integers, budget, training, INTEGERS_KEEP, seen) if lost <= NOTHING_LOST * abs(most) else None


@dataclass(frozen=True)
class _Loose:
    """What keeps the budget in the runtime that is the fastest, and the same in the ``others``."""

    attempt: Attempt
    others: tuple[Attempt, ...]

    @property
    def beside(self) -> Mapping[str, Artifact]:
        """The files of the other runtimes, and the dense ones that are not measured anyway."""
        every = [attempt.candidate for attempt in (self.attempt, *self.others)]
        dense = {f"{DENSE} {c.study.runtime}": c.study.dense_file for c in every if not c.study.shares_own}
        return dense | {f"finalist {c.study.runtime}": c.artifact for c in every[1:]}


def _find_dense(anchored: Anchored, budget: Budget) -> _Loose | None:
    """The dense model where it keeps ``budget``."""
    if not _keeps(anchored, budget, DENSE):
        return None
    return _select_fastest([list_dense(study, budget)[0] for study in anchored.study_as_it_is()], budget)


def _find_integers(anchored: Anchored, budget: Budget) -> _Loose | None:
    """The model with every layer integer where it keeps ``budget``."""
    if not _keeps(anchored, budget, DENSE_INT8):
        return None
    every = [attempt for study in anchored.study_whole_layers() for attempt in list_dense(study, budget)[1:]]
    return _select_fastest(every, budget)


def _keeps(anchored: Anchored, budget: Budget, kind: str) -> bool:
    """Whether that model keeps ``budget``, which has a bound on cost, in any runtime."""
    costs = (price_anchor(anchor.figures[kind], anchor.shared, budget) for anchor in anchored.anchors)
    return bool(budget.bounds) and any(map(budget.is_met_by, costs))


def _select_fastest(attempts: Sequence[Attempt], budget: Budget) -> _Loose | None:
    best = min(select_keeping(attempts, budget), key=lambda attempt: attempt.cost.latency_ms, default=None)
    return None if best is None else _Loose(best, tuple(attempt for attempt in attempts if attempt is not best))


def _finish(
    loose: _Loose, budget: Budget, training: Training, note: str, seen: Callable[[Attempt], None]
) -> tuple[Study, Result] | None:
    """What that comes to in full, with a ``note``; ``None`` where it does not keep the budget in the end."""
    attempt, study = loose.attempt, loose.attempt.candidate.study
    judged = judge([attempt], budget, training, Chosen(study, beside=loose.beside))
    if judged.result is None:
        return None
    seen(attempt)
    told = (attempt.step(budget), *judged.told)
    plan = judged.result.plan
    if not plan.compresses(study.graph):  # that there is no other choice is not known of any layer
        plan = replace(plan, layers=tuple(replace(layer, reason=NOT_SEARCHED) for layer in plan.layers))
    return study, add_remarks(replace(judged.result, plan=plan), budget, study, told, (note,))
