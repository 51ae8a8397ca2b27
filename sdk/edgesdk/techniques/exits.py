"""Early exits: how sure an exit is of a sample, when the sample leaves there, and how many may.

BranchyNet (Teerapittayanon, McDanel and Kung 2016). A network is run in stages; each stage but the last ends in an exit
that answers, too. A sample whose answer is sure enough leaves, and the stages that follow are not run for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from edgesdk.core.errors import UsageError

MEASURES = ("entropy", "maximum")
NEVER = -1.0  # a threshold that no sample keeps: doubts are never below zero
TRIED = 400  # combinations of the thresholds of all exits but the last
DECAY = 1e-4  # of a head's weights, on inputs of unit variance
ITERATIONS = 100


def doubt(logits: Tensor, measure: str = "entropy") -> Tensor:
    """How unsure an exit is of each sample, (N,): 0 where it is certain. ``logits`` is (N, classes).

    ``entropy`` of the softmax in nats (the paper's), or ``maximum``: one less its largest probability.
    Raises ``UsageError`` for another measure, and for logits of another shape.
    """
    if measure not in MEASURES:
        raise UsageError(f"there is no confidence {measure!r}", f"choose {' or '.join(MEASURES)}")
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise UsageError(f"logits of shape {tuple(logits.shape)} tell no classes apart", "give (samples, classes)")
    sure = logits.double().softmax(1)
    if measure == "maximum":
        return 1 - sure.amax(1)
    return torch.special.entr(sure).sum(1)


def leaves(doubts: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Where each sample leaves, (N,): the first exit whose doubt is at most its threshold, else the last stage.

    ``doubts`` is (exits, N). The last stage has the number of exits. Raises ``UsageError`` where the thresholds are not
    one per exit.
    """
    if doubts.dim() != 2 or len(doubts) != len(thresholds):
        raise UsageError(f"{len(thresholds)} thresholds for {len(doubts)} exits", "give one per exit")
    last = torch.full((doubts.shape[1],), len(doubts))
    for index in reversed(range(len(doubts))):
        last[doubts[index] <= thresholds[index]] = index
    return last


def reached(last: Tensor, stages: int) -> list[float]:
    """The share of samples that each of ``stages`` is run for, where ``last``, (N,), says where each leaves."""
    return [float((last >= stage).double().mean()) for stage in range(stages)]


def expected(shares: Sequence[float], costs: Sequence[float]) -> float:
    """What a sample costs on average: the cost of each stage, weighted by the share of samples that reach it.

    ``shares`` and ``costs`` have an entry per stage; the unit is that of ``costs``, as ms. Raises ``ValueError`` where
    their numbers differ.
    """
    return sum(share * cost for share, cost in zip(shares, costs, strict=True))


def thresholds(doubts: Tensor, right: Tensor, costs: Sequence[float], least: float) -> tuple[float, ...]:
    """A threshold per exit with which samples cost least on average while ``least`` of them are answered rightly.

    ``doubts`` is (exits, N), ``right`` (exits + 1, N) says which stage answers which sample rightly, ``costs`` has an
    entry per stage; ``least`` is a share. With one exit it is the optimum on these samples; of several the last one's,
    the others being tried at steps through their doubts. ``NEVER`` stands for an exit where no sample leaves. Raises
    ``UsageError`` where shapes do not fit, and where the last stage itself does not answer that many rightly.
    """
    exits, count = doubts.shape
    if right.shape != (exits + 1, count) or len(costs) != exits + 1 or not count:
        fact = f"{tuple(doubts.shape)} doubts, {tuple(right.shape)} answers and {len(costs)} costs do not fit together"
        raise UsageError(fact, "give (exits, N), (exits + 1, N) and exits + 1")
    needed = least * count - 1e-6  # of a sample
    if float(right[-1].sum()) < needed:
        raise UsageError("the last stage itself answers fewer rightly", "ask for a lower share")
    best, cost = (NEVER,) * exits, sum(costs)
    for before in _list_tried(doubts):
        last = leaves(doubts[:-1], before)
        spent = torch.tensor(costs, dtype=torch.double).cumsum(0)
        gone = last < exits - 1
        answered = right[last.clamp(max=exits - 1), torch.arange(count)]
        limit, rest = _one(doubts[-1, ~gone], right[-2, ~gone], right[-1, ~gone], needed - float(answered[gone].sum()))
        if limit is None:
            continue
        total = (float(spent[last[gone]].sum()) + rest * costs[-1] + int((~gone).sum()) * float(spent[-2])) / count
        if total < cost - 1e-12:
            best, cost = (*before, limit), total
    return best


def _list_tried(doubts: Tensor) -> Iterator[tuple[float, ...]]:
    """Thresholds to try for all exits but the last."""
    exits = len(doubts) - 1
    if not exits:
        yield ()
        return
    steps = max(2, round(TRIED ** (1 / exits)))
    grids = []
    for row in doubts[:-1].double():
        limits = row.unique()
        between = torch.cat([(limits[1:] + limits[:-1]) / 2, limits[-1:]])
        some = torch.linspace(0, len(between) - 1, min(steps, len(between))).round().long()
        grids.append([NEVER, *between[some].tolist()])
    yield from product(*grids)


def _one(doubts: Tensor, right: Tensor, later: Tensor, needed: float) -> tuple[float | None, int]:
    """The highest threshold of a last exit that leaves ``needed`` samples answered rightly, and how many go on."""
    order = doubts.argsort()
    gained = torch.cat([torch.zeros(1), (right[order].double() - later[order].double()).cumsum(0)])
    allowed = gained + float(later.sum()) >= needed
    ranked = doubts[order]
    allowed[1:-1] &= ranked[1:] > ranked[:-1]  # equal doubts leave together
    if not bool(allowed.any()):
        return None, len(order)
    leaving = int(allowed.nonzero().max())
    if leaving == 0:
        return NEVER, len(order)
    upper = ranked[leaving] if leaving < len(order) else ranked[-1]
    return float(ranked[leaving - 1] + upper) / 2, len(order) - leaving


def head(features: Tensor, targets: Tensor) -> nn.Linear:
    """The linear layer that answers best from ``features``, (N, F), by cross-entropy with a small decay of its weights.

    ``targets`` is (N,) class numbers, or (N, classes) probabilities to be imitated (Hinton et al. 2015). The problem is
    convex: L-BFGS (Liu and Nocedal 1989) from zero, the features at unit variance meanwhile. Raises ``UsageError``
    where the shapes do not fit or a feature is not finite.
    """
    if features.dim() != 2 or len(features) != len(targets) or not len(features):
        fact = f"features of shape {tuple(features.shape)} do not fit targets of shape {tuple(targets.shape)}"
        raise UsageError(fact, "give (samples, features), and a target for each sample")
    if not bool(features.isfinite().all()):
        raise UsageError("there are features that are not finite", "check the model and its data")
    classes = targets.shape[1] if targets.dim() == 2 else int(targets.max()) + 1
    mean, spread = features.mean(0), features.std(0, correction=0)
    spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
    scaled = (features - mean) / spread
    head = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(head(scaled), targets) + DECAY * head.weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    with torch.no_grad():
        head.weight.div_(spread)
        head.bias.sub_(head.weight @ mean)
    return head.requires_grad_(False)
