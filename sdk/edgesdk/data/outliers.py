"""Samples that reach far beyond all others: a sensor that was broken. They teach nothing, and outweigh all the rest.

They are told by their values alone, once, and left out wherever samples set weights, ranges or prices: of calibration,
held-out and training data alike. Data to judge by stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgesdk.core.wording import counted
from edgesdk.data.targets import are_of_each
from edgesdk.network.network import Batch, figures, rebatch, tensors

FAR = 16.0  # times the reach of most samples: what is farther is no sample of these data
RARE = 0.05  # of the samples, at most: more of them are the data themselves
FEWEST = 8  # samples to tell
KIND = 0.5  # of the samples of a class: where as many reach far, that is what the class looks like


@dataclass(frozen=True)
class Limits:
    """How far the values of a usual sample reach, for each tensor of x; ``inf`` for one that tells nothing."""

    each: tuple[float, ...]

    def fit(self, x: Batch) -> bool:
        """Whether ``x`` is a batch of as many tensors, all of as many samples."""
        parts = tensors(x)
        return len(parts) == len(self.each) and all(part.dim() and len(part) == len(parts[0]) for part in parts)

    def keeps(self, x: Batch) -> Tensor:
        """Which samples of ``x`` reach no farther: (N,). What is no finite number does not."""
        reaches = torch.stack([_reach(part) for part in tensors(x)])
        return (reaches.isfinite() & (reaches <= torch.tensor(self.each)[:, None])).all(0)

    def describe(self, parts: Iterable[Batch]) -> str:
        """How far the farthest sample of ``parts`` reaches, and how far the usual ones do."""
        columns = zip(*(tensors(x) for x in parts), strict=True)
        most = [max(float(_reach(part).max()) for part in column) for column in columns]
        far, limit = max(zip(most, self.each, strict=True), key=lambda two: two[0] / two[1])
        return f"{far:.3g}, where most stay within {limit / FAR:.3g}"


def find_limits(parts: Iterable[tuple[Batch, Any]]) -> Limits | None:
    """The limits of the samples in ``parts``; ``None`` where nothing tells a broken one from others.

    A few that are far are data all the same where their labels say so: where they make up most of a class, or their
    targets are far, too.
    """
    parts = list(parts)
    columns = [torch.cat(column) for column in zip(*([_reach(t) for t in tensors(x)] for x, _ in parts), strict=True)]
    limits = Limits(tuple(map(_limit, columns)))
    if len(columns[0]) < FEWEST:
        return None
    far = ~torch.cat([limits.keeps(x) for x, _ in parts])
    targets = [y for _, y in parts if isinstance(y, Tensor)]
    if far.any() and len(targets) == len(parts) and _are_meant(torch.cat(targets), far):
        return None
    return limits


def find_kept(x: Batch, y: Any, limits: Limits) -> Tensor:
    """Which samples of a batch stay: those that are usual, and all where its targets are not one for each sample."""
    kept = limits.keeps(x)
    return kept if are_of_each(y, len(kept)) else torch.ones_like(kept)


def select(x: Batch, y: Any, kept: Tensor) -> tuple[Batch, Any]:
    """The samples of a batch that are ``kept``, whatever the form of its targets."""
    if kept.all():
        return x, y
    return rebatch(x, lambda t: t[kept]), _rows(y, kept)


def keep_usual(batches: Sequence[tuple[Batch, Any]], limits: Limits) -> tuple[list[tuple[Batch, Any]], int]:
    """``batches`` without the samples that are not usual, and how many those are."""
    masks = [find_kept(x, y, limits) for x, y in batches]
    kept = [select(*batch, mask) for batch, mask in zip(batches, masks, strict=True) if mask.any()]
    return kept, sum(int((~mask).sum()) for mask in masks)


def note_judged(batches: Iterable[Batch], limits: Limits) -> list[str]:
    """What is said of samples to judge by that reach far, too."""
    masks = torch.cat([limits.keeps(x) for x in batches])
    if not (count := int((~masks).sum())):
        return []
    verb = "reach" if count > 1 else "reaches"
    return [f"{count} of {counted(len(masks), 'sample')} to judge by {verb} far beyond the others: judged all the same"]


def note_left_out(count: int, of: int, limits: Limits, parts: Iterable[Batch]) -> list[str]:
    """What is said where ``count`` samples ``of`` so many, all of them in ``parts``, were left out."""
    if not count:
        return []
    far = limits.describe(parts)
    return [f"{count} of {counted(of, 'sample')} {'reach' if count > 1 else 'reaches'} far beyond the others ({far}): "
            f"taken for broken, and left out of all but the test data"]  # fmt: skip


def _reach(part: Tensor) -> Tensor:
    """The largest absolute value of each sample; NaN where one is. Whole numbers are codes, and reach nowhere."""
    if not part.is_floating_point() or not part[0].numel():
        return torch.zeros(len(part))
    return torch.maximum(figures(part).amax(1), -figures(part).amin(1)).float()


def _limit(reaches: Tensor) -> float:
    """``FAR`` times what all but the ``RARE`` farthest reach, and without end where that is nothing."""
    left_out = max(1, int(len(reaches) * RARE))
    usual = float(reaches.nan_to_num(nan=torch.inf).sort().values[max(0, len(reaches) - 1 - left_out)])
    return FAR * usual if usual > 0 else torch.inf


def _are_meant(y: Tensor, far: Tensor) -> bool:
    """Whether targets say that the samples which are ``far`` are no faults."""
    if y.dim() == 1 and not y.is_floating_point():
        return any(int(far[y == label].sum()) >= max(2, KIND * int((y == label).sum())) for label in y[far].unique())
    reaches = _reach(y)
    limit = _limit(reaches)
    return limit < torch.inf and bool((reaches[far] > limit).any())


def _rows(y: Any, kept: Tensor) -> Any:
    count = len(kept)
    if isinstance(y, Tensor):
        return y[kept]
    if isinstance(y, Mapping):
        return {key: _rows(value, kept) for key, value in y.items()}
    if not isinstance(y, tuple):
        return y
    whole: Sequence[Any] = y
    if len(whole) == count and not all(isinstance(value, Tensor) and len(value) == count for value in whole):
        return tuple(value for value, stays in zip(whole, kept.tolist(), strict=True) if stays)  # one for each sample
    return tuple(_rows(value, kept) for value in whole)
