"""What functionalization leaves of writes, in operators that every format has: parts joined, chosen and selected."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

aten: Any = torch.ops.aten
Keep = Callable[[Tensor], fx.Node]  # a constant of the graph


def written(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    """The value of a functional write ``node``, whose arguments are ``args`` in ``graph``; ``None`` for another one."""
    make = {
        aten.slice_scatter.default: _slice, aten.select_scatter.default: _select, aten.index_put.default: _masked,
        aten.diagonal_scatter.default: _diagonal, aten.as_strided_scatter.default: _strided,
    }.get(node.target)  # fmt: skip
    return None if make is None else make(graph, node, args, keep)


def _slice(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    given: Any = (*args, None, None, None, None)
    whole, part, dim, start, end, step = given[:6]
    dim = (dim or 0) % node.meta["val"].dim()
    size = node.meta["val"].shape[dim]
    if not all(isinstance(value, int) for value in (size, start or 0, end or 0)):
        return None
    places = range(*slice(start, end, step or 1).indices(size))
    if places.step == 1:
        return _joined(graph, whole, part, dim, places.start, places.stop, size)
    order = list(range(size))
    for source, place in enumerate(places):
        order[place] = size + source
    both = graph.call_function(aten.cat.default, ([whole, part], dim))
    return graph.call_function(aten.index_select.default, (both, dim, keep(torch.tensor(order))))


def _select(graph: fx.Graph, node: fx.Node, args: tuple[Any, ...], keep: Keep) -> fx.Node | None:
    whole, part, dim, place = args
    dim %= node.meta["val"].dim()
    size = node.meta["val"].shape[dim]
    if not isinstance(size, int) or not isinstance(place, int):
        return None
    part = graph.call_function(aten.unsqueeze.default, (part, dim))
    return _joined(graph, whole, part, dim, place % size, place % size + 1, size)


def _joined(graph: fx.Graph, whole: fx.Node, part: fx.Node, dim: int, start: int, end: int, size: int) -> fx.Node:
    """``whole`` along ``dim`` with ``part`` from ``start`` to ``end``."""
    pieces = [part]
    if start > 0:
        pieces.insert(0, graph.call_function(aten.slice.Tensor, (whole, dim, 0, start)))
    if end < size:
        pieces.append(graph.call_function(aten.slice.Tensor, (whole, dim, end, size)))
    return graph.call_function(aten.cat.default, (pieces, dim))


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
