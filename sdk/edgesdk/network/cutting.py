"""Channels cut out of a flat module, and the same module with those channels read as nothing: the two must agree."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgesdk.core.graph import by_whole_groups
from edgesdk.network.channels import Channels
from edgesdk.network.copying import PARTS
from edgesdk.network.fuse import CONVOLUTIONS, NORMS
from edgesdk.network.groups import SPLIT, SPLIT_SIZES
from edgesdk.network.heads import _factors
from edgesdk.network.modularize import arguments, aten
from edgesdk.network.network import Batch, rebatch, tensors
from edgesdk.network.recurrent import RECURRENT, Cell, cell_of, narrow_first
from edgesdk.network.shared import list_shared
from edgesdk.network.walk import (
    REDUCTIONS,
    STATED,
    Walk,
    Weights,
    line,
    scaled_by,
    squash,
    varying,
    weights_of,
)  # fmt: skip
from edgesdk.techniques.layouts import TRANSPOSED

RTOL, ATOL = 1e-3, 1e-4
Gone = Mapping[str, Iterable[int]]


class Apart(Exception):
    """Channels cannot be cut in this way; ``reason`` is a clause for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def cut(module: fx.GraphModule, x: Batch, channels: Channels, gone: Gone) -> None:
    """Remove the channels ``gone`` of each group, by their place in it, and all that depends on them, in place.

    ``channels`` are those of ``module``, or of a module of which it is a part. Raises ``Apart`` where what is left
    does not fit together.
    """
    if any(True for places in gone.values() for _ in places):
        _Cutter(module, channels, channels.stay(gone)).results(x)
        module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
        module.recompile()


class _Cutter(Walk):
    """Cuts weights as it comes by them, to the channels that arrive there, in the order in which they do."""

    def __init__(self, module: fx.GraphModule, channels: Channels, left: Tensor, keep: Iterable[str] = ()) -> None:
        super().__init__(module)
        self.keep, self.kept = set(keep), dict[str, Any]()
        self.last: str | None = None  # of the nodes that were come to, by name
        self.channels, self.left = channels, left
        self.can_go = torch.zeros(channels.count, dtype=torch.bool)
        for numbers in channels.groups.values():
            self.can_go[numbers] = True
        self.done: dict[tuple[str, int], Tensor] = {}
        self.constants = dict(channels.constants)
        self.shared = list_shared(module)

    def results(self, x: Batch) -> list[Any]:
        """Cut; what is left computes of ``x``."""
        for name, numbers in self.channels.constants.items():
            if not bool(self.left[numbers.long()].all()):
                axes = varying(squash(numbers))
                if len(axes) != 1:
                    raise Apart(f"{name} has them on several axes")
                places = torch.nonzero(self.left[line(numbers, axes[0]).long()]).flatten()
                self._select(name, axes[0], places)
                self.constants[name] = numbers.index_select(axes[0], places)
        with torch.no_grad():
            return list(self.run(*tensors(rebatch(x, lambda t: t[:2]))))

    def _select(self, name: str, axis: int, places: Tensor) -> None:
        """Keep ``places`` of a parameter or buffer along ``axis``, once."""
        if (name, axis) in self.done:
            if not torch.equal(self.done[name, axis], places):
                raise Apart("they arrive in several orders where a weight is used again")
            return
        self.done[name, axis] = places
        value = operator.attrgetter(name)(self.module)
        if len(places) != value.shape[axis] or not torch.equal(places, torch.arange(len(places))):
            self._put(name, value.detach().index_select(axis, places))

    def _put(self, name: str, value: Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        old = operator.attrgetter(name)(self.module)
        value = value.clone()
        made = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        for holder in map(self.module.get_submodule, self.shared.get(owner, [owner])):
            if getattr(holder, leaf) is old:
                setattr(holder, leaf, made)

    def _arrived(self, name: str, axis: int, arriving: Tensor) -> Tensor:
        """The places on ``axis`` of a weight of the channels ``arriving``, in their order."""
        whole, arriving = (n.long() * self.can_go[n.long()] for n in (self.channels.parts[name][axis], arriving))
        order = whole.argsort(stable=True)
        order = order[self.left[whole[order]]]
        sequence = arriving.argsort(stable=True)
        if not torch.equal(whole[order], arriving[sequence]):
            raise Apart("fewer of them would come to other places")
        return torch.empty_like(order).scatter_(0, sequence, order)

    def before(self, node: fx.Node) -> None:
        self.last = node.name
        weights = weights_of(self.module, node)  # type: ignore[arg-type]
        if weights is not None:
            if not self.passes(node, weights):
                self._weights(node, weights)
        elif (scaled := scaled_by(self.module, node)) is not None:  # type: ignore[arg-type]
            axis, names = scaled
            arriving = self.column(self.of(node.all_input_nodes[0]), axis)
            for name in names:
                self._select(name, 0, self._arrived(name, 0, arriving))
            if node.target is aten.group_norm.default and node.name in self.channels.sizes:
                node.update_arg(1, self._count(self.channels.sizes[node.name][1]))
            if node.target in (aten.layer_norm.default, aten.rms_norm.default):
                node.update_arg(1, [len(arriving)])
        elif node.target in RECURRENT and node.name in self.channels.read:
            self._narrow(node)
        elif node.name in self.channels.sizes:
            self._resize(node)
        if node.op == "call_module":
            _restate(self.module.get_submodule(str(node.target)))
        for read in node.all_input_nodes:  # what was cut after it was read
            if read.op == "get_attr":
                self.env[read] = operator.attrgetter(str(read.target))(self.module)

    def seen(self, node: fx.Node, value: Any, found: Any) -> None:
        if node.name in self.keep:
            self.kept[node.name] = value

    def _weights(self, node: fx.Node, weights: Weights) -> None:
        parts = self.channels.parts[weights.weight]
        rows = parts[weights.made]
        stay = torch.nonzero(self.left[rows.long()]).flatten()
        if weights.reads is not None and weights.inputs in parts:
            arriving = self.column(self.of(node.all_input_nodes[0]), weights.reads)
            places = self._arrived(weights.weight, weights.inputs, arriving)
            each = len(parts[weights.inputs]) // weights.groups
            if weights.groups == 1:
                self._select(weights.weight, weights.inputs, places)
            elif by_whole_groups(weights.groups, each):
                stay = self._whole_groups(node, weights, places, each, len(rows) // weights.groups)
            else:
                self._thinner_groups(weights, places, each)
                if weights.inputs == 0:
                    self._thinner_outputs(weights, stay, len(rows) // weights.groups)
        if weights.groups == 1 or weights.inputs == 1:
            self._select(weights.weight, weights.made, stay)
        if weights.bias is not None:
            self._select(weights.bias, 0, stay)
        self.rows_of = rows[stay]

    def _whole_groups(self, node: fx.Node, weights: Weights, places: Tensor, each: int, made: int) -> Tensor:
        """Leave the groups whose input channels, ``each`` of them, arrive at ``places``; their rows, ``made`` each."""
        groups = places[::each] // each
        if not torch.equal(places, (groups[:, None] * each + torch.arange(each)).flatten()):
            raise Apart("the channels of a group arrive in another order")
        if node.op == "call_module":
            self.module.get_submodule(str(node.target)).groups = len(groups)  # type: ignore[union-attr]
        else:
            _set(node, "groups", len(groups))
        if weights.inputs == 0:  # transposed: the weight has an input channel in each row
            self._select(weights.weight, 0, places)
        return (groups[:, None] * made + torch.arange(made)).flatten()

    def _thinner_groups(self, weights: Weights, places: Tensor, each: int) -> None:
        """Leave of each group's ``each`` input channels those that arrive, at ``places``."""
        key = weights.weight, weights.inputs
        if key in self.done:
            return self._select(*key, places)
        inside = places.reshape(weights.groups, -1) if len(places) % weights.groups == 0 else None
        first = torch.arange(weights.groups)[:, None]
        if inside is None or not bool((inside // each == first).all()):
            raise Apart("fewer of them would come to other groups")
        if weights.inputs == 0:  # transposed: a row for each input channel
            return self._select(*key, places)
        self.done[key] = places
        weight = operator.attrgetter(weights.weight)(self.module)
        picked = (inside % each).repeat_interleave(len(weight) // weights.groups, 0)  # by row
        picked = picked.reshape(*picked.shape, *[1] * (weight.dim() - 2)).expand(-1, -1, *weight.shape[2:])
        self._put(weights.weight, weight.detach().gather(1, picked))

    def _thinner_outputs(self, weights: Weights, stay: Tensor, each: int) -> None:
        """Leave of each group's ``each`` output channels those that ``stay``, which a transposed one has beside each
        other: a row of its weight has those of its group alone."""
        key = weights.weight, weights.made
        if key in self.done:
            return self._select(*key, stay)
        self.done[key] = stay
        inside = stay.reshape(weights.groups, -1) if len(stay) % weights.groups == 0 else None
        if inside is None or not bool((inside // each == torch.arange(weights.groups)[:, None]).all()):
            raise Apart("fewer of them would come to other groups")
        weight = operator.attrgetter(weights.weight)(self.module)
        picked = (inside % each).repeat_interleave(len(weight) // weights.groups, 0)  # by row
        picked = picked.reshape(*picked.shape, *[1] * (weight.dim() - 2)).expand(-1, -1, *weight.shape[2:])
        self._put(weights.weight, weight.detach().gather(1, picked))

    def _narrow(self, node: fx.Node) -> None:
        """Leave a recurrent layer the columns of what arrives, and of its states those that are left."""
        cell = cell_of(self.module, node)  # type: ignore[arg-type]
        inner = () if cell is None else (*cell.between, *cell.states)
        for name in dict.fromkeys(str(weight.target) for weight in node.all_input_nodes if weight.op == "get_attr"):
            for axis, numbers in self.channels.parts.get(name, {}).items():
                if axis == 0 or name in inner:
                    places = torch.nonzero(self.left[numbers.long()]).flatten()
                else:
                    places = self._arrived(name, axis, self.column(self.of(node.all_input_nodes[0]), -1))
                self._select(name, axis, places)
        if cell is not None:
            width = self._count(self.channels.parts[cell.states[0]][1])
            narrow_first(cell, width)
            self.env.update({first: self.env[first][..., :width] for first in cell.first})

    def rows(self, weights: Weights, read: Tensor | None, whole: Tensor) -> Tensor:
        return self.rows_of

    def states(self, node: fx.Node, cell: Cell) -> Tensor:
        states = self.channels.parts[cell.states[0]][1]
        return states[self.left[states.long()]]

    def entries(self, name: str, value: Tensor) -> Tensor:
        return self.constants.get(name, torch.zeros(value.shape, dtype=torch.int32))

    def filled(self, node: fx.Node, value: Tensor) -> Tensor:
        numbers = torch.zeros((), dtype=torch.int32)
        for axis, whole in self.channels.sizes.get(node.name, {}).items():
            numbers = whole[self.left[whole.long()]].reshape([-1 if a == axis else 1 for a in range(value.dim())])
        return numbers.expand(value.shape)

    def tie(self, left: Tensor, right: Tensor) -> None:
        if bool(((left != right) & (left > 0) & (right > 0)).any()):
            raise Apart("fewer of them would meet others")

    def _count(self, numbers: Tensor) -> int:
        return int(self.left[numbers.long()].sum())

    def _resize(self, node: fx.Node) -> None:
        """Make the sizes that ``node`` states those of what is left."""
        sizes = self.channels.sizes[node.name]
        if node.target is aten.slice.Tensor:
            ((axis, numbers),) = sizes.items()
            given = arguments(node)
            for name, usual in (("start", 0), ("end", len(numbers))):
                value = given.get(name)
                place = slice(value if name == "start" else None, value if name == "end" else None)
                at = place.indices(len(numbers))[0 if name == "start" else 1] if value is not None else usual
                _set(node, name, self._count(numbers[:at]))
            return
        if node.target is SPLIT:
            node.update_arg(1, self._count(sizes[0]))
            return
        if node.target is SPLIT_SIZES:
            stated = [self._count(sizes[i]) if i in sizes else size for i, size in enumerate(node.args[1])]  # type: ignore[arg-type]
            node.update_arg(1, stated)
            return
        place = STATED[node.target]
        stated = list(node.args[place])  # type: ignore[arg-type]
        first = arguments(node)["dim"] if place == 2 else 0
        for axis, numbers in sizes.items():
            whole, left = len(numbers), self._count(numbers)
            at = axis - first
            if whole == left or not 0 <= at < len(stated) or stated[at] == -1:
                continue
            if not isinstance(stated[at], fx.Node):
                stated[at] = left
                continue
            factors = _factors(stated[at])
            if factors is None or factors[1] * left % whole:
                raise Apart(f"{node.name} computes a size that has them in it")
            with node.graph.inserting_before(node):
                stated[at] = node.graph.call_function(operator.mul, (factors[0], factors[1] * left // whole))
            self.env[stated[at]] = self.env[factors[0]] * (factors[1] * left // whole)
            self.numbers[stated[at]] = None
        node.update_arg(place, stated)


def _set(node: fx.Node, name: str, value: Any) -> None:
    """Set the argument ``name`` of an ATen call."""
    place = [argument.name for argument in node.target._schema.arguments].index(name)  # type: ignore[union-attr]
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)


def _restate(part: Any) -> None:
    """Make what a module says of its sizes that of its weight."""
    if isinstance(part, nn.Linear):
        part.out_features, part.in_features = part.weight.shape
    elif isinstance(part, CONVOLUTIONS):
        part.out_channels, part.in_channels = len(part.weight), part.weight.shape[1] * part.groups
    elif isinstance(part, TRANSPOSED):
        part.in_channels, part.out_channels = len(part.weight), part.weight.shape[1] * part.groups
    elif isinstance(part, NORMS):
        part.num_features = len(part.weight)
    elif isinstance(part, nn.LayerNorm) and part.weight is not None:
        part.normalized_shape = tuple(part.weight.shape)


class Masked(fx.Interpreter):
    """Runs a whole module as if channels were gone: what reads them reads zeros, norms and means are of the others."""

    def __init__(self, module: fx.GraphModule, channels: Channels, gone: Gone, keep: Iterable[str] = ()) -> None:
        super().__init__(module)
        self.read: Mapping[str, tuple[int, Tensor]] = channels.read
        self.parts: Mapping[str, Mapping[int, Tensor]] = channels.parts
        self.left: Tensor = channels.stay(gone)
        self.keep: set[str] = set(keep)
        self.kept: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.read:
            value = super().run_node(n)
        elif n.target in RECURRENT:
            value = self._of_states_left(n)
        else:
            x = n.all_input_nodes[0]
            whole = self.env[x]
            value = self._of_those_left(n, x, whole)
            self.env[x] = whole
        if n.name in self.keep:
            self.kept[n.name] = value
        return value

    def _of_states_left(self, n: fx.Node) -> Any:
        """What a recurrent layer makes whose weights read nothing of what is gone, of its own states neither."""
        weights = {w: self.env[w] for w in n.all_input_nodes if 1 in self.parts.get(str(w.target), {})}
        for weight, whole in weights.items():
            self.env[weight] = whole * self.left[self.parts[str(weight.target)][1].long()]
        value = super().run_node(n)
        self.env.update(weights)
        return value

    def _of_those_left(self, n: fx.Node, x: fx.Node, whole: Tensor) -> Any:
        axis, numbers = self.read[n.name]
        left = self.left[numbers.long()]
        if bool(left.all()):
            return super().run_node(n)
        if n.target in REDUCTIONS:
            self.env[x] = _gathered(whole, left, arguments(n)["dim"])
            return super().run_node(n)
        if weights_of(self.module, n) is not None or scaled_by(self.module, n) is None:  # type: ignore[arg-type]
            self.env[x] = whole * left.reshape([-1 if a == axis % whole.dim() else 1 for a in range(whole.dim())])
            return super().run_node(n)
        return _normalized(self, n, whole, axis, torch.nonzero(left).flatten())


def _gathered(whole: Tensor, left: Tensor, dims: Any) -> Tensor:
    """The entries of ``whole`` that are ``left``, those that go together moved up along the axis that is reduced."""
    dims = [dims] if isinstance(dims, int) else dims or range(whole.dim())
    for d in dims:
        d = d % whole.dim()
        counts = left.sum(d)
        kept = int(counts.max())
        if kept < whole.shape[d] and bool(((counts == kept) | (counts == 0)).all()) and kept:
            order = left.int().argsort(dim=d, descending=True, stable=True).narrow(d, 0, kept)
            whole, left = whole.gather(d, order), left.gather(d, order)
    return whole


def _normalized(run: fx.Interpreter, n: fx.Node, whole: Tensor, axis: int, left: Tensor) -> Tensor:
    """What a norm makes of the channels ``left``, zeros for the others."""
    x = whole.index_select(axis, left)
    if n.op == "call_module":
        part: Any = run.module.get_submodule(str(n.target))
        weight, bias = (None if t is None else t[left] for t in (part.weight, part.bias))
        y = nn.functional.layer_norm(x, (len(left),), weight, bias, part.eps)
    else:
        given = arguments(n)
        parts = [given.get(name) for name in ("weight", "bias")]
        weight, bias = (run.env[part][left] if isinstance(part, fx.Node) else None for part in parts)
        if n.target is aten.group_norm.default:
            groups = given["num_groups"]
            each = whole.shape[1] // groups
            whole_ones = len(left) % each == 0 and len(torch.unique(left // each)) * each == len(left)
            y = nn.functional.group_norm(x, len(left) // each if whole_ones else groups, weight, bias, given["eps"])
        elif n.target is aten.rms_norm.default:
            y = nn.functional.rms_norm(x, (len(left),), weight, given["eps"])
        else:
            y = nn.functional.layer_norm(x, (len(left),), weight, bias, given["eps"])
    return torch.zeros_like(whole).index_copy(axis, left, y)


def sharing_copy(module: fx.GraphModule) -> fx.GraphModule:
    """A copy whose parts and nodes can be changed, its parameters and buffers those of ``module`` until replaced."""
    held: dict[str, Any] = {}
    for node in module.graph.nodes:
        if node.op in ("call_module", "get_attr") and node.target not in held:
            part = operator.attrgetter(node.target)(module)
            held[node.target] = _shell(part) if isinstance(part, nn.Module) else part
    return fx.GraphModule(held, copy.deepcopy(module.graph))


def _shell(part: nn.Module) -> nn.Module:
    """A copy of ``part`` that shares its tensors."""
    own = copy.copy(part)
    for name in PARTS:
        own.__dict__[name] = dict(part.__dict__[name])
    own.__dict__["_modules"] = {name: child and _shell(child) for name, child in part._modules.items()}
    return own


@dataclass(frozen=True)
class Difference:
    """Why a network without some channels does not compute what is expected of it: ``reason`` is a clause for people.

    ``node`` is where that is first seen, unless it is in the outputs.
    """

    reason: str
    node: str | None = None


def difference(module: fx.GraphModule, x: Batch, channels: Channels, gone: Gone) -> Difference | None:
    """Why a copy of ``module`` without the channels ``gone`` does not compute what is expected of it, if so.

    Compared are what each layer makes of the channels that it keeps, and the outputs.
    """
    makers = {n.name: weights for n in module.graph.nodes if (weights := weights_of(module, n)) is not None}
    left = channels.stay(gone)
    cutter, before = _Cutter(sharing_copy(module), channels, left, makers), Masked(module, channels, gone, makers)
    try:
        results = cutter.results(x)
        with torch.no_grad():
            expected = list(before.run(*tensors(x)))
    except Apart as apart:
        return Difference(apart.reason, cutter.last)
    except Exception as error:  # each operator fails in its own way on a shape that it does not expect
        return Difference(f"the network does not run with fewer of them ({type(error).__name__})", cutter.last)
    for name, weights in makers.items():
        if weights.made in channels.parts.get(weights.weight, {}):
            stay = left[channels.parts[weights.weight][weights.made].long()]
            wanted = before.kept[name].index_select(weights.makes, torch.nonzero(stay).flatten())
            if not close(cutter.kept[name], wanted):
                return Difference("a network without them computes something else", name)
    for actual, wanted in zip(results, expected, strict=True):
        if isinstance(wanted, Tensor) and not close(actual, wanted):
            return Difference("a network without them computes something else")
    return None


def close(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are the same but for rounding; what is no number in one is none in the other."""
    if actual.shape != expected.shape:
        return False
    actual, expected = actual.double(), expected.double()  # whole numbers and truths, too
    size = expected.nan_to_num(0.0, 0.0, 0.0).abs().max() if expected.numel() else 0.0
    return torch.allclose(actual, expected, rtol=RTOL, atol=ATOL * float(size), equal_nan=True)
