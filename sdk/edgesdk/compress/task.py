"""What a model is judged by: its metric, and the losses that stand for it while searching and recovering."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgesdk.compress.network import Batch, Network
from edgesdk.errors import UsageError

TEMPERATURE = 4.0
SOFT_SHARE = 0.9
Metric = Callable[[Any, Any], float]


@dataclass(frozen=True)
class Task:
    """How outputs are judged.

    ``metric`` is ``top-1`` (accuracy in percent), ``mse`` (shown negated, so that higher is better), or a function of
    a batch's outputs and targets whose mean over samples is taken, higher is better. Without labels it is applied
    against the dense model's own outputs, and the figure is a fidelity: ``name`` says so.
    """

    metric: str | Metric = "top-1"
    labelled: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.metric, str) and self.metric not in ("top-1", "mse"):
            raise UsageError(f"there is no metric {self.metric!r}", "choose top-1, mse or file.py:callable")

    @property
    def name(self) -> str:
        name = self.metric if isinstance(self.metric, str) else getattr(self.metric, "__name__", "metric")
        measure = {"top-1": "top-1 accuracy", "mse": "negated mse"}.get(name, name)
        return measure if self.labelled else f"fidelity to the dense model ({measure})"

    @property
    def classifies(self) -> bool:
        return self.metric == "top-1"

    @property
    def unit(self) -> str:
        return "%" if self.classifies else ""

    def score(self, run: Callable[[Batch], Any], batches: Iterable[tuple[Batch, Any]], dense: Network) -> float:
        """The metric of ``run`` over ``batches``, weighted by batch size; top-1 in percent."""
        total = count = 0.0
        for x, y in batches:
            with torch.no_grad():
                outputs = run(x)
                target = y if self.labelled else dense(x)
            n = len(first_tensor(x))
            total += n * self._batch(outputs, target)
            count += n
        return total / count

    def _batch(self, outputs: Any, target: Any) -> float:
        if self.metric == "top-1":
            logits = first_tensor(outputs)
            labels = target if self.labelled else first_tensor(target).argmax(-1)
            return 100 * float((logits.argmax(-1) == labels).float().mean())
        if self.metric == "mse":
            return -float(F.mse_loss(first_tensor(outputs).float(), first_tensor(target).float()))
        assert callable(self.metric)
        return float(self.metric(outputs, target))

    def supervised(self, outputs: list[Tensor], y: Any) -> Tensor:
        """The loss against labels, or against the model's own decisions where there are none (a scalar)."""
        first = outputs[0]
        if self.classifies:
            labels = y if self.labelled else first.detach().argmax(-1)
            return F.cross_entropy(first, labels)
        if self.metric == "mse" and self.labelled:
            return F.mse_loss(first, first_tensor(y).to(first.dtype))
        return sum(((o - o.detach().roll(1, 0)) ** 2).mean() for o in outputs if o.is_floating_point())  # type: ignore[return-value]

    def fidelity_loss(self, outputs: list[Tensor], reference: list[Tensor]) -> float:
        """How far ``outputs`` are from ``reference``: KL divergence in nats, or squared error over the variance."""
        return max(0.0, float(self._distance(outputs, reference, 1.0)))

    def distillation(self, outputs: list[Tensor], teacher: list[Tensor], y: Any) -> Tensor:
        """Knowledge distillation (Hinton et al. 2015, section 2): soft targets at a temperature, and hard labels.

        Gradients of soft targets scale as 1/T^2, so their term is multiplied by T^2. Without labels it is the only one.
        """
        soft = self._distance(outputs, teacher, TEMPERATURE)
        if not self.labelled or callable(self.metric):
            return soft
        if self.classifies:
            return SOFT_SHARE * TEMPERATURE**2 * soft + (1 - SOFT_SHARE) * F.cross_entropy(outputs[0].float(), y)
        return SOFT_SHARE * soft + (1 - SOFT_SHARE) * self.supervised(outputs, y)

    def _distance(self, outputs: list[Tensor], reference: list[Tensor], temperature: float) -> Tensor:
        if self.classifies:
            log_p = F.log_softmax(reference[0].float() / temperature, -1)
            log_q = F.log_softmax(outputs[0].float() / temperature, -1)
            return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        pairs = [(o, r) for o, r in zip(outputs, reference, strict=True) if o.is_floating_point()]
        return sum(((o - r) ** 2).mean() / r.var().clamp(min=1e-12) for o, r in pairs)  # type: ignore[return-value]


def first_tensor(value: Any) -> Tensor:
    """The first tensor in a structure of outputs, inputs or targets."""
    while not isinstance(value, Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value
