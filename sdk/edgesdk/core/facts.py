"""What a device tells of itself, as types: the answer of its agent to ``probe``, and parts of it in reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgesdk.core.schema import Schema
from edgesdk.core.serialize import from_json


@dataclass(frozen=True)
class Frequency:
    """A core's clock, in MHz."""

    core: int
    mhz: float | None
    maximum_mhz: float | None


@dataclass(frozen=True)
class Graphics:
    """A GPU's clock, in MHz."""

    mhz: float | None
    maximum_mhz: float | None


@dataclass(frozen=True)
class Temperature:
    """A thermal zone, in degrees Celsius."""

    zone: str
    type: str | None
    celsius: float | None


@dataclass(frozen=True)
class Throttle:
    """Whether the processor is held back, now or since it was started, or how often that was counted."""

    source: str
    now: tuple[str, ...] = ()
    since_boot: tuple[str, ...] = ()
    events: int | None = None


@dataclass(frozen=True)
class Conditions:
    """What bears on a measurement and may change during it."""

    governor: str | None = None
    power_mode: str | None = None
    frequencies: tuple[Frequency, ...] | None = None
    temperatures: tuple[Temperature, ...] | None = None
    throttle: Throttle | None = None
    load: tuple[float, ...] | None = None
    usable_cores: tuple[int, ...] | None = None
    graphics: Graphics | None = None


@dataclass(frozen=True)
class Moment:
    """The hottest sensor, in degrees ``celsius``, and the slowest core, in ``mhz``, when so many ``runs`` were timed.

    ``None`` where the device does not tell it.
    """

    runs: int
    celsius: float | None
    mhz: float | None


@dataclass(frozen=True)
class During:
    """The conditions in which a run began and ended, and moments in between, where any of it is known."""

    before: Conditions = field(default_factory=Conditions)
    after: Conditions = field(default_factory=Conditions)
    during: tuple[Moment, ...] = ()

    @classmethod
    def of(cls, told: Mapping[str, Any], name: str) -> During:
        """What the agent says of a run, of the artifact with that ``name``; an agent of before tells of no moments."""
        moments = (
            Moment(each["samples"][name], each["celsius"], each["mhz"])
            for each in told.get("during", ())
            if (each["celsius"], each["mhz"]) != (None, None)
        )
        before, after = (from_json(Conditions, told[side]) for side in ("before", "after"))
        return cls(before, after, tuple(moments))


@dataclass(frozen=True)
class Release:
    """A Jetson's Linux for Tegra."""

    release: str | None
    text: str


@dataclass(frozen=True)
class Hardware:
    """Processor, memory, system and runtimes of a device; ``None`` for what it does not know.

    ``runtimes`` are by the name of their distribution, ``runners`` by that of the runtime; ``wheels`` says how those
    that are not there are had.
    """

    cpu: str | None = None
    cores: int | None = None
    features: tuple[str, ...] | None = None
    architecture: str | None = None
    userland_bits: int | None = None
    memory_bytes: int | None = None
    cache_kb: int | None = None
    kernel: str | None = None
    os: str | None = None
    board: str | None = None
    l4t: Release | None = None
    emulated: bool = False
    energy: str | None = None
    python: str | None = None
    glibc: str | None = None
    runtimes: Mapping[str, str] = field(default_factory=dict[str, str])
    runners: Mapping[str, str] = field(default_factory=dict[str, str])
    wheels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Facts(Hardware):
    """What a device tells of itself: its hardware, system and runtimes, and its present conditions."""

    conditions: Conditions = field(default_factory=Conditions)
    schema: str = Schema("facts", 1)
