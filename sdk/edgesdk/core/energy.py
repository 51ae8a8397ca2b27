"""What an inference takes in energy, worked out from what a meter said while a device was at work and idle."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, sqrt
from statistics import fmean, median, stdev
from typing import Any

JOULES, WATTS = "joules", "watts"
LOCKED = "locked"
ABSENT = (None, "unavailable", LOCKED)  # what a device's facts say of its energy where nobody may read it
SETTLING = 0.25  # seconds after a phase begins, or of the phase at most this share, that do not count
SILENCE = 5.0  # times as long as it usually is from one reading to the next, from which on the meter stopped
JUMP = 10.0  # times the median of a phase, from which on a reading jumped
FEWEST = 3  # readings of a phase
SURE = 2.0  # standard errors by which a figure must be above what the device takes idle


@dataclass(frozen=True)
class Energy:
    """What one inference takes, in mJ: ``mj`` beyond what the device takes idle, ``gross_mj`` with that.

    ``error_mj`` is the standard error of ``mj``, over ``rounds``. ``watts`` are those at work, ``idle_watts`` those
    before and after. ``meter`` says what was read. Where there is no figure, ``reason`` says why; ``notes`` what became
    of rounds that do not count.
    """

    mj: float | None
    error_mj: float | None
    gross_mj: float | None
    watts: float | None
    idle_watts: float | None
    rounds: int
    meter: str
    reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phase:
    """From ``begin`` to ``end``, in seconds: ``runs`` of an ``artifact``; without one the device was idle."""

    artifact: str | None
    begin: float
    end: float
    runs: int = 0

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    @property
    def steady(self) -> tuple[float, float]:
        """The part of it that counts."""
        return self.begin + min(SETTLING, SETTLING * self.seconds), self.end


@dataclass(frozen=True)
class Readings:
    """What a meter said: ``values`` at ``times``, watts then or joules since some time, as ``kind`` says."""

    kind: str
    times: tuple[float, ...]
    values: tuple[float, ...]
    meter: str
    said: str = ""  # what is known of its end, where it ended early

    @classmethod
    def of(cls, kind: str, taken: Iterable[Sequence[float]], meter: str, said: str = "") -> Readings:
        """Those of ``taken``, pairs of a time and a value, that are figures, in the order of time."""
        sound = sorted((float(at), float(value)) for at, value in taken if isfinite(at) and isfinite(value))
        return cls(kind, tuple(at for at, _ in sound), tuple(value for _, value in sound), meter, said)

    def fault(self, phase: Phase) -> str | None:
        """Why nothing is known of the power in ``phase``; ``None`` where it is."""
        begin, end = phase.steady
        inside = self._inside(phase)
        usual = median(after - before for before, after in pairwise(self.times)) if len(self.times) > 1 else 0.0
        if FEWEST * usual > end - begin:
            every = f"a reading each {usual:.2g} s is too seldom for phases of {phase.seconds:.2g} s"
            return f"{every}: measure with --mode full{self.said}"
        if not self.times:
            return f"the meter gave no time with a figure{self.said}"
        if self.times[0] > end:
            later = f"its first reading is {self.times[0] - end:.3g} s later than what ran"
            return f"the meter's clock is another: {later}{self.said}"
        if self.times[-1] < begin:
            return (
                f"the meter stopped: its last reading is {begin - self.times[-1]:.3g} s older than what ran{self.said}"
            )
        corners = (begin, *(at for at, _ in inside), end)
        longest = max(after - before for before, after in pairwise(corners))
        if len(inside) < FEWEST or longest > SILENCE * usual + SETTLING:
            return f"the meter stopped: {longest:.2g} s without a reading{self.said}"
        watts = self._watts(inside)
        typical = median(watts)
        if not typical > 0:
            return f"the meter stopped: it says {typical:.3g} W"
        far = max(watts, key=lambda value: abs(value - typical))
        if not 0 <= far <= JUMP * typical:
            return f"the meter jumped: {far:.4g} W where {typical:.3g} W are usual"
        return None

    def _inside(self, phase: Phase) -> list[tuple[float, float]]:
        """The readings in the part of ``phase`` that counts."""
        begin, end = (bisect_left(self.times, at) for at in phase.steady)
        return list(zip(self.times[begin:end], self.values[begin:end], strict=True))

    def _watts(self, readings: Sequence[tuple[float, float]]) -> list[float]:
        if self.kind == WATTS:
            return [value for _, value in readings]
        return [(to - of) / (after - before) for (before, of), (after, to) in pairwise(readings) if after > before]

    def power(self, phase: Phase) -> float:
        """The mean power in ``phase``, in W."""
        begin, end = phase.steady
        if self.kind == JOULES:
            return (self._at(end) - self._at(begin)) / (end - begin)
        inside = self._inside(phase)
        corners = [(begin, inside[0][1]), *inside, (end, inside[-1][1])]
        area = sum((after - before) * (of + to) / 2 for (before, of), (after, to) in pairwise(corners))
        return area / (end - begin)

    def _at(self, at: float) -> float:
        """The value at a time, on the straight line between two readings."""
        high = min(max(bisect_left(self.times, at), 1), len(self.times) - 1)
        before, after = self.times[high - 1], self.times[high]
        share = 0.0 if after == before else min(max((at - before) / (after - before), 0.0), 1.0)
        return self.values[high - 1] + share * (self.values[high] - self.values[high - 1])


def figure_energy(readings: Readings, phases: Sequence[Phase], artifact: str) -> Energy:
    """What a run of ``artifact`` takes: its power beyond that of the idle phases beside it, times what a run takes."""
    net: list[float] = []
    gross: list[float] = []
    at_work: list[float] = []
    idle: list[float] = []
    notes: list[str] = []
    for before, phase, after in zip(phases, phases[1:], phases[2:], strict=False):
        if phase.artifact != artifact or not phase.runs:
            continue
        faults = [fault for part in (before, phase, after) if (fault := readings.fault(part)) is not None]
        if faults:
            notes.append(faults[0])
            continue
        watts, rest = readings.power(phase), fmean([readings.power(before), readings.power(after)])
        each_ms = 1e3 * phase.seconds / phase.runs
        net.append((watts - rest) * each_ms)
        gross.append(watts * each_ms)
        at_work.append(watts)
        idle.append(rest)
    if len(net) < 2:
        why = notes[0] if notes else "too few rounds"
        return Energy(None, None, None, None, None, len(net), readings.meter, why, tuple(dict.fromkeys(notes)))
    mj, error = fmean(net), stdev(net) / sqrt(len(net))
    reason = None
    if mj <= SURE * error:
        reason = f"at work it takes {fmean(at_work):.3g} W, idle {fmean(idle):.3g} W: too near to tell apart"
    left_out = tuple(f"a round does not count: {note}" for note in dict.fromkeys(notes))
    return Energy(
        None if reason else mj, None if reason else error, fmean(gross), fmean(at_work), fmean(idle), len(net),
        readings.meter, reason, left_out,
    )  # fmt: skip


def describe_energy(energy: Mapping[str, Any]) -> str:
    """The fields of an ``Energy`` in a line."""
    if energy["mj"] is None:
        return f"no figure: {energy['reason']} (by {energy['meter']})"
    figure = f"{energy['mj']:.3g} mJ beyond idle (standard error {energy['error_mj']:.2g})"
    power = f"{energy['watts']:.3g} W at work, {energy['idle_watts']:.3g} W idle"
    return f"{figure}, {energy['gross_mj']:.3g} mJ with it; {power}, by {energy['meter']}"


def describe_unmeasured(predicted: bool, source: str | None) -> str:
    """Why there is no figure of energy: of a target that is ``predicted``, or of a device whose facts say ``source``
    of its meter."""
    if predicted:
        return "no figure: profiles know nothing of power"
    if source == LOCKED:
        return "not measured: root alone may read the device's counters"
    return "not measured: the device has no meter that can be read" if source in ABSENT else "not measured"
