"""Whether a dense model makes sense on the data that it is to be judged by, before anything long begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgesdk.core.errors import DataError, EdgeSdkError, ModelError
from edgesdk.data.batches import classes_of
from edgesdk.data.data import Batches, Data
from edgesdk.data.metrics import MSE, is_named
from edgesdk.data.outliers import RARE
from edgesdk.data.preprocessing import Preprocessing
from edgesdk.data.targets import IGNORED, class_axis, class_numbers, several
from edgesdk.data.task import Task, output_tensors
from edgesdk.network.blame import checked_answer
from edgesdk.network.network import Batch, answer, figures, rebatch, tensors

MOST, LEAST = 1000, 100  # samples that are looked at; with fewer than the least nothing is refused for chance alone
ELEMENTS = 5e7  # of all answers together: those of a segmentation are large
PROBED = 256  # samples for each other reading of the inputs
SIGNIFICANT = 2.33  # standard errors above what answers that know nothing of the sample reach: 1 % of chance
SAME = 1e-6  # of the largest answer: outputs that differ by less are constant
BETTER, TIMES = 15.0, 1.3  # points, and times, that another reading must score above the first to be named
LIKELY = 50.0  # percent that answers in another order must score to be named
WEAK, CLEAR = 0.5, 0.25  # of what can be gained: below the one other readings are tried; up to the other it is little
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
Run = Callable[[Batch], Any]


@dataclass(frozen=True)
class Verdict:
    """What the dense model scores on so many samples (``None`` without labels), and what is wrong with that.

    ``error`` is what stops a run that is not forced, ``notes`` what a reader must know all the same.
    """

    score: float | None
    samples: int
    error: EdgeSdkError | None = None
    notes: tuple[str, ...] = ()


def judged_dense(model: nn.Module, data: Data, task: Task, weights: bool = True) -> Verdict:
    """Judge the user's own module on up to 1,000 held-out samples; ``weights`` says whether it may have been trained.

    It makes no sense where it answers NaN or infinities, or the same to every sample, or is no better than answers that
    know nothing of the sample. The last is decided by what each sample gains over labels drawn at random in their
    shares (of a regression, over answering the mean): a model is better where the mean gain is 2.33 standard errors
    above zero. One that is not is refused with 100 samples or more, if they suffice to say that it gains less than a
    quarter of what can be, or where one class is the answer to all. Where another reading of the pixels or another
    order of the classes scores much better, that is the error, and it names the remedy.
    """

    def run(x: Batch) -> Any:
        return answer(model, x)

    model.eval()
    first = rebatch(data.test[0][0], lambda t: t[:2])
    each = sum(t.numel() for t in output_tensors(run(first))) / len(tensors(first)[0])
    batches = _picked(data, min(MOST, max(1, int(ELEMENTS / max(1, each)))))
    answers = [checked_answer(run, x) for x, _ in batches]
    count = sum(len(tensors(x)[0]) for x, _ in batches)
    remedy = f"{causes(weights)}, or --force"
    if (error := _find_not_finite(answers, [x for x, _ in batches], remedy)) is not None:
        return Verdict(None, count, error)
    constant = _is_constant(answers, task, [x for x, _ in batches])
    fact = f"the dense model gives the same answer to each of {count} samples"
    if not task.labelled:
        return Verdict(None, count, ModelError(fact, remedy) if constant else None)
    score = task.score(run, batches, run)
    if constant:
        better = _better_reading(run, data, task, batches, score)
        if better is not None:
            return Verdict(score, count, DataError(f"{fact}, and scores {better[0]}", f"{better[1]}, or --force"))
        return Verdict(score, count, ModelError(fact, remedy))
    judged = [task.judged(answer).float() for answer in answers]
    targets = [task.target(y) for _, y in batches]
    skill = _skill(task, judged, targets)
    if skill is None or skill.above_chance and skill.mean >= WEAK:
        return Verdict(score, count)
    shown = f"the dense model scores {score:.4g}{_unit(task)} on {count} samples"
    if count >= LEAST:
        better = _better_reading(run, data, task, batches, score) or _better_order(task, judged, targets, score)
        if better is not None:
            return Verdict(score, count, DataError(f"{shown}, and {better[0]}", f"{better[1]}, or --force"))
    if skill.above_chance:
        return Verdict(score, count)
    shown = f"{shown}, no better than {_chance(task)}"
    if count < LEAST or skill.high > CLEAR and not skill.constant:
        return Verdict(score, count, None, (f"{shown}: too little to hold it against the model",))
    return Verdict(score, count, (DataError if weights else ModelError)(shown, remedy, score=score, samples=count))


def _picked(data: Data, most: int) -> Batches:
    """Batches from all over the test data, which may be sorted; with the holdout where there is little of it."""
    every = list(data.test)
    if sum(len(tensors(x)[0]) for x, _ in every) < LEAST and data.holdout is not data.calibration:
        every += data.holdout
    wanted = max(1, -(-most * len(every) // max(1, sum(len(tensors(x)[0]) for x, _ in every))))
    return [every[i * len(every) // wanted] for i in range(wanted)] if wanted < len(every) else every


def _find_not_finite(answers: Sequence[Any], inputs: Sequence[Batch], remedy: str) -> EdgeSdkError | None:
    """That some answers are no finite numbers: the model's fault, or where they are few, that of these samples."""
    for name, test in (("NaN", torch.isnan), ("infinite values", torch.isinf)):
        bad = torch.cat(
            [_samples_where(test, answer, len(tensors(x)[0])) for answer, x in zip(answers, inputs, strict=True)]
        )
        if not bad.any():
            continue
        first, count = int(bad.nonzero()[0]), int(bad.sum())
        fact = f"the dense model answers {name} to {count} of {len(bad)} samples"
        if count > RARE * len(bad):
            return ModelError(fact, remedy, count=count, samples=len(bad))
        fact = f"{fact}, the first of them number {first} of those that were looked at"
        return DataError(fact, "look at these samples, or --force", count=count, samples=len(bad), first=first)
    return None


def _samples_where(test: Callable[[Tensor], Tensor], answer: Any, count: int) -> Tensor:
    """Which of ``count`` samples have a float in their ``answer`` that is so; all where it is of none of them alone."""
    bad = torch.zeros(count, dtype=torch.bool)
    for value in output_tensors(answer):
        if value.is_floating_point():
            each = value.dim() > 0 and len(value) == count
            bad |= figures(test(value)).any(1) if each else test(value).any()
    return bad


def _is_constant(answers: Sequence[Any], task: Task, inputs: Sequence[Batch]) -> bool:
    """Whether each sample gets the same answer, though samples differ."""
    if task.output is None and not task.is_built_in:
        return False
    first, x = task.judged(answers[0])[:1].float(), tensors(inputs[0])[0]
    if not any(bool((tensors(batch)[0] != x[:1]).any()) for batch in inputs):
        return False  # there is one sample, given several times
    most = max(float(first.abs().max()), 1e-30)
    apart = max(float((task.judged(answer).float() - first).abs().max()) for answer in answers)
    return apart <= SAME * most


@dataclass(frozen=True)
class _Skill:
    """Of what samples can gain over answers that know nothing of them, the share that they do: its mean and the ends of
    what it may be, 2.33 standard errors away (Cohen's kappa of a classifier, R squared of a regression)."""

    mean: float
    low: float
    high: float
    constant: bool  # one class is the answer to all

    @property
    def above_chance(self) -> bool:
        return self.low > 0


def _skill(task: Task, judged: Sequence[Tensor], targets: Sequence[Any]) -> _Skill | None:
    """``None`` for a metric of which it is not known what knowing nothing gains."""
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
    most = max(float(room.mean()), 1e-30)
    mean, error = float(gain.mean()) / most, float(gain.std()) / len(gain) ** 0.5 / most if len(gain) > 1 else math.inf
    return _Skill(mean, mean - SIGNIFICANT * error, mean + SIGNIFICANT * error, constant)


def _of_classes(judged: Sequence[Tensor], targets: Sequence[Any]) -> tuple[Tensor, Tensor, bool]:
    """What each sample gains over, and could gain over, labels drawn at random in their shares."""
    pairs = [_answers(value, y) for value, y in zip(judged, targets, strict=True)]
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


def _answers(logits: Tensor, y: Any) -> tuple[Tensor, Tensor]:
    """The class that is answered, and the label."""
    labels = class_numbers(logits, y)
    axis = class_axis(logits, labels)
    assert axis is not None
    return logits.argmax(axis), classes_of(labels)


def _better_reading(run: Run, data: Data, task: Task, batches: Batches, score: float) -> tuple[str, str] | None:
    """What the model scores with pixels prepared otherwise, and how that is asked for, where it is much better."""
    some, seen = [], 0
    for x, y in batches:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 3:
            return None
        some.append((x, y))
        seen += len(x)
        if seen >= PROBED:
            break
    now = data.preprocessing or Preprocessing(input_range=_range(some))
    channels = some[0][0].shape[1]
    best: tuple[float, Preprocessing] | None = None
    for other in _readings(now, channels):
        changed = [(other.of_pixels(now.pixels(x)), y) for x, y in some]
        try:
            reached = task.score(run, changed, run)
        except EdgeSdkError:
            continue
        if reached > max(score + BETTER, TIMES * score) and (best is None or reached > best[0]):
            best = reached, other
    if best is None:
        return None
    reading, other = best
    said = f"{reading:.4g}{_unit(task)} of {seen} with {_described(other)}"
    if data.preprocessing is not None and not data.prepared:
        return said, f"give {other.flags}"
    low, high = now.input_range
    if data.preprocessing is None:
        said = f"{said} (x is taken to be pixels of {low:g} to {high:g})"
    return said, "prepare x so before giving it"


def _readings(now: Preprocessing, channels: int) -> list[Preprocessing]:
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


def _better_order(task: Task, judged: Sequence[Tensor], targets: Sequence[Any], score: float) -> tuple[str, str] | None:
    """What the model scores with its classes in another order, where that is much better."""
    if not task.classifies:
        return None
    pairs = [_answers(value, y) for value, y in zip(judged, targets, strict=True)]
    answered, wanted = (torch.cat([p[i][p[1] != IGNORED] for p in pairs]) for i in (0, 1))
    classes = 1 + int(max(answered.max(), wanted.max()))
    counts = torch.zeros(classes, classes).index_put_((wanted, answered), torch.ones(len(wanted)), accumulate=True)
    order = counts.argmax(1)
    there = counts.sum(1) > 0
    if len(set(order[there].tolist())) < int(there.sum()):
        return None
    agreement = 100 * float((order[wanted] == answered).double().mean())
    if agreement < max(LIKELY, score + BETTER):
        return None
    first = next(c for c in range(classes) if there[c] and order[c] != c)
    said = f"{agreement:.4g} % with its classes in another order: what is labelled {first} it calls {int(order[first])}"
    return said, "number the labels as the model does"


def _chance(task: Task) -> str:
    if is_named(task.metric, MSE):
        return "answering the mean of the targets"
    return "answers that know nothing of the sample"


def _unit(task: Task) -> str:
    return f" {task.unit}" if task.unit else ""


def causes(weights: bool) -> str:
    """What most often is wrong with a model that makes no sense on its data."""
    first = "check that the weights are this model's," if weights else "give --weights, for none were given, and check"
    rest = "that x is normalised as in training and not twice (--input-range, --mean, --std)"
    return f"{first} {rest} and that labels are numbered as the model does"
