"""A menu as a mixed-integer program: its columns, its rows, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgesdk.core.menu import Change, Choice, LayerMenu, Menu
from edgesdk.core.plan import Option
from edgesdk.price.precision import DEQUANTIZE, QUANTIZE, WAYS
from edgesdk.solve.highs import BinaryProgram, Effort, Outcome, Row

LATENCY, PEAK, SIZE, LOSS = "latency_ms", "peak_memory_bytes", "size_bytes", "loss"
FIGURES = (LATENCY, PEAK, SIZE, LOSS)
ONE = -1  # the key of a row's constant


class Program:
    """The columns and rows that a menu gives, whatever the objective and the bounds.

    ``widths`` holds the columns that say how many channels a group keeps, ``left_out`` those of branches, ``picks``
    those of a layer's choices. Further columns price each change of precision per tensor and width, and hold what
    is resident and the peak of memory. All but these last are binary.
    """

    def __init__(self, menu: Menu) -> None:
        self.menu = menu
        self.integer: list[bool] = []
        self.terms: dict[str, Row] = {name: {} for name in FIGURES}
        self.constants: dict[str, float] = {
            LATENCY: menu.latency_ms,
            PEAK: menu.memory_bytes,
            SIZE: menu.size_bytes,
            LOSS: 0.0,
        }
        self.rows: list[tuple[float, float, Row]] = []
        self.layers: dict[str, LayerMenu] = {layer.name: layer for layer in menu.layers}
        self.joins: dict[str, str] = {branch.join: branch.name for branch in menu.branches}
        self.changing: set[str] = {name for change in menu.changes for name in (change.tensor, *change.readers)}
        self.left_out: dict[str, int] = {branch.name: self._column({LOSS: branch.loss}) for branch in menu.branches}
        self.widths: dict[str, dict[int, int]] = {
            g.name: {w: self._column({LOSS: loss}) for w, loss in g.widths.items()} for g in menu.groups
        }
        for columns in self.widths.values():
            self._row(1, 1, dict.fromkeys(columns.values(), 1.0))
        self.sharing: set[str] = {name for names in menu.shared for name in names}
        self.picks: dict[str, dict[int, Choice]] = {layer.name: self._pick(layer) for layer in menu.layers}
        for names in menu.shared:
            self._share(names)
        for change in menu.changes:
            self._change(change)
        self.resident: int = self._column({}, integer=False)
        self.peak: int = self._column({}, integer=False)
        used = sorted({name for picks in self.picks.values() for c in picks.values() for name in c.kernels})
        priced = [name for name in used if menu.kernels.get(name)]
        self.kernels: dict[str, int] = {
            name: self._column({PEAK: menu.kernels[name]}, integer=False) for name in priced
        }

    def _column(self, terms: Mapping[str, float], integer: bool = True) -> int:
        index = len(self.integer)
        self.integer.append(integer)
        for name, value in terms.items():
            if value:
                self.terms[name][index] = value
        return index

    def _row(self, lower: float, upper: float, row: Row) -> None:
        constant = row.pop(ONE, 0.0)
        self.rows.append((lower - constant, upper - constant, row))

    def _pick(self, layer: LayerMenu) -> dict[int, Choice]:
        """One choice, at the widths of its groups, unless its branch is left out; a skip just when its own is."""
        groups = {getattr(layer, side): side for side in ("reads", "writes") if getattr(layer, side) is not None}
        shares = layer.name in self.sharing
        kept = undominated(
            (c for c in layer.choices if self._can_fit(layer, c)), layer.name in self.changing, by_option=shares
        )
        picks = {self._column({LOSS: c.loss, LATENCY: c.latency_ms, SIZE: c.size_bytes}): c for c in kept}
        gone = {} if layer.branch is None else {self.left_out[layer.branch]: 1.0}
        self._row(1, 1, dict.fromkeys(picks, 1.0) | gone)
        for group, side in groups.items():
            for width, column in self.widths[group].items():
                at = {index: 1.0 for index, c in picks.items() if getattr(c, side) == width}
                self._row(-math.inf if gone else 0, 0, {**at, column: -1.0})
        if layer.name in self.joins:
            skips = {index: 1.0 for index, c in picks.items() if c.skips}
            self._row(0, 0, {**skips, self.left_out[self.joins[layer.name]]: -1.0})
        return picks

    def _share(self, names: Sequence[str]) -> None:
        """One option for all of the layers ``names``, where their branches are not left out."""
        columns: dict[Option, int] = {}
        for name in names:
            picked: dict[Option, Row] = {}
            for index, choice in self.picks[name].items():
                if not choice.skips:
                    picked.setdefault(choice.option, {})[index] = 1.0
            for option, row in picked.items():
                column = columns.setdefault(option, -1)
                if column < 0:
                    column = columns[option] = self._column({}, integer=False)
                self._row(-math.inf, 0, {**row, column: -1.0})
        self._row(-math.inf, 1, dict.fromkeys(columns.values(), 1.0))

    def _can_fit(self, layer: LayerMenu, choice: Choice) -> bool:
        sides = ((layer.reads, choice.reads), (layer.writes, choice.writes))
        fits = all(group is None or width in self.widths[group] for group, width in sides)
        alike = layer.reads is None or layer.reads != layer.writes or choice.reads == choice.writes
        return fits and alike and (not choice.skips or layer.name in self.joins)

    def _change(self, change: Change) -> None:
        """A tensor changes precision in one of the ``WAYS`` where its producer and a reader run as that says.

        Per width of its group and per reader: paid >= reader(int8) - producer(int8), and the same with fp32. With
        both sides at one width that is a transport between the precisions, so the relaxation is as tight as it gets.
        """
        source = self.layers.get(change.tensor)
        kept: Mapping[int | None, int] = {None: ONE} if change.group is None else {**self.widths[change.group]}
        for width, column in kept.items():
            on: Row = {column: 1.0}
            made, made_known = ((on, {}), True) if source is None else self._runs(source, change.group, width, "writes")
            needs: dict[str, list[Row]] = {way: [] for way in WAYS}
            for name in (*change.readers, *[None] * change.is_output):
                read, read_known, gone = (on, {}), True, {}
                if name is not None:
                    # Where the branch that makes the tensor is left out, its join passes on another one.
                    joined = source is not None and source.branch is not None and self.joins.get(name) == source.branch
                    read, read_known = self._runs(self.layers[name], change.group, width, "reads", skips=not joined)
                    if source is not None and source.branch not in (None, self.layers[name].branch) and not joined:
                        gone = {self.left_out[source.branch]: -1.0}
                for way, (maker, reader) in WAYS.items():
                    if not read[reader] or (source is None and maker):
                        continue
                    if read_known:
                        parts = (read[reader], 1), (made[not maker], -1), (gone, 1)
                    elif made_known:
                        parts = (read[reader], 1), (made[maker], 1), ({ONE: -1.0}, 1)
                    else:
                        parts = (read[reader], 1), (made[not maker], -1), (gone, 1), (on, 1), ({ONE: -1.0}, 1)
                    needs[way].append(_sum(*parts))
            paid_for = (DEQUANTIZE, change.dequantize_ms, 0.0), (QUANTIZE, change.quantize_ms, change.size_bytes)
            for way, prices, size in paid_for:
                rows = needs[way]
                if rows and (prices[width] or size):
                    paid = self._column({LATENCY: prices[width], SIZE: size}, integer=False)
                    for row in rows:
                        self._row(-math.inf, 0, {**row, paid: -1.0})

    def _runs(
        self, layer: LayerMenu, group: str | None, width: int | None, first: str, skips: bool = True
    ) -> tuple[tuple[Row, Row], bool]:
        """The columns in which ``layer`` runs in fp32 and in int8: at ``width`` if it knows it (then true), or all."""
        sides = sorted(("reads", "writes"), key=lambda side: side != first)
        side = next((side for side in sides if group is not None and getattr(layer, side) == group), None)
        rows: tuple[Row, Row] = ({}, {})
        for index, c in self.picks[layer.name].items():
            if (side is None or getattr(c, side) == width) and (skips or not c.skips):
                rows[c.integer][index] = 1.0
        return rows, side is not None or group is None

    def _memory(self, unit: float) -> list[tuple[float, float, Row]]:
        """Rows that keep under ``peak`` what every step holds, in ``unit`` bytes; steps within another are left out."""
        held = {i: c.memory_bytes / unit for picks in self.picks.values() for i, c in picks.items() if c.memory_bytes}
        rows = [(-math.inf, self.menu.spare_bytes / unit, {**held, self.resident: -1.0})]
        for name, column in self.kernels.items():
            for picks in self.picks.values():
                if running := {index: 1.0 for index, c in picks.items() if name in c.kernels}:
                    rows.append((-math.inf, 0.0, {**running, column: -1.0}))
        scratch = {
            step: {i: c.scratch_bytes / unit for i, c in self.picks[step].items() if c.scratch_bytes}
            for step in self.menu.live
            if step in self.picks
        }
        seen: list[set[str]] = []
        for step, names in sorted(self.menu.live.items(), key=lambda item: (not scratch.get(item[0]), -len(item[1]))):
            own = scratch.get(step, {})
            if own or not any(other.issuperset(names) for other in seen):
                seen.append(set(names))
                outputs = {i: c.output_bytes / unit for n in names for i, c in self.picks.get(n, {}).items()}
                total = _sum((outputs, 1), (own, 1), ({self.resident: 1.0, self.peak: -1.0}, 1))
                rows.append((-math.inf, 0.0, total))
        return rows

    def minimise(
        self, objective: str, limits: Mapping[str, float], gap: float, effort: Effort, margin: float = 0.0
    ) -> Outcome:
        """The least ``objective`` with every figure of ``limits`` under its limit by ``margin`` (relative)."""
        rows, terms = list(self.rows), dict(self.terms)
        upper = np.ones(len(self.integer))
        if PEAK in (objective, *limits):
            unit = limits.get(PEAK) or self._least_peak() or self._most(PEAK) or 1.0
            rows += self._memory(unit)
            terms[PEAK] = {**terms[PEAK], self.peak: unit}
            upper[[self.resident, self.peak]] = max(self._most(PEAK) / unit, 1.0)
        for name, limit in limits.items():
            scale = abs(limit) or max(map(abs, terms[name].values()), default=0.0) or 1.0
            row = {index: value / scale for index, value in terms[name].items()}
            rows.append((-math.inf, (limit - self.constants[name]) / scale - margin, row))
        scale = 100 / (max(map(abs, terms[objective].values()), default=0.0) or 1.0)
        cost, offset = self._vector(terms[objective], scale), self.constants[objective] * scale
        program = BinaryProgram(np.array(self.integer), upper, cost, offset, rows)
        second = LATENCY if objective == LOSS else LOSS
        tie = self._vector(terms[second], 1.0) if min(terms[second].values(), default=0.0) >= 0 else None
        outcome = program.minimise(gap, effort, tie, self._most(second), [*self.left_out.values()])
        least = self.constants[objective] if min(terms[objective].values(), default=0.0) >= 0 else -math.inf
        return replace(outcome, bound=max(outcome.bound / scale, least))

    def _vector(self, row: Row, factor: float) -> np.ndarray:
        vector = np.zeros(len(self.integer))
        vector[list(row)] = [value * factor for value in row.values()]
        return vector

    def _least_peak(self) -> float:
        """Bytes below which memory does not peak unless branches are left out: the scale on which to minimise it."""
        held = sum(min((c.memory_bytes for c in picks.values()), default=0.0) for picks in self.picks.values())
        output = {n: min((c.output_bytes for c in picks.values()), default=0.0) for n, picks in self.picks.items()}
        steps = (sum(output.get(name, 0.0) for name in names) for names in self.menu.live.values())
        return self.menu.memory_bytes + held + max(steps, default=0.0)

    def _most(self, name: str) -> float:
        """No assignment has more than this of figure ``name``, what is paid anyway left out."""
        if name == PEAK:
            return sum(self.menu.kernels[name] for name in self.kernels) + sum(
                max((c.memory_bytes + c.output_bytes + c.scratch_bytes for c in picks.values()), default=0.0)
                for picks in self.picks.values()
            )
        terms = self.terms[name]
        either: list[Iterable[int]] = [*self.picks.values(), *(columns.values() for columns in self.widths.values())]
        alone = set(terms).difference(*either)
        either += [[column] for column in alone]
        return sum(max((terms.get(column, 0.0) for column in columns), default=0.0) for columns in either)


def _sum(*parts: tuple[Row, float]) -> Row:
    total: Row = {}
    for row, factor in parts:
        for index, value in row.items():
            total[index] = total.get(index, 0.0) + factor * value
    return total


def undominated(choices: Iterable[Choice], by_precision: bool, by_option: bool = False) -> list[Choice]:
    """``choices`` without those that another one, in the same place, is no worse than in anything."""
    best: dict[tuple[object, ...], list[tuple[tuple[float, ...], Choice]]] = {}
    for c in choices:
        figures = (c.loss, c.latency_ms, c.size_bytes, c.memory_bytes, c.output_bytes, c.scratch_bytes)
        place = (c.reads, c.writes, c.integer and by_precision, by_option and c.option, c.skips, c.kernels)
        others = best.setdefault(place, [])
        if not any(_no_worse(other, figures) for other, _ in others):
            others[:] = [entry for entry in others if not _no_worse(figures, entry[0])] + [(figures, c)]
    return [c for others in best.values() for _, c in others]


def _no_worse(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(left, right, strict=True))
