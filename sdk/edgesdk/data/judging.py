"""By which of a model's outputs it is judged, and by what, settled once on two samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgesdk.core.errors import DataError, EdgeSdkError, UsageError
from edgesdk.core.wording import listed
from edgesdk.data.agreement import Agreement
from edgesdk.data.batches import Relabelled
from edgesdk.data.data import Data, run_two
from edgesdk.data.losses import Loss, loss_name, settle_loss
from edgesdk.data.metrics import (
    MSE,
    TOP_1,
    Deferred,
    are_probabilities,
    has_state,
    is_named,
    is_torchmetric,
    result,
    started,
)
from edgesdk.data.targets import check_repeated, class_axis, class_numbers, joined_targets, several, values
from edgesdk.data.task import PROBABILITY, Task, output_tensors
from edgesdk.network.network import Batch, answer
from edgesdk.network.returned import path_name


def settled(
    model: nn.Module, data: Data, metric: Any, output: str | int | None = None, loss: Loss | None = None
) -> tuple[Data, Task]:
    """How ``model`` is judged by ``metric``: of several outputs by the one that is named ``output`` (its name, or its
    place from 0), or else by the one that alone can be meant, which is noted in the data; one-hot labels made classes.
    ``loss`` is the user's own, of all outputs.

    Raises ``UsageError`` for an ``output`` that there is not, and where several can be meant; ``DataError`` where the
    labels fit none; and what running the model on two samples may raise.
    """
    outputs = _named(run_two(model, data.example))
    y = data.calibration[0][1] if data.labelled else None
    two = None if y is None else joined_targets(data.calibration[:1], 2)
    place = _asked(outputs, output) if output is not None else _guessed(outputs, metric, data.labelled, two)
    several_there = len(outputs) > 1
    name = list(outputs)[place] if place is not None and several_there else ""
    task = Task("mse" if isinstance(metric, Deferred) else metric, data.labelled, place, name)
    judged = list(outputs.values())[place] if place is not None else None
    if isinstance(metric, Deferred):
        assert judged is not None
        task = replace(task, metric=metric.made(judged, task.target(two) if data.labelled else judged))
    if task.classifies and judged is not None:
        task = replace(task, axis=_axis(judged, task.target(two)))
        data = data if loss is not None else _with_classes(data, judged)
    if task.decides and place is not None and are_probabilities(task.judged(answer(model, data.example)).float()):
        task = replace(task, limit=PROBABILITY)
    if data.labelled and not task.is_built_in and (task.output is not None or not several_there):
        _check_metric(model, data, task)
    notes = list(data.notes)
    if loss is not None:
        if not data.labelled:
            raise UsageError("a loss, and data without targets", "give y, or leave the loss out")
        task = replace(task, loss=settle_loss(loss, model, *data.calibration[0]))
        notes.append(
            f"learning back minimises the loss {loss_name(loss)} beside the distance to the dense model's outputs"
        )
    if several_there and output is None:
        others = listed(f"{key} {_shape(value)}" for key, value in outputs.items() if key != name)
        if place is None:
            notes.append(f"all of the model's outputs are judged together: {others}")
        else:
            only = f"{name} {_shape(judged)} is judged, the only one that fits"
            notes.append(f"of the model's outputs {only}; not {others}")
    return replace(data, notes=tuple(notes)), task


def settle_comparison(
    task: Task, dense: Callable[[Batch], Any], batches: Iterable[tuple[Batch, Any]]
) -> tuple[Task, tuple[str, ...]]:
    """The task by which networks are compared on ``batches`` that are held out of training, with a note where it is not
    ``task``: where a metric of the user's own gives no figure there (an area under a curve, of sound samples alone),
    that is how much of the ``dense`` model's answers they explain."""
    try:
        if not task.is_built_in:
            task.score(dense, batches, dense)
    except UsageError as error:
        note = f"on samples held out of training networks are compared by what the dense model answers: {error.fact}"
        return replace(task, metric=Agreement(), labelled=False, loss=None), (note,)
    return task, ()


def _check_metric(model: nn.Module, data: Data, task: Task) -> None:
    """Raise ``DataError`` where a metric of the user's own takes targets of another shape for more than they are."""
    x, y = data.calibration[0]
    outputs = answer(model, x)

    def figure(target: Any) -> float:
        meter = started(task.metric)
        task.update(meter, outputs, target, len(target))
        return result(task.metric, meter, task.name)

    judged = output_tensors(outputs)[task.output or 0]
    check_repeated(figure, judged, task.target(y), f"the metric {task.name}")


def _named(outputs: Any) -> dict[str, Tensor]:
    """A model's tensors by their names: keys, fields and places, joined by dots."""
    leaves = {}
    for path, leaf in pytree.tree_flatten_with_path(outputs)[0]:
        if isinstance(leaf, Tensor):
            leaves[path_name(path) or "output"] = leaf
    return leaves


def _asked(outputs: Mapping[str, Tensor], output: str | int) -> int:
    names = list(outputs)
    if str(output) in names:
        return names.index(str(output))
    if str(output).isdecimal() and int(output) < len(names):
        return int(output)
    there = listed(f"{name} {_shape(value)}" for name, value in outputs.items())
    raise UsageError(f"the model has no output {output!r}", f"choose one of {there}, by its name or its place from 0")


def _guessed(outputs: Mapping[str, Tensor], metric: Any, labelled: bool, y: Any) -> int | None:
    """The place of the one output that can be meant; ``None`` where a metric takes all of them."""
    own = not isinstance(metric, (str, Deferred)) and not is_torchmetric(metric)
    if len(outputs) == 1:
        return None if own and has_state(metric) else 0
    if own or is_named(metric, MSE) and not labelled:
        return None
    fitting = [
        name
        for place, (name, value) in enumerate(outputs.items())
        if value.is_floating_point() and _fits(value, metric, _target_of(y, name, place), y is not None)
    ]
    there = listed(f"{name} {_shape(value)}" for name, value in outputs.items())
    if not fitting and is_named(metric, TOP_1):  # classes that one alone may have, but for a label out of range
        fitting = [
            name
            for place, (name, value) in enumerate(outputs.items())
            if value.is_floating_point() and value.dim() > 2 and _has_classes(value, _target_of(y, name, place))
        ]
        fitting = fitting if len(fitting) == 1 else []
    if len(fitting) == 1:
        return list(outputs).index(fitting[0])
    if fitting:
        fact = f"any of the model's outputs {', '.join(fitting)} may be the one that is judged"
        raise UsageError(fact, f"say which with --output, of {there}")
    what = "can be judged so" if y is None else f"fits targets of shape {_shape(y)}"
    raise DataError(f"none of the model's outputs {there} {what}", "give other targets, another --metric, or --output")


def _target_of(y: Any, name: str, place: int) -> Any:
    """The targets of one of several outputs: those of its name, or of its place, or the one tensor that there is."""
    if isinstance(y, Mapping):
        return y.get(name)
    return (y[place] if place < len(y) else None) if isinstance(y, (tuple, list)) else y


def _fits(value: Tensor, metric: Any, y: Any, labelled: bool) -> bool:
    """Whether ``value`` can be what ``metric`` judges, by the targets ``y`` of two samples where there are some."""
    if not isinstance(y, Tensor):
        return not labelled and value.dim() == 2 and value.shape[1] > 1
    try:
        if is_named(metric, TOP_1):
            if (
                y.dim() == 1 and value.dim() > 2
            ):  # which may have axes of one; of several outputs none is guessed by that
                return False
            labels = class_numbers(value, y)
            axis = class_axis(value, labels)
            return axis is not None and int(labels.max()) < value.shape[axis] and value.shape[axis] > 1
        if isinstance(metric, str):
            (values if metric == MSE else several)(value, y)
    except EdgeSdkError:
        return False
    return len(value) == len(y)


def _has_classes(value: Tensor, y: Any) -> bool:
    """Whether ``y`` are class numbers of each place of ``value``, whatever they are."""
    return isinstance(y, Tensor) and not y.is_floating_point() and y.dim() > 1 and class_axis(value, y) is not None


def _axis(judged: Tensor, y: Any) -> int:
    """The axis of the classes; labels that do not fit are told of where they are compared with the outputs."""
    if not isinstance(y, Tensor) or y.shape == judged.shape:
        return 1
    try:
        return class_axis(judged, class_numbers(judged, y)) or 1
    except EdgeSdkError:
        return 1


def _with_classes(data: Data, judged: Tensor) -> Data:
    """``data`` with one-hot labels as class numbers, all of its parts alike."""
    first = data.calibration[0][1] if data.labelled else None
    if not isinstance(first, Tensor) or first.dim() != 2 or judged.dim() != 2:
        return data
    if first.shape[1] != judged.shape[1] or not bool(((first == 0) | (first == 1)).all()):
        return data

    def change(y: Tensor) -> Tensor:
        return class_numbers(y, y) if y.dim() == 2 else y

    parts = {name: [(x, change(y)) for x, y in getattr(data, name)] for name in ("calibration", "holdout", "test")}
    train = None if data.train is None else Relabelled(data.train, change)
    if data.holdout is data.calibration:
        parts["holdout"] = parts["calibration"]
    return replace(data, train=train, **parts)


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"({', '.join(map(str, ('N', *value.shape[1:])))})"
