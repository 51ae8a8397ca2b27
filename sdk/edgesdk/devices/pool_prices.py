"""Prices that the boards of a pool measured between them, as they are on the slowest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, hypot, log
from statistics import median, pstdev

from edgesdk.price.operator import Operator
from edgesdk.price.table import Table

ALIKE = 0.05  # in the logarithm of what probes take, up to which boards are alike


class PoolPrices:
    """What operators take on the slowest of alike boards; each was timed on one of them, in the table of that board.

    Probes that every board timed tell how much slower than another a board is, ``slower`` as the logarithm of what it
    takes over what the fastest takes, and by how much that differs from probe to probe, ``spread``, the standard
    deviation of its logarithm against the ``slowest``.
    """

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.tables: Mapping[str, Table] = tables
        self.slowest: str = next(iter(tables))
        self.slower: Mapping[str, float] = dict.fromkeys(tables, 0.0)
        self.spread: Mapping[str, float] = dict.fromkeys(tables, 0.0)
        self.update()

    @property
    def shared(self) -> list[str]:
        """The probes that every board with any timed, by their keys."""
        timed = [table for table in self.tables.values() if table.probes]
        return [key for key in timed[0].probes if all(key in table.probes for table in timed)] if timed else []

    def update(self) -> None:
        """Learn from what the tables have by now which board is the slowest, and by how much."""
        shared = self.shared
        takes = {
            name: {key: log(table.probes[key].ratio * (table.reference_ms or 1.0)) for key in shared}
            for name, table in self.tables.items()
            if table.probes
        }
        if not shared or not takes:
            return
        middle = {key: median(own[key] for own in takes.values()) for key in shared}
        level = {name: median(own[key] - middle[key] for key in shared) for name, own in takes.items()}
        least = min(level.values())
        self.slowest = max(level, key=lambda name: level[name])
        self.slower = {name: level.get(name, max(level.values())) - least for name in self.tables}
        against = takes[self.slowest]
        self.spread = {
            name: pstdev([against[key] - own[key] for key in shared]) if len(shared) > 1 else 0.0
            for name, own in takes.items()
        }

    def list_differences(self) -> list[str]:
        """By how much boards are slower than the fastest, or not alike from operator to operator, where that is more
        than ``ALIKE``."""
        fastest = min(self.slower, key=lambda name: self.slower[name])
        slower = [
            f"{name} takes {exp(share):.2f} times what {fastest} does, over {len(self.shared)} operators timed on both"
            for name, share in self.slower.items()
            if share > ALIKE
        ]
        uneven = [
            f"what {name} takes differs by {100 * spread:.0f} % from operator to operator against {self.slowest}"
            for name, spread in self.spread.items()
            if spread > ALIKE
        ]
        return slower + uneven

    def list_missing(self, operators: Sequence[Operator]) -> list[Operator]:
        """Those of ``operators`` that can be timed and of which no board has a price that is sure, each once."""
        distinct = {operator.key: operator for operator in operators if self._can_time(operator)}.values()
        return [op for op in distinct if all(table.missing([op]) for table in self.tables.values())]

    def keep_alone(self, name: str, operators: Sequence[Operator]) -> None:
        """Of ``operators``, which were timed again on the board ``name``, forget what others told before."""
        for other in (table for board, table in self.tables.items() if board != name):
            for operator in operators:
                other.probes.pop(other.as_run(operator).key, None)

    @property
    def reference_ms(self) -> float | None:
        """What the references take on the slowest board."""
        known = [table.reference_ms for table in self.tables.values() if table.reference_ms is not None]
        return max(known, default=None)

    @property
    def call_ms(self) -> float | None:
        known = [ms for table in self.tables.values() if (ms := table.call_ms) is not None]
        return max(known, default=None)

    def latency_ms(self, operator: Operator) -> float:
        name = self._find(operator)
        return 0.0 if name is None else self.tables[name].latency_ms(operator) * self._times(name)

    def error_ms(self, operator: Operator) -> float:
        name = self._find(operator)
        if name is None:
            return 0.0
        table, times = self.tables[name], self._times(name)
        return hypot(table.error_ms(operator), table.latency_ms(operator) * self.spread.get(name, 0.0)) * times

    def is_timed(self, operator: Operator) -> bool:
        return self._find(operator) is not None

    def has_price(self, operator: Operator) -> bool:
        return not self._can_time(operator) or self._find(operator) is not None

    def _can_time(self, operator: Operator) -> bool:
        return any(table.can_time(operator) for table in self.tables.values())

    def _times(self, name: str) -> float:
        """How many times what it takes on the board ``name`` it takes on the slowest."""
        return exp(self.slower[self.slowest] - self.slower[name])

    def _find(self, operator: Operator) -> str | None:
        """The board whose price of ``operator`` counts: the slowest's own, else that of the surest."""
        if not self._can_time(operator):
            return None
        timed = [name for name, table in self.tables.items() if table.has_price(operator)]
        if self.slowest in timed or not timed:
            return self.slowest if timed else None
        return min(timed, key=lambda name: self.tables[name].error_ms(operator))
