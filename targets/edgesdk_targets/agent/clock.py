"""The inner timing loop and what is told about its samples. Nothing here knows a runtime.

A ``run`` that is one of many in a process of another program has ``times(count, seconds)``: the nanoseconds of each of
at least so many runs over about so long, as that program timed them, after a warm-up of its own.
"""

from __future__ import annotations

import contextlib
import gc
import math
from itertools import repeat
from time import perf_counter_ns
from typing import Callable, Iterator, MutableSequence, Sequence

PERCENTILES = (50, 90, 95, 99)
SUPPORT = 5
CALIBRATION_RUNS = 3
LOW = 0.02  # the quantile that a visit goes by: of a few runs the least


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage now, and not while the block runs."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def time_runs(run: Callable[[], object], samples: MutableSequence[int], count: int, stride: int = 1) -> float:
    """Append the nanoseconds of ``count`` single runs to ``samples``; with ``stride`` k, of every k-th of k x count.

    Returns the seconds that all of them took together.
    """
    if hasattr(run, "times"):
        taken = run.times(count * stride)[: count * stride]
        samples.extend(taken[stride - 1 :: stride])
        return sum(taken) / 1e9
    clock, append, untimed = perf_counter_ns, samples.append, stride - 1
    begin = clock()
    if untimed:
        for _ in repeat(None, count):
            for _ in repeat(None, untimed):
                run()
            start = clock()
            run()
            append(clock() - start)
    else:
        for _ in repeat(None, count):
            start = clock()
            run()
            append(clock() - start)
    return (clock() - begin) / 1e9


def run_for(run: Callable[[], object], seconds: float, least: int) -> list[int]:
    """Run at least ``least`` times and for ``seconds``. Returns the nanoseconds of each run."""
    if hasattr(run, "times"):
        return run.times(least, seconds)
    samples: list[int] = []
    end = perf_counter_ns() + int(seconds * 1e9)
    while len(samples) < least or perf_counter_ns() < end:
        time_runs(run, samples, 1)
    return samples


def settle(run: Callable[[], object], seconds: float) -> None:
    """Run for ``seconds``, once at least, so that caches hold what is timed next. A process of its own needs none."""
    if not hasattr(run, "times"):
        run_for(run, seconds, 1)


def runs_in(run: Callable[[], object], seconds: float, least: int, most: int) -> int:
    """How many runs take about ``seconds``, within limits."""
    samples: list[int] = []
    time_runs(run, samples, CALIBRATION_RUNS)
    return min(most, max(least, math.ceil(seconds * 1e9 / min(samples))))


def visit(run: Callable[[], object], count: int) -> float:
    """A low quantile of ``count`` runs in ns, after one that refills the caches.

    What disturbs a run only ever makes it longer: the quantile keeps clear of that without hanging on one lucky sample
    as the minimum would.
    """
    run()
    samples: list[int] = []
    time_runs(run, samples, count)
    samples.sort()
    return quantile(samples, LOW)


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """The quantile of sorted numbers, interpolated linearly (Hyndman and Fan 1996, definition 7)."""
    position = fraction * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def statistics(samples: Sequence[float]) -> dict[str, float | None]:
    """``p50, p90, p95, p99, min, max, mean, std, count`` of ``samples``, in their unit.

    A percentile that lacks 5 samples on either side is ``None``: p50 takes 10 samples, p90 50, p95 100, p99 500. The
    standard deviation is that of a sample (n - 1), ``None`` for one alone. Raises ``ValueError`` for no samples.
    """
    ordered = sorted(samples)
    count = len(ordered)
    if not count:
        raise ValueError("no samples")
    mean = math.fsum(ordered) / count
    squares = math.fsum((value - mean) ** 2 for value in ordered)
    result: dict[str, float | None] = {
        f"p{percent}": quantile(ordered, percent / 100) if _carries(count, percent) else None for percent in PERCENTILES
    }
    result.update(min=ordered[0], max=ordered[-1], mean=mean, count=count)
    result["std"] = math.sqrt(squares / (count - 1)) if count > 1 else None
    return result


def least_count(percent: float) -> int:
    """How many samples a percentile takes to have 5 on either side."""
    return math.ceil(100 * SUPPORT / min(percent, 100 - percent))


def _carries(count: int, percent: int) -> bool:
    return count >= least_count(percent)
