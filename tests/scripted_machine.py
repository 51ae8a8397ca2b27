"""A machine whose clock is scripted: the agent's own loops run on it, and its speed moves as a test says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from edgesdk_targets.agent import clock, lock, probe, references, runners

Speed = Callable[[float], float]
"""How much slower than undisturbed the machine is, at a time in ns."""
Part = tuple[
    float, float
]  # ns that are taken undisturbed, and how much of the machine's slowdown they feel: an exponent
PERIOD = 1e8  # ns, as that of a cgroup
HICCUPS, HICCUP = 0.002, 20  # how often something else gets the core, and how many times as long a run takes then


@dataclass
class Machine:
    """A clock that runs advance. ``parts`` says what a model takes, in parts that feel a slowdown each in its way.

    ``quota`` are the ns of every ``PERIOD`` that the process may run; where they are used up it stands still.
    """

    parts: Callable[[Any], list[Part]]
    speed: Speed = lambda now: 1.0
    seed: int = 0
    noise: float = 0.01
    quota: float | None = None
    now: float = 0.0
    random: Random = field(default_factory=Random)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.used = 0.0  # of the quota in the period that is now

    def load(self, source: Any, threads: int) -> Any:
        parts = self.parts(source)

        def once() -> None:
            slow = self.speed(self.now)
            took = sum(takes * slow**feels for takes, feels in parts) * math.exp(abs(self.random.gauss(0, self.noise)))
            self.advance(took * (HICCUP if self.random.random() < HICCUPS else 1))

        session = {"inputs": [], "providers": ["Scripted"], "precision": None, "bind": lambda _, values=None: once}
        return type("Session", (), session)()

    def advance(self, took: float) -> None:
        """Let ``took`` ns of running pass."""
        while self.quota is not None:
            end = (self.now // PERIOD + 1) * PERIOD
            may = min(self.quota - self.used, end - self.now)
            if took <= may:
                break
            took, self.now, self.used = took - may, end, 0.0
        self.now += took
        self.used += took


def flipping(slow: float, fast_ms: float, slow_ms: float, seed: int = 1) -> Speed:
    """Two speeds that take turns, each for a random while."""
    random, ends, speeds = Random(seed), [0.0], [1.0]

    def speed(now: float) -> float:
        while ends[-1] <= now:
            is_fast = len(ends) % 2 == 0
            ends.append(ends[-1] + 1e6 * random.expovariate(1 / (fast_ms if is_fast else slow_ms)))
            speeds.append(1.0 if is_fast else slow)
        index = len(ends) - 1
        while index > 0 and ends[index - 1] > now:
            index -= 1
        return speeds[index]

    return speed


@contextmanager
def in_place_of_this_one(machine: Machine, name: str, settling_ns: float = 3e7) -> Iterator[Machine]:
    """Let the agent's loops, in this process, run on ``machine``; ``name`` keeps its lock from other tests'."""
    fake = type("Runner", (), {"VERSION": "1.23", "load": staticmethod(machine.load)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "runner", lambda runtime: fake)
        patch.setattr(clock, "perf_counter_ns", lambda: int(machine.now))
        patch.setattr(references, "perf_counter", lambda: machine.now / 1e9)
        patch.setattr(references, "SETTLING_SECONDS", settling_ns / 1e9)
        patch.setattr(clock, "no_collection", nullcontext)  # garbage costs this clock nothing
        patch.setattr(probe, "conditions", dict)
        patch.setattr(probe, "throttled", lambda before, after: None)
        patch.setattr(lock, "NAME", f"edgesdk-scripted-{name}.lock")
        yield machine
