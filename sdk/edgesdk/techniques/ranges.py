"""Ranges of values that are to be quantized: what is clipped so that the rest is finer.

Each function takes samples, a tensor of any shape, or a :class:`Histogram` of them, and gives ``(low, high)``. The
range holds zero, which is exact on every grid, and is never wider than the values' own. All raise ``UsageError`` for
samples that are empty or not finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgesdk.core.errors import UsageError

BINS = 2048  # of magnitudes, as Migacz 2017 has them
FINEST = 0.02  # of its own reach, the least that a side of a range is tried at
TRIED = 64  # fractions of a side's reach


@dataclass(frozen=True)
class Histogram:
    """``counts`` of shape (2 * BINS,) over -``reach`` to ``reach``, so that zero is an edge; the extremes seen."""

    counts: Tensor
    reach: float
    low: float
    high: float

    @staticmethod
    def of(samples: Tensor, reach: float | None = None) -> Histogram:
        """The histogram of ``samples``; ``reach`` is the largest magnitude, theirs unless given.

        Raises ``UsageError`` where they reach farther, or are empty or not finite.
        """
        low, high = _extremes(samples)
        reach = max(-low, high) if reach is None else reach
        if max(-low, high) > reach:
            raise UsageError(f"a sample of {max(-low, high):g} is beyond the histogram's {reach:g}", "give its reach")
        place = (samples.detach().flatten().double() / (reach or 1.0) + 1) * BINS
        counts = torch.bincount(place.long().clamp(0, 2 * BINS - 1), minlength=2 * BINS).cpu().double()
        return Histogram(counts, reach, low, high)

    def __add__(self, other: Histogram) -> Histogram:
        if other.reach != self.reach:
            raise UsageError(f"histograms reach {self.reach:g} and {other.reach:g}", "give them the same reach")
        counts, low, high = self.counts + other.counts, min(self.low, other.low), max(self.high, other.high)
        return Histogram(counts, self.reach, low, high)


def min_max(data: Tensor | Histogram) -> tuple[float, float]:
    """All of it: the extremes."""
    return (data.low, data.high) if isinstance(data, Histogram) else _extremes(data)


def percentile(data: Tensor | Histogram, share: float = 99.99) -> tuple[float, float]:
    """What holds ``share`` percent of the values, as much cut off below as above; the extremes at 100.

    Raises ``UsageError`` unless 0 < share <= 100.
    """
    if not 0 < share <= 100:
        raise UsageError(f"a percentile of {share:g} is not above 0 and at most 100", "give 99.99, say")
    low, high = min_max(data)
    below, above, weights = _points(data)
    total, tail = weights.cumsum(0), (1 - share / 100) / 2 * weights.sum()
    first = int((total <= tail).sum())  # the first value that is not cut off
    last = int((total < weights.sum() - tail).sum())
    first, last = (min(i, len(weights) - 1) for i in (first, last))
    return max(low, min(0.0, float(below[first]))), min(high, max(0.0, float(above[last])))


def entropy(data: Tensor | Histogram, levels: int = 128) -> tuple[float, float]:
    """The clip of magnitudes that loses least information (Migacz 2017, "8-bit Inference with TensorRT", p. 38 f.).

    Of every count of bins kept, from ``levels`` to all, the one with the least Kullback-Leibler divergence of the
    clipped distribution from the same quantized to ``levels``. It wants many samples, and spikes mislead it, as of a
    flat background. The first bin, where ReLU's exact zeros are, counts as its neighbour does. Raises ``UsageError``
    unless 2 <= levels <= BINS.
    """
    if not 2 <= levels <= BINS:
        raise UsageError(f"{levels} levels are not between 2 and {BINS}", "give 128, say")
    seen = data if isinstance(data, Histogram) else Histogram.of(data)
    magnitudes = (seen.counts[BINS:] + seen.counts[:BINS].flip(0)).numpy()
    magnitudes[0] = magnitudes[1]
    if not magnitudes.any():
        return seen.low, seen.high
    divergences = [_divergence(magnitudes, kept, levels) for kept in range(levels, BINS + 1)]
    clip = (levels + int(np.argmin(divergences)) + 0.5) * seen.reach / BINS
    return max(seen.low, -clip), min(seen.high, clip)


def _divergence(magnitudes: np.ndarray, kept: int, levels: int) -> float:
    """KL(P || Q): P the first ``kept`` bins with what is clipped in the last, Q those bins on ``levels`` levels."""
    inside = magnitudes[:kept]
    p = inside.copy()
    p[-1] += magnitudes[kept:].sum()
    level = np.arange(kept) * levels // kept
    used = inside > 0
    mean = np.bincount(level, inside) / np.maximum(np.bincount(level, used), 1)
    q = np.where(used, mean[level], 0.0)
    if p[-1] > 0 and q[-1] == 0 or not used.any():
        return np.inf  # what is clipped would have no place
    p, q = p[p > 0] / p.sum(), q[p > 0] / q.sum()
    return float((p * np.log(p / q)).sum())


def mse(data: Tensor | Histogram, steps: int = 255, symmetric: bool = False) -> tuple[float, float]:
    """The range with the least mean squared error on a grid of ``steps`` steps, found by line searches.

    Both ends are moved together, then each alone, from the extremes inwards; a move is taken where the error falls, so
    that it is never above that of :func:`min_max` on the data given. A symmetric grid has its zero point at 0 and
    reaches as far below as above, to one step. Raises ``UsageError`` unless steps >= 2.
    """
    if steps < 2:
        raise UsageError(f"a grid of {steps} steps has no room for both signs", "give 255 for 8 bits, 15 for 4")
    low, high = min_max(data)
    if low == high:
        return low, high
    below, above, weights = _points(data)
    values = (below + above) / 2
    powers = torch.stack([weights, weights * values, weights * values.square()])
    sums = F.pad(powers.cumsum(1), (1, 0))
    fractions = torch.tensor(np.geomspace(1, FINEST, TRIED))

    def best(lows: Tensor, highs: Tensor) -> tuple[float, float]:
        errors = _squared_errors(values, sums, lows, highs, steps, symmetric)
        best = int(errors.argmin())  # the first of equals: the widest
        return float(lows[best]), float(highs[best])

    low, high = best(fractions * low, fractions * high)
    for _ in range(0 if symmetric else 2):
        ends = torch.cat([torch.tensor([low]).double(), fractions * min_max(data)[0]])
        low, high = best(ends, torch.full_like(ends, high))
        ends = torch.cat([torch.tensor([high]).double(), fractions * min_max(data)[1]])
        low, high = best(torch.full_like(ends, low), ends)
    return low, high


def _squared_errors(values: Tensor, sums: Tensor, low: Tensor, high: Tensor, steps: int, symmetric: bool) -> Tensor:
    """The summed squared error of sorted ``values`` on each range's grid, (ranges,); zero is exact (Jacob et al. 2018).

    ``sums`` has the running sums of weight, weight * value and weight * value^2, from 0: each level's error is a
    difference of these.
    """
    half = steps // 2
    scale = torch.maximum(-low, high) / half if symmetric else (high - low) / steps
    zero = torch.full_like(scale, steps - half) if symmetric else (-low / scale).round()
    levels = torch.arange(steps + 1) - zero[:, None]
    bounds = torch.searchsorted(values, ((levels[:, 1:] - 0.5) * scale[:, None]).contiguous())
    parts = sums[:, F.pad(F.pad(bounds, (1, 0)), (0, 1), value=len(values))].diff(dim=-1)
    points = levels * scale[:, None]
    return (parts[2] - 2 * points * parts[1] + points.square() * parts[0]).sum(1)


def _extremes(samples: Tensor) -> tuple[float, float]:
    if samples.numel() == 0:
        raise UsageError("there are no samples to take a range from", "give at least one")
    low, high = (float(end) for end in samples.detach().aminmax())
    if not np.isfinite([low, high]).all():
        raise UsageError("a sample is not finite", "leave out what is NaN or infinite")
    return min(low, 0.0), max(high, 0.0)


def _points(data: Tensor | Histogram) -> tuple[Tensor, Tensor, Tensor]:
    """The lower and upper ends of what has a weight, in order, and the weights: bins, or the samples themselves."""
    if isinstance(data, Histogram):
        edges = torch.linspace(-data.reach, data.reach, 2 * BINS + 1, dtype=torch.float64)
        used = data.counts > 0
        return edges[:-1][used], edges[1:][used], data.counts[used]
    values = data.detach().flatten().double().sort().values
    return values, values, torch.ones_like(values)
