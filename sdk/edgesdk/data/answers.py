"""What a model decides about each sample, kept while it is judged, so that two can be compared answer by answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edgesdk.core.answers import AnswerChanges, Flip
from edgesdk.core.errors import EdgeSdkError
from edgesdk.data.metrics import MSE, is_named
from edgesdk.data.targets import IGNORED, class_axis, class_numbers, several
from edgesdk.data.task import Task, output_tensors

Draw = Callable[[Sequence[int]], Mapping[int, str]]
"""The pictures of the samples at those places, as far as they have one."""


class Answers:
    """The classes that a model answers with: how often which for which, and for each sample where it has one answer.

    Of a model that is no classifier there are none.
    """

    def __init__(self, task: Task) -> None:
        self.task: Task = task
        self.counts: Counter[tuple[int, int]] = Counter()
        self.each: list[Tensor] | None = []  # rows of labels and answers; None where a sample has many
        self.known: bool = True

    def see(self, outputs: Any, target: Any) -> None:
        """See a batch, with what it is judged against."""
        decided = _decide(self.task, outputs, target) if self.known else None
        if decided is None:
            self.known = False
            return
        labels, answers, classes = decided
        judged = labels != IGNORED
        codes, times = (labels[judged] * classes + answers[judged]).unique(return_counts=True)
        for code, count in zip(codes.tolist(), times.tolist(), strict=True):
            self.counts[divmod(code, classes)] += count
        if labels.dim() > 1:
            self.each = None
        elif self.each is not None:
            self.each.append(torch.stack([labels, answers]))

    def compare(self, dense: Answers, draw: Draw) -> AnswerChanges | None:
        """What is answered otherwise than by the ``dense`` model, which saw the same; ``None`` of no classifier."""
        if not (self.known and dense.known and self.counts):
            return None
        changes = AnswerChanges.of(dense.counts, self.counts, self._list_flips(dense))
        pictures = draw([flip.sample for flip in changes.flips])
        return replace(changes, flips=tuple(replace(flip, picture=pictures.get(flip.sample)) for flip in changes.flips))

    def _list_flips(self, dense: Answers) -> list[Flip] | None:
        if self.each is None or dense.each is None:
            return None
        labels, own = torch.cat(self.each, 1)
        theirs = torch.cat(dense.each, 1)[1]
        places = ((own != theirs) & (labels != IGNORED)).nonzero().flatten()
        columns = (places.tolist(), *(each[places].tolist() for each in (labels, theirs, own)))
        return [Flip(place, label, dense, answer) for place, label, dense, answer in zip(*columns, strict=True)]


def _decide(task: Task, outputs: Any, target: Any) -> tuple[Tensor, Tensor, int] | None:
    """Labels and answers as class numbers, and how many classes there are; ``None`` where it is no classifier's."""
    tensors = output_tensors(outputs)
    if task.output is None and len(tensors) != 1 or is_named(task.metric, MSE) or not isinstance(target, Tensor):
        return None
    judged = (tensors[0] if task.output is None else task.judged(outputs)).float()
    if task.decides:
        if judged[0].numel() != 1:
            return None  # several labels of a sample
        return (several(judged, target) > 0).flatten().long(), (judged > task.limit).flatten().long(), 2
    if judged.dim() < 2 or not task.classifies and (target.is_floating_point() or target.shape == judged.shape):
        return None
    try:
        labels = class_numbers(judged, target)
    except EdgeSdkError:
        return None
    axis = class_axis(judged, labels)
    if axis is None or judged.shape[axis] < 2 or labels.numel() and int(labels.max()) >= judged.shape[axis]:
        return None
    return labels, judged.argmax(axis), judged.shape[axis]
