"""Teachers as they are run, with what their layers put out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgesdk.core.graph import Graph
from edgesdk.data.task import Task, first_tensor
from edgesdk.network.fuse import flat
from edgesdk.network.network import Batch, Edited, Network, rebatch, tensors
from edgesdk.network.placement import CPU, move, place
from edgesdk.train.recovery import DENSE, Recovery, Teacher


@dataclass(frozen=True)
class LoadedTeacher:
    """A teacher as it is run: a network, or where nothing is asked of its layers, a module."""

    made: Network | nn.Module
    view: Callable[[Batch], Batch]

    @property
    def module(self) -> nn.Module:
        return self.made.module if isinstance(self.made, Network) else self.made

    def __call__(self, x: Batch) -> object:
        """Its outputs, in their own structure."""
        x = self.view(x)
        if isinstance(self.made, Network):
            return self.made(x)
        return self.made(**x) if isinstance(x, dict) else self.made(*tensors(x))

    @property
    def graph(self) -> Graph:
        assert isinstance(self.made, Network)
        return self.made.graph

    def run(self, x: Batch, layers: Sequence[str]) -> Run:
        if isinstance(self.made, Network):
            return watched(self.made, self.view(x), layers)
        return Run([t for t in pytree.tree_leaves(self(x)) if isinstance(t, Tensor)], {})


@dataclass(frozen=True)
class Run:
    """The outputs of a network, and those of the layers that were asked for."""

    outputs: list[Tensor]
    layers: dict[str, Tensor]


def load_teacher(teacher: Teacher, dense: Network) -> LoadedTeacher:
    """A loaded ``teacher`` as it is run on a batch of the student's."""
    assert not isinstance(teacher.view, str)
    view = teacher.view or same
    if teacher.source == DENSE:
        return LoadedTeacher(dense, view)
    assert isinstance(teacher.source, nn.Module)
    return LoadedTeacher(teacher.source.eval(), view)


def traced(teacher: LoadedTeacher, x: Batch) -> LoadedTeacher:
    """``teacher`` as a network, whose layers can be watched. Raises ``ModelError`` where it cannot be traced."""
    if isinstance(teacher.made, Network):
        return teacher
    x = rebatch(move(teacher.view(x), CPU), lambda t: torch.cat([t[:1], t[:1]]))
    return replace(teacher, made=flat(teacher.made, x))


def placed(teacher: LoadedTeacher, device: torch.device) -> LoadedTeacher:
    """``teacher`` on ``device``: a copy where it, the user's own, lies elsewhere."""
    if isinstance(teacher.made, Network):
        return replace(teacher, made=place(teacher.made, device))
    if all(value.device == device for value in teacher.made.state_dict().values()):
        return teacher
    return replace(teacher, made=copy.deepcopy(teacher.made).to(device))


def watched(network: Network, x: Batch, layers: Sequence[str]) -> Run:
    """``network`` run on ``x``, and what ``layers`` of it put out."""
    if not layers:
        return Run(network.flat(x), {})
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., Tensor]:
        return lambda value, *_: seen.setdefault(name, value)

    edits = {network.node(layer).name: note(layer) for layer in layers}
    return Run(list(Edited(network.module, edits).run(*tensors(x))), seen)


@torch.no_grad()
def outdone(
    recovery: Recovery, dense: Network, task: Task, batches: Sequence[tuple[Batch, Any]], score: float
) -> list[str]:
    """A note on each teacher that the user gave and that scores below the student's ``score`` on ``batches``.

    A teacher with other outputs than the student's, which teaches by its layers, is not judged.
    """
    notes = []
    for teacher in recovery.loaded().teachers if recovery.own else ():
        loaded, x = load_teacher(teacher, dense), batches[0][0]
        if first_tensor(loaded(x)).shape != first_tensor(dense(x)).shape:
            continue
        taught = task.score(loaded, batches, dense)
        if taught < score:
            notes.append(
                f"the teacher {teacher.name} is worse than its student:"
                f" on held-out data it scored {taught:.2f} against {score:.2f}"
            )
    return notes


def same(x: Batch) -> Batch:
    """The view of a teacher that sees what its student does."""
    return x
