"""What a point is of a metric that is not in per cent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from edgesdk.data.metrics import MSE, is_named
from edgesdk.data.task import Task
from edgesdk.network.network import Batch, figures

SMALLEST = 1e-9  # where there is nothing to take a hundredth of


def point(task: Task, dense: Callable[[Batch], Any], batches: Sequence[tuple[Batch, Any]]) -> float:
    """One where the metric is in per cent; else a hundredth: of squared errors of the ``dense`` model's answers'
    variance, which is what a constant answer loses, of another metric of what the ``dense`` model has on ``batches``.
    """
    if task.unit == "%":
        return 1.0
    if is_named(task.metric, MSE):
        answers = torch.cat([figures(task.judged(dense(x))).float() for x, _ in batches])
        return float(answers.var(0).mean()) / 100 or SMALLEST
    return abs(task.score(dense, batches, dense)) / 100 or SMALLEST
