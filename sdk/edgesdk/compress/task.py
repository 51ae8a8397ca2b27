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
from edgesdk.techniques.distillation import TEMPERATURE, hard, soft

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
        return max(0.0, float(self._distance(outputs, reference)))

    def distillation(self, outputs: list[Tensor], teacher: list[Tensor], y: Any) -> Tensor:
        """Knowledge distillation (Hinton et al. 2015, section 2): soft targets at a temperature, and hard labels.

        Without labels soft targets are all there is, and of a size that does not depend on the temperature.
        """
        known = self.labelled and not callable(self.metric)
        if self.classifies:
            taught = soft(outputs[0].float(), teacher[0].float(), TEMPERATURE)
            if not known:
                return taught / TEMPERATURE**2
            return SOFT_SHARE * taught + (1 - SOFT_SHARE) * hard(outputs[0].float(), y)
        taught = self._distance(outputs, teacher)
        return SOFT_SHARE * taught + (1 - SOFT_SHARE) * self.supervised(outputs, y) if known else taught

    def together(self, outputs: list[Tensor], peer: list[Tensor], y: Any) -> Tensor:
        """Deep mutual learning (Zhang et al. 2018) of one of two networks: its labels, and its peer's answers.

        ``L = cross-entropy + KL(p_peer || p)``, at a temperature of 1.
        """
        return self.supervised([o.float() for o in outputs], y) + self._distance(outputs, peer)

    def _distance(self, outputs: list[Tensor], reference: list[Tensor]) -> Tensor:
        if self.classifies:
            return soft(outputs[0].float(), reference[0].float(), 1.0)
        pairs = [(o, r) for o, r in zip(outputs, reference, strict=True) if o.is_floating_point()]
        return sum(((o - r) ** 2).mean() / r.var().clamp(min=1e-12) for o, r in pairs)  # type: ignore[return-value]


def first_tensor(value: Any) -> Tensor:
    """The first tensor in a structure of outputs, inputs or targets."""
    while not isinstance(value, Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value
