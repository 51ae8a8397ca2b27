"""Pools that are told the size of what they make, as operators that PyTorch's exporter has words for."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import fx

from edgesdk.network.fuse import run
from edgesdk.network.modularize import aten
from edgesdk.network.network import Batch, Network, rebatch

AVERAGES = (aten.adaptive_avg_pool3d.default,)
LARGEST = (aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)


def spell_out_pools(network: Network, x: Batch) -> Network:
    """``network``, its pools of windows that differ in size as a mean or maximum of each window, axis by axis.

    A window is a product of stretches along the axes, so that the mean over it is the mean of means. Windows of one
    size are a pool of that size. ``network`` is changed.
    """
    module = network.module
    pools = [node for node in module.graph.nodes if node.target in (*AVERAGES, *LARGEST)]
    if not pools:
        return network
    values = run(module, rebatch(x, lambda t: t[:1]))
    for node in pools:
        source: Any = node.args[0]
        sizes: Any = node.args[1]
        lengths = values[source.name].shape[-len(sizes) :]
        even = all(length % size == 0 for length, size in zip(lengths, sizes, strict=True))
        if node.target in AVERAGES:
            with module.graph.inserting_before(node):
                made = _even(node, lengths, sizes) if even else _uneven(node, aten.mean.dim, lengths, sizes)
            _put(node, [node], made)
        elif not even:
            read = [user for user in node.users if user.target is operator.getitem]
            if len(read) == len(node.users) and all(user.args[1] == 0 for user in read):  # no places of maxima
                with module.graph.inserting_before(node):
                    made = _uneven(node, aten.amax.default, lengths, sizes)
                _put(node, [*read, node], made)
    module.recompile()
    return network


def _put(node: fx.Node, old: Sequence[fx.Node], made: fx.Node) -> None:
    """``made`` in the place of what is read of ``old``."""
    old[0].replace_all_uses_with(made)
    for other in old:
        other.replace_all_uses_with(made)
        node.graph.erase_node(other)


def _even(node: fx.Node, lengths: Sequence[int], sizes: Sequence[int]) -> fx.Node:
    kernel = [length // size for length, size in zip(lengths, sizes, strict=True)]
    return _call(node, aten.avg_pool3d.default, node.args[0], kernel)


def _uneven(node: fx.Node, reduced: Any, lengths: Sequence[int], sizes: Sequence[int]) -> fx.Node:
    x: Any = node.args[0]
    for axis, (length, size) in enumerate(zip(lengths, sizes, strict=True), -len(sizes)):
        if size == length:
            continue
        ends = [(place * length // size, -(-(place + 1) * length // size)) for place in range(size)]
        windows = [_call(node, aten.slice.Tensor, x, axis, start, end) for start, end in ends]
        parts = [_call(node, reduced, window, [axis], True) for window in windows]
        x = _call(node, aten.cat.default, parts, axis) if size > 1 else parts[0]
    return x


def _call(node: fx.Node, target: Any, *args: Any) -> fx.Node:
    made = node.graph.call_function(target, args)
    made.meta = dict(node.meta)  # errors name what the user wrote
    return made
