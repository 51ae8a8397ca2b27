"""What a dense model is taught before it is compressed: labels alone, or what a recovery teaches with a term R."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from edgesdk.core.errors import DataError, ModelError, UsageError
from edgesdk.core.graph import WEIGHTED
from edgesdk.core.wording import said
from edgesdk.data.sources import Samples
from edgesdk.data.task import Task
from edgesdk.network.network import Batch, Network, rebatch, tensors
from edgesdk.techniques.layouts import by_output
from edgesdk.techniques.regularization import folded, group_lasso, lasso, scales, sizes
from edgesdk.techniques.transfer import still
from edgesdk.train.objective import Objective
from edgesdk.train.recovery import Recovery

GAMMA, CHANNELS = "gamma", "channels"
Penalty = Callable[[Network], Tensor]


class Labelled:
    """The task's loss against labels; BatchNorms that are frozen keep their statistics. Raises ``UsageError`` for a
    metric without a loss, ``DataError`` where there are no labels."""

    precise = False

    def __init__(self, task: Task) -> None:
        if not task.has_loss:
            raise UsageError(
                f"the metric {task.name} has no loss to learn by",
                "give --loss, or the metric top-1, mse, binary-accuracy or multilabel-f1",
            )
        if not task.labelled:
            raise DataError("the data has no labels to learn from", "give y")
        self.task = task

    def parameters(self) -> list[nn.Parameter]:
        return []

    def start(self, student: Network) -> None:
        still(student.module)

    def follow(self, student: Network) -> None: ...

    def __call__(self, student: Network, x: Batch, y: Any, epoch: float, mixed: bool) -> Tensor:
        with torch.autocast(tensors(x)[0].device.type, torch.bfloat16, enabled=mixed):
            outputs = student.flat(x)
        return self.task.supervised([o.float() if o.is_floating_point() else o for o in outputs], y)


class Penalised(Objective):
    """What a recovery by default teaches, the dense network its teacher, and ``strength`` times ``penalty``."""

    def __init__(self, penalty: Penalty, strength: float, student: Network, dense: Network, task: Task, x: Batch):
        super().__init__(Recovery(), student, dense, task, x)
        self.penalty: Penalty = penalty
        self.strength: float = strength

    def __call__(self, student: Network, x: Batch, y: object, epoch: float, mixed: bool) -> Tensor:
        return super().__call__(student, x, y, epoch, mixed) + self.strength * self.penalty(student)


def penalty(on: str | Callable[[nn.Module], Tensor], network: Network) -> Penalty:
    """R of ``network``: the L1 norm of its BatchNorms' scales (``gamma``), the group lasso of the ``channels`` that are
    cut together, or a function of its module, whose parameters have the model's own names.

    Raises ``ModelError`` where it has no such scales or channels, ``UsageError`` for a function that gives no scalar.
    """
    if on == GAMMA:
        if not scales(network.module):
            raise ModelError("the model has no BatchNorm whose scale could shrink", f"choose {CHANNELS} instead")
        return lambda student: lasso(scales(student.module).values())
    if on == CHANNELS:
        if not channels(network):
            raise ModelError("the model has no channels that can be cut", f"choose {GAMMA}, or a function of your own")
        return lambda student: group_lasso(channels(student).values())
    if isinstance(on, str):
        raise UsageError(f"there is no penalty {on!r}", f"choose {GAMMA}, {CHANNELS} or file.py:callable")
    try:
        values = on(network.module)
    except Exception as error:
        raise UsageError(f"the penalty failed with {said(error)}", "make it take the model") from error
    if not isinstance(values, Tensor) or values.numel() != 1 or not values.requires_grad:
        raise UsageError("the penalty gives no scalar of the model's parameters", "return a tensor of one number")
    return lambda student: on(student.module)


def widths(on: str | Callable[[nn.Module], Tensor], network: Network) -> dict[str, Tensor]:
    """The size of each channel that ``on`` makes small, (channels,), by BatchNorm or channel group; of a user's own
    function those of the groups."""
    values = scales(network.module) if on == GAMMA else channels(network)
    return {name: sizes(value.detach()) for name, value in values.items()}


def channels(network: Network) -> dict[str, Tensor]:
    """Of each channel group that can be cut the weights that go with a channel, BatchNorm folded: (channels, ...)."""
    by_group = {}
    for group in network.graph.groups:
        writers = [network.graph.by_name[name] for name in group.layers if group.fixed is None]
        parts = []
        for layer in writers:
            place = network.along(network.node(layer.name), group.name) if layer.kind in WEIGHTED else None
            if place is not None and layer.outputs == len(place[1]):
                norm = network.sites[layer.name].norm
                part: Any = network.submodule(layer.name)
                weight = by_output(part, part.weight)
                rows = folded(weight, network.module.get_submodule(norm) if norm else None).flatten(1)
                if len(rows) == group.size:
                    parts.append(rows[place[1].argsort()])
                else:  # several rows of a channel, or of some none
                    squares = rows.new_zeros(group.size, rows.shape[1]).index_add(0, place[1], rows.square())
                    parts.append((squares + 1e-12).sqrt())
        if parts:
            by_group[group.name] = torch.cat(parts, 1)
    return by_group


def held(train: Iterable[tuple[Batch, Any]]) -> Samples:
    """One pass over ``train`` in memory, so that samples of it can be drawn. Raises ``DataError`` for labels that are
    no tensors, and where there are none."""
    xs, ys = [], []
    for x, y in train:
        if not isinstance(y, Tensor):
            raise DataError("the training data has no labels to learn from", "give y, a tensor per batch")
        xs.append(x)
        ys.append(y)
    if not xs:
        raise DataError("the training data is empty", "give at least one batch")
    columns = iter([torch.cat(parts) for parts in zip(*(tensors(x) for x in xs), strict=True)])
    return Samples(rebatch(xs[0], lambda _: next(columns)), torch.cat(ys), "train")


def check_strength(strength: float) -> None:
    """Raise ``UsageError`` unless ``strength`` is a finite number above zero and at most 1."""
    if not (isinstance(strength, (int, float)) and 0 < strength <= 1):
        raise UsageError(f"a strength of {strength}", "give a number above 0 and at most 1, such as 0.01")
