"""Which channels of a flat module go together, found by sending their numbers through it.

Every output channel of a layer with weights gets a number, and each node is asked where in its output the numbers of
its inputs are: nodes that only move entries move the numbers, pointwise ones tie the numbers that meet, and of any
other operator the inputs are changed, channel by channel, and its outputs looked at. So one rule holds for
concatenations, chunks, shuffles, pools and whatever else treats each channel by itself, however it is written. What
mixes channels and has no weights leaves them whole, but for norms and reductions, which are of the channels that stay.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from edgesdk.network.fuse import CONVOLUTIONS, NORMS
from edgesdk.network.heads import MOVES as HEAD_MOVES
from edgesdk.network.heads import SIZED, UNFLATTEN
from edgesdk.network.modularize import arguments, aten
from edgesdk.network.recurrent import RECURRENT, Cell, cell_of
from edgesdk.network.shared import named
from edgesdk.techniques import layouts

MOVES: set[Any] = {
    *HEAD_MOVES, aten.cat.default, aten.stack.default, aten.slice.Tensor, aten.expand.default, aten.permute.default,
    aten.flip.default, aten.roll.default, aten.alias.default, aten.detach.default,
}  # fmt: skip
POINTWISE = {
    aten.hardswish.default, aten.hardsigmoid.default, aten.relu6.default, aten.dropout.default, aten.to.dtype,
    aten._to_copy.default, aten.clone.default, aten.contiguous.default, aten.selu.default, aten.zeros_like.default,
    aten.ones_like.default, aten.full_like.default, aten.expand_as.default, aten.type_as.default,
}  # fmt: skip
EXTREMES = (aten.max.dim, aten.min.dim)  # which return where it was found, too
REDUCTIONS = {
    aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default, aten.var.correction, aten.var.dim,
    aten.std.correction, aten.std.dim, aten.var_mean.correction, aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim, *EXTREMES,
}  # fmt: skip
ALONG = {aten.softmax.int, aten.log_softmax.int, aten.cumsum.default, aten._softmax.default}
TRANSPOSED = {
    packet: axes
    for axes, packet in ((1, aten.conv_transpose1d), (2, aten.conv_transpose2d), (3, aten.conv_transpose3d))
}
PLAIN = {aten.conv1d: 1, aten.conv2d: 2, aten.conv3d: 3}
NORMALIZERS = {aten.layer_norm.default: -1, aten.rms_norm.default: -1, aten.group_norm.default: 1}
SCALED: dict[Any, tuple[str, ...]] = {
    aten.batch_norm.default: ("weight", "bias", "running_mean", "running_var"),
    aten.instance_norm.default: ("weight", "bias", "running_mean", "running_var"),
    aten.prelu.default: ("weight",),
}
FILLED = {  # with a single value, as states begin: where it is said how many
    aten.zeros.default: 0, aten.ones.default: 0, aten.full.default: 0,
    aten.new_zeros.default: 1, aten.new_ones.default: 1, aten.new_full.default: 1,
}  # fmt: skip
STATED = {**dict.fromkeys(SIZED, 1), UNFLATTEN: 2, aten.expand.default: 1, **FILLED}
MOST_FILLED = 2**20  # numbers that are told apart until it is known which of them go together


@dataclass(frozen=True)
class Weights:
    """How a node reads and makes channels: along which axes of its input and output, and of its weight.

    ``weight`` and ``bias`` are parameters by name; an embedding reads none (``reads`` is ``None``).
    """

    weight: str
    bias: str | None
    reads: int | None
    inputs: int
    made: int
    makes: int
    groups: int = 1


def weights_of(module: fx.GraphModule, node: fx.Node) -> Weights | None:
    """How ``node`` reads and makes channels through a weight of its own, where it does."""
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        if not isinstance(part, (nn.Linear, *CONVOLUTIONS, *layouts.TRANSPOSED)):
            return None
        weight = named(module, str(node.target), "weight")
        bias = named(module, str(node.target), "bias") if part.bias is not None else None
        if isinstance(part, nn.Linear):
            return Weights(weight, bias, -1, 1, 0, -1)
        inputs = 0 if isinstance(part, layouts.TRANSPOSED) else 1
        return Weights(weight, bias, 1, inputs, 1 - inputs, 1, part.groups)
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None:
        return None
    if node.target is aten.embedding.default:
        weight = _name(node.args[0])
        return None if weight is None else Weights(weight, None, None, 0, 1, -1)
    if packet in (aten.matmul, aten.mm):
        weight = _name(node.args[1])
        flat = weight is not None and operator.attrgetter(weight)(module).dim() == 2
        return Weights(str(weight), None, -1, 0, 1, -1) if flat else None
    if packet in TRANSPOSED or packet in PLAIN or packet is aten.linear:
        given = arguments(node)
        weight, bias = _name(given["weight"]), _name(given.get("bias"))
        if weight is None or (given.get("bias") is not None and bias is None):
            return None
        if packet is aten.linear:
            return Weights(weight, bias, -1, 1, 0, -1)
        inputs = 0 if packet in TRANSPOSED else 1
        return Weights(weight, bias, 1, inputs, 1 - inputs, 1, given["groups"])
    return None


def _name(value: Any) -> str | None:
    return str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else None


def scaled_by(module: fx.GraphModule, node: fx.Node) -> tuple[int, list[str]] | None:
    """The axis whose channels a norm or PReLU scales each by itself, and its parameters and buffers."""
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        if isinstance(part, NORMS) or isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1:
            tensors = {**dict(part.named_parameters()), **dict(part.named_buffers())}
            names = [named(module, str(node.target), name) for name, value in tensors.items() if value.dim() == 1]
            return (1 if isinstance(part, NORMS) else -1), names
        return None
    if node.target in SCALED or node.target in NORMALIZERS:
        given = arguments(node)
        names = [_name(given.get(key)) for key in SCALED.get(node.target, ("weight", "bias"))]
        if len(given.get("normalized_shape", (1,))) == 1:
            own = [name for name in names if name is not None and operator.attrgetter(name)(module).numel() > 1]
            return NORMALIZERS.get(node.target, 1), own  # a single number, as a PReLU's may be, is every channel's
    return None


class Walk(fx.Interpreter):
    """Runs a module and says of every node which channel each entry of its output belongs to (0 for none).

    What is common to finding channels and to cutting them; :meth:`rows`, :meth:`states`, :meth:`entries`,
    :meth:`filled` and :meth:`tie` differ.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.numbers: dict[fx.Node, Any] = {}
        self.constant: set[fx.Node] = set()

    def rows(self, weights: Weights, read: Tensor | None, whole: Tensor) -> Tensor:
        """The numbers of the channels that a weight makes, from those that it reads."""
        raise NotImplementedError

    def states(self, node: fx.Node, cell: Cell) -> Tensor:
        """The numbers of a recurrent node's states, which are the same in all of its layers and directions."""
        raise NotImplementedError

    def entries(self, name: str, value: Tensor) -> Tensor:
        """The numbers of the entries of the parameter or buffer ``name``."""
        raise NotImplementedError

    def filled(self, node: fx.Node, value: Tensor) -> Tensor:
        """The numbers of the entries of a tensor that ``node`` fills with one value."""
        raise NotImplementedError

    def tie(self, left: Tensor, right: Tensor) -> None:
        """Entries of the two numbers meet, pair by pair."""
        raise NotImplementedError

    def leave(self, numbers: Tensor, reason: str) -> None:
        """These are left whole."""

    def seen(self, node: fx.Node, value: Any, units: Any) -> None:
        """``node`` was run: its value, and the numbers in it."""

    def before(self, node: fx.Node) -> None:
        """``node`` is to be run: the numbers of what it reads are known."""

    def run_node(self, n: fx.Node) -> Any:
        reads = n.all_input_nodes
        if n.op == "get_attr" or (n.op.startswith("call") and all(i in self.constant for i in reads)):
            self.constant.add(n)
        if n.op in ("get_attr", "output"):
            return super().run_node(n)
        self.before(n)
        value = super().run_node(n)
        self.numbers[n] = self.follow(n, value)
        self.seen(n, value, self.numbers[n])
        return value

    def of(self, node: fx.Node) -> Any:
        """The numbers in the output of ``node``; those of a parameter when they are first asked for."""
        if node.op == "get_attr" and node not in self.numbers:
            value = self.env[node]
            few = isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0
            self.numbers[node] = squash(self.entries(str(node.target), value)) if few else none(value)
        return self.numbers[node]

    def follow(self, node: fx.Node, value: Any) -> Any:
        if node.op == "placeholder":
            return none(value)
        weights = weights_of(self.module, node)  # type: ignore[arg-type]
        if weights is not None:
            return self._weighted(node, weights, value)
        scaled = scaled_by(self.module, node)  # type: ignore[arg-type]
        if scaled is not None:
            return self._scaled(node, *scaled)
        if node.target in RECURRENT:
            return self._recurrent(node, value)
        if node.target in FILLED and value.is_floating_point() and 0 < value.numel() <= MOST_FILLED:
            return squash(self.filled(node, value))
        reads = [i for i in node.all_input_nodes if _any(self.of(i))]
        if not reads:
            return none(value)
        if node.target in REDUCTIONS and (left := self._lying_above(node)) is not None:
            return each(value, lambda reduced: squash(left.reshape(reduced.shape)))
        if node.target in ALONG and (left := self._lying_above(node)) is not None:
            return each(value, lambda changed: squash(left.expand(changed.shape)))
        if node.target in REDUCTIONS:
            if self._reduced(node):
                return none(value)
            units = self.of(node.all_input_nodes[0])
            axes, lies = _axes(node, units), lying(units)
            if lies is not None and lies[0] not in axes and len(varying(units)) > 1:
                left = units.amax(axes)  # what is asked would see the border alone at times
                return each(value, lambda reduced: squash(left.reshape(reduced.shape)))
        if node.target in MOVES:
            return self._moved(node)
        if node.target in POINTWISE or torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return self._met(node, value)
        return self._asked(node, reads, value)

    def _weighted(self, node: fx.Node, weights: Weights, value: Tensor) -> Tensor:
        if self.passes(node, weights):
            units, axis = self.of(node.all_input_nodes[0]), weights.makes
            return squash(units.narrow(axis, 0, 1).expand(value.shape))
        read = None
        if weights.reads is not None:
            read = self.column(self.of(node.all_input_nodes[0]), weights.reads)
        weight = operator.attrgetter(weights.weight)(self.module)
        rows = self.rows(weights, read, weight)
        axis = weights.makes % value.dim()
        return rows.reshape([-1 if i == axis else 1 for i in range(value.dim())]).expand(value.shape)

    def passes(self, node: fx.Node, weights: Weights) -> bool:
        """Whether a layer treats each channel by itself: it mixes along another axis, as a Mixer's over tokens does."""
        if weights.reads is None or weights.groups > 1:
            return False
        x = self.of(node.all_input_nodes[0])
        axes = varying(x)
        linear = weights.reads == -1 or _is_pointwise(self._module(node))
        return linear and bool(axes) and weights.reads % x.dim() not in axes

    def _module(self, node: fx.Node) -> Any:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def column(self, numbers: Tensor, axis: int) -> Tensor:
        """The number of each index on ``axis``: all that are found there are tied."""
        flat = numbers.movedim(axis, 0)
        flat = least(flat, 0).flatten(1)
        first = flat.max(1).values
        beside = first[:, None].expand_as(flat)
        self.tie(beside[flat > 0], flat[flat > 0])
        return first

    def _scaled(self, node: fx.Node, axis: int, names: list[str]) -> Tensor:
        units = self.of(node.all_input_nodes[0])
        self.column(units, axis)
        return units

    def _recurrent(self, node: fx.Node, value: Any) -> Any:
        self.column(self.of(node.all_input_nodes[0]), -1)
        cell = cell_of(self.module, node)  # type: ignore[arg-type]
        if cell is None:
            return none(value)
        states, (made, *last) = self.states(node, cell), value
        return states.repeat(cell.directions).expand(made.shape), *(states.expand(each.shape) for each in last)

    def _lying_above(self, node: fx.Node) -> Tensor | None:
        """The numbers that are left where ``node`` works along an axis of branches that were stacked, each with
        channels of its own: those that lie above each other are tied. ``None`` where it doesn't.

        Channels of which those of one place all come before those of the next, as in the groups of a norm that is
        written out, are those that it reduces.
        """
        x = self.of(node.all_input_nodes[0])
        axes, changing = _axes(node, x), varying(x) if isinstance(x, Tensor) and lying(x) is None else []
        across = [axis for axis in axes if axis in changing]
        if not across or set(changing) <= set(axes):
            return None
        own = least(x)
        left = own.amax(across, keepdim=True)
        first = torch.where(own > 0, own, left).amin(across).flatten()
        order = first.argsort()
        if not bool((left.flatten()[order][:-1] > first[order][1:]).any()):
            return None
        beside = left.expand_as(own)
        self.tie(beside[own > 0], own[own > 0])
        kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return left.expand(kept)

    def _reduced(self, node: fx.Node) -> bool:
        """Whether channels are what ``node`` reduces, and which of them it found is not asked."""
        if node.target in EXTREMES and any(user.args[1] == 1 for user in node.users):
            return False
        x = self.of(node.all_input_nodes[0])
        lies = lying(x)
        axes = varying(x) if lies is None else [lies[0]]  # a border changes along others, too
        return any(axis in axes for axis in _axes(node, x))

    def _moved(self, node: fx.Node) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), self._given)
        call: Any = aten.reshape.default if node.target is aten.view.default else node.target
        return each(call(*args, **kwargs), squash)

    def _given(self, node: fx.Node) -> Any:
        units = self.of(node)
        return self.env[node] if units is None else units

    def _met(self, node: fx.Node, value: Any) -> Tensor:
        """The numbers that a pointwise node leaves in each entry; those of a constant count where it meets others."""
        reads = [i for i in node.all_input_nodes if isinstance(self.env[i], Tensor)]
        moving = [i for i in reads if i not in self.constant] or reads[:1]
        units = torch.zeros((), dtype=torch.int32)
        for index, i in enumerate(moving):
            units = self._together(units, self.of(i)) if index else self.of(i)
        for i in reads:
            if i not in moving:
                self._constant(self.of(i), units)
        return squash(units.expand(value.shape))

    def _together(self, left: Tensor, right: Tensor) -> Tensor:
        """The numbers where two tensors meet entry by entry: tied, but for one that meets many by being repeated."""
        repeated = _repeated(left, right), _repeated(right, left)
        for own, alone in zip((left, right), repeated, strict=True):
            if alone:
                self.leave(own, "it meets several of them")
        left, right = torch.broadcast_tensors(
            *(torch.zeros_like(own) if alone else own for own, alone in zip((left, right), repeated, strict=True))
        )
        shape = left.shape
        left, right = least(left, beside=right)
        if not any(repeated):
            self.tie(left, right)
        return torch.where(left > 0, left, right).expand(shape)

    def _constant(self, own: Tensor, other: Tensor) -> None:
        """A constant's numbers are tied to those that they meet, each to one; what meets several stays."""
        own, other = torch.broadcast_tensors(own, other)
        own, other = least(own, beside=other)
        pairs = unique_pairs(own.flatten(), other.flatten())
        pairs = pairs[:, pairs[0] > 0]
        once = torch.bincount(pairs[0])[pairs[0]] == 1 if pairs.numel() else torch.zeros(0, dtype=torch.bool)
        good = once & (pairs[1] > 0)
        self.leave(pairs[0][~good], "it meets several of them")
        self.tie(pairs[1][good], pairs[0][good])

    def _asked(self, node: fx.Node, reads: Sequence[fx.Node], value: Any) -> Any:
        """What is found by changing the channels of the inputs of ``node`` and looking at its outputs."""

        def call(values: Mapping[fx.Node, Tensor]) -> Any:
            args, kwargs = map_arg((node.args, node.kwargs), lambda i: values.get(i, self.env[i]))
            if node.op == "call_module":
                return self.module.get_submodule(str(node.target))(*args, **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]

        def asked(of: Sequence[fx.Node]) -> Any:
            return ask(lambda values: call(dict(zip(of, values, strict=True))), [self.of(i) for i in of])

        if all(isinstance(self.env[i], Tensor) and self.env[i].is_floating_point() for i in reads):
            units = asked(reads)
            if not _mixed(units):
                return units
            if len(reads) > 1 and isinstance(value, Tensor):
                alone = [asked([i]) for i in reads]
                if not any(map(_mixed, alone)):
                    units = alone[0]
                    for right in alone[1:]:
                        units = self._together(units, right)
                    return squash(units)
            if node.target is aten.glu.default:
                left, right = self.of(reads[0]).chunk(2, arguments(node)["dim"])
                return squash(self._together(left, right))
        for i in reads:
            each(self.of(i), lambda numbers: self.leave(numbers, f"{node.name} mixes them"))
        return none(value)


def ask(call: Callable[[list[Tensor]], Any], numbers: Sequence[Tensor]) -> Any:
    """Which of the ``numbers`` in the inputs of ``call`` each entry of its output depends on: -1 for several.

    Group testing: each number has a code of as many ones as zeros; for each place of the code those that have a one
    there are changed. What depends on one number changes just where that has ones; on several, in more places.
    """
    numbered = torch.unique(torch.cat([torch.unique(n) for n in numbers]))
    numbered = numbered[numbered > 0]
    bits = next(b for b in range(2, 64) if comb(b, b // 2) >= len(numbered))
    codes = [sum(1 << i for i in ones) for ones in islice(combinations(range(bits), bits // 2), len(numbered))]
    code = torch.zeros(int(numbered.max()) + 1, dtype=torch.int64)
    code[numbered.long()] = torch.tensor(codes)
    generator = torch.Generator().manual_seed(0)
    values = [[torch.rand(n.shape, generator=generator) * 0.8 + 0.1 for n in numbers] for _ in range(2)]
    result = call(values[0])
    first = _list(result)
    patterns = [torch.zeros(y.shape, dtype=torch.int64) if isinstance(y, Tensor) else None for y in first]
    for bit in range(bits):
        given = [
            torch.where((code[n.long()] >> bit & 1).bool(), other, own)
            for n, own, other in zip(numbers, *values, strict=True)
        ]
        for pattern, y, before in zip(patterns, _list(call(given)), first, strict=True):
            if pattern is not None:
                pattern |= (y != before).long() << bit
    order = torch.tensor(codes).argsort()
    in_order, of = torch.tensor(codes)[order], numbered[order].int()
    answers = []
    for pattern in patterns:
        if pattern is None:
            answers.append(None)
            continue
        place = torch.searchsorted(in_order, pattern).clamp(max=len(codes) - 1)
        same = in_order[place] == pattern
        answers.append(squash(torch.where(same, of[place], torch.where(pattern == 0, 0, -1).int())))
    return answers[0] if isinstance(result, Tensor) else tuple(answers)


def _axes(node: fx.Node, x: Tensor) -> list[int]:
    """The axes of ``x`` that a reduction reduces."""
    dims = arguments(node).get("dim")
    dims = range(x.dim()) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    return [d % x.dim() for d in dims]


def _repeated(own: Tensor, other: Tensor) -> bool:
    """Whether ``own`` is repeated along an axis on which the numbers in ``other`` change."""
    return any(-a > own.dim() or own.shape[a] == 1 for a in (a - other.dim() for a in varying(other)))


def _is_pointwise(part: Any) -> bool:
    return (
        isinstance(part, CONVOLUTIONS)
        and all(k == 1 for k in (*part.kernel_size, *part.stride))
        and not any(part.padding if isinstance(part.padding, tuple) else ())
    )


def squash(numbers: Tensor) -> Tensor:
    """The same numbers, axes along which they do not change held once."""
    for axis in range(numbers.dim()):
        if numbers.shape[axis] > 1 and numbers.stride(axis) != 0:
            first = numbers.narrow(axis, 0, 1)
            if torch.equal(least(numbers, axis), least(first.expand_as(numbers), axis)):
                numbers = first.expand_as(numbers)
    return numbers


def varying(numbers: Tensor) -> list[int]:
    """The axes of squashed ``numbers`` along which they change."""
    return [axis for axis in range(numbers.dim()) if numbers.shape[axis] > 1 and numbers.stride(axis) != 0]


def line(numbers: Tensor, axis: int) -> Tensor:
    """The numbers along ``axis`` at the first place of the others."""
    for a in range(numbers.dim()):
        if a != axis:
            numbers = numbers.narrow(a, 0, 1)
    return numbers.flatten()


def lying(numbers: Tensor) -> tuple[int, Tensor] | None:
    """The only axis of squashed ``numbers`` at each place of which one is all over, but for a border of what belongs to
    none, and those; ``None`` where there is none such, or several."""
    axes = varying(numbers)
    if len(axes) == 1:
        return axes[0], line(numbers, axes[0])
    found = []
    for axis in axes:
        own = least(numbers, axis)
        most = own.amax([other for other in axes if other != axis], keepdim=True)
        if bool(((own == most) | (own == 0)).all()):
            found.append((axis, line(most, axis)))
    return found[0] if len(found) == 1 else None


def least(numbers: Tensor, but: int | None = None, beside: Tensor | None = None) -> Any:
    """``numbers`` (and those ``beside``) with one index on axes along which none changes."""
    for axis in range(numbers.dim()):
        if axis != but and numbers.stride(axis) == 0 and (beside is None or beside.stride(axis) == 0):
            numbers = numbers.narrow(axis, 0, min(1, numbers.shape[axis]))
            beside = None if beside is None else beside.narrow(axis, 0, min(1, beside.shape[axis]))
    return numbers if beside is None else (numbers, beside)


def none(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(none(v) for v in value)
    return torch.zeros((), dtype=torch.int32).expand(value.shape) if isinstance(value, Tensor) else None


def each(units: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(units, (tuple, list)):
        return tuple(each(f, change) for f in units)
    return change(units) if isinstance(units, Tensor) else None


def _any(units: Any) -> bool:
    if isinstance(units, (tuple, list)):
        return any(map(_any, units))
    return isinstance(units, Tensor) and bool(least(units).any())


def _mixed(units: Any) -> bool:
    if isinstance(units, (tuple, list)):
        return any(map(_mixed, units))
    return isinstance(units, Tensor) and bool((least(units) < 0).any())


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def unique_pairs(left: Tensor, right: Tensor) -> Tensor:
    """The pairs of whole numbers that stand beside each other: (2, pairs), rising, each once.

    As a single number each: ``torch.unique`` of columns takes many times as long.
    """
    if not left.numel():
        return torch.stack([left, right])
    first = int(right.min())
    base = int(right.max()) - first + 1
    each = torch.unique(left.long() * base + (right.long() - first))
    return torch.stack([each // base, each % base + first]).to(left.dtype)
