"""Whether something got slower than it may: decided from runs that were measured in pairs, one after the other.

Pure numbers: nothing here measures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import atan, cos, exp, expm1, inf, log, pi, sin, sqrt
from statistics import NormalDist, fmean, stdev

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
        match = LIMIT.fullmatch(text)
        try:
            number = float(match[1]) if match else -1.0
        except ValueError:
            number = -1.0
        if match is None or not 0 <= number < inf:
            raise UsageError(f"--max-slower is {text!r}", "write 3% of the baseline's latency, or 0.2ms")
        unit = match[2].lower()
        return cls(share=number / 100) if unit == "%" else cls(ms=number / (1000 if unit == "us" else 1))

    def ratio(self, baseline_ms: float) -> float:
        """The largest ratio to a baseline of so many ms."""
        return 1 + (self.share if self.share is not None else (self.ms or 0.0) / baseline_ms)

    def __str__(self) -> str:
        return f"{100 * self.share:g}%" if self.share is not None else f"{self.ms:g}ms"


@dataclass(frozen=True)
class Slowdown:
    """A latency as a ``ratio`` to the baseline's over several ``runs``, and the same as ms beyond it.

    ``low`` and ``high`` are the ends of an interval that holds the true ratio in all but 1 of 100 gates on either side,
    however often a gate looked before it decided.
    """

    ratio: float
    low: float
    high: float
    runs: int
    baseline_ms: float
    slower_ms: float


def slowdown(runs: Sequence[Ratio], baseline_ms: float, among: int = 1) -> Slowdown:
    """What ``runs``, at least two, say together: the mean of their logarithms, with Student's interval between runs,
    and never less than what is uncertain within each.

    Where it is one of several, ``among`` so many, each has a share of the wrong answers, so that together they give no
    more than one alone (Bonferroni).
    """
    logs = [log(run.median) for run in runs]
    within = fmean([(log(run.high / run.low) / 2 / DEVIATIONS) ** 2 for run in runs])
    look = max((count for count in LOOKS if count <= len(runs)), default=min(LOOKS))
    level = LEVELS[look] / among
    normal = NormalDist().inv_cdf(1 - level)
    half = max(student(level, look - 1) * stdev(logs), normal * sqrt(within)) / sqrt(len(runs))
    middle = fmean(logs)
    return Slowdown(
        exp(middle), exp(middle - half), exp(middle + half), len(runs), baseline_ms, expm1(middle) * baseline_ms
    )


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
    most = limit.ratio(slowdown.baseline_ms)
    return FAILED if slowdown.low > most else PASSED if slowdown.high <= most else UNCLEAR


def is_looked_at(runs: int) -> bool:
    """Whether a gate may decide after so many ``runs``: each look more would make a wrong answer likelier."""
    return runs in LOOKS
