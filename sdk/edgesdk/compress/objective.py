"""What a recovery minimises, step by step: the losses of a student and its teachers, and what learns beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import _pytree as pytree

from edgesdk.compress.integers import ActivationQuantizer
from edgesdk.compress.layers import described
from edgesdk.compress.modularize import exported, modularize
from edgesdk.compress.network import Batch, Edited, Network, rebatch, tensors
from edgesdk.compress.recovery import (
    ADVERSARY,
    ANGLES,
    ATTENTION,
    DENSE,
    DISTANCES,
    FEATURES,
    HARD,
    INFORMATION,
    JACOBIAN,
    LAYERED,
    LOGITS,
    MUTUAL,
    RELATIONS,
    SELF,
    SIMILARITY,
    SOFT,
    TASK,
    Pair,
    Recovery,
    Teacher,
    Term,
)
from edgesdk.compress.task import Task, first_tensor
from edgesdk.errors import UsageError
from edgesdk.graph import CONV, OTHER, WEIGHTED, Graph
from edgesdk.techniques import distillation

SHOWN = 8  # layers in a message
RELATION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    DISTANCES: distillation.distances, ANGLES: distillation.angles, SIMILARITY: distillation.similarity,
}  # fmt: skip


@dataclass(frozen=True)
class Guide:
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


def guide(teacher: Teacher, dense: Network) -> Guide:
    """A loaded ``teacher`` as it is run on a batch of the student's."""
    assert not isinstance(teacher.view, str)
    view = teacher.view or _same
    if teacher.source == DENSE:
        return Guide(dense, view)
    assert isinstance(teacher.source, nn.Module)
    return Guide(teacher.source.eval(), view)


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
        one, x = guide(teacher, dense), batches[0][0]
        if first_tensor(one(x)).shape != first_tensor(dense(x)).shape:
            continue
        taught = task.score(one, batches, dense)
        if taught < score:
            notes.append(
                f"the teacher {teacher.name} is worse than its student:"
                f" on held-out data it scored {taught:.2f} against {score:.2f}"
            )
    return notes


class Objective:
    """The loss of a recovery for one step of its student, and what learns beside the student.

    That is maps between layers of different width, the variances of VID, an adversary, and in ``mutual`` mode the
    teachers. ``x`` is a batch by which their sizes are found. Raises ``UsageError`` for layers that there are not.
    """

    def __init__(self, recovery: Recovery, student: Network, dense: Network, task: Task, x: Batch) -> None:
        recovery.check(task)
        self.recovery, self.task = recovery, task
        self.average: AveragedModel | None = None
        teachers = recovery.loaded().teachers
        total = sum(teacher.weight for teacher in teachers)
        self.shares = [teacher.weight / total for teacher in teachers]
        self.guides = [guide(teacher, dense) for teacher in teachers]
        if recovery.mode == SELF:
            self.guides = [Guide(student, _same)]
        elif any(term.kind in LAYERED for term in recovery.losses):
            self.guides = [_traced(one, x) for one in self.guides]
        self.peers = nn.ModuleList()
        if recovery.mode == MUTUAL:
            made = [
                one.made.copy() if isinstance(one.made, Network) else copy.deepcopy(one.made) for one in self.guides
            ]
            self.guides = [replace(one, made=peer) for one, peer in zip(self.guides, made, strict=True)]
            self.peers.extend(one.module for one in self.guides)
        self.lessons = [
            _Lesson(term, which, paired(term, student.graph, dense.graph, one.graph) if term.kind in LAYERED else ())
            for term in recovery.losses
            for which, one in enumerate(self.guides)
        ]
        self.heads = nn.ModuleDict()
        for index, lesson in enumerate(self.lessons):
            self._add_heads(index, lesson, student, x)

    def parameters(self) -> list[nn.Parameter]:
        """What learns beside the student."""
        return [*self.heads.parameters(), *self.peers.parameters()]

    @property
    def precise(self) -> bool:
        """Whether a loss differentiates twice, for which half precision is too coarse."""
        return any(term.kind == JACOBIAN for term in self.recovery.losses)

    def start(self, student: Network) -> None:
        """Begin a part of the recovery with ``student``: as float, or with quantization in the loop."""
        if self.recovery.mode == SELF:
            average = get_ema_multi_avg_fn(self.recovery.decay)
            self.average = AveragedModel(student.module, multi_avg_fn=average)
            for part in self.average.modules():
                if isinstance(part, ActivationQuantizer):
                    part.observing = False  # its range is the student's, a buffer
            self.guides = [Guide(replace(student, module=self.average.module), _same)]  # type: ignore[arg-type]
            self.follow(student)
        for one in self.guides:
            one.module.train(self.recovery.mode == MUTUAL)

    def follow(self, student: Network) -> None:
        """Let the moving average follow a step of the ``student``."""
        if self.average is not None:
            self.average.update_parameters(student.module)

    def __call__(self, student: Network, x: Batch, y: object, epoch: float, mixed: bool) -> Tensor:
        """The loss on a batch, with ``epoch`` of the recovery done; ``mixed`` runs the networks in bfloat16."""
        mutual = self.recovery.mode == MUTUAL
        theirs = x
        if self.precise:
            x, theirs = _leaves(x), _leaves(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            with torch.set_grad_enabled(mutual or self.precise):
                taught = [one.run(theirs, self._layers(1, which)) for which, one in enumerate(self.guides)]
            run = watched(student, x, self._layers(0))
        losses = []
        for index, lesson in enumerate(self.lessons):
            term = lesson.term
            loss = self._loss(index, lesson, run, taught[lesson.which], y, (x, theirs))
            grown = min(1.0, epoch / term.warmup_epochs) if term.warmup_epochs else 1.0
            scale = term.weight * grown * self.shares[lesson.which]
            losses += [] if loss is None else [loss if scale == 1 else scale * loss]
        if mutual:
            own = [o.detach().float() for o in run.outputs]
            losses += [self.task.together(teacher.outputs, own, y) for teacher in taught]
        if not losses:
            raise UsageError("the plan left out every layer that the losses name", "name others, or add the loss task")
        return sum(losses[1:], losses[0])

    def _layers(self, side: int, which: int | None = None) -> list[str]:
        """The layers of the student (0), or of one teacher (1), whose outputs are compared."""
        pairs = [pair for lesson in self.lessons if which in (None, lesson.which) for pair in lesson.pairs]
        return list(dict.fromkeys(pair[side] for pair in pairs))

    def _loss(
        self, index: int, lesson: _Lesson, run: Run, teacher: Run, y: Any, x: tuple[Batch, Batch]
    ) -> Tensor | None:
        """The loss of one term against one teacher; ``None`` where the plan left its layers out."""
        term = lesson.term
        if term.kind == TASK:
            _check_fit(run.outputs, teacher.outputs)
            return self.task.distillation(run.outputs, teacher.outputs, y)
        if term.kind in LAYERED:
            found = [
                self._layer_loss(lesson, _key(index, place), run.layers[own].float(), teacher.layers[other].float())
                for place, (own, other) in enumerate(lesson.pairs)
            ]
            return torch.stack(found).sum() if found else None
        if term.output >= min(len(run.outputs), len(teacher.outputs)):
            fact = f"the loss {term.kind} is of output {term.output}, and there are {len(run.outputs)}"
            raise UsageError(f"{fact} of the student and {len(teacher.outputs)} of the teacher", "they count from 0")
        one, other = run.outputs[term.output].float(), teacher.outputs[term.output].float()
        if term.kind == HARD:
            return distillation.hard(one, y[term.output] if isinstance(y, (tuple, list)) else y)
        if term.kind == JACOBIAN:
            return distillation.jacobian(one, other, tensors(x[0])[0], tensors(x[1])[0])
        if term.kind == ADVERSARY:
            return self.heads[_key(index, 0)](one, other)
        if term.kind == LOGITS:
            return distillation.logits(one, other)
        return (distillation.soft if term.kind == SOFT else distillation.probabilities)(one, other, term.heat)

    def _layer_loss(self, lesson: _Lesson, key: str, one: Tensor, other: Tensor) -> Tensor:
        kind = lesson.term.kind
        if kind in RELATION:
            return RELATION[kind](one, other)
        if kind == INFORMATION:
            return self.heads[key](one, other)
        if kind == ATTENTION:
            return distillation.attention(one, other, lesson.axes[key])
        return distillation.features(self.heads[key](one) if key in self.heads else one, other)

    def _add_heads(self, index: int, lesson: _Lesson, student: Network, x: Batch) -> None:
        """What learns for one term and teacher."""
        kind, one = lesson.term.kind, self.guides[lesson.which]
        if kind == ADVERSARY:
            with torch.no_grad():
                outputs = student.flat(x)
            width = outputs[min(lesson.term.output, len(outputs) - 1)].shape[-1]
            self.heads[_key(index, 0)] = distillation.Discriminator(width)
        if kind not in LAYERED or kind in RELATIONS:
            return
        for place, (own, other) in enumerate(lesson.pairs):
            narrow, wide = student.graph.by_name[own].shape, one.graph.by_name[other].shape
            axis = channel_axis(one.graph, other)
            if len(narrow) != len(wide) or places(narrow, axis) != places(wide, axis):
                fact = f"the loss {kind} cannot compare {own} {narrow} with {other} {wide}"
                raise UsageError(fact, "pair layers that differ in channels alone")
            key, widths = _key(index, place), (narrow[axis - 1], wide[axis - 1])
            lesson.axes[key] = axis
            if kind == INFORMATION:
                self.heads[key] = distillation.Information(*widths, axis)
            elif kind == FEATURES and widths[0] != widths[1]:
                self.heads[key] = distillation.Regressor(*widths, axis)


@dataclass(frozen=True)
class _Lesson:
    """A term against one teacher, with the layers that it compares."""

    term: Term
    which: int
    pairs: tuple[Pair, ...]
    axes: dict[str, int] = field(default_factory=dict)


def paired(term: Term, student: Graph, dense: Graph, teacher: Graph) -> tuple[Pair, ...]:
    """The layers of ``student`` and ``teacher`` that a loss of layers compares: those it names, or the usual ones.

    A factorized layer stands for its last part. What the plan left out of the ``dense`` network is left out. Raises
    ``UsageError`` for a layer that there is not, with those that there are.
    """
    if term.pairs is not None:
        found = []
        for own, other in term.pairs:
            small, large = _part(student, own), _part(teacher, other)
            if small is None and own not in dense.by_name:
                raise UsageError(f"the loss {term.kind}: the student has no layer {own!r}", _there_are(dense))
            if large is None and other not in dense.by_name:
                raise UsageError(f"the loss {term.kind}: the teacher has no layer {other!r}", _there_are(teacher))
            found += [(small, large)] if small and large else []
        return tuple(found)
    last: dict[tuple[int, ...], Pair] = {}
    for layer in teacher.layers:
        small = _part(student, layer.name)
        if small is None or layer.name in teacher.outputs or layer.kind == OTHER:
            continue
        axis, shape = channel_axis(teacher, layer.name), student.by_name[small].shape
        where = places(layer.shape, axis)
        if len(shape) == len(layer.shape) and places(shape, axis) == where:
            last.pop(where, None)
            last[where] = (small, layer.name)
    spread = tuple(pair for where, pair in last.items() if where)
    if term.kind in RELATIONS:
        spread = tuple(last.values())[-1:]
    elif not spread and term.kind != ATTENTION:
        spread = tuple(last.values())
    if not spread:
        raise UsageError(
            f"the loss {term.kind} finds no layer of the same name in both", f"name pairs: {_there_are(teacher)}"
        )
    return spread


def channel_axis(graph: Graph, name: str) -> int:
    """The axis of the channels in the output of a layer, counted with the batch."""
    layer = graph.by_name[name]
    rank = len(layer.shape)
    while layer.kind not in WEIGHTED:
        before = graph.by_name.get(layer.inputs[0]) if layer.inputs and layer.kind != OTHER else None
        if before is None or len(before.shape) != rank:
            return rank if rank == 2 else 1  # tokens have their channels last, images first
        layer = before
    return 1 if layer.kind == CONV else rank


def places(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """``shape``, without the batch, without its channels."""
    return (*shape[: axis - 1], *shape[axis:])


def _part(graph: Graph, name: str) -> str | None:
    """A layer, or the last part of what it was factorized into."""
    if name in graph.by_name:
        return name
    parts = [part for part in graph.by_name if part.startswith(f"{name}.") and part[len(name) + 1 :].isdigit()]
    return parts[-1] if parts else None


def _there_are(graph: Graph) -> str:
    names = [layer.name for layer in graph.layers]
    return f"there are {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _traced(one: Guide, x: Batch) -> Guide:
    """``one`` as a network, whose layers can be watched. Raises ``ModelError`` where it cannot be traced."""
    if isinstance(one.made, Network):
        return one
    x = rebatch(one.view(x), lambda t: torch.cat([t[:1], t[:1]]))
    program = exported(one.made, x)
    return replace(one, made=described(modularize(program), x, program.call_spec.out_spec))


def _leaves(x: Batch) -> Batch:
    """``x`` anew, to be differentiated by. Raises ``UsageError`` for an input of integers."""
    if not tensors(x)[0].is_floating_point():
        raise UsageError("the loss jacobian differentiates by the input, which holds integers", "leave it out")
    return rebatch(x, lambda t: t.detach().clone().requires_grad_(t.is_floating_point()))


def _check_fit(outputs: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    own, other = ([tuple(t.shape) for t in found] for found in (outputs, teacher))
    if own != other:
        shown = [", ".join(map(str, shapes)) for shapes in (own, other)]
        fact = f"the student's outputs {shown[0]} do not fit the teacher's {shown[1]}"
        raise UsageError(fact, "give a teacher of the same outputs, or losses of layers alone")


def _key(index: int, place: int) -> str:
    return f"{index}/{place}"


def _same(x: Batch) -> Batch:
    return x
