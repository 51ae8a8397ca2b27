"""What a model is judged by: its metric, and the losses that stand for it while searching and recovering."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from edgesdk.core.errors import EdgeSdkError, UsageError
from edgesdk.core.sampling import Decisions
from edgesdk.core.wording import said
from edgesdk.data.losses import OwnLoss
from edgesdk.data.metrics import (
    METRICS,
    MSE,
    TOP_1,
    MeanOfBatches,
    Metric,
    TopOne,
    is_named,
    loss_rows,
    result,
    started,
)
from edgesdk.data.targets import DECISIONS, rows, several, values
from edgesdk.network.network import Batch, figures
from edgesdk.techniques.distillation import TEMPERATURE, soft

SOFT_SHARE = 0.9
LOGIT, PROBABILITY = 0.0, 0.5  # what a yes is above
CONSTANT = 1e-6  # of the mean square: figures of less variance are all the same


@dataclass(frozen=True)
class Judgement:
    """A score, of how many ``samples``, and, where each has one decision, which were right."""

    score: float
    samples: int
    decisions: Decisions | None


@dataclass(frozen=True)
class Task:
    """How outputs are judged.

    ``metric`` is ``top-1`` (accuracy in percent), ``mse`` (shown negated, so that higher is better), ``multilabel-f1``
    and ``binary-accuracy`` (in percent), an object with ``update(outputs, targets)`` and ``compute()``, or a function
    of a batch's outputs and targets whose mean over samples is taken; higher is better. Without labels it is applied
    against the dense model's own outputs, and the figure is a fidelity: ``name`` says so. ``output`` is the place of
    the output that is judged among the model's tensors, called ``output_name`` where there are several; with ``None``
    it is all of them (:func:`edgesdk.data.judging.settled`). ``axis`` is that of the classes, ``limit`` what a yes is
    above, where each figure is one or a no. ``loss`` is the user's own, by which a network learns beside the dense
    model's answers, and by which choices are priced.
    """

    metric: str | Metric = TOP_1
    labelled: bool = True
    output: int | None = 0
    output_name: str = ""
    axis: int = 1
    limit: float = LOGIT
    loss: OwnLoss | None = None

    def __post_init__(self) -> None:
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise UsageError(f"there is no metric {self.metric!r}", f"choose {', '.join(METRICS)} or file.py:callable")

    @property
    def name(self) -> str:
        if isinstance(self.metric, str):
            measure = METRICS[self.metric].title
        else:
            measure = getattr(self.metric, "__name__", None) or type(self.metric).__name__
        measure += f" of the output {self.output_name}" if self.output_name else ""
        return measure if self.labelled else f"fidelity to the dense model ({measure})"

    @property
    def classifies(self) -> bool:
        return is_named(self.metric, TOP_1)

    @property
    def decides(self) -> bool:
        """Whether each figure of the output is a yes or no."""
        return any(is_named(self.metric, name) for name in DECISIONS)

    @property
    def is_built_in(self) -> bool:
        """Whether the metric is one of edgesdk's own, which knows what an output and a target are."""
        return isinstance(self.metric, str)

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss for learning from labels: the user's own, or one that stands for the metric."""
        return self.loss is not None or self.is_built_in

    @property
    def identity(self) -> str:
        """The name, and that of the user's loss with what it says of the dense model: what was priced or learnt by
        another is not this one's."""
        return self.name if self.loss is None else f"{self.name}, {self.loss.name} {self.loss.dense:.5g}"

    @property
    def unit(self) -> str:
        return METRICS[self.metric].unit if isinstance(self.metric, str) else ""

    def shown(self, score: float) -> str:
        """A score with its unit."""
        return f"{score:.4g} {self.unit}".rstrip()

    def judged(self, outputs: Any) -> Tensor:
        """The output that is judged, of all that a model answers; all that are floats in a row where it is no one."""
        tensors = output_tensors(outputs)
        if self.output is None:
            return torch.cat([figures(value).float() for value in tensors if value.is_floating_point()], 1)
        return tensors[min(self.output, len(tensors) - 1)]

    def target(self, y: Any) -> Any:
        """The targets of the output that is judged, of all that the data have."""
        if isinstance(y, Mapping) and self.output is not None:
            return y[self.output_name] if self.output_name in y else list(y.values())[min(self.output, len(y) - 1)]
        if isinstance(y, (tuple, list)) and self.output is not None:
            return y[min(self.output, len(y) - 1)]
        return y

    def score(
        self, run: Callable[[Batch], Any], batches: Iterable[tuple[Batch, Any]], dense: Callable[[Batch], Any]
    ) -> float:
        """The metric of ``run`` over all of ``batches`` together. Raises ``UsageError`` for a metric that fails, and
        ``DataError`` for targets that do not fit the outputs."""
        return self.judge(run, batches, dense).score

    def judge(
        self, run: Callable[[Batch], Any], batches: Iterable[tuple[Batch, Any]], dense: Callable[[Batch], Any],
        see: Callable[[Any, Any], None] | None = None,
    ) -> Judgement:  # fmt: skip
        """The same with what its sampling error is told by; ``see`` is shown the outputs of each batch, and what they
        are judged against."""
        samples = 0
        meter = started(self.metric, self.limit)
        for x, y in batches:
            with torch.no_grad():
                outputs = run(x)
                target = self.target(y) if self.labelled else self._answer(dense(x))
                self.update(meter, outputs, target, len(first_tensor(x)))
                samples += len(first_tensor(x))
                if see is not None:
                    see(outputs, target)
        decisions = meter.decisions if isinstance(meter, TopOne) else None
        return Judgement(result(self.metric, meter, self.name), samples, decisions)

    def update(self, meter: Any, outputs: Any, target: Any, samples: int) -> None:
        """Let ``meter`` see a batch."""
        if self.is_built_in:
            return meter.update(self.judged(outputs).float(), target)
        if self.output is not None:
            outputs = self.judged(outputs)
        try:
            meter.update(outputs, target, *([samples] if isinstance(meter, MeanOfBatches) else []))
        except EdgeSdkError:
            raise
        except Exception as error:
            fact = f"the metric {self.name} failed with {said(error)}"
            raise UsageError(fact, "let it take the model's outputs and the data's targets") from error

    def _answer(self, outputs: Any) -> Any:
        """What stands for a label where there is none: the dense model's decision, or its output."""
        if not self.is_built_in:
            return outputs if self.output is None else self.judged(outputs)
        return self.decision(outputs)

    def decision(self, outputs: Any) -> Tensor:
        """The class that is answered, the yes or no, or where there is neither the figures."""
        answer = self.judged(outputs).float()
        if self.classifies:
            return answer.argmax(self.axis)
        return answer > self.limit if self.decides else answer

    def supervised(self, outputs: list[Tensor], y: Any) -> Tensor:
        """The loss against labels, or against the model's own decisions where there are none (a scalar)."""
        if self.loss is not None:
            return self.loss(outputs, y)
        answer, y = self.judged(outputs), self.target(y)
        if self.classifies:
            if self.labelled:
                return F.cross_entropy(*loss_rows(answer, y))
            logits = rows(answer, self.axis)
            return F.cross_entropy(logits, logits.detach().argmax(-1))
        if is_named(self.metric, MSE) and self.labelled:
            return F.mse_loss(answer, values(answer, y).to(answer.dtype))
        if self.decides and self.labelled:
            wanted = several(answer, y).to(answer.dtype)
            if self.limit == LOGIT:
                return F.binary_cross_entropy_with_logits(answer, wanted)
            return F.binary_cross_entropy(answer.clamp(0, 1), wanted)  # rounding may leave it
        return sum((_between_samples(o) for o, _ in self._pairs(outputs, outputs, judged=True)), torch.zeros(()))

    def attribution(self, outputs: list[Tensor], y: Any) -> Tensor:
        """The loss by whose gradients channels are ranked: that against labels, and how samples differ in what is not
        judged, in units of that."""
        others = self._pairs(outputs, outputs, judged=False)
        apart = (_between_samples(o) / _unit(o.detach().float()) for o, _ in others)
        return self.supervised(outputs, y) + sum(apart, torch.zeros(()))

    def fidelity_loss(self, outputs: list[Tensor], reference: list[Tensor], y: Any = None) -> float:
        """How far ``outputs`` are from ``reference``: KL divergence in nats, or squared error over the variance, of the
        one that is judged, and the latter of all others.

        With a loss of the user's own that, and by how much it is above the reference's against the targets ``y``: what
        learning back minimises.
        """
        away = max(0.0, float(self.distance(outputs, reference)))
        if self.loss is None:
            return away
        return away + max(0.0, float(self.loss(outputs, y)) - float(self.loss(reference, y)))

    def distance(self, outputs: list[Tensor], reference: list[Tensor]) -> Tensor:
        """The same without a loss of the user's own: what needs no labels (a scalar)."""
        return self._distance(outputs, reference) + self.drift(outputs, reference)

    def distillation(self, outputs: list[Tensor], teacher: list[Tensor], y: Any) -> Tensor:
        """Knowledge distillation (Hinton et al. 2015, section 2) of what is judged: soft targets at a temperature, and
        hard labels.

        Without labels soft targets are all there is, and of a size that does not depend on the temperature. A loss of
        the user's own stands beside them as it is.
        """
        if self.loss is not None:
            return self.loss(outputs, y) + self._distance([o.float() for o in outputs], teacher)
        labelled = self.labelled and self.has_loss
        if self.classifies:
            own, theirs = (rows(self.judged(side).float(), self.axis) for side in (outputs, teacher))
            taught = soft(own, theirs, TEMPERATURE)
            if not labelled:
                return taught / TEMPERATURE**2
            return SOFT_SHARE * taught + (1 - SOFT_SHARE) * self.supervised([o.float() for o in outputs], y)
        taught = self._distance(outputs, teacher)
        return SOFT_SHARE * taught + (1 - SOFT_SHARE) * self.supervised(outputs, y) if labelled else taught

    def together(self, outputs: list[Tensor], peer: list[Tensor], y: Any) -> Tensor:
        """Deep mutual learning (Zhang et al. 2018) of one of two networks: its labels, and its peer's answers.

        ``L = cross-entropy + KL(p_peer || p)``, at a temperature of 1.
        """
        return self.supervised([o.float() for o in outputs], y) + self._distance(outputs, peer)

    def drift(self, outputs: list[Tensor], dense: list[Tensor]) -> Tensor:
        """How far the outputs that are not judged are from the ``dense`` model's, which they are to stay: their squared
        error over its variance, added up; zero where there are no others."""
        return _squared_error(self._pairs(outputs, dense, judged=False))

    def has_others(self, outputs: Sequence[Tensor]) -> bool:
        """Whether some of ``outputs`` are not judged, and of numbers that can drift."""
        return bool(self._pairs(outputs, outputs, judged=False))

    def _distance(self, outputs: list[Tensor], reference: list[Tensor]) -> Tensor:
        """How far what is judged is from the ``reference``."""
        if self.classifies:
            own, theirs = (rows(self.judged(side).float(), self.axis) for side in (outputs, reference))
            return soft(own, theirs, 1.0)
        return _squared_error(self._pairs(outputs, reference, judged=True))

    def projection(self, outputs: list[Tensor], generator: torch.Generator) -> Tensor:
        """A random linear function of ``outputs`` near what they are, whose squared change is on average twice the loss
        of fidelity that the change brings: a draw from a distribution whose second moments are that loss's Hessian."""
        squared = self._pairs(outputs, outputs, judged=False)
        squared += [] if self.classifies else self._pairs(outputs, outputs, judged=True)
        parts = [
            (_draw(o, generator) * o).sum() * (2 / (o.numel() * _unit(o.detach().float()))).sqrt() for o, _ in squared
        ]
        if self.classifies:
            logits = rows(self.judged(outputs).float(), self.axis)
            p = logits.detach().softmax(-1)
            noise = _draw(p, generator) * p.sqrt()
            parts.append(((noise - p * noise.sum(-1, keepdim=True)) * logits).sum() / len(logits) ** 0.5)
        return torch.stack(parts).sum()

    def _pairs(
        self, outputs: Sequence[Tensor], reference: Sequence[Tensor], judged: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """The outputs of floats that are ``judged``, or those that are not, each with its reference."""
        place = None if self.output is None else min(self.output, len(outputs) - 1)
        pairs = enumerate(zip(outputs, reference, strict=True))
        return [
            pair
            for i, pair in pairs
            if (place in (None, i)) == judged and pair[0].is_floating_point() and pair[0].numel()
        ]


def _draw(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(*like.shape, generator=generator).to(like.device)  # the same numbers wherever it lies


def _between_samples(value: Tensor) -> Tensor:
    """The mean square of what each sample differs by from the one before it, which is taken as given."""
    return ((value - value.detach().roll(1, 0)) ** 2).mean()


def _squared_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean squared error of each pair in units of its reference, added up."""
    return sum((((o.float() - r.detach().float()) ** 2).mean() / _unit(r.float()) for o, r in pairs), torch.zeros(()))


def _unit(reference: Tensor) -> Tensor:
    """The variance of ``reference``; of a single figure, or figures that are all the same, their square."""
    variance, square = reference.var(unbiased=False), reference.square().mean()
    return torch.where(variance > CONSTANT * square, variance, torch.where(square > 0, square, 1.0))


def first_tensor(value: Any) -> Tensor:
    """The first tensor in a structure of outputs, inputs or targets."""
    while not isinstance(value, Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value


def output_tensors(outputs: Any) -> list[Tensor]:
    """The tensors among a model's outputs, in the order in which a traced network has them."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
