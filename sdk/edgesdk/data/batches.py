"""Batches in memory and a user's own, brought to one form, and what holds of labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesdk.core.errors import DataError, EdgeSdkWarning
from edgesdk.core.wording import said
from edgesdk.data.outliers import Limits, find_kept, select
from edgesdk.data.sources import OTHER_WIDTHS, Samples, check_part, dtype_name
from edgesdk.data.targets import IGNORED, check_range, is_soft, likeliest
from edgesdk.network.network import Batch, rebatch, tensors


class Shuffled:
    """Batches of samples in memory, in a new order each time; a last short one is left out where there are others.

    ``labels`` are those of its samples, or ``None``.
    """

    def __init__(self, samples: Samples, rows: Tensor, batch_size: int, seed: int) -> None:
        self.samples: Samples = samples
        self.rows: Tensor = rows
        self.batch_size: int = batch_size
        self.labels: Tensor | None = None if samples.y is None else samples.y[rows]
        self.generator: torch.Generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return max(1, len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Batch, Any]]:
        order = self.draw()
        for rows in order[: len(self) * self.batch_size].split(self.batch_size):
            yield taken(self.samples, rows)

    def draw(self) -> Tensor:
        """The rows in the order of the next pass."""
        return self.rows[torch.randperm(len(self.rows), generator=self.generator)]


class Relabelled:
    """Batches with other labels: ``change`` makes them of those that there were."""

    def __init__(self, batches: Iterable[tuple[Batch, Any]], change: Callable[[Any], Any]) -> None:
        self.batches: Iterable[tuple[Batch, Any]] = batches
        self.change: Callable[[Any], Any] = change

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Batch, Any]]:
        for x, y in self.batches:
            yield x, self.change(y)


class Augmented:
    """``batches`` with x made another each time, by random numbers of a ``generator`` of its own."""

    def __init__(self, batches: Iterable[tuple[Any, Any]], seed: int) -> None:
        self.batches: Iterable[tuple[Any, Any]] = batches
        self.generator: torch.Generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for x, y in self.batches:
            yield self.change(x), y

    def change(self, x: Any) -> Any:
        """A batch of x as it is learnt from this time."""
        raise NotImplementedError


class Given:
    """A user's own batches, brought to one form and checked as they come; ``classes`` bounds the labels once known.

    With ``limits`` samples beyond them are left out, of which there is one warning.
    """

    def __init__(self, source: Iterable[Any], name: str, classifies: bool) -> None:
        self.source: Iterable[Any] = source
        self.name: str = name
        self.classifies: bool = classifies
        self.classes: int | None = None
        self.limits: Limits | None = None
        self._told: bool = False

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Batch, Any]]:
        try:
            batches = iter(self.source)
        except TypeError:
            fact = f"{self.name} is of type {type(self.source).__name__}, which cannot be iterated"
            raise DataError(fact, "give a list of batches (x, y) or a DataLoader") from None
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                fact = f"reading {self.name} failed with {said(error)}"
                raise DataError(fact, "make it iterate in Python first") from error
            x, y = self._pair(batch)
            if self.limits is not None and self.limits.fit(x):
                kept = find_kept(x, y, self.limits)
                self._tell(int((~kept).sum()))
                if not kept.any():
                    continue
                x, y = select(x, y, kept)
            x, y = self._checked(x, y)
            if self.classes is not None:
                check_range(y, self.classes)
            yield x, y

    def _pair(self, batch: Any) -> tuple[Batch, Any]:
        parts = [batch] if isinstance(batch, (Tensor, np.ndarray, Mapping)) else batch
        if not isinstance(parts, (list, tuple)) or len(parts) not in (1, 2):
            many = f" of {len(parts)}" if isinstance(parts, (list, tuple)) else ""
            raise DataError(f"{self.name} yields a {type(batch).__name__}{many}", "let it yield batches (x, y)")
        x: Any = _tensors(parts[0])
        y: Any = _tensors(parts[1]) if len(parts) == 2 else None
        if not all(isinstance(t, Tensor) for t in (tensors(x) if isinstance(x, (Tensor, tuple, dict)) else [x])):
            fact = f"{self.name} yields x of type {type(parts[0]).__name__}"
            raise DataError(fact, "let x be a tensor, or a tuple or dict of tensors")
        x = rebatch(x, lambda t: t.float() if t.dtype in OTHER_WIDTHS else t)
        if isinstance(y, (int, float)) or (isinstance(y, Tensor) and y.dim() == 0):
            raise DataError(f"{self.name} yields single samples", "let it yield batches: wrap it in a DataLoader")
        return x, y

    def _checked(self, x: Batch, y: Any) -> tuple[Batch, Any]:
        check_part(x, y, f"x of {self.name}", f"y of {self.name}")
        several = isinstance(y, (tuple, dict)) and all(isinstance(part, Tensor) for part in tensors(y))
        if y is None or not self.classifies or several:  # of the outputs that there are
            return x, y
        return x, checked_labels(y, f"y of {self.name}")

    def _tell(self, count: int) -> None:
        """Warn once of samples that were left out."""
        if count and not self._told:
            self._told = True
            fact = f"samples of {self.name} reach far beyond those of the calibration data, or hold no finite numbers"
            warnings.warn(f"{fact}: taken for broken, and left out as they come", EdgeSdkWarning, stacklevel=2)


def taken(samples: Samples, rows: Tensor) -> tuple[Batch, Any]:
    """The samples of ``rows`` as one prepared batch."""
    x = samples.prepare(rebatch(samples.x, lambda t: t[rows]))
    return x, None if samples.y is None else samples.y[rows]


def stratified(count: int, y: Tensor | None, seed: int) -> Tensor:
    """The rows 0 to ``count - 1`` in random order; each run of them holds each label of ``y`` in its share."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if y is None:
        return order
    place = torch.empty(count, dtype=torch.float64)
    for label in y.unique():
        rows = order[y[order] == label]
        place[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    return order[place[order].argsort(stable=True)]


def checked_labels(y: Any, what: str) -> Tensor:
    """Labels of a classifier: class numbers as int64, or soft labels. Raises ``DataError`` where they are neither."""
    if isinstance(y, Tensor) and y.is_floating_point() and y.dim() > 1 and y.shape[1] > 1:
        likeliest(y)
        return y
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
        kind = dtype_name(y) if isinstance(y, Tensor) else type(y).__name__
        raise DataError(f"the labels {what} are {kind}", "give whole class numbers from 0, or another --metric")
    y = (y[:, 0] if y.dim() == 2 and y.shape[1] == 1 else y).long()
    judged = y[y != IGNORED] if y.dim() > 1 else y
    if judged.numel() and int(judged.min()) < 0:
        raise DataError(f"the labels {what} hold {int(judged.min())}", "number the classes from 0")
    return y


def classes_of(y: Tensor) -> Tensor:
    """The class of each label, as class numbers; of one-hot and soft labels the likeliest."""
    return y.argmax(1) if y.is_floating_point() or y.dim() == 2 and is_soft(y) else y


def check_classes(labels: Sequence[Tensor]) -> None:
    """Raise ``DataError`` where ``labels`` hold a single class."""
    if not labels:
        return
    classes = torch.cat([classes_of(y).flatten() for y in labels]).unique()
    if len(classes) == 1:
        raise DataError(f"all labels are {int(classes)}", "give samples of at least two classes")


def _tensors(value: Any) -> Any:
    """``value`` with arrays made tensors and lists made tuples, as a data loader's collation may leave them."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _tensors(v) for key, v in value.items()}
    return tuple(_tensors(v) for v in value) if isinstance(value, (list, tuple)) else value
