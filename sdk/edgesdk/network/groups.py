"""Channel groups of a flat module: which of its channels are cut together, and how many of which must stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd, lcm
from typing import Any

import torch
from torch import Tensor, fx

from edgesdk.core.graph import by_whole_groups
from edgesdk.network.channels import Channels
from edgesdk.network.fuse import outputs
from edgesdk.network.modularize import arguments, aten
from edgesdk.network.network import Batch, rebatch, tensors
from edgesdk.network.recurrent import Cell, cell_of
from edgesdk.network.walk import (
    FILLED,
    NORMALIZERS,
    STATED,
    Walk,
    Weights,
    each,
    least,
    line,
    lying,
    none,
    unique_pairs,
    varying,
)

SPLIT_SIZES, SPLIT, CHUNK = aten.split_with_sizes.default, aten.split.Tensor, aten.chunk.default
PICKS = (aten.select.int, aten.unbind.int)


@dataclass(frozen=True)
class RawGroup:
    """A group of channels: its units in order, the nodes that make them, and what ``edgesdk.core.graph.Group`` says."""

    units: Tensor
    makers: tuple[str, ...]
    step: int
    shares: tuple[tuple[int, ...], ...]
    fixed: str | None


def find(module: fx.GraphModule, x: Batch, apart: Iterable[str] = ()) -> tuple[Channels, list[RawGroup]]:
    """The channels of ``module``, as seen on ``x``, and what groups they are in.

    The output channels of the submodules ``apart`` are left to others.
    """
    walk = _Finder(module, frozenset(apart))
    with torch.no_grad():
        while walk.learns():
            walk.run(*tensors(rebatch(x, lambda t: t[:2])))
    return walk.result()


class _Finder(Walk):
    def __init__(self, module: fx.GraphModule, apart: frozenset[str]) -> None:
        super().__init__(module)
        self.apart = apart
        self.numbered: dict[str, Tensor] = {}  # by parameter, the numbers of what it makes
        self.unit = torch.zeros(1, dtype=torch.long)
        self.pairs: list[Tensor] = []
        self.began = False

    def learns(self) -> bool:
        """Whether the last run tied what was not tied before; then all begins anew, what is tied with one number."""
        self.pairs = [pair for pair in self.pairs if pair.numel()]
        if self.began and not self.pairs:
            return False
        self.began = True
        edges = torch.cat([torch.zeros(2, 0, dtype=torch.int32), *self.pairs], 1)
        self.unit = components(len(self.unit), edges)[self.unit]
        self.pairs = []
        self.numbers.clear()
        self.constant.clear()
        self.parts: dict[str, dict[int, Tensor]] = {}
        self.constants: dict[str, Tensor] = {}
        self.left: list[tuple[Tensor, str]] = []
        self.sets: list[Tensor] = []  # of each of which the same share is kept
        self.columns: list[Tensor] = []  # what a layer reads: the same share of what of it can go
        self.sizes: dict[str, dict[int, Tensor]] = {}
        self.read: dict[str, tuple[int, Tensor]] = {}
        self.places: dict[str, tuple[int, Tensor]] = {}
        self.holds: dict[str, Tensor] = {}
        self.made: dict[str, Tensor] = {}  # by node, the numbers that it makes
        return True

    def follow(self, node: fx.Node, value: Any) -> Any:
        """As ever; of an operator that fails on what it is asked, what it reads is left whole."""
        try:
            return super().follow(node, value)
        except Exception as error:  # each operator fails in its own way on numbers or values that it does not expect
            for i in node.all_input_nodes:
                reason = f"{node.name} cannot be followed ({type(error).__name__})"
                each(self.of(i), lambda numbers, reason=reason: self.leave(numbers, reason))
            return none(value)

    def new(self, name: str, count: int) -> Tensor:
        """The numbers of the ``count`` channels that the parameter ``name`` makes, or of its entries."""
        if name not in self.numbered:
            first = len(self.unit)
            self.unit = torch.cat([self.unit, torch.arange(first, first + count)])
            self.numbered[name] = torch.arange(first, first + count)
        return self.unit[self.numbered[name]].int()

    def rows(self, weights: Weights, read: Tensor | None, whole: Tensor) -> Tensor:
        units = self.parts.setdefault(weights.weight, {})
        if weights.made not in units:
            count = whole.shape[weights.made] * (weights.groups if weights.made == 1 and weights.groups > 1 else 1)
            hidden = weights.weight.rpartition(".")[0] in self.apart
            units[weights.made] = (
                torch.zeros(count, dtype=torch.int32)
                if hidden or count == 1  # one alone never goes: what it is multiplied by is free, as by an attention
                else self.new(f"{weights.weight} along {weights.made}", count)
            )
        rows = units[weights.made]
        if weights.bias is not None:
            self.parts.setdefault(weights.bias, {0: rows})
        if read is not None:
            if weights.inputs in units:
                self.tie(units[weights.inputs], read)
            units.setdefault(weights.inputs, read)
            self._grouped(weights, read, rows)
        return rows

    def _grouped(self, weights: Weights, read: Tensor, rows: Tensor) -> None:
        """Of a layer in groups whole groups go, or as many channels of each."""
        ins, outs = read.reshape(weights.groups, -1), rows.reshape(weights.groups, -1)
        if by_whole_groups(weights.groups, ins.shape[1]):
            for side in (ins, outs):
                self.tie(ins[:, :1].expand_as(side), side)
        elif weights.groups > 1:
            self.sets += [*ins, *outs]
        self.sets.append(rows)
        self.columns.append(read)

    def entries(self, name: str, value: Tensor) -> Tensor:
        self.constants[name] = self.new(f"entries of {name}", value.numel()).reshape(value.shape)
        return self.constants[name]

    def filled(self, node: fx.Node, value: Tensor) -> Tensor:
        return self.new(f"entries of {node.name}", value.numel()).reshape(value.shape)

    def tie(self, left: Tensor, right: Tensor) -> None:
        left, right = left.flatten(), right.flatten()
        differ = (left > 0) & (right > 0) & (left != right)
        self.pairs.append(unique_pairs(left[differ], right[differ]))
        self.leave(right[(left == 0) & (right > 0)], "they meet others that stay")
        self.leave(left[(right == 0) & (left > 0)], "they meet others that stay")

    def leave(self, numbers: Tensor, reason: str) -> None:
        numbers = torch.unique(numbers)
        if bool((numbers > 0).any()):
            self.left.append((numbers[numbers > 0], reason))

    def _scaled(self, node: fx.Node, axis: int, names: list[str]) -> Tensor:
        units = self.of(node.all_input_nodes[0])
        column = self.column(units, axis)
        for name in names:
            self.tie(self.parts.setdefault(name, {0: column})[0], column)
        if node.target in NORMALIZERS or axis == -1:
            self.read[node.name] = axis, column
        if node.target is aten.group_norm.default:
            groups = column.reshape(arguments(node)["num_groups"], -1)
            if by_whole_groups(*groups.shape):
                self.tie(groups[:, :1].expand_as(groups), groups)
                self.sizes[node.name] = {1: groups[:, 0]}
            else:
                self.sets += [*groups]
        return units

    def _recurrent(self, node: fx.Node, value: Any) -> Any:
        column = self.column(self.of(node.all_input_nodes[0]), -1)
        named = [str(weight.target) for weight in node.all_input_nodes if weight.op == "get_attr"]
        cell = cell_of(self.module, node)  # type: ignore[arg-type]
        outer = cell.outer if cell else [n for n in named if "weight_ih_l0" in n.rpartition(".")[2]]
        for name in outer:
            self.parts.setdefault(name, {})[1] = column
        self.columns.append(column)
        if not outer:
            self.leave(column, f"{node.name} mixes them")
        self.read[node.name] = -1, column
        return super()._recurrent(node, value)

    def states(self, node: fx.Node, cell: Cell) -> Tensor:
        states = self.new(f"states of {cell.states[0]}", cell.width)
        for name in cell.own:
            self.parts.setdefault(name, {})[0] = states.repeat(cell.gates)
        for name in cell.between:
            self.parts[name][1] = states.repeat(cell.directions)
        for name in cell.states:
            self.parts[name][1] = states
        self.made[node.name] = states
        for holding in (node, *cell.first):
            self.holds[holding.name] = torch.unique(states)
        return states

    def _weighted(self, node: fx.Node, weights: Weights, value: Tensor) -> Tensor:
        units = super()._weighted(node, weights, value)
        if self.passes(node, weights):
            return units
        if weights.reads is not None:
            self.read[node.name] = weights.reads, self.parts[weights.weight][weights.inputs]
        self.made[node.name] = self.parts[weights.weight][weights.made]
        return units

    def _reduced(self, node: fx.Node) -> bool:
        if super()._reduced(node):
            units = self.of(node.all_input_nodes[0])
            self.read[node.name] = 0, units
            if lying(units) is None and len(varying(units)) > 1 and self._of_several(units):
                self.leave(units, f"{node.name} reduces those of layers that are stacked")
            return True
        return False

    def _of_several(self, units: Tensor) -> bool:
        """Whether some layer makes only a part of ``units``: of what is stacked, others could lose more of theirs."""
        own = torch.unique(least(units))
        found = (torch.isin(own[own > 0], numbers) for numbers in self.made.values())
        return any(bool(part.any()) and not bool(part.all()) for part in found)

    def seen(self, node: fx.Node, value: Any, units: Any) -> None:
        if isinstance(units, Tensor):
            axes = varying(units)
            if axes:
                self.holds[node.name] = torch.unique(least(units))
            if (lies := lying(units)) is not None:
                self.places[node.name] = lies
            if node.target in STATED and axes:
                self._stated(node, units, axes)
        if node.target in (SPLIT_SIZES, SPLIT, CHUNK):
            self._split(node, units)
        if node.target in (*PICKS, aten.slice.Tensor):
            self._sliced(node)

    def _stated(self, node: fx.Node, units: Tensor, axes: list[int]) -> None:
        """The longest of several axes gets shorter: what is behind it goes together, before it each has its share."""
        if node.target in FILLED and len(axes) > 1:
            return self.leave(units, f"{node.name} has them on several axes")
        axis = max(axes, key=lambda a: (units.shape[a], a))
        inner = [a for a in axes if a > axis]
        first = units
        for a in inner:
            self.tie(first.narrow(a, 0, 1).expand_as(first), first)
            first = first.narrow(a, 0, 1)
        outer = [a for a in axes if a < axis]
        if outer:
            rest = [a for a in range(units.dim()) if a not in (*outer, axis)]
            for a in rest:
                first = first.narrow(a, 0, 1)
            self.sets += [*first.movedim(axis, -1).reshape(-1, units.shape[axis])]
        self.sizes[node.name] = {axis: line(units, axis)}

    def _split(self, node: fx.Node, units: Any) -> None:
        source = self.of(node.all_input_nodes[0])
        axis = arguments(node)["dim"] % source.dim()
        if axis not in varying(source):
            return
        lines = [line(piece, axis) for piece in units]
        if node.target is not SPLIT_SIZES:
            self.sets += lines
        if node.target is not CHUNK:
            self.sizes[node.name] = dict(enumerate(lines))

    def _sliced(self, node: fx.Node) -> None:
        source, given = self.of(node.all_input_nodes[0]), arguments(node)
        axis = given["dim"] % source.dim()
        if axis not in varying(source):
            return
        if node.target in PICKS or given.get("step", 1) != 1:
            self.leave(source, f"{node.name} picks some by their place")
        else:
            self.sizes[node.name] = {axis: line(source, axis)}

    def result(self) -> tuple[Channels, list[RawGroup]]:
        for node in outputs(self.module):  # type: ignore[arg-type]
            self.leave(self.numbers[node], "its channels are the network's output")
        channels = Channels(
            self.parts, self.constants, len(self.unit), self.sizes, self.read, self.places, self.holds
        )  # fmt: skip
        return channels, self._groups()

    def _groups(self) -> list[RawGroup]:
        stays = self._staying()
        whole = torch.zeros(len(self.unit), dtype=torch.bool)
        whole[[0, *stays]] = True
        sets = [s for s in (*self.sets, *(c[~whole[c.long()]] for c in self.columns)) if len(s) and bool((s > 0).all())]
        joined = [torch.stack([s[:1].expand_as(s), s]).long() for s in sets]
        group = components(len(self.unit), torch.cat([torch.zeros(2, 0, dtype=torch.long), *joined], 1))
        makers: dict[int, list[str]] = {}
        for name, numbers in self.made.items():
            for key in torch.unique(group[numbers[numbers > 0].long()]).tolist():
                makers.setdefault(key, []).append(name)
        of_group: dict[int, list[Tensor]] = {}
        for s in sets:
            of_group.setdefault(int(group[s[0].long()]), []).append(s)
        present = torch.unique(self.unit)
        groups = []
        for key, names in makers.items():
            units = present[(group[present] == key) & (present > 0)]
            fixed = next((stays[unit] for unit in units.tolist() if unit in stays), None)
            step, shares = _shares(units, of_group.get(key, []))
            if fixed is None and len(units) < 2:
                alone = sum(len(self.made[name]) for name in names) == 1
                fixed = "it has a single channel" if alone else "all of them go together"
            elif fixed is None and step >= len(units):
                fixed = "no fewer of them leave each layer the same share"
            groups.append(RawGroup(units, tuple(names), step, shares, fixed))
        return groups

    def _staying(self) -> dict[int, str]:
        """The units that cannot be cut, with the reason: what shares a set with one cannot either."""
        stays: dict[int, str] = {}
        for numbers, reason in self.left:
            for unit in numbers.tolist():
                stays.setdefault(unit, reason)
        sets = [set(s[s > 0].tolist()) for s in self.sets]
        while True:
            more = {}
            for s in sets:
                held = s.intersection(stays)
                if held and held != s:
                    more.update(dict.fromkeys(s - held, stays[min(held)]))
            if not more:
                return stays
            stays |= more


def _shares(units: Tensor, sets: Iterable[Tensor]) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """In what numbers units go so that each of ``sets`` keeps the same share, and those that not any units leave it."""
    step, shares = 1, set()
    for numbers in sets:
        counts = torch.bincount(torch.searchsorted(units, numbers.long()), minlength=len(units))
        counts = counts // gcd(*counts[counts > 0].tolist())
        step = lcm(step, len(units) // gcd(len(units), int(counts.sum())))
        if not bool((counts == 1).all()):
            shares.add(tuple(torch.arange(len(units)).repeat_interleave(counts).tolist()))
    return step, tuple(sorted(shares))


def components(count: int, pairs: Tensor) -> Tensor:
    """For each of ``count`` numbers the least one that it is tied to by ``pairs``, (2, n)."""
    root = torch.arange(count)
    left, right = pairs.long()
    while True:
        least = torch.minimum(root[left], root[right])
        new = root.scatter_reduce(0, root[left], least, "amin").scatter_reduce(0, root[right], least, "amin")
        while not torch.equal(new, new[new]):
            new = new[new]
        if torch.equal(new, root):
            return root
        root = new
