"""What a model takes on a device that nothing disturbs, told from visits between visits of reference models.

A processor's speed moves: with heat, with its clock, and with neighbours on its other threads, within milliseconds and
for minutes, often unseen by the system. A few tiny models that never change tell how fast it is at the moment. Their
times lie in modes, of which the lowest is the undisturbed state: what disturbs a run only ever makes it longer.
Nothing here knows a runtime or a clock: numbers in, numbers out.
"""

from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Sequence, Tuple

TOLERANCE = 0.08  # log: the lowest mode is a few per cent wide, and disturbed ones begin 15 % above it
LOWEST = 0.02  # the share of visits below which the lowest mode begins
NOISE = 0.02  # log: of a visit that nothing disturbed
SLOPE = 0.3  # by how much of the references' slowdown another model's may differ: kernels are not slowed down alike
TO_DEVIATION = 1.4826  # of the median absolute deviation, for what is distributed normally
OF_MEDIAN = 1.2533  # the standard error of a median over that of a mean


class Visit(NamedTuple):
    """What one visit of a model took, and what the references took right before and after, in one unit of time."""

    own: float
    before: float
    after: float


def undisturbed(levels: Sequence[float]) -> float:
    """The lowest mode of what the references took: the median of those that lie within its width."""
    ordered = sorted(levels)
    lowest = ordered[int(LOWEST * (len(ordered) - 1))]
    return middle([level for level in ordered if level <= lowest * math.exp(TOLERANCE)])


def disturbance(visit: Visit, fast: float) -> float:
    """By how much, as a logarithm, the device was slower around a visit than undisturbed, where it is ``fast``."""
    return max(0.0, math.log(max(visit.before, visit.after) / fast))


def disturbed(visits: Sequence[Visit], fast: float) -> float:
    """The share of visits around which the device was disturbed."""
    return sum(disturbance(visit, fast) > TOLERANCE for visit in visits) / len(visits)


def estimate(visits: Sequence[Visit], fast: float) -> Dict[str, float]:
    """What a model takes as a ``ratio`` to what the references do, and how sure that is.

    A visit's own ratio is that to the geometric mean of the references on either side of it. It counts the less the
    slower the device was, as models of another kind are slowed down otherwise. ``error`` is the standard error of the
    logarithm of the ratio, as the visits scatter; ``level`` what the references took around the visit that was
    disturbed least. The rest of what is uncertain is :func:`beyond` that.
    """
    ratios = [math.log(visit.own) - (math.log(visit.before) + math.log(visit.after)) / 2 for visit in visits]
    slower = [disturbance(visit, fast) for visit in visits]
    middle_, error = settled(ratios, [math.hypot(NOISE, SLOPE * by) for by in slower])
    best = min(visits, key=lambda visit: max(visit.before, visit.after))
    return {"ratio": math.exp(middle_), "error": error, "level": math.sqrt(best.before * best.after)}


def beyond(level: float, fast: float) -> float:
    """By how much, as a logarithm, a ratio may be off beyond its error where no visit was less disturbed."""
    return SLOPE * max(0.0, math.log(level / fast))


def settled(values: Sequence[float], deviations: Sequence[float]) -> Tuple[float, float]:
    """The median of ``values``, each weighted by how sure it is, and its standard error.

    The error is what the deviations say or what the values show, whichever is more.
    """
    weights = [1 / deviation**2 for deviation in deviations]
    centre = _weighted_median(values, weights)
    spread = TO_DEVIATION * _weighted_median([abs(value - centre) for value in values], weights)
    total = sum(weights)
    effective = total**2 / sum(weight**2 for weight in weights)
    return centre, OF_MEDIAN * max(1 / math.sqrt(total), spread / math.sqrt(effective))


def middle(values: Sequence[float]) -> float:
    """The median."""
    return _weighted_median(values, [1.0] * len(values))


def _weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The value with half of the weight on either side; between two where the half ends just there."""
    ordered: List[Tuple[float, float]] = sorted(zip(values, weights))
    half, below = sum(weights) / 2, 0.0
    for index, (value, weight) in enumerate(ordered):
        below += weight
        if below > half * (1 + 1e-12):
            return value
        if below >= half * (1 - 1e-12):
            return (value + ordered[min(index + 1, len(ordered) - 1)][0]) / 2
    raise ValueError("no values")
