"""What a model is scored by: objects with ``update(outputs, targets)`` and ``compute()``, over a whole set of data.

A metric of one's own is such an object, or a function of a batch's outputs and targets, whose mean over the samples is
taken. Higher is better.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from edgesdk.core.errors import EdgeSdkError, UsageError
from edgesdk.core.sampling import Decisions
from edgesdk.core.serialize import digest
from edgesdk.core.wording import said
from edgesdk.data.targets import (
    BINARY,
    DECISIONS,
    IGNORED,
    MULTI_LABEL,
    class_axis,
    class_numbers,
    rows,
    several,
    values,
)
from edgesdk.network.load import load_callable
from edgesdk.network.torchvision import import_torchvision

TORCHMETRICS = "torchmetrics"
TOP_1, MSE = "top-1", "mse"


class Meter(Protocol):
    """A metric with a state: it sees batch after batch, and says one figure of all of them."""

    def update(self, outputs: Any, targets: Any) -> Any: ...

    def compute(self) -> Any: ...


class NamedMetric(Meter, Protocol):
    """A metric that users name: its ``name``, how reports call it, and the unit of its figure."""

    name: str
    title: str
    unit: str


Metric = Callable[[Any, Any], float] | Meter
METRICS: dict[str, type[NamedMetric]] = {}
"""Every metric that has a name of its own; see :func:`register`."""

Kind = TypeVar("Kind", bound=type[NamedMetric])


def register(metric: Kind) -> Kind:
    """Make a class of metrics known under its ``name``; the class. Raises ``ValueError`` for a name that is taken."""
    if METRICS.setdefault(metric.name, metric) is not metric:
        raise ValueError(f"there is a metric {metric.name} already")
    return metric


@register
class TopOne:
    """The share of answers whose likeliest class is the label's, in percent; what is labelled -100 is left out."""

    name: str = TOP_1
    title: str = "top-1 accuracy"
    unit: str = "%"

    def __init__(self) -> None:
        self.right: int = 0
        self.count: int = 0
        self.decided: list[Tensor] = []  # of samples with one label each: which were right
        self.labels: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Any) -> None:
        labels = class_numbers(outputs, targets)
        axis = class_axis(outputs, labels)
        assert axis is not None
        judged = labels != IGNORED
        right = (outputs.argmax(axis) == labels) & judged
        self.right += int(right.sum())
        self.count += int(judged.sum())
        if labels.dim() == 1:
            self.decided.append(right[judged])
            self.labels.append(labels[judged])

    @property
    def decisions(self) -> Decisions | None:
        """Which samples were right; ``None`` where one has many labels, as an image that is cut into classes."""
        if not self.decided or self.count != sum(map(len, self.decided)):
            return None
        labels = digest(torch.cat(self.labels).tolist())
        return Decisions.of(torch.cat(self.decided).tolist(), labels[:16])

    def compute(self) -> float:
        return 100 * self.right / self.count if self.count else math.nan


@register
class NegatedError:
    """The mean squared error, negated, so that higher is better."""

    name: str = MSE
    title: str = "negated mse"
    unit: str = ""

    def __init__(self) -> None:
        self.total: float = 0.0
        self.count: int = 0

    def update(self, outputs: Tensor, targets: Any) -> None:
        wanted = values(outputs, targets)
        self.total += float((outputs.double() - wanted.double()).square().sum())
        self.count += outputs.numel()

    def compute(self) -> float:
        return -self.total / self.count


@register
class MultiLabel:
    """F1 over all labels of all samples together (micro), in percent; a label is answered above the ``limit``."""

    name: str = MULTI_LABEL
    title: str = "multi-label F1"
    unit: str = "%"

    def __init__(self, limit: float = 0.0) -> None:
        self.limit: float = limit
        self.right: int = 0
        self.count: int = 0  # of what was answered, and of what was wanted

    def update(self, outputs: Tensor, targets: Any) -> None:
        wanted, answered = several(outputs, targets) > 0, outputs > self.limit
        self.right += int((answered & wanted).sum())
        self.count += int(answered.sum() + wanted.sum())

    def compute(self) -> float:
        return 200 * self.right / self.count if self.count else 100.0


@register
class BinaryAccuracy:
    """The share of right answers, in percent, of figures that are each a yes, above the ``limit``, or a no."""

    name: str = BINARY
    title: str = "binary accuracy"
    unit: str = "%"

    def __init__(self, limit: float = 0.0) -> None:
        self.limit: float = limit
        self.right: int = 0
        self.count: int = 0

    def update(self, outputs: Tensor, targets: Any) -> None:
        right = (outputs > self.limit) == (several(outputs, targets) > 0)
        self.right += int(right.sum())
        self.count += right.numel()

    def compute(self) -> float:
        return 100 * self.right / self.count


class MeanOfBatches:
    """A function of a batch's outputs and targets; its mean over the samples."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function: Callable[[Any, Any], Any] = function
        self.total: float = 0.0
        self.count: int = 0

    def update(self, outputs: Any, targets: Any, samples: int = 1) -> None:
        self.total += samples * _figure(self.function(outputs, targets))
        self.count += samples

    def compute(self) -> float:
        return self.total / self.count


def is_named(metric: Any, name: str) -> bool:
    """Whether ``metric`` is the one of edgesdk's own that is called so; objects may answer ``==`` with an object."""
    return isinstance(metric, str) and metric == name


def are_probabilities(outputs: Tensor) -> bool:
    """Whether all of ``outputs`` are from 0 to 1, as those of a sigmoid or softmax are."""
    return bool((outputs >= 0).all()) and bool((outputs <= 1).all())


def read_metric(metric: str | Metric) -> Any:
    """``metric``, read from where it names: ``file.py:callable``, or ``torchmetrics:NAME`` with arguments or without.

    Raises ``UsageError`` for a name that there is not.
    """
    if not isinstance(metric, str):
        return _with_state(metric)
    if metric in METRICS:
        return metric
    where, colon, name = metric.partition(":")
    if where.partition(".")[0] == TORCHMETRICS and colon:
        return _torchmetric(where, name)
    if colon:
        return _with_state(load_callable(metric, "metric", UsageError))
    choices = f"{', '.join(METRICS)}, {TORCHMETRICS}:NAME or file.py:callable"
    raise UsageError(f"there is no metric {metric!r}", f"choose {choices}")


def started(metric: str | Metric, limit: float = 0.0) -> Any:
    """``metric`` as an object that has seen nothing yet; ``limit`` is what a yes is above, where it asks for such."""
    if isinstance(metric, str):
        return METRICS[metric](*([limit] if metric in DECISIONS else []))
    if not has_state(metric):
        assert callable(metric)
        return MeanOfBatches(metric)
    fresh = copy.deepcopy(metric)
    if callable(reset := getattr(fresh, "reset", None)):
        reset()
    return fresh


def has_state(metric: Any) -> bool:
    """Whether ``metric`` sees batch after batch and then says one figure."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute"))


def is_torchmetric(metric: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == TORCHMETRICS for kind in type(metric).__mro__)


def result(metric: Any, meter: Any, name: str) -> float:
    """What ``meter`` says of all that it has seen, higher being better. Raises ``UsageError`` where it is no figure."""
    try:
        value = meter.compute()
    except EdgeSdkError:
        raise
    except Exception as error:
        fact = f"computing the metric {name} failed with {said(error)}"
        raise UsageError(fact, "make it run in Python first") from error
    try:
        figure = _figure(value)
    except UsageError as error:
        raise UsageError(f"the metric {name}: {error.fact}", error.remedy) from None
    if not math.isfinite(figure):
        raise UsageError(f"the metric {name} is {figure} on this data", "let it be a finite number")
    return -figure if getattr(metric, "higher_is_better", None) is False else figure


def _figure(value: Any) -> float:
    if isinstance(value, Mapping):
        fact = f"it is a dict of {', '.join(map(str, list(value)[:3]))}, not one figure"
        raise UsageError(fact, "let compute() return one of them, in a class of your own")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"it is {_kind(value)}, not one figure", "let it return a number") from None


def _kind(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def _with_state(metric: Any) -> Any:
    """``metric``, or what it makes where it is a class or a function without arguments."""
    if isinstance(metric, type) or inspect.isfunction(metric) and not inspect.signature(metric).parameters:
        try:
            metric = metric()
        except Exception as error:
            fact = f"making the metric {metric.__name__} failed with {said(error)}"
            raise UsageError(fact, "let it be made without arguments, or give an object of it") from error
    if not has_state(metric) and not callable(metric):
        fact = f"the metric is of type {type(metric).__name__}, with neither update and compute nor a call"
        raise UsageError(fact, "give a function of outputs and targets, or an object with update and compute")
    return metric


def _torchmetric(where: str, spec: str) -> Deferred:
    """A metric of torchmetrics by its name, perhaps with arguments in Python's form."""
    name, bracket, rest = spec.partition("(")
    try:
        import_torchvision()  # torchmetrics takes it where it is there
        module = importlib.import_module(where)
    except ImportError:
        raise UsageError(f"{where} cannot be imported", "pip install 'edgesdk[metrics]'") from None
    kind = getattr(module, name, None) or getattr(importlib.import_module(f"{TORCHMETRICS}.classification"), name, None)
    if not isinstance(kind, type):
        raise UsageError(f"{where} has no metric {name!r}", "see the list in torchmetrics' documentation")
    try:
        call = ast.parse(f"made({rest}" if bracket else "made()", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        example = f"--metric '{TORCHMETRICS}:{name}(num_classes=10)'"
        raise UsageError(f"the arguments of {spec!r} are no plain values by name", f"write it like {example}") from None
    return Deferred(kind, arguments)


class Deferred:
    """A metric of torchmetrics that is made once the outputs are known, with what it needs and was not given."""

    def __init__(self, kind: Any, arguments: Mapping[str, Any]) -> None:
        self.kind: Any = kind
        self.arguments: dict[str, Any] = dict(arguments)
        self.__name__: str = kind.__name__

    def made(self, outputs: Tensor, targets: Any) -> Metric:
        """The metric for outputs and targets like these. Raises ``UsageError`` where more must be said."""
        new = _parameters(self.kind.__new__)
        wanted = new if "task" in new else _parameters(self.kind)
        width = outputs.shape[1] if outputs.dim() > 1 else 1
        several_ = isinstance(targets, Tensor) and targets.shape == outputs.shape and outputs.dim() > 1
        task = "multilabel" if several_ else "multiclass" if width > 1 else "binary"
        count = {"num_classes": width} if not several_ else {"num_labels": width}
        arguments = {"task": task, **count} if "task" in wanted else {"num_classes": width, "num_labels": width}
        filled = {name: value for name, value in arguments.items() if name in wanted and name not in self.arguments}
        try:
            return self.kind(**filled, **self.arguments)
        except Exception as error:
            fact = f"making {TORCHMETRICS}' {self.__name__} failed with {said(error)}"
            example = f"--metric '{TORCHMETRICS}:{self.__name__}(name=value)'"
            raise UsageError(fact, f"give its arguments: {example}") from error


def _parameters(function: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def loss_rows(logits: Tensor, y: Any) -> tuple[Tensor, Tensor]:
    """Logits as (answers, classes) and what they are to be: class numbers, or soft labels of the same shape."""
    labels = class_numbers(logits, y)
    axis = class_axis(logits, labels)
    assert axis is not None
    if isinstance(y, Tensor) and y.shape == logits.shape:
        return rows(logits, 1), rows(y.to(logits.dtype), 1)
    return rows(logits, axis), labels.reshape(-1)
