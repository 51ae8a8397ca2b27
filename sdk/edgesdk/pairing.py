"""Two artefacts compared round by round: what moves a device between rounds moves both, and cancels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """A latency as a share of another's: the median over ``rounds`` of one interleaved run, with a 95 % interval.

    Of fewer than six rounds the interval is their range. A predicted one has no rounds, and no interval.
    """

    median: float
    low: float
    high: float
    rounds: int


def paired(own: Sequence[float], other: Sequence[float]) -> Ratio:
    """The ratio of ``own`` to ``other``, the figures of the same rounds; rounds that one of them lacks are left out.

    The interval is that of the sign test: it holds whatever the distribution of the ratios (Conover 1999, 3.2).
    """
    ordered = sorted(a / b for a, b in zip(own, other))  # noqa: B905 (a faster one may need more rounds)
    skipped = _skipped(len(ordered))
    return Ratio(median(ordered), ordered[skipped], ordered[-1 - skipped], len(ordered))


def _skipped(count: int) -> int:
    """How many of ``count`` sorted figures may lie beyond either end of the interval of their median."""
    skipped, tail = 0, (1 + count) / 2**count  # of one at an end lying beyond the true median
    while tail <= (1 - CONFIDENCE) / 2:
        skipped += 1
        tail += comb(count, skipped + 1) / 2**count
    return skipped
