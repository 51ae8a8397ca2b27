"""What a recovery minimises, step by step: the losses of a student and its teachers, and what learns beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgesdk.compress.integers import ActivationQuantizer
from edgesdk.core.errors import UsageError
from edgesdk.data.metrics import loss_rows
from edgesdk.data.targets import rows
from edgesdk.data.task import Task
from edgesdk.network.network import Batch, Network, rebatch, tensors
from edgesdk.network.placement import device_of
from edgesdk.techniques import distillation
from edgesdk.train.pairs import channel_axis, find_members, paired, places
from edgesdk.train.recovery import (
    ADVERSARY,
    ANGLES,
    ATTENTION,
    DISTANCES,
    FEATURES,
    HARD,
    INFORMATION,
    JACOBIAN,
    LAYERED,
    LOGITS,
    MEMBERS,
    MUTUAL,
    OWN,
    RELATIONS,
    SELF,
    SIMILARITY,
    SOFT,
    TASK,
    Pair,
    Recovery,
    Term,
)
from edgesdk.train.teachers import LoadedTeacher, Run, load_teacher, placed, same, traced, watched

RELATION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    DISTANCES: distillation.distances, ANGLES: distillation.angles, SIMILARITY: distillation.similarity,
}  # fmt: skip


class Objective:
    """The loss of a recovery for one step of its student, and what learns beside the student.

    That is maps between layers of different width, the variances of VID, an adversary, and in ``mutual`` mode the
    teachers. ``x`` is a batch by which their sizes are found. All of it is put where the ``student`` lies. Raises
    ``UsageError`` for layers that there are not.
    """

    def __init__(self, recovery: Recovery, student: Network, dense: Network, task: Task, x: Batch) -> None:
        recovery.check(task)
        self.recovery: Recovery = recovery
        self.task: Task = task
        device = device_of(student)
        self.dense: LoadedTeacher = LoadedTeacher(dense, same)
        self.average: AveragedModel | None = None
        teachers = recovery.loaded().teachers
        total = sum(teacher.weight for teacher in teachers)
        self.shares: list[float] = [teacher.weight / total for teacher in teachers]
        self.loaded_teachers: list[LoadedTeacher] = [load_teacher(teacher, dense) for teacher in teachers]
        if recovery.mode == SELF:
            self.loaded_teachers = [LoadedTeacher(student, same)]
        elif any(term.kind in LAYERED for term in recovery.losses):
            self.loaded_teachers = [traced(teacher, x) for teacher in self.loaded_teachers]
        self.loaded_teachers = [placed(teacher, device) for teacher in self.loaded_teachers]
        self.peers: nn.ModuleList = nn.ModuleList()
        if recovery.mode == MUTUAL:
            made = [
                teacher.made.copy() if isinstance(teacher.made, Network) else copy.deepcopy(teacher.made)
                for teacher in self.loaded_teachers
            ]
            self.loaded_teachers = [
                replace(teacher, made=peer) for teacher, peer in zip(self.loaded_teachers, made, strict=True)
            ]
            self.peers.extend(teacher.module for teacher in self.loaded_teachers)
        self.teacher_terms: list[_TeacherTerm] = [
            _TeacherTerm(
                term,
                which,
                paired(term, student.graph, dense.graph, teacher.graph) if term.kind in LAYERED else (),
                find_members(term, student.graph, dense.graph) if term.kind == MEMBERS else (),
            )
            for term in recovery.losses
            for which, teacher in enumerate(self.loaded_teachers)
        ]
        self.heads: nn.ModuleDict = nn.ModuleDict()
        for index, teacher_term in enumerate(self.teacher_terms):
            self._add_heads(index, teacher_term, student, x)
        self.heads.to(device)

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
            self.loaded_teachers = [LoadedTeacher(replace(student, module=self.average.module), same)]
            self.follow(student)
        for teacher in self.loaded_teachers:
            teacher.module.train(self.recovery.mode == MUTUAL)

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
        with torch.autocast(tensors(x)[0].device.type, torch.bfloat16, enabled=mixed):
            with torch.set_grad_enabled(mutual or self.precise):
                taught = [
                    loaded.run(theirs, self._layers(1, which)) for which, loaded in enumerate(self.loaded_teachers)
                ]
            run = watched(student, x, self._layers(0))
        losses = []
        for index, teacher_term in enumerate(self.teacher_terms):
            term = teacher_term.term
            loss = self._loss(index, teacher_term, run, taught[teacher_term.which], y, (x, theirs))
            grown = min(1.0, epoch / term.warmup_epochs) if term.warmup_epochs else 1.0
            scale = term.weight * grown * self.shares[teacher_term.which]
            losses += [] if loss is None else [loss if scale == 1 else scale * loss]
        if losses and self.task.has_others(run.outputs):
            losses.append(self.task.drift(run.outputs, self._dense_outputs(taught, x, mixed)))
        if mutual:
            own = [o.detach().float() for o in run.outputs]
            losses += [self.task.together(teacher.outputs, own, y) for teacher in taught]
        if not losses:
            raise UsageError("the plan left out every layer that the losses name", "name others, or add the loss task")
        return sum(losses[1:], losses[0])

    @torch.no_grad()
    def _dense_outputs(self, taught: Sequence[Run], x: Batch, mixed: bool) -> list[Tensor]:
        """What the dense model answers to ``x``, of the runs of the teachers where it is one that sees the same."""
        for teacher, run in zip(self.loaded_teachers, taught, strict=True):
            if teacher.made is self.dense.made and teacher.view is same:
                return run.outputs
        with torch.autocast(tensors(x)[0].device.type, torch.bfloat16, enabled=mixed):
            return self.dense.run(x, ()).outputs

    def _layers(self, side: int, which: int | None = None) -> list[str]:
        """The layers of the student (0), or of one teacher (1), whose outputs are compared."""
        pairs = [
            pair
            for teacher_term in self.teacher_terms
            if which in (None, teacher_term.which)
            for pair in teacher_term.pairs
        ]
        members = [name for teacher_term in self.teacher_terms for name in teacher_term.members] if side == 0 else []
        return list(dict.fromkeys([*(pair[side] for pair in pairs), *members]))

    def _loss(
        self, index: int, teacher_term: _TeacherTerm, run: Run, teacher: Run, y: Any, x: tuple[Batch, Batch]
    ) -> Tensor | None:
        """The loss of one term against one teacher; ``None`` where the plan left its layers out."""
        term = teacher_term.term
        if term.kind == TASK:
            _check_fit(run.outputs, teacher.outputs)
            return self.task.distillation(run.outputs, teacher.outputs, y)
        if term.kind == OWN:
            assert self.task.loss is not None  # the recovery was checked
            return self.task.loss(run.outputs, y)
        if term.kind in LAYERED:
            losses = [
                self._layer_loss(
                    teacher_term, _key(index, place), run.layers[own].float(), teacher.layers[other].float()
                )
                for place, (own, other) in enumerate(teacher_term.pairs)
            ]
            return torch.stack(losses).sum() if losses else None
        place = self._place(term)
        if place >= min(len(run.outputs), len(teacher.outputs)):
            fact = f"the loss {term.kind} is of output {place}, and there are {len(run.outputs)}"
            raise UsageError(f"{fact} of the student and {len(teacher.outputs)} of the teacher", "they count from 0")
        student, target = run.outputs[place].float(), teacher.outputs[place].float()
        if term.kind == MEMBERS:
            if not teacher_term.members:
                return None
            each = [rows(run.layers[name].float(), self.task.axis) for name in teacher_term.members]
            return distillation.double_entropy(each, rows(target, self.task.axis), term.heat, term.spread)
        if term.kind == HARD:
            return distillation.hard(*loss_rows(student, replace(self.task, output=place).target(y)))
        if term.kind == JACOBIAN:
            return distillation.jacobian(student, target, tensors(x[0])[0], tensors(x[1])[0])
        if term.kind == ADVERSARY:
            return self.heads[_key(index, 0)](student, target)
        if term.kind == LOGITS:
            return distillation.logits(student, target)
        if self.task.classifies and place == self.task.output:
            student, target = rows(student, self.task.axis), rows(target, self.task.axis)
        return (distillation.soft if term.kind == SOFT else distillation.probabilities)(student, target, term.heat)

    def _place(self, term: Term) -> int:
        """The output that ``term`` is of: the one that is judged where it names none."""
        return term.output if term.output is not None else self.task.output or 0

    def _layer_loss(self, teacher_term: _TeacherTerm, key: str, student: Tensor, target: Tensor) -> Tensor:
        kind = teacher_term.term.kind
        if kind in RELATION:
            return RELATION[kind](student, target)
        if kind == INFORMATION:
            return self.heads[key](student, target)
        if kind == ATTENTION:
            return distillation.attention(student, target, teacher_term.axes[key])
        return distillation.features(self.heads[key](student) if key in self.heads else student, target)

    def _add_heads(self, index: int, teacher_term: _TeacherTerm, student: Network, x: Batch) -> None:
        """What learns for one term and teacher."""
        kind, loaded = teacher_term.term.kind, self.loaded_teachers[teacher_term.which]
        if kind == ADVERSARY:
            with torch.no_grad():
                outputs = student.flat(x)
            width = outputs[min(self._place(teacher_term.term), len(outputs) - 1)].shape[-1]
            self.heads[_key(index, 0)] = distillation.Discriminator(width)
        if kind not in LAYERED or kind in RELATIONS:
            return
        for place, (own, other) in enumerate(teacher_term.pairs):
            narrow, wide = student.graph.by_name[own].shape, loaded.graph.by_name[other].shape
            axis = channel_axis(loaded.graph, other)
            if len(narrow) != len(wide) or places(narrow, axis) != places(wide, axis):
                fact = f"the loss {kind} cannot compare {own} {narrow} with {other} {wide}"
                raise UsageError(fact, "pair layers that differ in channels alone")
            key, widths = _key(index, place), (narrow[axis - 1], wide[axis - 1])
            teacher_term.axes[key] = axis
            if kind == INFORMATION:
                self.heads[key] = distillation.Information(*widths, axis)
            elif kind == FEATURES and widths[0] != widths[1]:
                self.heads[key] = distillation.Regressor(*widths, axis)


@dataclass(frozen=True)
class _TeacherTerm:
    """A term against one teacher, with the layers that it compares, or those of the student's members."""

    term: Term
    which: int
    pairs: tuple[Pair, ...]
    members: tuple[str, ...] = ()
    axes: dict[str, int] = field(default_factory=dict)


def _leaves(x: Batch) -> Batch:
    """``x`` anew, to be differentiated by. Raises ``UsageError`` for an input of integers."""
    if not tensors(x)[0].is_floating_point():
        raise UsageError("the loss jacobian differentiates by the input, which holds integers", "leave it out")
    return rebatch(x, lambda t: t.detach().clone().requires_grad_(t.is_floating_point()))


def _check_fit(outputs: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    own, other = ([tuple(t.shape) for t in tensors] for tensors in (outputs, teacher))
    if own != other:
        shown = [", ".join(map(str, shapes)) for shapes in (own, other)]
        fact = f"the student's outputs {shown[0]} do not fit the teacher's {shown[1]}"
        raise UsageError(fact, "give a teacher of the same outputs, or losses of layers alone")


def _key(index: int, place: int) -> str:
    return f"{index}/{place}"
