"""The fastest model within a bound on accuracy by rounds: cut, learn, test, and roll back what loses too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgesdk.core.artifact import Artifact
from edgesdk.core.budget import Budget
from edgesdk.core.errors import BudgetError
from edgesdk.core.wording import counted
from edgesdk.pipeline.candidates import Attempt, Candidate, attempt, list_dense
from edgesdk.pipeline.cuts import narrow_menu, plan_cut
from edgesdk.pipeline.deadline import LEARNING
from edgesdk.pipeline.fastest import finish_first
from edgesdk.pipeline.planning import FIRST
from edgesdk.pipeline.result import Result
from edgesdk.pipeline.study import Study
from edgesdk.pipeline.training import Training
from edgesdk.pipeline.trying import try_plans

STEP, FINEST = 0.3, 0.05  # of the latency that is left, which a round takes away: at first, and at the least
ROUNDS = 8  # at most
SEARCH = "round"


def cut_in_rounds(
    study: Study, budget: Budget, max_drop: float, training: Training, best: Candidate | None = None,
    beside: Mapping[str, Artifact] | None = None, history: tuple[Mapping[str, Any], ...] = (),
) -> Result:  # fmt: skip
    """The fastest model whose accuracy drops by no more than ``max_drop`` points, in rounds of cutting, learning and
    testing (Han et al. 2015, "Learning both Weights and Connections", section 3).

    Each round asks the search for less latency, of what leaves out what the last good round does and more; cuts what
    that had learnt; and learns. One whose held-out score drops too much is rolled back, and the next takes half of that
    step. The last good one learns in full; where it drops too much on test data, so does the one before. ``best`` is
    what another search found, by which runtimes were told apart: it has its turn among them. The dense model is the
    result at worst.
    """
    tried = list_rounds(study, budget, max_drop, training)
    good = [each.candidate for each in reversed(tried) if each.drop is not None and each.drop <= max_drop]
    steps = tuple(each.step(budget) for each in tried)
    ways = sorted([*good, *filter(None, [best])], key=lambda way: way.measured.latency_ms())
    ways += [each.candidate for each in list_dense(study, budget)[1:]]
    return finish_first(study, budget, max_drop, training, ways, beside, (*history, *steps))


def list_rounds(study: Study, budget: Budget, max_drop: float, training: Training) -> Sequence[Attempt]:
    """What each round came to, with its drop on held-out data."""
    reference, dense_ms = training.score_held_out(study.network), study.dense.latency_ms()
    tried: list[Attempt] = []
    share, step, last, cut, chain = 1.0, STEP, None, None, ""
    for number in range(1, ROUNDS + 1):
        if step < FINEST:
            break
        if number > 1 and study.deadline.ends(LEARNING, f"rounds of cutting, after {counted(number - 1, 'round')}"):
            break
        wanted = share * (1 - step)
        try_plans(study, replace(budget, latency_ms=dense_ms * wanted, max_drop=None), FIRST)
        try:
            planned = plan_cut(study, narrow_menu(study.menu(), study.graph, last), dense_ms * wanted)
        except BudgetError:
            step /= 2
            continue
        latest = None
        if last is None or planned.plan.digest != last.digest:
            latest = attempt(study, planned, budget, f"{SEARCH} {number}")
        if latest is None or (last is not None and latest.plan.digest == last.digest):
            share = wanted  # the last good one is that fast
            continue
        known = latest.plan.digest in {each.plan.digest for each in tried}  # which was rolled back
        round_ = None
        if not known:
            round_ = training.learn_round(latest.candidate, cut, chain, f"round {number}", ROUNDS)
        if round_ is None:
            step /= 2
            continue
        latest = replace(latest, drop=reference - round_.score)
        tried.append(latest)
        if latest.drop is not None and latest.drop <= max_drop:
            share = min(wanted, latest.candidate.measured.latency_ms() / dense_ms)
            last, cut, chain = latest.plan, round_.cut, round_.chain
        else:
            step /= 2
    return tried
