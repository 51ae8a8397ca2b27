"""What a device tells of itself, as a type: the answer of its agent to ``probe``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgesdk.core.schema import Schema


@dataclass(frozen=True)
class Frequency:
    """A core's clock, in MHz."""

    core: int
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

    governor: str | None
    power_mode: str | None
    frequencies: tuple[Frequency, ...] | None
    temperatures: tuple[Temperature, ...] | None
    throttle: Throttle | None
    load: tuple[float, ...] | None
    usable_cores: tuple[int, ...] | None


@dataclass(frozen=True)
class Release:
    """A Jetson's Linux for Tegra."""

    release: str | None
    text: str


@dataclass(frozen=True)
class Facts:
    """Processor, memory, system, runtimes and present conditions of a device; ``None`` for what it does not know.

    ``runtimes`` are by the name of their distribution, ``runners`` by that of the runtime; ``wheels`` says how those
    that are not there are had.
    """

    cpu: str | None
    cores: int | None
    features: tuple[str, ...] | None
    architecture: str | None
    userland_bits: int
    memory_bytes: int | None
    cache_kb: int | None
    kernel: str | None
    os: str | None
    board: str | None
    l4t: Release | None
    emulated: bool
    energy: str
    python: str
    glibc: str | None
    runtimes: Mapping[str, str]
    runners: Mapping[str, str]
    wheels: Mapping[str, str]
    conditions: Conditions
    schema: str = Schema("facts", 1)
