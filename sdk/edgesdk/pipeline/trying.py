"""Plans tried whole before a search is believed: applied, fitted and judged without training, they correct prices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgesdk.compress.apply import compressed
from edgesdk.core.budget import Budget
from edgesdk.core.cache import cache_folder
from edgesdk.core.errors import EdgeSdkError
from edgesdk.core.serialize import digest, dumps, from_json, loads, write
from edgesdk.data.targets import joined_inputs, joined_targets, taken_targets
from edgesdk.network.network import Batch, Network, rebatch, tensors
from edgesdk.pipeline.deadline import SEARCH
from edgesdk.pipeline.planning import EVEN, Planned, Tight, make_plan
from edgesdk.pipeline.setup import digest_of
from edgesdk.pipeline.study import Study
from edgesdk.price.learnt import Judged, Learnt, Parts
from edgesdk.solve.finalists import TRIED
from edgesdk.solve.milp import Unreachable
from edgesdk.train.apply import fit

SHARES = 16  # of the held-out samples, by which the noise of a judgement is told
FEWEST = 4 * SHARES  # samples that tell anything
SCHEMA = 1  # of what is kept on disk


def try_plans(study: Study, budget: Budget, tight: Tight) -> None:
    """Try plans around the best one within ``budget``, and correct the prices in accuracy by what they lose.

    At first plans differ on purpose, as the search leans otherwise, for half of ``study.tries``; then it is the best
    plan at the prices as they are corrected by then, again and again, until it was tried before or is expected to lose
    what it does within the noise of a judgement. What is judged is how far a plan's outputs are from the dense model's
    on held-out samples, once it is applied, its weights fitted in closed form, and its ranges calibrated. Nothing is
    tried where no samples are held out, or there is no time left for the search.
    """
    own = study.corrections
    if study.tries <= len(own.judged) or not _can_judge(study):
        return
    judge, leans = _Judge(study), [] if own.judged else list(TRIED)
    tried = {_key(each.parts) for each in own.judged}
    learnt = Learnt(own.judged)
    while len(own.judged) < study.tries:
        if study.deadline.ends(SEARCH, "plans that are tried before a search is believed"):
            break
        leaning = bool(leans) and len(own.judged) < max(1, study.tries // 2)
        lean = leans.pop(0) if leaning else EVEN
        count = f"{len(own.judged) + 1} of at most {study.tries}"
        study.tell(f"searching ({study.runtime}): trying plans without training, {count}", None)
        try:
            planned = make_plan(study, budget, lean, tight)
        except Unreachable:
            break
        solution = planned.solution
        parts = own.parts_of(solution.choices, solution.kept, solution.dropped)
        known = _key(parts) in tried
        if not leaning and (known or learnt.is_sure(parts)):
            break
        if known:
            continue
        tried.add(_key(parts))
        learnt = own.learn(Judged(parts, judge.losses(planned)), parts)


def _can_judge(study: Study) -> bool:
    """Whether there are samples that no weights are fitted to."""
    data = study.data
    return data.holdout is not data.calibration and sum(len(tensors(x)[0]) for x, _ in data.holdout) >= FEWEST


def _key(parts: Parts) -> tuple[object, ...]:
    return tuple(sorted(parts.items()))


class _Judge:
    """What plans lose on each share of the held-out samples, once applied and fitted; kept on disk."""

    def __init__(self, study: Study) -> None:
        self.study = study
        held_out = study.data.holdout
        count = sum(len(tensors(x)[0]) for x, _ in held_out)
        every = joined_inputs([x for x, _ in held_out], count)
        targets = joined_targets(held_out, count) if study.task.loss is not None else None
        self.shares: list[tuple[Batch, Any]] = []
        for share in range(SHARES):
            rows = torch.arange(share, count, SHARES)
            x = rebatch(every, lambda t, rows=rows: t[rows])
            self.shares.append((x, None if targets is None else taken_targets(targets, rows, count)))
        self.dense = [self._answer(study.network, x) for x, _ in self.shares]
        given = [t for part in (study.data.calibration, held_out) for x, _ in part for t in tensors(x)]
        self.made_from = [
            SCHEMA, study.graph.digest, digest_of(study.network.module), digest_of(given), study.task.identity,
            study.runtime, torch.__version__, digest_of(list(study.scores.values())),
        ]  # fmt: skip

    def losses(self, planned: Planned) -> tuple[float, ...]:
        """What the plan loses on each share."""
        place = cache_folder() / "judged" / f"{digest([*self.made_from, planned.plan.digest])[:16]}.json"
        try:
            return from_json(tuple[float, ...], loads(place.read_text()))
        except (OSError, ValueError, EdgeSdkError):
            pass
        network = self._apply(planned)
        pairs = zip(self.shares, self.dense, strict=True)
        lost = tuple(self.study.task.fidelity_loss(self._answer(network, x), dense, y) for (x, y), dense in pairs)
        write(place, dumps(lost))
        return lost

    def _apply(self, planned: Planned) -> Network:
        study, plan = self.study, planned.plan
        small, options = compressed(study.network, plan, study.data.example, study.scores)
        return study.quantize(fit(plan, study.network, small, study.scores, study.calibration), options)

    @torch.no_grad()
    def _answer(self, network: Network, x: Batch) -> list[Tensor]:
        return network.flat(x)
