"""A plain data set of PyTorch, of single pairs (x, y), as batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from edgesdk.core.errors import DataError
from edgesdk.data.batches import stratified


def is_dataset(source: Any) -> bool:
    """Whether ``source`` is a map-style data set: it has a length, and gives a sample by its number."""
    if isinstance(source, (Dataset, DataLoader)):
        return isinstance(source, Dataset) and not isinstance(source, IterableDataset)
    plain = not isinstance(source, (str, bytes, tuple, list, dict, Tensor)) and not hasattr(source, "dtype")
    return plain and all(hasattr(type(source), name) for name in ("__len__", "__getitem__"))


def loader(dataset: Any, batch_size: int, seed: int, shuffle: bool = False) -> DataLoader[Any]:
    """``dataset`` in batches, in the same orders for the same ``seed``."""
    if not len(dataset):
        raise DataError("the data set is empty", "give at least a few samples")
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, min(batch_size, len(dataset)), shuffle=shuffle, generator=generator, drop_last=shuffle)


def split(dataset: Any, shares: Sequence[float], seed: int) -> list[Subset[Any]]:
    """Parts of ``dataset`` of these ``shares`` of it, and the rest; each label in its share, where they are known."""
    labels = next((getattr(dataset, name) for name in ("targets", "labels") if hasattr(dataset, name)), None)
    y = None
    if labels is not None and len(labels) == len(dataset):
        y = torch.as_tensor(labels)
        y = y if y.dim() == 1 and not y.is_floating_point() else None
    order = stratified(len(dataset), y, seed).tolist()
    parts, begin = [], 0
    for share in shares:
        count = max(1, round(share * len(order)))
        parts.append(Subset(dataset, order[begin : begin + count]))
        begin += count
    return [*parts, Subset(dataset, order[begin:])]
