"""Measured operator latencies, kept on disk per device, runtime, version and thread count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgesdk.price.operators import Operator, baseline
from edgesdk.record import digest, dumps, write

SCHEMA = 3  # 2: pools with their own windows, clips on grids of their own; 3: readers of two pixels a side


@dataclass
class Table:
    """What probes took on one device, in ms, by the operator's key; ``conditions`` is all that the figures depend on.

    A table is a cache of measurements: it grows, and what is in it is not measured again. With ``unpacks``, 4-bit
    weights run as 8-bit ones do.
    """

    conditions: Mapping[str, str]
    path: Path
    copies: int
    unpacks: bool = True
    probes: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, conditions: Mapping[str, str], copies: int, unpacks: bool = True) -> Table:
        """The table for ``conditions`` in ``folder``; empty where there is none, or none that can be read."""
        table = cls(conditions, folder / f"{digest([SCHEMA, conditions])[:16]}.json", copies, unpacks)
        try:
            content = json.loads(table.path.read_text())
            if content["schema"] == SCHEMA and content["conditions"] == dict(conditions):
                table.probes = {str(k): float(v) for k, v in content["probes_ms"].items() if 0 < float(v) < 1e6}
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            pass
        return table

    def missing(self, operators: Iterable[Operator]) -> list[Operator]:
        """The probes, baselines among them, that must be timed before ``operators`` have a price."""
        probed = [self.as_run(op) for op in operators if op.probed]
        wanted = {probe.key: probe for op in probed for probe in (op, baseline(op))}
        return [probe for key, probe in wanted.items() if key not in self.probes]

    def add(self, times: Mapping[str, float]) -> None:
        """Remember what probes took, in ms, on disk too."""
        self.probes.update(times)
        content = {"schema": SCHEMA, "conditions": self.conditions, "probes_ms": self.probes}
        write(self.path, dumps(content))

    def as_run(self, operator: Operator) -> Operator:
        """The operator that takes as long."""
        return replace(operator, weight_bits=8) if self.unpacks else operator

    def latency_ms(self, operator: Operator) -> float:
        """What one ``operator`` takes: its probe less the baseline, over the copies in a probe, never below zero.

        Nothing for what cannot be probed: that is in the constant by which whole networks correct the sum.
        """
        if not operator.probed:
            return 0.0
        operator = self.as_run(operator)
        difference = self.probes[operator.key] - self.probes[baseline(operator).key]
        return max(0.0, difference / self.copies)
