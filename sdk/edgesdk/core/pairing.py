"""Two artifacts compared round by round: what moves a device between rounds moves both, and cancels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, hypot, log
from statistics import NormalDist
from typing import NamedTuple

from edgesdk_targets.agent.undisturbed import settled

APART = 0.05  # log: by how much a ratio and the quotient of two latencies may differ without a word
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

    def explain(self, own: Alone, other: Alone) -> str | None:
        """Why it is not the quotient of what either takes by itself, in a sentence; ``None`` where it is, but for
        noise."""
        if not self.rounds or min(own.ms, other.ms, self.median) <= 0:  # a predicted one, or a clock that stood still
            return None
        quotient = own.ms / other.ms
        if abs(log(quotient / self.median)) <= APART:
            return None
        rounds = f"{self.rounds} rounds in which both ran in turns (95 %: {self.low:.3g} to {self.high:.3g})"
        if own.disturbed is None or other.disturbed is None:
            state = "the median of all its runs, whatever disturbed them"
        else:
            shares = (f"{100 * each.disturbed:.0f} % of {each.name}'s" for each in (own, other) if each.disturbed)
            state = f"what it takes undisturbed, told from all its runs ({' and '.join(shares) or 'none'} slowed down)"
        return (
            f"ratio and milliseconds do not agree: {self.median:.3g} is the median of {rounds}; the milliseconds of "
            f"each are {state}, and would make {quotient:.3g}. What disturbs a device cancels in the ratio: go by "
            "that, or measure again when the device is quieter"
        )


class Alone(NamedTuple):
    """What one of two takes by itself, and the share of its runs in which the device was slowed down, where known."""

    name: str
    ms: float
    disturbed: float | None


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
