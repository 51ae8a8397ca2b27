"""What commands print with ``--json`` that is no type of the SDK: each document says its schema, errors too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesdk.core.errors import BudgetError, EdgeSdkError
from edgesdk.core.rollout import Rollout
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import BYTES, from_json

if TYPE_CHECKING:
    from edgesdk.bundle.bundle import Bundle
    from edgesdk.bundle.documents import DeploymentReport, Manifest, Preparation
    from edgesdk.core.facts import Facts
    from edgesdk.devices.inventory import Device
    from edgesdk.price.profile import Profile


@dataclass(frozen=True)
class Missed:
    """A budget that is out of reach: the bound by its name, what was ``asked``, and the ``tightest`` that there is.

    ``basis`` says how the tightest is known, ``built`` has all figures of the model that reaches it. Milliseconds,
    bytes, points, or a share of the dense model's latency, as the bound's name says.
    """

    figure: str | None
    asked: int | float | None
    tightest: int | float | None
    basis: str | None
    built: Mapping[str, int | float]


@dataclass(frozen=True)
class Failure:
    """Why a command did not do what it was to do: what is the case, and what to do about it.

    ``kind`` goes with the exit code. ``budget`` is there where a budget is out of reach.
    """

    kind: str
    exit_code: int
    fact: str
    remedy: str
    budget: Missed | None = None
    schema: str = Schema("error", 1)

    @classmethod
    def of(cls, error: EdgeSdkError) -> Failure:
        missed = None
        if isinstance(error, BudgetError):
            built = {name: _whole(name, value) for name, value in (error.built or {}).items()}
            asked, tightest = (_whole(error.figure, value) for value in (error.asked, error.tightest))
            missed = Missed(error.figure, asked, tightest, error.basis, built)
        return cls(error.kind, error.exit_code, error.fact, error.remedy, missed)


def _whole(name: str | None, value: Any) -> Any:
    """``value``, a whole number where it is bytes."""
    return round(value) if value is not None and (name or "").endswith(BYTES) else value


@dataclass(frozen=True)
class Health:
    """What a bundle showed on a device before it was switched to: by output, the distance from the recorded sample.

    ``latency_ms``, in the undisturbed state or at the budget's percentile, and ``peak_memory_bytes`` were measured
    where the bundle's budget bounds them.
    """

    errors: Mapping[str, float]
    identical: bool
    runtime: str
    version: str
    latency_ms: float | None
    peak_memory_bytes: int | None
    emulated: bool


@dataclass(frozen=True)
class Installed:
    """The version that runs on a device now, the one before, and those that were removed."""

    version: str
    previous: str | None
    health: Health
    removed: tuple[str, ...]
    schema: str = Schema("installed", 2)


@dataclass(frozen=True)
class RolledBack:
    """The version that runs on a device now, and the one that ran before."""

    version: str
    previous: str | None
    schema: str = Schema("rolled-back", 1)


@dataclass(frozen=True)
class Inventory:
    """The devices of the inventory, the names of those in each of its pools, and where that is."""

    inventory: str
    devices: tuple[Device, ...]
    pools: Mapping[str, tuple[str, ...]]
    schema: str = Schema("inventory", 1)


@dataclass(frozen=True)
class PoolFacts:
    """What the boards of a pool tell of themselves, why others do not answer, and in what those that do differ."""

    pool: str
    boards: Mapping[str, Facts]
    out_of_reach: Mapping[str, str]
    differences: tuple[str, ...]
    schema: str = Schema("pool-facts", 1)


@dataclass(frozen=True)
class AgentFile:
    """The measuring agent as one file that ``python3`` runs."""

    path: str
    size_bytes: int
    digest: str
    schema: str = Schema("agent", 1)


@dataclass(frozen=True)
class Doctor:
    """This machine: what is installed, and what it is. Packages that are not there are ``None``."""

    edgesdk: str
    python: str
    packages: Mapping[str, str | None]
    device: Facts
    integer_dot_product: bool
    cache: str
    schema: str = Schema("doctor", 1)


@dataclass(frozen=True)
class PairProvenance:
    """Prices of a runtime at one precision: from what, and their mean relative errors on what was held out.

    ``doubt`` is what speaks against the figures.
    """

    runtime: str
    precision: str
    kind: str
    source: str
    date: str
    version: str
    threads: tuple[int, ...]
    networks: int
    errors: tuple[tuple[str, float], ...]
    doubt: str


@dataclass(frozen=True)
class Source:
    """One thing that is known of a target, and where from."""

    fact: str
    value: str
    source: str


@dataclass(frozen=True)
class Processor:
    """The facts of a processor that latency depends on."""

    clock_ghz: float
    cores: int
    macs_per_cycle: Mapping[str, float]
    bandwidth_gbps: float
    cache_kb: float
    vector_bytes: int


@dataclass(frozen=True)
class Limited:
    """What a power mode leaves of a processor, as ``edgesdk.core.target.Limits``; ``None`` where all of it."""

    clock_ghz: float
    cores: int | None
    bandwidth_gbps: float | None
    share: float


@dataclass(frozen=True)
class TargetEntry:
    """A kind of device, as ``edgesdk.core.target.Target``, with what its prices rest on."""

    name: str
    title: str
    aliases: tuple[str, ...]
    runtimes: tuple[str, ...]
    precisions: Mapping[str, tuple[str, ...]]
    facts: tuple[Source, ...]
    chips: Mapping[str, Processor]
    half: tuple[str, ...]
    measured: bool
    boards: tuple[str, ...]
    architecture: str | None
    modes: Mapping[str, Mapping[str, Limited]]
    pairs: tuple[PairProvenance, ...]


@dataclass(frozen=True)
class Targets:
    """Targets: all, the one that was named, or the one that was calibrated."""

    targets: tuple[TargetEntry, ...]
    schema: str = Schema("targets", 1)

    @classmethod
    def of(cls, profiles: list[Profile]) -> Targets:
        return cls(tuple(_entry(profile) for profile in profiles))


def _entry(profile: Profile) -> TargetEntry:
    pairs = tuple(PairProvenance(pair.runtime, pair.precision, **vars(pair.provenance)) for pair in profile.pairs)
    return TargetEntry(**vars(profile.target), pairs=pairs)


@dataclass(frozen=True)
class Prepared:
    """The folder that was prepared, and what that came to."""

    path: str
    report: Preparation
    schema: str = Schema("prepared", 1)


@dataclass(frozen=True)
class Deployed:
    """A bundle: its manifest and report as they are in it, raw samples left out, and what the device said of it.

    Of a pool ``rollout`` says where each board stands in place of that.
    """

    path: str
    manifest: Manifest
    report: DeploymentReport
    installed: Installed | None
    rollout: Rollout | None
    schema: str = Schema("deployed", 1)

    @classmethod
    def of(cls, bundle: Bundle) -> Deployed:
        report: Any = dict(bundle.report)
        if "samples_ms" in report["deployed"]:
            report["deployed"] = {**report["deployed"], "samples_ms": []}
        manifest: Any = bundle.manifest
        installed = None if bundle.installed is None else from_json(Installed, bundle.installed)
        return cls(str(bundle.path), manifest, report, installed, bundle.rollout)
