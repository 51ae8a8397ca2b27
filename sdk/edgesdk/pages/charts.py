"""Figures as places on a chart, in per cent of its width or height: a page of any width can hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import numpy as np

MARGIN = 0.06  # of an axis, beyond the largest figure
TICKS = 5  # at most, or one more
BUCKETS, BINS = 240, 60  # of samples: over the run, and by their latency
SHOWN = 0.99  # of the samples are on a chart, unless they
WIDE = 5.0  # times as far from the median as most are from each other; how many are beyond it is said


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``, of which a chart's width or height is 100 per cent; by ratios where ``logarithmic``."""

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def over(cls, values: Iterable[float | None]) -> Axis:
        """An axis from zero that holds all ``values`` that are known."""
        known = [0.0, *(value for value in values if value is not None)]
        low, high = min(known), max(known)
        return cls(low, high + MARGIN * (high - low) if high > low else 1.0)

    @classmethod
    def of_ratios(cls, values: Iterable[float]) -> Axis:
        """A logarithmic axis that holds all ``values`` above zero."""
        known = [value for value in values if value > 0] or [1.0]
        room = (max(known) / min(known)) ** MARGIN * (1 + MARGIN)
        return cls(min(known) / room, max(known) * room, True)

    def place(self, value: float) -> float:
        """Where ``value`` is; at an end where it is beyond that."""
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = log10(low), log10(high), log10(max(value, low))
        return round(min(max(100 * (at - low) / (high - low), 0.0), 100.0), 2)

    @property
    def ticks(self) -> tuple[float, ...]:
        """Round figures along it: of 1, 2 and 5, and these times powers of ten."""
        if self.logarithmic:
            return self._ratio_ticks()
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** floor(log10(rough))
        step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return tuple(float(f"{number * step:.10g}") for number in range(first, last + 1))

    def _ratio_ticks(self) -> tuple[float, ...]:
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        factors = (1, 2, 5) if len(decades) <= 4 else (1,)
        every = (float(f"{factor * 10.0**power:.10g}") for power in decades for factor in factors)
        return tuple(tick for tick in every if self.low <= tick <= self.high)


@dataclass(frozen=True)
class Samples:
    """Latencies of one file: over the run in their order, and how many took how long.

    ``median`` and ``band`` (the tenth to the ninetieth percentile) are points of a line and of a polygon, by the
    percentages of ``axis`` from below; ``bins`` heights in per cent of the tallest; ``marks`` percentiles with their
    places, where they have one. ``beyond`` are those that would make the rest flat, up to ``longest_ms``.
    """

    axis: Axis
    count: int
    median: str
    band: str
    bins: tuple[float, ...]
    marks: tuple[tuple[str, float, float | None], ...]
    beyond: int
    longest_ms: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Samples | None:
        """The chart of ``samples_ms``; ``None`` where there are too few."""
        if len(samples_ms) < 2:
            return None
        every = np.asarray(samples_ms, dtype=float)
        low = float(every.min())
        tenth, median, ninetieth, most = (float(np.quantile(every, share)) for share in (0.1, 0.5, 0.9, SHOWN))
        high = max(min(most, median + WIDE * (ninetieth - tenth)), ninetieth, low * (1 + MARGIN), 1e-9)
        axis = Axis(low - MARGIN * (high - low), high)
        parts = np.array_split(every, min(BUCKETS, len(every)))
        along = [(index + 0.5) / len(parts) * 100 for index in range(len(parts))]
        lows, middles, highs = (
            [axis.place(float(np.quantile(part, share))) for part in parts] for share in (0.1, 0.5, 0.9)
        )
        band = [*zip(along, highs, strict=True), *reversed(list(zip(along, lows, strict=True)))]
        counts, _ = np.histogram(every, BINS, (axis.low, axis.high))
        marks = tuple((name, at, axis.place(at) if at <= high else None) for name, at in _percentiles(every))
        return cls(
            axis, len(every), _points(zip(along, middles, strict=True)), _points(band),
            tuple(round(100 * float(count) / max(int(counts.max()), 1), 1) for count in counts), marks,
            int((every > axis.high).sum()), float(every.max()),
        )  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """The loss of a training over its epochs: ``lines`` has the points of each part of it, by its name."""

    losses: Axis
    epochs: Axis
    lines: tuple[tuple[str, str], ...]
    first: float
    last: float

    @classmethod
    def of(cls, steps: Sequence[Mapping[str, Any]]) -> Curve | None:
        """The chart of those of ``steps`` that have a ``loss`` at an ``epoch``; ``None`` for fewer than two."""
        points = [step for step in steps if step.get("loss") is not None and step.get("epoch") is not None]
        if len(points) < 2:
            return None
        losses, epochs = (Axis.over(step[name] for step in points) for name in ("loss", "epoch"))
        lines = {str(step.get("part")): "" for step in points}
        for part in lines:
            own = [(epochs.place(s["epoch"]), losses.place(s["loss"])) for s in points if str(s.get("part")) == part]
            lines[part] = _points(own)
        return cls(losses, epochs, tuple(lines.items()), float(points[0]["loss"]), float(points[-1]["loss"]))


def _percentiles(every: np.ndarray) -> list[tuple[str, float]]:
    """Those that so many samples carry: five of them lie beyond each."""
    carried = [p for p in (50, 90, 99) if len(every) * (100 - p) / 100 >= 5]
    return [(f"p{p}", float(np.quantile(every, p / 100))) for p in carried]


def _points(pairs: Iterable[tuple[float, float]]) -> str:
    """Points as SVG has them, whose heights count from above."""
    return " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in pairs)
