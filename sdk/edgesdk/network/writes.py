"""What functionalization leaves of writes, in operators that every format has: parts joined, chosen and selected.

What was joined is known by the :class:`Place` that each of its rows comes from. A later write or read of some of them
goes there, so that a chain of writes is one join of what was written, not a join of parts of joins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, fx

aten: Any = torch.ops.aten
Keep = Callable[[Tensor], fx.Node]  # a constant of the graph


PLACES = "places"  # where in a node's ``meta`` stands what its rows are, along which axis


@dataclass(frozen=True)
class Place:
    """A row of ``node``, which has so many along the axis in question."""

    node: fx.Node
    row: int
    rows: int


def written(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    """The value of a functional write ``node``, or of a read of what was written, whose arguments are ``args`` in
    ``graph``; ``None`` for another one."""
    make = {
        aten.slice_scatter.default: _slice, aten.select_scatter.default: _select, aten.index_put.default: _masked,
        aten.diagonal_scatter.default: _diagonal, aten.as_strided_scatter.default: _strided,
        aten.slice.Tensor: _read_slice, aten.select.int: _read_row,
    }.get(node.target)  # fmt: skip
    return None if make is None else make(graph, node, args, keep)


def _slice(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    whole, part, *rest = args
    found = _range(node, rest)
    if found is None:
        return None
    dim, rows = found
    places = _places(whole, dim, node.meta["val"].shape[dim])
    for row, place in zip(rows, _places(part, dim, len(rows)), strict=True):
        places[row] = place
    return _joined(graph, places, dim, keep)


def _select(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    whole, part, dim, row = args
    dim %= node.meta["val"].dim()
    size = node.meta["val"].shape[dim]
    if not isinstance(size, int) or not isinstance(row, int):
        return None
    places = _places(whole, dim, size)
    places[row] = Place(graph.call_function(aten.unsqueeze.default, (part, dim)), 0, 1)
    return _joined(graph, places, dim, keep)


def _read_slice(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    """Some rows of what was joined, of where they come from."""
    read: Any = node.args[0]
    found = _range(read, args[1:])
    if found is None or args[0].meta.get(PLACES, (None,))[0] != found[0]:
        return None
    dim, rows = found
    places = _places(args[0], dim, read.meta["val"].shape[dim])
    return _joined(graph, [places[row] for row in rows], dim, keep) if rows else None


def _read_row(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    """A row of what was joined, of where it comes from."""
    read: Any = node.args[0]
    dim = args[1] % read.meta["val"].dim()
    known, places = args[0].meta.get(PLACES, (None, ()))
    if known != dim or not isinstance(args[2], int):
        return None
    place = places[args[2]]
    if place.node.target is aten.unsqueeze.default and place.node.args[1] == dim:
        source: Any = place.node.args[0]
        return source
    return graph.call_function(aten.select.int, (place.node, dim, place.row))


def _range(node: fx.Node, given: Sequence[Any]) -> tuple[int, range] | None:
    """The axis of ``node`` and its rows that the arguments of a slice mean; ``None`` where they are not known."""
    dim, start, end, step = (*given, *(0, None, None, 1)[len(given) :])
    dim = (dim or 0) % node.meta["val"].dim()
    size = node.meta["val"].shape[dim]
    if not all(isinstance(value, int) for value in (size, start or 0, end or 0)):
        return None
    return dim, range(*slice(start, end, step or 1).indices(size))


def _places(node: fx.Node, dim: int, size: int) -> list[Place]:
    """Where each of the ``size`` rows of ``node`` along ``dim`` comes from."""
    known, places = node.meta.get(PLACES, (None, ()))
    return list(places) if known == dim else [Place(node, row, size) for row in range(size)]


def _joined(graph: fx.Graph, places: Sequence[Place], dim: int, keep: Keep) -> fx.Node:
    """The rows at ``places`` as one tensor: parts that follow each other, or rows that are picked from all."""
    begins = [0, *(i for i, pair in enumerate(pairwise(places), 1) if not _follows(*pair)), len(places)]
    sources = {place.node: place.rows for place in places}
    if len(begins) - 1 > 2 * len(sources):  # every other row, say
        start = dict(zip(sources, accumulate(sources.values(), initial=0), strict=False))
        order = [start[place.node] + place.row for place in places]
        whole = graph.call_function(aten.cat.default, (list(sources), dim)) if len(sources) > 1 else places[0].node
        made = graph.call_function(aten.index_select.default, (whole, dim, keep(torch.tensor(order))))
    else:
        parts = [_part(graph, places[begin], end - begin, dim) for begin, end in pairwise(begins)]
        if len(parts) == 1:
            return parts[0]
        made = graph.call_function(aten.cat.default, (parts, dim))
    made.meta[PLACES] = dim, tuple(places)
    return made


def _follows(one: Place, other: Place) -> bool:
    return one.node is other.node and one.row + 1 == other.row


def _part(graph: fx.Graph, first: Place, count: int, dim: int) -> fx.Node:
    """So many rows from the ``first`` on."""
    if count == first.rows:
        return first.node
    return graph.call_function(aten.slice.Tensor, (first.node, dim, first.row, first.row + count))


def _masked(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    """One value wherever a mask of the leading axes holds."""
    whole, (mask, *more), value = args[:3]
    read: Any = node.args
    told, given = read[1][0], read[2]
    if more or len(args) > 3 and args[3] or told is None or told.meta["val"].dtype != torch.bool:
        return None
    single = all(isinstance(size, int) and size == 1 for size in given.meta["val"].shape)
    if not single or given.meta["val"].dtype != node.meta["val"].dtype:
        return None
    for _ in range(node.meta["val"].dim() - told.meta["val"].dim()):
        mask = graph.call_function(aten.unsqueeze.default, (mask, -1))
    return graph.call_function(aten.where.self, (mask, value, whole))


def _diagonal(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    """``whole`` with a diagonal of each sample from ``part``: every figure by its place in the two."""
    given: Any = (*args, *(0, 0, 1)[len(args) - 2 :])
    whole, part, offset, one, other = given
    read: Any = node.args[1]
    each, own = node.meta["val"].shape[1:], read.meta["val"].shape[1:]
    axes = [axis % (len(each) + 1) for axis in (one, other)]
    if 0 in axes or not all(isinstance(size, int) for size in (*each, *own)):
        return None
    numbers = torch.arange(math.prod(each)).reshape(1, *each)
    from_part = numbers.numel() + torch.arange(math.prod(own)).reshape(1, *own)
    order = torch.diagonal_scatter(numbers, from_part, offset, *axes).flatten()
    return _chosen(graph, whole, part, order, each, keep)


def _strided(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    """``whole`` with what is seen of each sample through strides from ``part``, where that is the same of each."""
    whole, part = args[:2]
    given: Any = (*node.args, 0)
    inside, size, stride, start = given[0].meta["val"], given[2], given[3], given[4] or 0
    samples, each = inside.shape[0], inside.shape[1:]
    count = size[0].meta["val"] if isinstance(size[0], fx.Node) else size[0]
    if not inside.is_contiguous() or str(count) != str(samples) or stride[0] != math.prod(each):
        return None
    lengths, steps = size[1:], stride[1:]
    if not all(isinstance(number, int) for number in (*each, *lengths, *steps, start)):
        return None
    numbers = torch.arange(math.prod(each))
    if start + sum((length - 1) * step for length, step in zip(lengths, steps, strict=True)) >= len(numbers):
        return None
    from_part = len(numbers) + torch.arange(math.prod(lengths)).reshape(lengths)
    if len(torch.as_strided(numbers, lengths, steps, start).unique()) < from_part.numel():
        return None  # of what is written twice nobody knows which stays
    order = torch.as_strided_scatter(numbers, from_part, lengths, steps, start)
    return _chosen(graph, whole, part, order, each, keep)


def _chosen(graph: fx.Graph, whole: fx.Node, part: fx.Node, order: Tensor, each: Sequence[int], keep: Keep) -> fx.Node:
    """Samples of the shape ``each``, whose figures are those of ``whole`` and then of ``part`` in this ``order``."""
    figures = [graph.call_function(aten.flatten.using_ints, (value, 1)) for value in (whole, part)]
    both = graph.call_function(aten.cat.default, (figures, 1))
    chosen = graph.call_function(aten.index_select.default, (both, 1, keep(order)))
    return graph.call_function(aten.reshape.default, (chosen, [-1, *each]))
