"""Which channels of a group stay: the most important ones that leave every layer its share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from edgesdk.solve.highs import BinaryProgram, Effort

GAP, EFFORT = 1e-3, Effort(10.0, 100.0)


def kept_channels(scores: Tensor, kept: int, step: int = 1, shares: Sequence[Sequence[int]] = ()) -> list[int]:
    """The indices of the ``kept`` most important channels, in order.

    Without ``shares`` whole units of ``step``, by the sums of theirs. With ``shares`` as many of each of these sets as
    are its share. Raises ``ValueError`` where no channels are.
    """
    if shares:
        return _shared(scores, kept, shares)
    units = scores.reshape(-1, step).sum(1)
    stay = sorted(units.argsort(descending=True, stable=True)[: kept // step].tolist())
    return [unit * step + place for unit in stay for place in range(step)]


def _shared(scores: Tensor, kept: int, shares: Sequence[Sequence[int]]) -> list[int]:
    size = len(scores)
    counts = np.stack([np.bincount(np.array(share), minlength=size) for share in shares])
    _, alike = np.unique(counts, axis=1, return_inverse=True)  # channels that are in the same sets
    sizes = np.bincount(alike.reshape(-1))
    if not (sizes * kept % size).any():  # then the best of each are as good as any
        order = scores.argsort(descending=True, stable=True).numpy()
        of = [order[alike.reshape(-1)[order] == number] for number in range(len(sizes))]
        return sorted(int(c) for own, n in zip(of, sizes, strict=True) for c in own[: n * kept // size])
    wanted = counts.sum(1) * kept
    if (wanted % size).any():
        raise ValueError(f"{kept} of {size} channels are no whole number of each layer's")
    rows = [*_rows(counts, wanted // size), (kept, kept, dict.fromkeys(range(size), 1.0))]
    worth = scores.double().numpy()
    cost = 1.0 - worth / max(float(abs(worth).max()), 1e-30)
    program = BinaryProgram(np.ones(size, dtype=bool), np.ones(size), cost, 0.0, rows)
    values = program.minimise(GAP, EFFORT).values
    if values is None:
        raise ValueError(f"no {kept} of {size} channels leave each layer the same share")
    return np.flatnonzero(values > 0.5).tolist()


def _rows(counts: np.ndarray, wanted: np.ndarray) -> Iterable[tuple[float, float, dict[int, float]]]:
    for row, count in zip(counts, wanted.tolist(), strict=True):
        yield count, count, {int(c): float(row[c]) for c in np.flatnonzero(row)}


def random_scores(size: int, seed: int) -> Tensor:
    """Scores by which a trial chooses: the same each time."""
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))
