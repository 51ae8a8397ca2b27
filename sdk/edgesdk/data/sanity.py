"""Whether a dense model makes sense on the data that it is to be judged by, before anything long begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgesdk.core.errors import DataError, EdgeSdkError, ModelError
from edgesdk.data.data import Batches, Data
from edgesdk.data.metrics import MSE, is_named
from edgesdk.data.outliers import RARE
from edgesdk.data.readings import FEW, PROBED, Reading, find_better_pixels, find_better_targets
from edgesdk.data.skill import SIGNIFICANT, Shuffled, Skill, find_skill, shuffle_targets
from edgesdk.data.task import Task, output_tensors
from edgesdk.data.work import CountingWork
from edgesdk.network.blame import checked_answer
from edgesdk.network.network import Batch, answer, figures, rebatch, tensors

MOST, LEAST = 1000, 100  # samples that are looked at; with fewer than the least nothing is refused for chance alone
ELEMENTS = 5e7  # of all answers together: those of a segmentation are large
WORK = 1e11  # multiplications in all, beyond which no more than the least are looked at: 5 to 20 s of a core
SAME = 1e-6  # of the largest answer: outputs that differ by less are constant
WEAK, SOUND, CLEAR = 0.5, 0.9, 0.25
"""Of what can be gained: below the first the model itself is in doubt, up to the second other readings of its inputs
are tried, and up to the third it is little."""


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
    """Judge the user's own module on up to 1,000 samples, of a large one on 100 or as many as keep the work within
    bounds; ``weights`` says whether it may have been trained.

    It makes no sense where it answers NaN or infinities, or the same to every sample, or is no better than answers that
    know nothing of the sample. The last is decided by what each sample gains over labels drawn at random in their
    shares (of a regression, over answering the mean): a model is better where the mean gain is 2.33 standard errors
    above zero. One that is not is refused with 100 samples or more, if they suffice to say that it gains less than a
    quarter of what can be, or where one class is the answer to all. By a metric of which that is not known, a model is
    better where targets that belong to other samples score 2.33 standard deviations less. Without labels it must not
    decide alike on all samples. Where another reading of the pixels, another order of the classes or another unit
    scores much better, that is the error, and it names the remedy.
    """

    def run(x: Batch) -> Any:
        return answer(model, x)

    model.eval()
    first = rebatch(data.test[0][0], lambda t: t[:2])
    with CountingWork() as counting:
        answered = output_tensors(run(first))
    few = len(tensors(first)[0])
    elements, work = sum(t.numel() for t in answered) / few, counting.multiplications / few
    most = min(MOST, max(LEAST, int(WORK / max(1, work))), max(1, int(ELEMENTS / max(1, elements))))
    batches = _picked(data, most)
    answers = [checked_answer(run, x) for x, _ in batches]
    seen = _Seen(run, data, task, batches, answers, f"{causes(weights, task)}, or --force", weights)
    if (error := _find_not_finite(seen)) is not None:
        return Verdict(None, seen.count, error)
    if not task.labelled:
        return Verdict(None, seen.count, _find_alike(seen))
    score = _score(seen)
    if _is_constant(seen):
        better = find_better_pixels(run, data, task, batches, score)
        if better is None:
            return Verdict(score, seen.count, ModelError(seen.constant, seen.remedy))
        return Verdict(score, seen.count, seen.misread(f"{seen.constant}, and scores {better.said}", better))
    return _judge_score(seen, score)


@dataclass(frozen=True)
class _Seen:
    """What the dense model, by ``run``, answers to some samples, and the ``remedy`` for one that makes no sense;
    ``weights`` says whether it may have been trained."""

    run: Callable[[Batch], Any]
    data: Data
    task: Task
    batches: Batches
    answers: Sequence[Any]
    remedy: str
    weights: bool

    @property
    def sizes(self) -> list[int]:
        return [len(tensors(x)[0]) for x, _ in self.batches]

    @property
    def count(self) -> int:
        return sum(self.sizes)

    @property
    def constant(self) -> str:
        return f"the dense model gives the same answer to each of {self.count} samples"

    @property
    def differ(self) -> bool:
        """Whether there is more than one sample, given several times."""
        x = tensors(self.batches[0][0])[0]
        return any(bool((tensors(batch)[0] != x[:1]).any()) for batch, _ in self.batches)

    def at_chance(self, fact: str, remedy: str, **figures: Any) -> EdgeSdkError:
        """The error for a model that knows nothing: the data's where it may have been trained, else its own."""
        return (DataError if self.weights else ModelError)(fact, remedy, **figures)

    def misread(self, fact: str, better: Reading) -> EdgeSdkError:
        """The error for data that are read otherwise than in training; of a model without weights these come first, as
        whatever it scores with one reading or another is chance."""
        remedy = f"{better.remedy}, or --force"
        return self.at_chance(fact, remedy if self.weights else f"give --weights, for none were given, or {remedy}")


def _score(seen: _Seen) -> float:
    """What the answers score; a metric may write into what it is given."""
    given = (pytree.tree_map_only(Tensor, torch.clone, answer) for answer in seen.answers)
    return seen.task.score(lambda _: next(given), seen.batches, seen.run)


def _find_alike(seen: _Seen) -> EdgeSdkError | None:
    """Without labels: that all samples get the same answer, or the same decision."""
    if _is_constant(seen):
        return ModelError(seen.constant, seen.remedy)
    if seen.count < LEAST or not seen.differ or not _decides_alike(seen.answers, seen.task):
        return None
    fact = f"the dense model decides alike on each of {seen.count} samples, by which nothing can be judged"
    return ModelError(fact, f"{seen.remedy.removesuffix(', or --force')}, or give samples of several kinds, or --force")


def _judge_score(seen: _Seen, score: float) -> Verdict:
    """What ``score`` says of a model whose answers differ."""
    task, batches, count = seen.task, seen.batches, seen.count
    targets = [task.target(y) for _, y in batches]
    if not task.classifies and all(isinstance(y, Tensor) for y in targets) and _are_same(targets):
        error = DataError(f"the targets of all {count} samples are the same", "give samples that differ, or --force")
        return Verdict(score, count, error)
    judged = [task.judged(answer).float() for answer in seen.answers] if task.is_built_in else []
    skill = find_skill(task, judged, targets)
    shuffled = shuffle_targets(task, seen.answers, batches, score) if skill is None else None
    standing = _Standing.of(skill, shuffled, score)
    shown = f"the dense model scores {task.shown(score)} on {count} samples"
    if count >= LEAST:
        better = None
        if not standing.is_sound:
            probed = FEW if shuffled is not None and standing.above_chance else PROBED
            better = find_better_pixels(seen.run, seen.data, task, batches, score, probed)
        if task.classifies or (better is None and not standing.is_fair):
            other = find_better_targets(task, judged, targets, score)
            better = max(filter(None, (better, other)), key=lambda reading: reading.score or 0.0, default=None)
        if better is not None:
            return Verdict(score, count, seen.misread(f"{shown}, and {better.said}", better))
    if shuffled is not None and shuffled.is_blind(score):
        told = f"{shown}, and as much with the targets of other samples: by these nobody can tell what it knows"
        return Verdict(score, count, None, (told,))
    if standing.above_chance:
        return Verdict(score, count)
    shown = f"{shown}, no better than {_chance(task)}"
    if count < LEAST or standing.unclear:
        return Verdict(score, count, None, (f"{shown}: too little to hold it against the model",))
    return Verdict(score, count, seen.at_chance(shown, seen.remedy, score=score, samples=count))


@dataclass(frozen=True)
class _Standing:
    """How a model stands against answers that know nothing of the sample.

    ``is_fair`` and ``is_sound`` say that it gains half and nearly all of what can be, ``unclear`` that the samples are
    too few to say that it gains little.
    """

    above_chance: bool = True
    is_fair: bool = True
    is_sound: bool = True
    unclear: bool = False

    @classmethod
    def of(cls, skill: Skill | None, shuffled: Shuffled | None, score: float) -> _Standing:
        if skill is not None:
            above, unclear = skill.above_chance, skill.high > CLEAR and not skill.constant
            return cls(above, above and skill.mean >= WEAK, above and skill.mean >= SOUND, unclear)
        if shuffled is not None:  # what can be gained is not known
            above = shuffled.standing(score) >= SIGNIFICANT
            return cls(above, above, False)
        return cls()


def _picked(data: Data, most: int) -> Batches:
    """Batches from all over the test data, which may be sorted; where there is little of it, with what is held out,
    then with what calibrates: that the model makes sense is no question of samples that it has not seen."""
    every = list(data.test)
    for more in (data.holdout, data.calibration):
        known = {id(x) for x, _ in every}
        if sum(len(tensors(x)[0]) for x, _ in every) < LEAST:
            every += [batch for batch in more if id(batch[0]) not in known]
    wanted = max(1, -(-most * len(every) // max(1, sum(len(tensors(x)[0]) for x, _ in every))))
    return [every[i * len(every) // wanted] for i in range(wanted)] if wanted < len(every) else every


def _find_not_finite(seen: _Seen) -> EdgeSdkError | None:
    """That some answers are no finite numbers: the model's fault, or where they are few, that of these samples."""
    for name, test in (("NaN", torch.isnan), ("infinite values", torch.isinf)):
        pairs = zip(seen.answers, seen.sizes, strict=True)
        bad = torch.cat([_samples_where(test, answer, size) for answer, size in pairs])
        if not bad.any():
            continue
        first, count = int(bad.nonzero()[0]), int(bad.sum())
        fact = f"the dense model answers {name} to {count} of {len(bad)} samples"
        if count > RARE * len(bad):
            return ModelError(fact, seen.remedy, count=count, samples=len(bad))
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


def _is_constant(seen: _Seen) -> bool:
    """Whether samples that differ get the same answer, by all outputs that are judged and have a row for each."""
    alone = seen.task.output is not None or seen.task.is_built_in
    parts = [[seen.task.judged(answer)] if alone else output_tensors(answer) for answer in seen.answers]
    in_rows = [all(t.dim() > 0 and len(t) == n for t in part) for part, n in zip(parts, seen.sizes, strict=True)]
    if not parts[0] or not all(in_rows) or len({len(part) for part in parts}) > 1:
        return False
    return seen.differ and all(map(_are_same, zip(*parts, strict=True)))


def _are_same(values: Sequence[Tensor]) -> bool:
    """Whether all rows of ``values`` are the same."""
    values = [value.double() for value in values]
    first = values[0][:1]
    if any(value.shape[1:] != first.shape[1:] for value in values) or not first.numel():
        return False
    most = max(float(first.abs().max()), 1e-30)
    return max(float((value - first).abs().max()) for value in values) <= SAME * most


def _decides_alike(answers: Sequence[Any], task: Task) -> bool:
    """Whether all samples get one class, or the same yes and no: any other model then agrees with the dense one."""
    if not (task.classifies or task.decides):
        return False
    decided = [task.decision(answer) for answer in answers]
    return all(bool((each == decided[0][:1]).all()) for each in decided)


def _chance(task: Task) -> str:
    if is_named(task.metric, MSE):
        return "answering the mean of the targets"
    return "answers that know nothing of the sample"


def causes(weights: bool, task: Task) -> str:
    """What most often is wrong with a model that makes no sense on its data."""
    first = "check that the weights are this model's," if weights else "give --weights, for none were given, and check"
    rest = "that x is normalised as in training and not twice (--input-range, --mean, --std)"
    return f"{first} {rest} and that {_targets(task)}"


def _targets(task: Task) -> str:
    if task.classifies:
        return "labels are numbered as the model does"
    if is_named(task.metric, MSE):
        return "y is in the unit and order of its answers"
    return (
        "labels are in the order of its answers" if task.decides else "targets and --output are what the metric takes"
    )
