"""Other ways to read the data under which a model would score much better: what names the mistake, and its remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from edgesdk.core.errors import EdgeSdkError
from edgesdk.data.data import Batches, Data
from edgesdk.data.metrics import MSE, is_named
from edgesdk.data.preprocessing import Preprocessing
from edgesdk.data.skill import answered_classes, find_skill, shuffle_targets
from edgesdk.data.targets import IGNORED
from edgesdk.data.task import Task
from edgesdk.network.network import Batch

PROBED, FEW = 256, 64  # samples for each other reading of the inputs; where nothing else says that one is needed
BETTER = 15.0  # points that another reading must score above the first to be named
FAR = 6.0  # of a metric whose unit is not known, standard deviations over shuffled targets
FITTING = 0.5  # R squared that answers in another unit or order must have to be named
COLUMNS = 64  # figures of an answer, up to which each is looked at by itself
ALIKE = 0.05  # of a factor, within which those of several figures are one
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
Run = Callable[[Batch], Any]


@dataclass(frozen=True)
class Reading:
    """What the model scores when the data are read otherwise, and how that is asked for.

    ``score`` is by the task's metric; ``None`` where only an R squared is known.
    """

    said: str
    remedy: str
    score: float | None = None


def find_better_pixels(
    run: Run, data: Data, task: Task, batches: Batches, score: float, probed: int = PROBED
) -> Reading | None:
    """Pixels prepared otherwise, with which the model scores much better than ``score`` on so many samples; of several
    the best."""
    some, seen = [], 0
    for x, y in batches:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 3:
            return None
        some.append((x, y))
        seen += len(x)
        if seen >= probed:
            break
    now = data.preprocessing or Preprocessing(input_range=_range(some))
    channels = some[0][0].shape[1]
    best: tuple[float, Preprocessing] | None = None
    part = _thinned(some, seen // FEW)
    for other in _list_readings(now, channels):

        def read(batches: Batches, other: Preprocessing = other) -> list[tuple[Tensor, Any]]:
            return [(other.of_pixels(now.pixels(x)).to(x.dtype), y) for x, y in batches]

        changed = read(some)
        try:
            if part and task.score(run, read(part), run) <= score:
                continue  # by a few of the samples it is far from much better
            reached = task.score(run, changed, run)
        except EdgeSdkError:
            continue
        if (best is None or reached > best[0]) and _is_better(run, task, changed, reached, score):
            best = reached, other
    if best is None:
        return None
    reading, other = best
    said = f"{task.shown(reading)} of {seen} with {_described(other)}"
    if data.preprocessing is not None and not data.prepared:
        return Reading(said, f"give {other.flags}", reading)
    low, high = now.input_range
    if data.preprocessing is None:
        said = f"{said} (x is taken to be pixels of {low:g} to {high:g})"
    return Reading(said, "prepare x so before giving it", reading)


def _thinned(batches: Batches, step: int) -> Batches:
    """Every ``step``-th sample, where each is one of its batch's tensors; else none."""
    if step < 2 or not all(isinstance(y, Tensor) and len(y) == len(x) for x, y in batches):
        return []
    return [(x[::step], y[::step]) for x, y in batches]


def _is_better(run: Run, task: Task, batches: Batches, reached: float, score: float) -> bool:
    """Whether what is ``reached`` on ``batches`` is much better than ``score``."""
    if task.unit == "%":
        return reached >= score + BETTER and _knows(run, task, batches)
    if is_named(task.metric, MSE):
        return reached >= score / 2  # half of the error
    if reached <= score:
        return False
    shuffled = shuffle_targets(task, [run(x) for x, _ in batches], batches, reached)
    far = 0.0 if shuffled is None else min(shuffled.standing(reached), shuffled.standing(reached, score))
    return far >= FAR


def _knows(run: Run, task: Task, batches: Batches) -> bool:
    """Whether the answers are better than ones that know nothing of the sample, such as the same class to all."""
    if not task.is_built_in:
        return True
    judged = [task.judged(run(x)).float() for x, _ in batches]
    skill = find_skill(task, judged, [task.target(y) for _, y in batches])
    return skill is None or skill.above_chance


def _list_readings(now: Preprocessing, channels: int) -> list[Preprocessing]:
    """Other ways in which models take pixels."""
    ranges = [(0.0, 255.0), (0.0, 1.0), (-1.0, 1.0)]
    readings = [replace(now, input_range=ends, mean=(), std=(), dtype="float32") for ends in ranges]
    if channels == 3:
        readings.append(replace(now, input_range=(0.0, 1.0), **IMAGENET))
        flipped = None if now.channel_order == "BGR" else "BGR"
        readings += [replace(other, channel_order=flipped) for other in (now, *readings)]
    return [other for other in readings if other != now]


def _range(batches: Batches) -> tuple[float, float]:
    """What the ends of the pixels have become in data that came prepared."""
    low, high = min(float(x.min()) for x, _ in batches), max(float(x.max()) for x, _ in batches)
    for ends in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if low >= ends[0] and high <= ends[1]:
            return ends
    return low, high


def _described(other: Preprocessing) -> str:
    low, high = other.input_range
    order = " in the order blue, green, red" if other.channel_order == "BGR" else ""
    return f"pixels as {low:g} to {high:g}{', then ImageNet mean and std' if other.mean else ''}{order}"


def find_better_targets(task: Task, judged: Sequence[Tensor], targets: Sequence[Any], score: float) -> Reading | None:
    """Targets read otherwise, under which the same answers would score much better than ``score``."""
    if task.classifies:
        return _find_order(judged, targets, score)
    return _find_units(judged, targets) if is_named(task.metric, MSE) else None


def _find_order(judged: Sequence[Tensor], targets: Sequence[Any], score: float) -> Reading | None:
    """Classes in another order, which half of the samples tell and the other half confirms."""
    pairs = [answered_classes(value, y) for value, y in zip(judged, targets, strict=True)]
    answered, wanted = (torch.cat([p[i][p[1] != IGNORED] for p in pairs]) for i in (0, 1))
    classes = 1 + int(max(answered.max(), wanted.max()))
    one, other = _halves(len(wanted))
    counts = torch.zeros(classes, classes)
    counts.index_put_((wanted[one], answered[one]), torch.ones(len(one)), accumulate=True)
    there = counts.sum(1) > 0
    order = torch.where(there, counts.argmax(1), torch.arange(classes))
    if len(set(order[there].tolist())) < int(there.sum()):
        return None
    agreement = 100 * float((order[wanted[other]] == answered[other]).double().mean())
    if agreement < score + BETTER:
        return None
    first = next(c for c in range(classes) if order[c] != c)
    said = f"{agreement:.4g} % with its classes in another order: what is labelled {first} it calls {int(order[first])}"
    return Reading(said, "number the labels as the model does", agreement)


def _find_units(judged: Sequence[Tensor], targets: Sequence[Any]) -> Reading | None:
    """Answers in another unit, or their figures in another order, which half of the samples tell, as above."""
    answered, wanted = (torch.cat([v.double().reshape(len(v), -1) for v in side]) for side in (judged, targets))
    columns = wanted.shape[1]
    order = torch.arange(columns)
    if columns > COLUMNS:  # as one figure
        answered, wanted, order = answered.reshape(-1, 1), wanted.reshape(-1, 1), torch.zeros(1, dtype=torch.long)
    half, rest = _halves(len(wanted))
    if 1 < columns <= COLUMNS:
        apart = [v[half] - v[half].mean(0) for v in (answered, wanted)]
        norms = [v.norm(dim=0).clamp(min=1e-30) for v in apart]
        alike = (apart[1].T @ apart[0]).abs() / torch.outer(norms[1], norms[0])
        order = alike.argmax(1) if len(alike.argmax(1).unique()) == columns else order
    taken = answered[:, order]
    means = taken[half].mean(0), wanted[half].mean(0)
    away = taken[half] - means[0]
    factor = ((wanted[half] - means[1]) * away).sum(0) / away.square().sum(0).clamp(min=1e-30)
    fitted = (taken[rest] - means[0]) * factor + means[1]
    room = (wanted[rest] - wanted[rest].mean(0)).square().sum()
    explained = 1 - float((wanted[rest] - fitted).square().sum() / room.clamp(min=1e-30))
    if explained < FITTING:
        return None
    ordered = bool((order == torch.arange(len(order))).all())
    if not ordered:
        first = int((order != torch.arange(len(order))).nonzero()[0])
        said = f"an R squared of {explained:.2f} with its figures in another order: what y has at {first} it answers at"
        return Reading(f"{said} {int(order[first])}", "bring the figures of y into the order of the model's answers")
    offset = means[1] - factor * means[0]
    spread = float(wanted.std())
    one = all(float((v - v.mean()).abs().max()) <= ALIKE * unit for v, unit in (
        (factor, float(factor.mean().abs())), (offset, spread),
    ))  # fmt: skip
    how = f"times {float(factor.mean()):.4g} {float(offset.mean()):+.4g}" if one else "times factors, and with offsets"
    said = f"an R squared of {explained:.2f} with its answers {how}"
    return Reading(said, "bring y to the unit of the model's answers, or these to that of y")


def _halves(count: int) -> tuple[Tensor, Tensor]:
    """The rows of one half of so many samples, and of the other, however they are sorted."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[: count // 2], order[count // 2 :]
