"""Measured operator latencies, kept on disk per device, runtime, version and thread count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from datetime import date, timedelta
from math import exp, hypot
from pathlib import Path
from typing import Any

from edgesdk.core.graph import CONV, LINEAR
from edgesdk.core.plan import FP32
from edgesdk.core.serialize import digest, dumps, loads, write
from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline
from edgesdk_targets.agent.undisturbed import LOWEST, TOLERANCE, beyond

SCHEMA = 4  # 2: pools with their own windows, clips on grids of their own; 3: readers of two pixels a side; 4: ratios
COPIES = 4  # of an operator in a probe
AGE = timedelta(days=30)  # after which a price is measured again
UNSEEN = timedelta(days=7)  # after which a device that never was as fast again is taken to be another by now
DOUBT = 0.06  # standard error from which on a price is measured again: once more at once, and on another day
LEAST = 1e-9  # of a ratio, and of what the references take in ms: anything below is no time
LEAST_ERROR = 0.005  # of a probe, however well its visits agree
CALL = Operator("alone linear", FP32, 8, 8)  # a model that computes next to nothing: what a call costs
REFERENCES = (
    Operator("alone", FP32, 8, 8, (8, 8)),  # mostly the call and its kernels' beginnings
    Operator(CONV, FP32, 16, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), activation="relu"),  # mostly arithmetic
    Operator(LINEAR, FP32, 128, 128),  # mostly memory
)
"""Whose probes are visited between all others: kernels of different kinds are not slowed down alike.

They are kept as files (``artifact.references``), so that to measure needs nothing that makes any.
"""


@dataclass(frozen=True)
class Price:
    """What a probe takes, as a ratio to what the references take at the same time, and how sure that is.

    ``error`` is the standard error of the ratio's logarithm, ``level_ms`` what the references took when it was
    measured: where that is not the device's undisturbed state, the ratio may be another there.
    """

    ratio: float
    error: float = 0.0
    level_ms: float = 0.0
    day: str = field(default_factory=lambda: date.today().isoformat())


@dataclass
class Table:
    """What probes take on one device, by the operator's key; ``conditions`` is all that the figures depend on.

    ``reference_ms`` is what the references take in the device's undisturbed state, ``seen`` the day on which it was
    last in that. A table is a cache of measurements: it grows, and what is in it is not measured again unless it is
    old, doubtful or contradicted. With ``unpacks``, 4-bit weights run as 8-bit ones do.
    With ``unrolls``, files have recurrent layers step by step, which no probe times. ``parts`` are the keys of an
    operator's probe and of the baseline's: a search asks for the same ones many times.
    """

    conditions: Mapping[str, str]
    path: Path
    copies: int
    unpacks: bool = True
    unrolls: bool = False
    probes: dict[str, Price] = field(default_factory=dict)
    reference_ms: float | None = None
    seen: str = ""
    parts: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]], repr=False, compare=False)

    @classmethod
    def open(
        cls, folder: Path, conditions: Mapping[str, str], copies: int, unpacks: bool = True, unrolls: bool = False
    ) -> Table:  # fmt: skip
        """The table for ``conditions`` in ``folder``; empty where there is none, or none that can be read.

        What is too old is left out.
        """
        table = cls(conditions, folder / f"{digest([SCHEMA, conditions])[:16]}.json", copies, unpacks, unrolls)
        try:
            content = loads(table.path.read_text())
            if content["schema"] != SCHEMA or content["conditions"] != dict(conditions):
                return table
            probes = {str(key): _price(*value) for key, value in content["probes"].items()}
            table.probes = {key: price for key, price in probes.items() if _age(price.day) < AGE}
            if _age(content["seen"]) < UNSEEN and LEAST < content["reference_ms"] < 1e6:
                table.reference_ms, table.seen = float(content["reference_ms"]), content["seen"]
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            pass
        return table

    def wanted(self, operators: Iterable[Operator]) -> list[Operator]:
        """The probes that the prices of ``operators`` are made of, baselines among them."""
        probed = [self.as_run(op) for op in operators if self.can_time(op)]
        return list(({CALL.key: CALL} | {probe.key: probe for op in probed for probe in (op, baseline(op))}).values())

    def missing(self, operators: Iterable[Operator]) -> list[Operator]:
        """The probes that must be timed before ``operators`` have a price.

        What was doubtful on the same day is not among them: two searches on one day see the same prices.
        """
        today = date.today().isoformat()
        return [
            probe
            for probe in self.wanted(operators)
            if probe.key not in self.probes or (self.doubtful(probe) and self.probes[probe.key].day != today)
        ]

    def doubtful(self, probe: Operator) -> bool:
        """Whether what is known of ``probe`` is too uncertain to go by, as where the device was disturbed."""
        return self.error(probe) > DOUBT

    def is_sure(self, probe: Operator) -> bool:
        """Whether it is known what ``probe`` takes undisturbed."""
        return probe.key in self.probes and not self.doubtful(probe)

    def add(self, prices: Mapping[str, Price], again: bool = False) -> None:
        """Remember what probes take, on disk too: of two prices the surer, or the later one if timed ``again``."""
        for key, price in prices.items():
            if again or key not in self.probes or self._error(price) <= self._error(self.probes[key]):
                self.probes[key] = price
        self._write()

    def settle(self, references: Mapping[str, Any] | None) -> None:
        """Remember what an agent says of the references, if it saw the device undisturbed.

        Where it is faster than it was ever seen before, what was timed today is as good as of another day.
        """
        if references is not None and references["disturbed"] <= 1 - LOWEST:
            ms, today = float(references["ms"]), date.today()
            if self.reference_ms is not None and ms < self.reference_ms * exp(-TOLERANCE):
                before = (today - timedelta(1)).isoformat()
                self.probes = {key: replace(price, day=min(price.day, before)) for key, price in self.probes.items()}
            self.reference_ms, self.seen = ms, today.isoformat()
            self._write()

    def _write(self) -> None:
        content = {
            "schema": SCHEMA, "conditions": self.conditions, "reference_ms": self.reference_ms or 1.0,
            "seen": self.seen or date.min.isoformat(),
            "probes": {key: list(astuple(price)) for key, price in self.probes.items()},
        }  # fmt: skip
        write(self.path, dumps(content))

    def as_run(self, operator: Operator) -> Operator:
        """The operator that takes as long."""
        unpacked = self.unpacks and operator.weight_bits != 8
        return replace(operator, weight_bits=8) if unpacked else operator

    def error(self, probe: Operator) -> float:
        """The standard error of a probe's logarithm."""
        return self._error(self.probes[probe.key])

    def _error(self, price: Price) -> float:
        above = beyond(price.level_ms, self.reference_ms) if price.level_ms and self.reference_ms else 0.0
        return max(LEAST_ERROR, hypot(price.error, above))

    def probe_ms(self, probe: Operator) -> float:
        """What a probe takes in the device's undisturbed state."""
        return self.probes[probe.key].ratio * (self.reference_ms or 1.0)

    @property
    def call_ms(self) -> float | None:
        """What a call of a model costs that computes next to nothing; ``None`` before that was timed."""
        return self.probe_ms(CALL) if CALL.key in self.probes else None

    def latency_ms(self, operator: Operator) -> float:
        """What one ``operator`` takes: its probe less the baseline, over the copies in a probe.

        Never less than that is sure by: what is lost in the noise is not for nothing. Nothing at all for what cannot be
        probed, or was not: that is in the constant by which whole networks correct the sum.
        """
        if not self.is_timed(operator):
            return 0.0
        own, beside = (self.probes[key].ratio for key in self._probes_of(operator))
        return max(self.error_ms(operator), (own - beside) * (self.reference_ms or 1.0) / self.copies)

    def can_time(self, operator: Operator) -> bool:
        """Whether a probe tells what ``operator`` takes here."""
        return operator.probed and not (self.unrolls and operator.recurrence)

    def is_timed(self, operator: Operator) -> bool:
        """Whether it has a price here: what cannot be probed has none."""
        return self.can_time(operator) and self.has_price(operator)

    def has_price(self, operator: Operator) -> bool:
        """Whether all that its price is made of was timed, if it can be."""
        return not self.can_time(operator) or all(key in self.probes for key in self._probes_of(operator))

    def error_ms(self, operator: Operator) -> float:
        """The standard error of what one ``operator`` takes."""
        if not self.is_timed(operator):
            return 0.0
        prices = (self.probes[key] for key in self._probes_of(operator))
        return hypot(*(price.ratio * self._error(price) for price in prices)) * (self.reference_ms or 1.0) / self.copies

    def _probes_of(self, operator: Operator) -> tuple[str, str]:
        """The keys of the probe of ``operator``, as it runs, and of the baseline that is taken off it."""
        found = self.parts.get(operator.key)
        if found is None:
            run = self.as_run(operator)
            found = self.parts[operator.key] = run.key, baseline(run).key
        return found


def _price(ratio: float, error: float, level_ms: float, day: str) -> Price:
    """Raises ``ValueError`` for figures that cannot be."""
    if not (LEAST < ratio < 1e9 and 0 <= error < 1e3 and 0 <= level_ms < 1e6):
        raise ValueError("it holds a price that cannot be")
    return Price(float(ratio), float(error), float(level_ms), day)


def _age(day: str) -> timedelta:
    return abs(date.today() - date.fromisoformat(day))
