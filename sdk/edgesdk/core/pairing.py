"""Two artifacts compared round by round: what moves a device between rounds moves both, and cancels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, hypot, log
from statistics import NormalDist

from edgesdk_targets.agent.undisturbed import settled

DEVIATIONS = NormalDist().inv_cdf(0.975)  # either side, for 95 %


@dataclass(frozen=True)
class Ratio:
    """A latency as a share of another's: the median over ``rounds`` of one interleaved run, with a 95 % interval.

    Rounds in which the device was disturbed count less. A predicted one has no rounds, and no interval.
    """

    median: float
    low: float
    high: float
    rounds: int


def paired(own: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], beyond: float = 0.0) -> Ratio:
    """The ratio of ``own`` to ``other``: what each took in the same rounds, ``ms`` with its ``error``.

    Rounds that one of them lacks are left out. ``beyond`` is the standard error that all rounds have in common, as
    where the device was never undisturbed.
    """
    rounds = list(zip(own, other))  # noqa: B905 (one may have needed more)
    ratios, errors = [log(a["ms"] / b["ms"]) for a, b in rounds], [hypot(a["error"], b["error"]) for a, b in rounds]
    middle, error = settled(ratios, errors)
    low, high = (exp(middle + sign * DEVIATIONS * hypot(error, beyond)) for sign in (-1, 1))
    return Ratio(exp(middle), low, high, len(rounds))
