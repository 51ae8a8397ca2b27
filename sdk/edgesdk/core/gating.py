"""Whether something got slower than it may: decided from runs that were measured in pairs, one after the other.

Pure numbers: nothing here measures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import atan, cos, exp, hypot, inf, log, pi, sin, sqrt
from statistics import NormalDist, fmean, median, stdev

from edgesdk.core.budget import read_unit
from edgesdk.core.errors import UsageError
from edgesdk.core.pairing import DEVIATIONS, Ratio

NEW, BASELINE = "new", "baseline"
PASSED, FAILED, UNCLEAR, INCOMPARABLE = "passed", "failed", "unclear", "not comparable"
EXIT_CODES = {PASSED: 0, FAILED: 10, UNCLEAR: 11, INCOMPARABLE: 12}

FALSE_ALARMS = 0.01  # of all gates, at most, that end in a wrong answer on one side
LOOKS = (4, 6, 8, 12, 16, 24)
"""After how many runs a gate looks. Each has a share of ``FALSE_ALARMS``, as large as its share of all these runs: the
looks add up to 1 in 100, and the last, which decides what is close, has a third."""
LEVELS = {count: FALSE_ALARMS * count / sum(LOOKS) for count in LOOKS}
MOST_RUNS = max(LOOKS)

LIMIT = re.compile(r"\s*([0-9.]+)\s*(%|ms|us)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Check:
    """One thing that was compared: its ``verdict``, what was allowed, and in words what was measured."""

    name: str
    verdict: str
    limit: str
    measured: str


@dataclass(frozen=True)
class Limit:
    """By how much a latency may grow: a ``share`` of the baseline's, or ``ms``; one of the two."""

    share: float | None = None
    ms: float | None = None

    @classmethod
    def parse(cls, text: str) -> Limit:
        """``3%``, ``0.2ms`` or ``50us``. Raises ``UsageError``."""
        match = LIMIT.fullmatch(read_unit(text))
        try:
            number = float(match[1]) if match else -1.0
        except ValueError:
            number = -1.0
        if match is None or not 0 <= number < inf:
            raise UsageError(f"--max-slower is {text!r}", "write 3% of the baseline's latency, or 0.2ms")
        unit = match[2].lower()
        return cls(share=number / 100) if unit == "%" else cls(ms=number / (1000 if unit == "us" else 1))

    def __str__(self) -> str:
        return f"{100 * self.share:g}%" if self.share is not None else f"{self.ms:g}ms"


@dataclass(frozen=True)
class Taken:
    """What the baseline took in one run: ``ms``, and the standard ``error`` of its logarithm."""

    ms: float
    error: float


@dataclass(frozen=True)
class Slowdown:
    """A latency beside the baseline's over several ``runs``: as a ``ratio``, and as ``slower_ms`` beyond it.

    ``low`` and ``high`` are the ends of an interval that holds the true ratio in all but 1 of 100 gates on either side,
    however often a gate looked before it decided; ``low_ms`` and ``high_ms`` are those of the difference. The baseline
    took ``baseline_ms``, the median over the runs.
    """

    ratio: float
    low: float
    high: float
    runs: int
    baseline_ms: float
    slower_ms: float
    low_ms: float
    high_ms: float


def slowdown(runs: Sequence[Ratio], baselines: Sequence[Taken], among: int = 1) -> Slowdown:
    """What ``runs``, at least two, say together, the baseline having taken ``baselines`` in them.

    The ratio is the mean of the runs' logarithms, with Student's interval between runs, and never less than what is
    uncertain within each. The difference in ms is the mean of the runs' own, that of each being its baseline times what
    its ratio is beyond 1: so it is paired, and what moves the baseline from run to run is in its interval, which is
    Student's, too. What is uncertain of the baseline within a run comes on top, undiminished by their number: a device
    that was disturbed all the time is off in all of them alike.

    Where it is one of several, ``among`` so many, each has a share of the wrong answers, so that together they give no
    more than one alone (Bonferroni).
    """
    look = max((count for count in LOOKS if count <= len(runs)), default=min(LOOKS))
    level = LEVELS[look] / among
    deviations = student(level, look - 1), NormalDist().inv_cdf(1 - level)
    errors = [log(run.high / run.low) / 2 / DEVIATIONS for run in runs]
    middle, half = _mean([log(run.median) for run in runs], errors, deviations)
    pairs = list(zip(runs, baselines, strict=True))
    slower, half_ms = _mean(
        [base.ms * (run.median - 1) for run, base in pairs],
        [base.ms * run.median * error for (run, base), error in zip(pairs, errors, strict=True)],
        deviations,
    )
    half_ms = hypot(half_ms, deviations[1] * slower * sqrt(fmean([base.error**2 for base in baselines])))
    return Slowdown(
        exp(middle), exp(middle - half), exp(middle + half), len(runs), median([base.ms for base in baselines]),
        slower, slower - half_ms, slower + half_ms,
    )  # fmt: skip


def _mean(values: Sequence[float], errors: Sequence[float], deviations: tuple[float, float]) -> tuple[float, float]:
    """The mean, and half of its interval: so many ``deviations`` between values, and so many of the ``errors`` within
    each, whichever is more."""
    between, within = deviations
    spread = max(between * stdev(values), within * sqrt(fmean([error**2 for error in errors])))
    return fmean(values), spread / sqrt(len(values))


@cache
def student(level: float, degrees: int) -> float:
    """Which value Student's t, of an odd number of ``degrees``, is above with a probability of ``level``.

    By halving, from its distribution in closed form (Abramowitz and Stegun 1964, equation 26.7.3).
    """

    def above(value: float) -> float:
        angle = atan(value / sqrt(degrees))
        term, total = cos(angle), 0.0
        for step in range(3, degrees + 1, 2):
            total += term
            term *= cos(angle) ** 2 * (step - 1) / step
        return 0.5 - (angle + sin(angle) * total) / pi

    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > level else (low, middle)
    return high


def decide(slowdown: Slowdown, limit: Limit) -> str:
    """``passed`` or ``failed`` where the interval lies on one side of the limit, else ``unclear``."""
    if limit.share is not None:
        low, high, most = slowdown.low, slowdown.high, 1 + limit.share
    else:
        low, high, most = slowdown.low_ms, slowdown.high_ms, limit.ms or 0.0
    return FAILED if low > most else PASSED if high <= most else UNCLEAR


def is_looked_at(runs: int) -> bool:
    """Whether a gate may decide after so many ``runs``: each look more would make a wrong answer likelier."""
    return runs in LOOKS
