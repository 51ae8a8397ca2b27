"""What labels say of a model's outputs: class numbers, one-hot, soft labels, several labels; never by broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgesdk.core.errors import DataError, EdgeSdkError
from edgesdk.network.network import Batch, rebatch, tensors

IGNORED = -100  # a label that is not judged, as torch's own losses have it
SUM = 1e-3  # that probabilities may be off by
MULTI_LABEL, BINARY = "multilabel-f1", "binary-accuracy"
DECISIONS = (MULTI_LABEL, BINARY)  # metrics of figures that are each a yes or no


def class_axis(logits: Tensor, labels: Tensor) -> int | None:
    """The axis of the classes in ``logits``, by the shape of class numbers; ``None`` where they do not fit."""
    shape = tuple(labels.shape)
    if shape == (*logits.shape[:1], *logits.shape[2:]):
        return 1
    return -1 if logits.dim() > 2 and shape == tuple(logits.shape[:-1]) else None


def is_row(logits: Tensor) -> bool:
    """Whether of the axes of a sample one alone is of more than one."""
    return logits.dim() > 1 and 1 < logits[0].numel() == max(logits.shape[1:])


def class_numbers(logits: Tensor, y: Any) -> Tensor:
    """The labels ``y`` of ``logits`` (N, classes), (N, classes, ...) or (N, ..., classes) as int64 class numbers.

    ``y`` are class numbers, with an axis of one where the classes are or without, one for each sample also where
    logits have axes of one beside that of the classes; or of the logits' own shape, one-hot or soft, whose likeliest
    class it is. Raises ``DataError`` for anything else.
    """
    y = _tensor(y)
    if y.dim() == 1 and logits.dim() > 2 and is_row(logits):
        axis = 1 + list(logits.shape[1:]).index(max(logits.shape[1:]))
        y = y.reshape(logits.select(axis, 0).shape)
    if y.shape == logits.shape and logits.dim() > 1:
        return likeliest(y)
    if y.is_floating_point():
        kind = str(y.dtype).removeprefix("torch.")
        raise DataError(
            f"the labels are {kind} of shape {_shown(y)} for outputs of shape {_shown(logits)}",
            "give whole class numbers from 0, soft labels of the outputs' shape, or another --metric",
        )
    squeezed = y.squeeze(1) if 1 < y.dim() == logits.dim() and y.shape[1] == 1 else y
    if logits.dim() < 2 or class_axis(logits, squeezed) is None:
        fact = f"labels of shape {_shown(y)} do not fit outputs of shape {_shown(logits)}"
        raise DataError(fact, "give a class number for each answer of the model, or another --metric")
    return squeezed.long()


def rows(logits: Tensor, axis: int) -> Tensor:
    """``logits`` as (answers, classes), whatever the axis of the classes."""
    return logits.movedim(axis, -1).reshape(-1, logits.shape[axis])


def values(outputs: Tensor, y: Any) -> Tensor:
    """The targets ``y`` of a regression. Raises ``DataError`` unless they are of the outputs' very shape."""
    y = _tensor(y)
    if y.shape != outputs.shape:
        fact = f"targets of shape {_shown(y)} for outputs of shape {_shown(outputs)}"
        raise DataError(fact, "bring both to one shape: what does not match would be repeated, and the figure be wrong")
    return y


def check_repeated(figure: Callable[[Any], float], outputs: Tensor, y: Any, what: str) -> None:
    """Raise ``DataError`` where the ``figure`` of targets ``y`` is another than that of the same in the outputs' shape:
    it repeats one along the other, as PyTorch does where axes are missing."""
    if not isinstance(y, Tensor) or y.shape == outputs.shape or y.numel() != outputs.numel():
        return
    try:
        plain, shaped = figure(y), figure(y.reshape(outputs.shape))
    except EdgeSdkError:  # it takes the one alone, and says so itself
        return
    if not math.isclose(plain, shaped, rel_tol=1e-3, abs_tol=1e-9):
        fact = f"{what} repeats targets of shape {_shown(y)} along outputs of shape {_shown(outputs)}"
        told = f"{fact}: it gives {plain:.4g}, and {shaped:.4g} for the same targets in the outputs' shape"
        raise DataError(told, "bring both to one shape in the data, or in it", given=plain, shaped=shaped)


def several(outputs: Tensor, y: Any) -> Tensor:
    """Several labels of a sample as 0 and 1, in the outputs' shape; an axis of one may be missing behind the samples.

    Raises ``DataError`` for anything else.
    """
    y = _tensor(y)
    if y.dim() == outputs.dim() + 1 and y.shape[1] == 1 or outputs.dim() == y.dim() + 1 and outputs.shape[1] == 1:
        y = y.squeeze(1) if y.dim() > outputs.dim() else y.unsqueeze(1)
    y = values(outputs, y)
    if not bool(((y == 0) | (y == 1)).all()):
        fact = "several labels of a sample are to be 0 or 1"
        raise DataError(fact, "give 1 where a label holds, or another --metric")
    return y


def check_range(labels: Any, classes: int) -> None:
    """Raise ``DataError`` where a class number is not one of ``classes``."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or not labels.numel():
        return
    judged = labels[labels != IGNORED]
    if judged.numel() and int(judged.max()) >= classes:
        fact = f"label {int(judged.max())} is out of range: the model has {classes} classes, 0 to {classes - 1}"
        aside = f", and {IGNORED} where nothing is to be judged" if labels.dim() > 1 else ""
        remedy = f"number the labels as the model does{aside}"
        raise DataError(fact, remedy, label=int(judged.max()), classes=classes)


def is_soft(y: Tensor) -> bool:
    """Whether ``y`` (N, classes, ...) are probabilities, one-hot or soft."""
    return y.dim() > 1 and bool((y >= 0).all()) and bool(((y.sum(1, dtype=torch.float32) - 1).abs() < SUM).all())


def likeliest(y: Tensor) -> Tensor:
    """The class of each one-hot or soft label. Raises ``DataError`` where they are no such labels."""
    if is_soft(y):
        return y.argmax(1)
    if not y.is_floating_point() or bool(((y == 0) | (y == 1)).all()):
        raise DataError(
            f"the labels of shape {_shown(y)} mark several or no classes of a sample",
            f"give --metric {MULTI_LABEL}, or one class for each",
        )
    raise DataError("soft labels are to be probabilities, 0 or more and 1 together", "apply a softmax to them")


def _tensor(y: Any) -> Tensor:
    if not isinstance(y, Tensor):
        raise DataError(f"the labels are {type(y).__name__}, not a tensor", "give a --metric that takes such targets")
    return y


def _shown(value: Tensor) -> str:
    return f"({', '.join(map(str, ('N', *value.shape[1:])))}{',' if value.dim() == 1 else ''})"


def first_samples(batches: Sequence[tuple[Batch, Any]], most: int) -> Sequence[tuple[Batch, Any]]:
    """``batches``, or where they have more than ``most`` samples the first ones as a single batch."""
    if sum(len(tensors(x)[0]) for x, _ in batches) <= most:
        return batches
    return [(joined_inputs([x for x, _ in batches], most), joined_targets(batches, most))]


def joined_inputs(batches: Sequence[Batch], most: int) -> Batch:
    """The first ``most`` samples of ``batches`` as one batch."""
    columns = [torch.cat(parts)[:most] for parts in zip(*(tensors(x) for x in batches), strict=True)]
    remaining = iter(columns)
    return rebatch(batches[0], lambda _: next(remaining))


def joined_targets(batches: Sequence[tuple[Batch, Any]], most: int) -> Any:
    """The targets of the first ``most`` samples of ``batches`` as those of one batch.

    They are tensors with a row per sample, tuples and dicts of these, or, as detectors have them, a list or tuple with
    an entry per sample, whatever that is.
    """
    sizes = [len(tensors(x)[0]) for x, _ in batches]
    return _joined([y for _, y in batches], sizes, most)


def _joined(targets: Sequence[Any], sizes: Sequence[int], most: int) -> Any:
    first = targets[0]
    if isinstance(first, Tensor):
        return torch.cat(list(targets))[:most]
    if isinstance(first, Mapping):
        return {key: _joined([y[key] for y in targets], sizes, most) for key in first}
    if isinstance(first, (list, tuple)):
        pairs = list(zip(targets, sizes, strict=True))
        if all(len(y) == size for y, size in pairs) and not all(_in_rows(y, size) for y, size in pairs):
            return type(first)([each for y in targets for each in y][:most])
        return type(first)(_joined(parts, sizes, most) for parts in zip(*targets, strict=True))
    return first


def are_of_each(y: Any, count: int) -> bool:
    """Whether targets can be taken apart by sample: a detector's may be one table of all objects of a batch."""
    if isinstance(y, Tensor):
        return y.dim() > 0 and len(y) == count
    if isinstance(y, Mapping):
        return all(are_of_each(value, count) for value in y.values())
    if isinstance(y, (list, tuple)) and len(y) != count:
        parts: Sequence[Any] = y
        return all(are_of_each(value, count) for value in parts)
    return True


def taken_targets(every: Any, rows: Tensor, count: int) -> Any:
    """The targets of the samples ``rows``, of those of ``count`` samples as :func:`joined_targets` gives them."""
    if isinstance(every, Tensor):
        return every[rows]
    if isinstance(every, Mapping):
        return {key: taken_targets(y, rows, count) for key, y in every.items()}
    if isinstance(every, (list, tuple)):
        if len(every) == count and not _in_rows(every, count):
            return type(every)(every[row] for row in rows.tolist())
        return type(every)(taken_targets(y, rows, count) for y in every)
    return every


def _in_rows(parts: Sequence[Any], size: int) -> bool:
    """Whether each of ``parts`` is a tensor with a row per sample, of a batch of ``size``."""
    return all(isinstance(part, Tensor) and part.dim() > 0 and len(part) == size for part in parts)
