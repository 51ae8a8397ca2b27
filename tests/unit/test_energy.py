"""Energy from readings whose truth is known: every meter, whatever it counts, says the same, or why it says nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesdk.core.energy import JOULES, WATTS, Phase, Readings, figure_energy

IDLE, SMALL, LARGE = 4.0, 10.0, 16.0
MS = {"small": 2.0, "large": 5.0}  # of a run


def phases(rounds: int = 4, seconds: float = 2.0) -> list[Phase]:
    order = [part for _ in range(rounds) for name in MS for part in (None, name)] + [None]
    return [
        Phase(name, at * seconds, (at + 1) * seconds, 0 if name is None else round(1e3 * seconds / MS[name]))
        for at, name in enumerate(order)
    ]


PHASES = phases()


def power(at: float, drift: float = 0.0) -> float:
    name = next((phase.artifact for phase in PHASES if phase.begin <= at < phase.end), None)
    return {None: IDLE, "small": SMALL, "large": LARGE}[name] + drift * at


def read(kind: str = WATTS, every: float = 0.05, drift: float = 0.0, noise: float = 0.0) -> list[tuple[float, float]]:
    source = random.Random(7)
    times = [at * every for at in range(int(PHASES[-1].end / every) + 2)]
    watts = [power(at, drift) + source.gauss(0, noise) for at in times]
    if kind == WATTS:
        return list(zip(times, watts, strict=True))
    joules = accumulate((b - a) * of for (a, of), (b, _) in pairwise(zip(times, watts, strict=True)))
    return list(zip(times, [0.0, *joules], strict=True))


@pytest.mark.parametrize("kind", [WATTS, JOULES])
@pytest.mark.parametrize("drift", [0.0, 0.05])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_it_is_the_power_beyond_idle_times_what_a_run_takes(kind: str, drift: float, noise: float) -> None:
    """A drift of all that the device takes, as from warming up, falls on idle phases alike, and cancels."""
    readings = Readings.of(kind, read(kind, drift=drift, noise=noise), "a meter")
    for name, watts in (("small", SMALL), ("large", LARGE)):
        energy = figure_energy(readings, PHASES, name)
        assert energy.mj == pytest.approx((watts - IDLE) * MS[name], rel=0.02) and energy.rounds == 4
        assert energy.error_mj is not None and energy.error_mj <= 0.02 * (watts - IDLE) * MS[name]
        assert energy.gross_mj is not None and energy.gross_mj > (energy.mj or 0.0) and energy.reason is None
        assert energy.watts is not None and energy.idle_watts is not None
        assert energy.watts - energy.idle_watts == pytest.approx(watts - IDLE, rel=0.02)


def lasting(begin: float, end: float, change: Callable[[float], float | None]) -> list[tuple[float, float]]:
    """Readings that are changed in a while."""
    every = [(at, change(watts) if begin <= at < end else watts) for at, watts in read()]
    return [(at, watts) for at, watts in every if watts is not None]


@pytest.mark.parametrize(
    ("taken", "says"),
    [
        (lasting(2.5, 3.5, lambda watts: None), "the meter stopped: 1"),
        (lasting(2.9, 3.0, lambda watts: 1e4), "the meter jumped: 1e+04 W"),
        (lasting(2.9, 3.0, lambda watts: -7.0), "the meter jumped: -7 W"),
        (lasting(2.5, 3.5, lambda watts: float("nan")), "the meter stopped"),
        (lasting(0.3, 1.9, lambda watts: 0.0), "the meter stopped: it says 0 W"),  # in the idle phase before
    ],
)
def test_a_round_in_which_the_meter_fails_does_not_count_and_that_is_said(
    taken: list[tuple[float, float]], says: str
) -> None:
    energy = figure_energy(Readings.of(WATTS, taken, "a meter"), PHASES, "small")
    assert energy.rounds == 3 and energy.mj == pytest.approx((SMALL - IDLE) * MS["small"], rel=0.02)
    assert len(energy.notes) == 1 and energy.notes[0].startswith(f"a round does not count: {says}")


@pytest.mark.parametrize(
    ("taken", "kind", "says"),
    [
        ([], WATTS, "the meter gave no time with a figure, and ended with exit code 3"),
        ([(at + 7200, watts) for at, watts in read()], WATTS, "the meter's clock is another: its first"),
        ([(at - 7200, watts) for at, watts in read()], WATTS, "the meter stopped: its last reading is 7.1"),
        (read()[:40], WATTS, "s older than what ran, and ended with exit code 3"),
        ([(at, 5.0) for at, _ in read()], JOULES, "the meter stopped: it says 0 W"),
        ([(at, value if at < 3 else value - 1e3) for at, value in read(JOULES)], JOULES, ""),
        ([(at, IDLE) for at, _ in read()], WATTS, "at work it takes 4 W, idle 4 W: too near to tell apart"),
        (read(every=0.9), WATTS, "a reading each 0.9 s is too seldom for phases of 2 s: measure with --mode full"),
        ([(at, IDLE + (at % 3)) for at, _ in read()], WATTS, "too near to tell apart"),
    ],
)
def test_where_nothing_can_be_told_there_is_no_figure_but_a_reason(
    taken: list[tuple[float, float]], kind: str, says: str
) -> None:
    readings = Readings.of(kind, taken, "a meter", ", and ended with exit code 3")
    energy = figure_energy(readings, PHASES, "small")
    if says:
        assert energy.mj is None and energy.error_mj is None and says in (energy.reason or "")
    else:  # a counter that was reset costs the round in which it was
        assert energy.rounds == 3 and energy.mj == pytest.approx((SMALL - IDLE) * MS["small"], rel=0.02)


@settings(max_examples=20)
@given(st.integers(2, 60), st.floats(0.01, 0.15), st.sampled_from([WATTS, JOULES]))
def test_a_steady_meter_says_the_same_however_often_it_is_read(watts: int, every: float, kind: str) -> None:
    taken = [(at, value * watts) for at, value in read(kind, every)]
    energy = figure_energy(Readings.of(kind, taken, "a meter"), PHASES, "large")
    assert energy.mj == pytest.approx(watts * (LARGE - IDLE) * MS["large"], rel=0.1)
