"""How much better a model's answers are than answers that know nothing of the sample, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from edgesdk.core.errors import EdgeSdkError
from edgesdk.data.batches import classes_of
from edgesdk.data.metrics import MSE, is_named, result, started
from edgesdk.data.targets import IGNORED, are_of_each, class_axis, class_numbers, joined_targets, several, taken_targets
from edgesdk.data.task import Task
from edgesdk.network.network import Batch, figures, tensors

SIGNIFICANT = 2.33  # standard errors above what answers that know nothing of the sample reach: 1 % of chance
SHUFFLES, FIRST, CERTAIN = 20, 5, 10.0  # orders of targets that are tried; of these at first, and what suffices then
ROUNDING = 1e-6  # of a score: a smaller difference is rounding


@dataclass(frozen=True)
class Skill:
    """Of what samples can gain over answers that know nothing of them, the share that they do: its mean and the ends of
    what it may be, 2.33 standard errors away (Cohen's kappa of a classifier, R squared of a regression)."""

    mean: float
    low: float
    high: float
    constant: bool  # one class is the answer to all

    @property
    def above_chance(self) -> bool:
        return self.low > 0


def find_skill(task: Task, judged: Sequence[Tensor], targets: Sequence[Any]) -> Skill | None:
    """``None`` for a metric of which it is not known what knowing nothing gains, and for targets that are all alike."""
    if task.classifies:
        gain, room, constant = _of_classes(judged, targets)
    elif is_named(task.metric, MSE):
        answered, wanted = (torch.cat([v.double().reshape(len(v), -1) for v in side]) for side in (judged, targets))
        room, constant = (wanted - wanted.mean(0)).square().mean(1), False
        gain = room - (wanted - answered).square().mean(1)
    elif task.decides:
        answered = torch.cat([figures(value) > task.limit for value in judged]).double()
        pairs = zip(judged, targets, strict=True)
        wanted = torch.cat([figures(several(value, y)) for value, y in pairs]).double()
        share, constant = wanted.mean(0), False
        chance = answered * share + (1 - answered) * (1 - share)
        gain, room = ((answered == wanted).double() - chance).mean(1), (1 - chance).mean(1)
    else:
        return None
    most = float(room.mean())
    if most <= 0:
        return None
    mean, error = float(gain.mean()) / most, float(gain.std()) / len(gain) ** 0.5 / most if len(gain) > 1 else math.inf
    return Skill(mean, mean - SIGNIFICANT * error, mean + SIGNIFICANT * error, constant)


def answered_classes(logits: Tensor, y: Any) -> tuple[Tensor, Tensor]:
    """The class that is answered, and the label."""
    labels = class_numbers(logits, y)
    axis = class_axis(logits, labels)
    assert axis is not None
    return logits.argmax(axis), classes_of(labels)


def _of_classes(judged: Sequence[Tensor], targets: Sequence[Any]) -> tuple[Tensor, Tensor, bool]:
    """What each sample gains over, and could gain over, labels drawn at random in their shares."""
    pairs = [answered_classes(value, y) for value, y in zip(judged, targets, strict=True)]
    labels = torch.cat([wanted[wanted != IGNORED] for _, wanted in pairs])
    shares = labels.bincount(minlength=1 + max(int(answered.max()) for answered, _ in pairs)).double() / len(labels)
    gains, rooms = [], []
    for answered, wanted in pairs:
        kept = (wanted != IGNORED).reshape(len(wanted), -1)
        chance = shares[answered].reshape(len(wanted), -1)
        right = (answered == wanted).double().reshape(len(wanted), -1)
        count = kept.sum(1).clamp(min=1)
        gains.append(((right - chance) * kept).sum(1) / count)
        rooms.append(((1 - chance) * kept).sum(1) / count)
    first = pairs[0][0].flatten()[0]
    constant = all(bool((answered == first).all()) for answered, _ in pairs) and len(labels.unique()) > 1
    return torch.cat(gains), torch.cat(rooms), constant


@dataclass(frozen=True)
class Shuffled:
    """What a metric is where the targets belong to other samples, by its mean and standard deviation over orders."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> Shuffled:
        return cls(statistics.fmean(scores), statistics.stdev(scores))

    def standing(self, score: float, other: float | None = None) -> float:
        """How many standard deviations ``score`` is above, or above the ``other``."""
        return (score - (self.mean if other is None else other)) / max(
            self.deviation, ROUNDING * abs(self.mean), 1e-300
        )

    def is_blind(self, score: float) -> bool:
        """Whether the metric is ``score`` in any order: by these answers and targets nothing can be told."""
        return max(self.deviation, abs(score - self.mean)) <= ROUNDING * abs(self.mean)


def shuffle_targets(
    task: Task, answers: Sequence[Any], batches: Sequence[tuple[Batch, Any]], score: float
) -> Shuffled | None:
    """Whatever the metric, what it is with the targets of other samples: a model that knows something of its samples
    scores above that.

    ``None`` where targets are not one for each sample, where they are all alike or where the metric fails on them.
    """
    sizes = [len(tensors(x)[0]) for x, _ in batches]
    count = sum(sizes)
    if not all(are_of_each(y, size) for (_, y), size in zip(batches, sizes, strict=True)):
        return None
    try:
        every = joined_targets(batches, count)
        ends = torch.tensor(sizes).cumsum(0).tolist()
        generator = torch.Generator().manual_seed(0)
        scores: list[float] = []
        for number in range(SHUFFLES):
            order = torch.randperm(count, generator=generator)
            meter = started(task.metric, task.limit)
            for answer, end, size in zip(answers, ends, sizes, strict=True):
                y = taken_targets(every, order[end - size : end], count)
                answer = pytree.tree_map_only(Tensor, torch.clone, answer)  # a metric may write into it
                task.update(meter, answer, task.target(y), size)
            scores.append(result(task.metric, meter, task.name))
            if number + 1 == FIRST and Shuffled.of(scores).standing(score) >= CERTAIN:
                break
        return Shuffled.of(scores)
    except (EdgeSdkError, TypeError, RuntimeError, IndexError, ValueError):
        return None
