"""What an artifact was measured or predicted to take, with everything that the figures depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import exp
from typing import Protocol

from edgesdk.core.budget import PREDICTED, Budget, Cost, check_basis
from edgesdk.core.energy import Energy
from edgesdk.core.errors import DeviceError
from edgesdk.core.facts import During, Hardware
from edgesdk.core.pairing import Ratio
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import FORMER
from edgesdk_targets.agent.undisturbed import TOLERANCE

SCHEMA, PREDICTION = Schema("measurement", 3), Schema("prediction", 2)
NOT_RUN = "not run on the target"  # the runtime's version of a prediction
DENSE = "dense"  # the artifact of a run that others are compared with
Tell = Callable[[str, "float | None"], None]
"""Is told what is being done and how much of that is: what stands after ``": "`` is detail that may change."""


class Measurement(Protocol):
    """One artifact on one device or target: a ``Report`` where it was measured, a ``Prediction`` where it was not.

    ``basis`` says which, and what may be written of the figures follows from that alone.
    """

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def runtime(self) -> str: ...
    @property
    def runtime_version(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def peak_memory_bytes(self) -> float | None: ...
    @property
    def runtime_memory_bytes(self) -> float | None: ...
    @property
    def valid(self) -> bool: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def basis(self) -> str: ...
    @property
    def ratios(self) -> Mapping[str, Ratio]: ...
    @property
    def precision(self) -> str | None:
        """In which the runtime says it computes floats, where it was asked."""
        ...

    @property
    def architecture(self) -> str | None:
        """What the kernel of the machine that it ran on says; ``None`` where nothing ran."""
        ...

    @property
    def error(self) -> float:
        """The standard error of the latency's logarithm that comes from the device having been disturbed."""
        ...

    def latency_ms(self, percentile: float | None = None) -> float: ...
    def cost(self, budget: Budget | None = None) -> Cost: ...


def is_predicted(measurement: Measurement) -> bool:
    """Whether nothing ran on the target."""
    return measurement.basis == PREDICTED


@dataclass(frozen=True)
class Undisturbed:
    """What a run takes in the device's undisturbed state, in ms, with the standard error of its logarithm.

    Reference models, visited every few ms, tell that state: it is the lowest mode of their times, ``reference_ms``.
    What the artifact took is taken relative to theirs, visits counting the less the slower the device was;
    ``disturbed`` is the share of visits in which it was slower than that state.
    """

    ms: float
    error: float
    disturbed: float
    reference_ms: float


@dataclass(frozen=True)
class Statistics:
    """Of latencies in ms as they came, whatever disturbed them; a percentile that their count cannot carry is ``None``.

    ``std`` is the standard deviation of a sample (n - 1).
    """

    count: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class Report:
    """One artifact on one device.

    ``statistics`` of latency in ms; ``samples_ms`` are the raw samples. Memory in bytes:
    ``peak_memory_bytes`` is what the model adds to the process, ``runtime_memory_bytes`` what the runtime takes without
    any. ``precision`` is the one that the runtime says it computes floats in, where it says so. ``load_ms`` is a cold
    load in a fresh process. ``valid`` is false for a throttled run, with the reason. ``ratios`` are its latency as a
    share of that of each other artifact of the same run, by its name, compared round by round.
    ``undisturbed`` has the latency that counts, where it is known, ``energy`` what a run takes where that was measured.
    """

    name: str
    digest: str
    size_bytes: int
    runtime: str
    runtime_version: str
    precision: str | None
    threads: int
    mode: str
    statistics: Statistics
    samples_ms: tuple[float, ...]
    peak_memory_bytes: float | None
    runtime_memory_bytes: float | None
    load_ms: float | None
    conditions: During
    device: Hardware
    valid: bool = True
    reason: str | None = None
    basis: str = "measured"
    schema: str = SCHEMA
    notes: tuple[str, ...] = field(default=())
    ratios: Mapping[str, Ratio] = field(default_factory=dict[str, Ratio])
    undisturbed: Undisturbed | None = None
    energy: Energy | None = None

    def __post_init__(self) -> None:
        check_basis(self.basis)

    @property
    def architecture(self) -> str | None:
        """What the kernel of the machine says that it is, as ``x86_64``."""
        return self.device.architecture

    @property
    def error(self) -> float:
        """The standard error of the latency's logarithm that comes from the device having been disturbed."""
        return self.undisturbed.error if self.undisturbed is not None else 0.0

    def latency_ms(self, percentile: float | None = None) -> float:
        """What it takes in the undisturbed state; with a ``percentile`` that of the raw samples, as they came.

        Where that state is not known it is their median. Raises ``DeviceError`` where they cannot carry a percentile.
        """
        if percentile is None:
            if self.undisturbed is not None:
                return self.undisturbed.ms
            percentile = 50
        ordered = sorted(self.samples_ms)
        if len(ordered) * min(percentile, 100 - percentile) / 100 < 5:
            raise DeviceError(
                f"{len(ordered)} samples cannot carry percentile {percentile:g}", "measure longer, with --mode full"
            )
        position = (len(ordered) - 1) * percentile / 100
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (position - low)

    def cost(self, budget: Budget | None = None) -> Cost:
        """The measured cost, its latency at the budget's percentile where that has one."""
        return Cost(
            self.latency_ms(budget.percentile if budget else None),
            self.peak_memory_bytes or 0.0,
            self.size_bytes,
            self.basis,
            latency_ratio=_share(self.ratios),
            energy_mj=self.energy.mj if self.energy is not None else None,
        )


@dataclass(frozen=True)
class Prediction:
    """One artifact on a target that is not at hand, from the target's profile: what a ``Report`` would measure.

    ``median_ms`` with the ends of its 90 % interval. ``size_bytes`` is the file's own. ``provenance`` says per
    precision what the prices rest on, ``notes`` in words what a reader must know. ``ratios`` are as in a ``Report``.
    """

    name: str
    digest: str
    size_bytes: int
    runtime: str
    runtime_version: str
    threads: int
    median_ms: float
    low_ms: float
    high_ms: float
    peak_memory_bytes: float
    runtime_memory_bytes: float | None
    provenance: Mapping[str, str] = field(metadata={FORMER: "standing"})
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    valid: bool = True
    reason: str | None = None
    basis: str = PREDICTED
    schema: str = PREDICTION
    ratios: Mapping[str, Ratio] = field(default_factory=dict[str, Ratio])

    def __post_init__(self) -> None:
        check_basis(self.basis)

    @property
    def precision(self) -> None:
        return None

    @property
    def architecture(self) -> None:
        return None

    @property
    def error(self) -> float:
        """None of its own: how far a profile is off stands in the interval."""
        return 0.0

    def latency_ms(self, percentile: float | None = None) -> float:
        """The median, whatever the percentile: a profile knows nothing of the spread between runs."""
        return self.median_ms

    def cost(self, budget: Budget | None = None) -> Cost:
        """The predicted cost."""
        ratio = _share(self.ratios)
        return Cost(self.median_ms, self.peak_memory_bytes, self.size_bytes, self.basis, latency_ratio=ratio)


def speedup(measured: Iterable[Measurement], reference_ms: float | None) -> float:
    """How many times as fast a device is undisturbed as it was thought to be when those were ``measured``.

    ``reference_ms`` is what the references take undisturbed, as is known by now. It is 1 where that is the same, or was
    not known.
    """
    before = max((m.undisturbed.reference_ms for m in measured if isinstance(m, Report) and m.undisturbed), default=0.0)
    times = before / reference_ms if reference_ms else 1.0
    return times if times > exp(TOLERANCE) else 1.0


def _share(ratios: Mapping[str, Ratio]) -> float | None:
    """The latency as a share of the dense model's, where that was in the run."""
    return ratios[DENSE].median if DENSE in ratios else None
