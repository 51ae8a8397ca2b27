"""Prices from a device that was never seen undisturbed, set right by what witnesses took meanwhile.

The references tell by how much a device is slowed down; kernels of one kind are slowed down by more than that, of
another by less. Witnesses are operators whose price is sure: timed once more beside those whose price is doubtful, they
tell by how much, kind by kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, hypot, inf, log, sqrt
from statistics import fmean

from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline
from edgesdk.price.table import CALL, LEAST_ERROR, Price, Table
from edgesdk_targets.agent.undisturbed import SLOPE, TOLERANCE

WITNESSES = 6  # of a kind
ALIKE = 0.1  # as ``Steepness.share``: what kernels of one kind are thought to differ by before any tell
Kind = tuple[str, str]  # of kernels: the operator's and its precision


@dataclass(frozen=True)
class Steepness:
    """By how much a kernel is slowed down beyond the references, as a ``share`` of their slowdown's logarithm."""

    share: float
    error: float


UNKNOWN = Steepness(0.0, SLOPE)


def choose_witnesses(table: Table, doubtful: Iterable[Operator], among: Iterable[Operator]) -> list[Operator]:
    """Of the probes ``among``, a few of each kind that has ``doubtful`` ones, of all sizes: their prices are sure."""
    sure: dict[Kind, list[Operator]] = {_kind(probe): [] for probe in doubtful}
    for probe in among:
        if _kind(probe) in sure and all(map(table.is_sure, _parts(probe))):
            sure[_kind(probe)].append(probe)
    sized = (sorted(probes, key=table.probe_ms, reverse=True) for probes in sure.values())
    return [probe for probes in sized for probe in probes[:: -(-len(probes) // WITNESSES) or 1]]


def with_baselines(probes: Iterable[Operator]) -> list[Operator]:
    """``probes``, each with what its operator's time is a difference to."""
    return list({part.key: part for probe in probes for part in _parts(probe)}.values())


def learn_steepness(table: Table, probes: Iterable[Operator], timed: Mapping[str, Price]) -> dict[Kind, Steepness]:
    """What those of ``probes`` whose price is sure tell of their kinds; ``timed`` is what they took just now."""
    told: dict[Kind, list[Steepness]] = {}
    for probe in probes:
        if not all(table.is_sure(part) and part.key in timed for part in _parts(probe)):
            continue
        now, before = _difference(probe, timed), _difference(probe, table.probes)
        slower = _slowdown(table, now)
        if slower > TOLERANCE and now.ratio > 0 and before.ratio > 0:
            share, error = log(now.ratio / before.ratio), hypot(now.error, before.error)
            told.setdefault(_kind(probe), []).append(Steepness(share / slower, error / slower))
    return {kind: _pool(witnesses) for kind, witnesses in told.items()}


def set_right(
    table: Table, probes: Iterable[Operator], timed: Mapping[str, Price], steepness: Mapping[Kind, Steepness]
) -> dict[str, Price]:
    """What those of ``probes`` take undisturbed whose price is doubtful, going by the ``steepness`` of their kinds.

    An operator is set right by itself, and so is its baseline; one of a kind without witnesses stays as it is.
    """
    right: dict[str, Price] = {}
    for probe in sorted(probes, key=lambda probe: probe.probed):  # baselines first
        kind, (_, *rest) = steepness.get(_kind(probe)), _parts(probe)
        if kind is None or table.is_sure(probe) or not all(part.key in timed for part in _parts(probe)):
            continue
        now = _difference(probe, timed)
        if now.ratio > 0 and all(part.key in right or table.is_sure(part) for part in rest):
            slower = _slowdown(table, now)
            level = min(now.level_ms, table.reference_ms or now.level_ms)
            own = Price(now.ratio * exp(-kind.share * slower), hypot(now.error, kind.error * slower), level)
            right[probe.key] = _combine(own, [right.get(part.key, table.probes[part.key]) for part in rest], 1)
    return right


def tell_excess(
    table: Table, operators: Iterable[Operator], steepness: Mapping[Kind, Steepness], times: float
) -> Steepness:
    """By how much, as a logarithm, a network of ``operators`` is slowed down beyond the references.

    These are ``times`` as slow as undisturbed. Its parts count by what they take; a kind that is not known may be
    slowed down otherwise by ``SLOPE``.
    """
    slower = max(0.0, log(times))
    parts = [(CALL, table.call_ms or 0.0), *((op, table.latency_ms(op)) for op in operators if table.is_timed(op))]
    total = sum(ms for _, ms in parts)
    if not total:
        return Steepness(0.0, SLOPE * slower)
    known = [(steepness.get(_kind(op), UNKNOWN), ms / total) for op, ms in parts]
    excess = log(sum(share * exp(kind.share * slower) for kind, share in known))
    return Steepness(excess, slower * sum(share * kind.error for kind, share in known))


def _slowdown(table: Table, price: Price) -> float:
    """By how much, as a logarithm, the references were slower than undisturbed when ``price`` was timed."""
    return max(0.0, log(price.level_ms / table.reference_ms)) if price.level_ms and table.reference_ms else 0.0


def _kind(probe: Operator) -> Kind:
    return probe.kind, probe.precision


def _parts(probe: Operator) -> list[Operator]:
    """``probe`` and its baseline, where it has one."""
    return [probe, baseline(probe)] if probe.probed else [probe]


def _difference(probe: Operator, prices: Mapping[str, Price]) -> Price:
    """What the operator of ``probe`` takes by itself; a baseline is all its own."""
    own, *rest = (prices[part.key] for part in _parts(probe))
    return _combine(own, rest, -1)


def _combine(own: Price, rest: Sequence[Price], sign: int) -> Price:
    """``own`` and the ``rest`` times ``sign`` as one."""
    every = [own, *rest]
    ratio = own.ratio + sign * sum(price.ratio for price in rest)
    error = hypot(*(price.ratio * max(LEAST_ERROR, price.error) for price in every))
    return Price(ratio, error / abs(ratio) if ratio else inf, own.level_ms)


def _pool(witnesses: Sequence[Steepness]) -> Steepness:
    """What another kernel of the kind is slowed down by, near the references' slowdown where little tells.

    Witnesses count as sure as they are. By how much kernels differ they show themselves, beside ``ALIKE`` as if one
    more differed by that.
    """
    middle = fmean(witness.share for witness in witnesses)
    squares = ALIKE**2 + sum((witness.share - middle) ** 2 for witness in witnesses)
    apart = sqrt(squares / len(witnesses))
    weights = [1 / (witness.error**2 + apart**2) for witness in witnesses]
    total = sum(weights) + 1 / SLOPE**2
    share = sum(weight * witness.share for weight, witness in zip(weights, witnesses, strict=True)) / total
    return Steepness(share, hypot(sqrt(1 / total), apart))
