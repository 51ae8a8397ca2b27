"""By how much a score fell from one model to another, with what of it may be chance of the samples.

Pure numbers: nothing here judges a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

FALSE_ALARMS = 0.01  # of all comparisons, at most, whose interval lies beyond the truth on one side
DEVIATIONS = NormalDist().inv_cdf(1 - FALSE_ALARMS)
SAME, PAIRED, UNPAIRED, ALONE = "the same file", "paired by sample", "unpaired", "without its sampling error"


@dataclass(frozen=True)
class Drop:
    """By how many ``points`` a score fell, and the interval of that: ``low`` to ``high``.

    The true drop is above ``high``, or below ``low``, in 1 of 100 comparisons. ``method`` is ``paired by sample`` where
    it is known of each of ``samples`` whether the two were right (the adjusted interval of Bonett and Price 2012 for a
    difference of paired proportions), ``unpaired`` where only their number is (Agresti and Caffo 2000, for two
    binomials), ``the same file`` where there is nothing to compare, and ``without its sampling error`` for a metric
    that has none that is known: then both ends are the drop.
    """

    points: float
    low: float
    high: float
    samples: int | None
    method: str


@dataclass(frozen=True)
class Decisions:
    """Which samples a model answered rightly: a bit for each of so many ``samples``, as hexadecimal digits.

    ``labels`` is a digest of what they were judged against, in their order: by it two models were asked the same.
    """

    samples: int
    right: str
    labels: str

    @classmethod
    def of(cls, right: list[bool], labels: str) -> Decisions:
        """Of one answer each, the first sample's being the highest bit."""
        bits = "".join("1" if each else "0" for each in right)
        return cls(len(right), f"{int(bits or '0', 2):0{(len(right) + 3) // 4}x}", labels)

    def count_lost(self, other: Decisions) -> int:
        """How many samples this one answers rightly, and the ``other`` does not."""
        return (int(self.right, 16) & ~int(other.right, 16)).bit_count()


def paired_drop(new: Decisions, old: Decisions) -> Drop:
    """The drop from ``old`` to ``new``, both asked the same samples: those that they answer alike say nothing."""
    middle, deviation = _differ(new, old)
    return _drop((old.count_lost(new) - new.count_lost(old)) / old.samples, middle, deviation, old.samples, PAIRED)


def paired_error(new: Decisions, old: Decisions) -> float:
    """The standard error, in points, of the difference of two scores on the same samples (as :func:`paired_drop`)."""
    return 100 * _differ(new, old)[1]


def _differ(new: Decisions, old: Decisions) -> tuple[float, float]:
    """By which share ``new`` is right less often, adjusted as Bonett and Price have it, and its standard deviation."""
    lost, gained, count = old.count_lost(new), new.count_lost(old), old.samples
    down, up = (lost + 1) / (count + 2), (gained + 1) / (count + 2)
    return down - up, sqrt((down + up - (down - up) ** 2) / (count + 2))


def unpaired_drop(new: float, old: float, samples: int) -> Drop:
    """The drop from a score of ``old`` per cent to one of ``new``, each of so many samples: as if they were others.

    A score that is the mean of figures from 0 to 100, one for each sample, varies at most as much as one of decisions.
    """
    shares = [(score / 100 * samples + 1) / (samples + 2) for score in (old, new)]
    deviation = sqrt(sum(share * (1 - share) / (samples + 2) for share in shares))
    return _drop((old - new) / 100, shares[0] - shares[1], deviation, samples, UNPAIRED)


def _drop(share: float, middle: float, deviation: float, samples: int, method: str) -> Drop:
    low, high = middle - DEVIATIONS * deviation, middle + DEVIATIONS * deviation
    return Drop(100 * share, 100 * min(low, share), 100 * max(high, share), samples, method)
