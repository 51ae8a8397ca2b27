"""What is known of each target before anything is measured, read from the profiles that come with edgesdk.

A profile is a folder: ``device.toml`` with the target's facts, and ``prices.json`` with what its operators cost, where
that is known. Those that ``edgesdk calibrate`` makes lie in ``EDGESDK_PROFILES``, or in the user's data folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from edgesdk.core.errors import BundleError, DeviceError, UsageError
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import from_json, loads_toml

if TYPE_CHECKING:
    from importlib.abc import Traversable

SCHEMA, OLDEST = Schema("target", 3), 2  # 2: the number alone
SLOWEST, FASTEST = 0.1, 2.0  # times its own clock, that a processor can be run at
ALL = "all"  # what stands for every target, and is the name of none


@dataclass(frozen=True)
class Fact:
    """One thing that is known of a target, and where from."""

    fact: str
    value: str
    source: str

    def __post_init__(self) -> None:
        if not (self.fact and self.value and self.source):
            raise ValueError(f"the fact {self.fact!r} lacks a value or a source")


@dataclass(frozen=True)
class Chip:
    """The facts of a processor that latency depends on.

    ``macs_per_cycle`` is per core and precision, at best; ``bandwidth_gbps`` in 10^9 bytes a second between it and the
    memory, ``cache_kb`` the last level that it fills, in KiB; ``vector_bytes`` what a core loads in a cycle. A graphics
    processor counts as one core. Raises ``ValueError`` for a figure that no chip has.
    """

    clock_ghz: float
    cores: int
    macs_per_cycle: Mapping[str, float]
    bandwidth_gbps: float
    cache_kb: float
    vector_bytes: float = 16.0

    def __post_init__(self) -> None:
        own = (self.clock_ghz, self.cores, self.bandwidth_gbps, self.cache_kb, self.vector_bytes)
        if not all(0 < figure < 1e6 for figure in (*own, *self.macs_per_cycle.values())):
            raise ValueError("a chip's clock, cores, bandwidth, cache and MACs per cycle are above zero")
        if "fp32" not in self.macs_per_cycle:  # which stands for a precision that is not named
            raise ValueError("a chip's MACs per cycle in fp32 are above zero")

    def lanes(self, precision: str) -> float:
        """Multiply-accumulates that a core can do in a cycle, at best."""
        return self.macs_per_cycle.get(precision, self.macs_per_cycle["fp32"])


@dataclass(frozen=True)
class Limits:
    """What a power mode leaves of a processor: its clock, and what else it changes.

    ``share`` is that of a graphics processor's units which stay on. Raises ``ValueError`` for what no mode leaves.
    """

    clock_ghz: float
    cores: int | None = None
    bandwidth_gbps: float | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        figures = (self.clock_ghz, self.cores, self.bandwidth_gbps, self.share)
        if not all(0 < figure < 1e6 for figure in figures if figure is not None) or self.share > 1:
            raise ValueError("a power mode's clock, cores and bandwidth are above zero, its share is 1 at most")

    def of(self, chip: Chip) -> Chip:
        """``chip`` in this mode."""
        width = {precision: macs * self.share for precision, macs in chip.macs_per_cycle.items()}
        return replace(
            chip, clock_ghz=self.clock_ghz, cores=self.cores or chip.cores, macs_per_cycle=width,
            bandwidth_gbps=self.bandwidth_gbps or chip.bandwidth_gbps, vector_bytes=chip.vector_bytes * self.share,
        )  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A kind of device: its runtimes in the order in which they are tried, and what layers run in with each.

    ``precisions`` are those that the search may choose, by runtime; ``half`` names the runtimes that run what the file
    has in fp32 in fp16. ``chips`` are its processors, by the runtime that uses another one than the ``cpu``.
    ``measured`` says that its prices are measured on the machine at hand, not read from its profile. ``boards`` are
    parts of the names that such boards give themselves in the device tree, ``architecture`` is what the kernel says.
    ``modes`` are power modes by their names, each with the processors that it limits; ``chips`` are in the first.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    runtimes: tuple[str, ...]
    precisions: Mapping[str, tuple[str, ...]]
    facts: tuple[Fact, ...]
    chips: Mapping[str, Chip] = field(default_factory=dict)
    half: tuple[str, ...] = ()
    measured: bool = False
    boards: tuple[str, ...] = ()
    architecture: str | None = None
    modes: Mapping[str, Mapping[str, Limits]] = field(default_factory=dict)

    def differs(self, facts: Mapping[str, Any]) -> str | None:
        """In which words the board that an agent's ``facts`` are of is not of this kind; ``None`` where it is."""
        board, machine = facts.get("board"), facts.get("architecture")
        if self.boards and not any(name.lower() in str(board).lower() for name in self.boards):
            return f"{self.title} is wanted, and the board says it is {board or f'a {machine} without a name'}"
        if self.architecture and machine and machine != self.architecture:
            return f"{self.name} is {self.architecture}, and the board {machine}"
        return None

    def runs_as(self, runtime: str, precision: str) -> str:
        """The precision in which ``runtime`` runs there what a file has in ``precision``."""
        return "fp16" if precision == "fp32" and runtime in self.half else precision

    def in_mode(self, name: str) -> tuple[str, Target]:
        """The name of the power mode ``name`` as the device has it, and the target in that. Raises ``UsageError``."""
        by_name = {_plain(mode): mode for mode in self.modes}
        mode = by_name.get(_plain(name))
        if mode is None:
            remedy = f"choose one of {', '.join(self.modes)}" if self.modes else "give its clock: --clock GHZ"
            raise UsageError(f"no power mode {name!r} of {self.name} is known", remedy)
        limits = self.modes[mode]
        chips = {chip: limits[chip].of(own) if chip in limits else own for chip, own in self.chips.items()}
        return mode, replace(self, chips=chips)

    def at_clock(self, runtime: str, clock_ghz: float) -> Target:
        """The target with ``runtime``'s processor at another clock. Raises ``UsageError`` for one that it has not."""
        own = self.chip(runtime)
        if not SLOWEST <= clock_ghz / own.clock_ghz <= FASTEST:
            slowest, fastest = SLOWEST * own.clock_ghz, FASTEST * own.clock_ghz
            remedy = f"its processor for {runtime} has {own.clock_ghz:g} GHz: give {slowest:.2g} to {fastest:.2g}"
            raise UsageError(f"a clock of {clock_ghz:g} GHz for {self.name}", remedy)
        place = runtime if runtime in self.chips else "cpu"
        return replace(self, chips={**self.chips, place: replace(own, clock_ghz=clock_ghz)})

    def chip(self, runtime: str) -> Chip:
        """The processor that ``runtime`` runs on. Raises ``UsageError`` where nothing is known of it."""
        chip = self.chips.get(runtime) or self.chips.get("cpu")
        if chip is None:
            raise UsageError(f"nothing is known of the chip of {self.name}", "measure it: edgesdk calibrate NAME")
        return chip


def _plain(mode: str) -> str:
    """A power mode's name without what ``nvpmodel`` and people write differently."""
    return mode.upper().removeprefix("MODE_").translate({ord(mark): None for mark in " _-"})


def targets() -> dict[str, Target]:
    """Every target that edgesdk knows, by name, in alphabetical order; one of the user's hides one that came along."""
    by_name = {target.name: target for target in (read_folder(folder) for folder in _folders())}
    return dict(sorted(by_name.items()))


def target(name: str) -> Target:
    """The target with that name or alias, in upper or lower case. Raises ``UsageError`` where there is none."""
    by_name = targets()
    wanted = name.strip().lower()
    for entry in reversed(by_name.values()):
        if wanted == entry.name:
            return entry
    for entry in by_name.values():
        if wanted in entry.aliases:
            return entry
    raise UsageError(f"there is no target {name!r}", f"choose one of {', '.join(by_name)}")


def prices_text(name: str) -> str | None:
    """What the target's ``prices.json`` holds; ``None`` where it has none."""
    for folder in reversed(list(_folders())):
        if folder.name == name:
            path = folder / "prices.json"
            try:
                return path.read_text("utf-8") if path.is_file() else None
            except (OSError, UnicodeDecodeError) as error:
                fact = f"the prices of {name} cannot be read: {error}"
                raise DeviceError(fact, "write it anew with edgesdk calibrate") from None
    return None


def user_folder() -> Path:
    """Where the profiles are that the user made: ``EDGESDK_PROFILES``, or the user's data folder."""
    return Path(os.environ.get("EDGESDK_PROFILES") or Path(platformdirs.user_data_dir("edgesdk")) / "profiles")


def _folders() -> Iterator[Traversable]:
    own = user_folder()
    for root in (files("edgesdk_profiles"), *([own] if own.is_dir() else [])):
        for folder in sorted(root.iterdir(), key=lambda folder: folder.name):
            if (folder / "device.toml").is_file():
                yield folder


@lru_cache(maxsize=64)
def _parsed(text: str) -> tuple[Any, Target | None]:
    document = loads_toml(text)
    schema = document.pop("schema")
    version = SCHEMA.of(schema)
    readable = version is not None and OLDEST <= version <= SCHEMA.version
    return schema, from_json(Target, document) if readable else None


def read_folder(folder: Traversable) -> Target:
    """The target of a profile. Raises ``DeviceError`` for a damaged one."""
    where = f"the profile {folder.name}"
    try:
        schema, facts = _parsed((folder / "device.toml").read_text("utf-8"))
        if facts is not None:
            return facts
    except (ValueError, KeyError, TypeError, OSError, BundleError) as error:
        raise DeviceError(f"{where} is damaged: {error}", "repair or remove it") from None
    newer = (SCHEMA.of(schema) or 0) > SCHEMA.version
    remedy = "update edgesdk" if newer else "write it anew with edgesdk calibrate"
    raise DeviceError(f"{where} has schema {schema}, this edgesdk reads {SCHEMA}", remedy)
