"""Latencies of one file: over the run, with what the device was like, and how many took how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgesdk.core.budget import MEASURED
from edgesdk.pages.charts import INK, Paint, Points, draw, guide, line, mark, tell_axes
from edgesdk.pages.render import Document, count, milliseconds

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

PARTS, BINS = 200, 60  # of samples: over the run, and by their latency
MARGIN = 0.06  # of the chart, beyond the largest figure
SHOWN = 0.99  # of the samples are on a chart, unless they
ENDS = (0, -1)
WIDE = 5.0  # times as far from the median as most are from each other; how many are beyond it is said


@dataclass(frozen=True)
class Samples:
    """The charts of some samples; ``beyond`` are those that would make the rest flat, up to ``longest_ms``."""

    count: int
    marks: tuple[tuple[str, float], ...]
    beyond: int
    longest_ms: float
    over_run: Markup
    by_latency: Markup

    @classmethod
    def of(cls, name: str, samples_ms: Sequence[float], conditions: Document | None, file: str) -> Samples | None:
        """The charts of ``samples_ms`` of a ``file``; ``None`` where there are too few."""
        if len(samples_ms) < 2:
            return None
        every = np.asarray(samples_ms, dtype=float)
        low, high = _bounds(every)
        marks = _percentiles(every)
        states: list[tuple[Paint, float]] = [
            (partial(_draw_state, unit=unit, known=known, runs=len(every)), 54.0)
            for unit, known in _list_states(conditions, len(every)).items()
        ]
        return cls(
            len(every), marks, int((every > high).sum()), float(every.max()),
            draw(f"{name}-run", f"Latency of {len(every)} runs of {file} in their order",
                 [*states, (lambda axes: _draw_run(axes, every, low, high), 170.0)]),
            draw(f"{name}-bins", f"How many runs of {file} took how long",
                 [(lambda axes: _draw_bins(axes, every, low, high, marks), 170.0 + 74 * len(states))]),
        )  # fmt: skip


def _bounds(every: np.ndarray) -> tuple[float, float]:
    """From where to where the charts go."""
    low = float(every.min())
    tenth, median, ninetieth, most = (float(np.quantile(every, share)) for share in (0.1, 0.5, 0.9, SHOWN))
    high = max(min(most, median + WIDE * (ninetieth - tenth)), ninetieth, low * (1 + MARGIN), 1e-9)
    return low - MARGIN * (high - low), high + MARGIN * (high - low)


def _draw_run(axes: Axes, every: np.ndarray, low: float, high: float) -> None:
    parts = np.array_split(every, min(PARTS, len(every)))
    along = np.cumsum([len(part) for part in parts]) - [len(part) / 2 for part in parts]
    lows, middles, highs = (np.array([np.quantile(part, share) for part in parts]) for share in (0.1, 0.5, 0.9))
    axes.fill_between(along, lows, highs, color=INK["deployed"], alpha=0.25, linewidth=0)
    line(axes, list(zip(along, middles, strict=True)), MEASURED)
    axes.set(xlim=(0, len(every)), ylim=(low, high))
    tell_axes(axes, ("runs", count), ("", milliseconds))


def _draw_bins(axes: Axes, every: np.ndarray, low: float, high: float, marks: Sequence[tuple[str, float]]) -> None:
    axes.hist(every, bins=BINS, range=(low, high), color=INK["deployed"], rwidth=0.9, gid="as bins")
    axes.set_xlim(low, high)
    shown = [(name, at) for name, at in marks if at <= high]
    for place, (name, at) in enumerate(shown):
        guide(axes, across=at)
        side = "right" if place == 0 and len(shown) > 1 else "left" if place + 1 == len(shown) else "center"
        axes.annotate(name, (at, 1), (0, 4), ("data", "axes fraction"), "offset points", ha=side)
    tell_axes(axes, ("", milliseconds), ("runs", count))


def _list_states(conditions: Document | None, runs: int) -> dict[str, Points]:
    """The hottest sensor and the slowest core by the runs that were over: before, in between and after, as far as they
    are known."""
    told = conditions or {}
    sides = [told.get(side) or {} for side in ("before", "after")]
    states: dict[str, Points] = {}
    for unit, name, value, extreme in (("°C", "temperatures", "celsius", max), ("MHz", "frequencies", "mhz", min)):
        ends = [[each[value] for each in side.get(name) or () if each.get(value) is not None] for side in sides]
        if all(ends):
            between = [(each["runs"], each[value]) for each in told.get("during") or () if each[value] is not None]
            states[unit] = [(0, extreme(ends[0])), *between, (runs, extreme(ends[1]))]
    return states


def _draw_state(axes: Axes, unit: str, known: Points, runs: int) -> None:
    """A line where it was looked at while the run lasted, and else no more than what was before and after."""
    if len(known) > len(ENDS):
        line(axes, known, MEASURED, "soft", linewidth=1)
    ends = [known[place] for place in ENDS]
    mark(axes, ends, MEASURED, "soft", markersize=6)
    values = [value for _, value in known]
    middle, half = (max(values) + min(values)) / 2, max((max(values) - min(values)) / 2, 0.02 * max(values), 0.5)
    axes.set(xlim=(0, runs), ylim=(middle - 1.6 * half, middle + 1.6 * half))
    tell_axes(axes, ("", count), ("", lambda value: f"{value:.4g} {unit}"))
    axes.set(xticklabels=[], yticks=sorted({min(values), max(values)}))


def _percentiles(every: np.ndarray) -> tuple[tuple[str, float], ...]:
    """Those that so many samples carry: five of them lie beyond each."""
    carried = [p for p in (50, 90, 99) if len(every) * (100 - p) / 100 >= 5]
    return tuple((f"p{p}", float(np.quantile(every, p / 100))) for p in carried)
