"""In which order samples are learnt from: what draws it, and orders that are drawn without the samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from edgesdk.data.batches import Augmented, Given, Relabelled, Shuffled

Order = torch.Tensor  # the states of what draws it, in rows


def order_of(train: Any) -> Order | None:
    """Where the orders of ``train`` are; ``None`` where nothing of its own draws them."""
    generators = _list_generators(train)
    return torch.stack([generator.get_state() for generator in generators]) if generators else None


def set_order(train: Any, order: Order | None) -> None:
    """Let ``train`` go on as it did from there."""
    for generator, state in zip(_list_generators(train), () if order is None else order, strict=False):
        generator.set_state(state.clone())


def dry(train: Any) -> Iterable[tuple[Any, Any]] | None:
    """``train`` without its samples: each pass over it draws what one over the samples would. What is augmented comes
    with them, since what that draws goes by the samples. ``None`` where nothing of its own is drawn."""
    source = _source(train)
    if not _list_generators(train):
        return None
    if isinstance(source, Augmented):
        return source
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


def _list_generators(train: Any) -> list[torch.Generator]:
    """What draws the orders of ``train``, and what augments it anew each time; none where nothing draws orders."""
    source = _source(train)
    if isinstance(source, Augmented):
        inner = _list_generators(source.batches)
        return [source.generator, *inner] if inner else []
    own = source.generator if isinstance(source, (Shuffled, DataLoader)) else None
    return [] if own is None else [own]
