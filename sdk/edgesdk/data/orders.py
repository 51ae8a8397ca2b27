"""In which order samples are learnt from: what draws it, and orders that are drawn without the samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from edgesdk.data.batches import Given, Relabelled, Shuffled

Order = torch.Tensor  # the state of what draws it


def order_of(train: Any) -> Order | None:
    """Where the orders of ``train`` are; ``None`` where nothing of its own draws them."""
    generator = _generator(train)
    return None if generator is None else generator.get_state()


def set_order(train: Any, order: Order | None) -> None:
    """Let ``train`` go on as it did from there."""
    generator = _generator(train)
    if generator is not None and order is not None:
        generator.set_state(order)


def dry(train: Any) -> Iterable[tuple[None, None]] | None:
    """``train`` without its samples: each pass over it draws what one over the samples would. ``None`` where nothing of
    its own is drawn."""
    source = _source(train)
    if _generator(train) is None:
        return None
    return _DryBatches(source) if isinstance(source, Shuffled) else _DryLoader(source)


@dataclass(frozen=True)
class _DryBatches:
    source: Shuffled

    def __iter__(self) -> Iterator[tuple[None, None]]:
        self.source.draw()
        yield from [(None, None)] * len(self.source)


@dataclass(frozen=True)
class _DryLoader:
    source: DataLoader[Any]

    def __iter__(self) -> Iterator[tuple[None, None]]:
        torch.empty((), dtype=torch.int64).random_(generator=self.source.generator)  # the seed of its workers
        for _ in self.source.batch_sampler or ():
            yield None, None


def _source(train: Any) -> Any:
    """What ``train`` takes its batches from."""
    while isinstance(train, (Given, Relabelled)):
        train = train.source if isinstance(train, Given) else train.batches
    return train


def _generator(train: Any) -> torch.Generator | None:
    source = _source(train)
    return source.generator if isinstance(source, (Shuffled, DataLoader)) else None
