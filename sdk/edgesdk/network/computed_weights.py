"""Weights that ``forward()`` computes of parameters alone, each time anew: which they are, and their values."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

aten: Any = torch.ops.aten
WEIGHTED = {
    aten.conv1d, aten.conv2d, aten.conv3d, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d,
    aten.linear,
}  # fmt: skip
MOVES = {
    aten.alias, aten.chunk, aten.clone, aten.contiguous, aten.flatten, aten.narrow, aten.permute, aten.reshape,
    aten.select, aten.slice, aten.split, aten.split_with_sizes, aten.squeeze, aten.t, aten.transpose, aten.unbind,
    aten.unflatten, aten.unsqueeze, aten.view, aten.detach,
}  # fmt: skip
RESIZING = ("upsample", "_upsample")  # how operators begin that interpolate


@dataclass(frozen=True)
class Held:
    """A tensor that a program holds: its path, its value, and whether it is a parameter."""

    path: str
    value: Tensor
    trainable: bool


def fold_computed(graph: fx.Graph, held: Mapping[fx.Node, Held]) -> tuple[dict[fx.Node, Held], set[fx.Node]]:
    """Nodes whose values are held from now on, each in the place of what it is computed of, and the nodes before them.

    Those are the weights and biases of convolutions and linear layers that are computed of the tensors ``held``, as
    standardized weights are, and tables that are interpolated, where nothing else reads what they are computed of: but
    others of these, each of which has a part of it for itself, as queries, keys and values have of one parameter.
    """
    cones = _cones(graph, held)
    places = {
        node: name for node, cone in cones.items() if node not in held and (name := _place(node, cone)) is not None
    }
    while lost := _not_alone(places, cones, graph, held):
        places = {node: name for node, name in places.items() if node not in lost}
    folded: dict[fx.Node, Held] = {}
    before: set[fx.Node] = set()
    sources = [n for node in places for n in cones[node] if n in held]
    for node, name in places.items():
        parts = [n for n in cones[node] if n in held]
        largest = max(parts, key=lambda n: held[n].value.numel())
        path = held[largest].path
        others = {part.path for n, part in held.items() if n not in parts} | {part.path for part in folded.values()}
        if sources.count(largest) > 1:
            path = next(f"{path}.{number}" for number in count() if f"{path}.{number}" not in others)
        elif not all(n is largest or _moves(n) for n in cones[node]):
            owner = path.rpartition(".")[0]
            path = f"{owner}.{name}" if owner and name and f"{owner}.{name}" not in others else path
        value = _value(node, graph, cones[node], {n: part.value for n, part in held.items()})
        folded[node] = Held(path, value, any(held[n].trainable for n in parts))
        before |= cones[node].union(*(n.users for n in cones[node] - {node}))
    return folded, before - set(places)


def _cones(graph: fx.Graph, held: Mapping[fx.Node, Held]) -> dict[fx.Node, set[fx.Node]]:
    """All that each node is computed of, of those that are computed of tensors ``held`` alone, itself among it."""
    cones: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        if node in held:
            cones[node] = {node}
        elif node.op == "call_function" and node.all_input_nodes and all(n in cones for n in node.all_input_nodes):
            if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
                cones[node] = {node}.union(*(cones[n] for n in node.all_input_nodes))
    return cones


def _not_alone(
    places: Mapping[fx.Node, str],
    cones: Mapping[fx.Node, set[fx.Node]],
    graph: fx.Graph,
    held: Mapping[fx.Node, Held],
) -> set[fx.Node]:
    """Those of ``places`` of whose sources something else reads a part that they have, too."""
    parted = set[fx.Node]().union(*(cones[node] for node in places))
    lost = {node for node in places if not all(_read_by(n) <= parted for n in cones[node] - {node})}
    taken: dict[fx.Node, list[fx.Node]] = {}
    for node in places:
        for source in cones[node] & held.keys():
            taken.setdefault(source, []).append(node)
    for source, nodes in taken.items():
        if len(nodes) > 1:
            numbers = torch.arange(held[source].value.numel()).reshape(held[source].value.shape)
            moved = [n for n in nodes if all(i is source or _moves(i) for i in cones[n])]
            elements = [_value(n, graph, cones[n], {source: numbers}).flatten() for n in moved]
            apart = len(torch.cat([torch.empty(0), *elements]).unique()) == sum(map(len, elements))
            lost |= set() if len(moved) == len(nodes) and apart else set(nodes)
    return lost


def _moves(node: fx.Node) -> bool:
    """Whether ``node`` takes or lays out elements of what it reads, and computes nothing."""
    return node.target is operator.getitem or getattr(node.target, "overloadpacket", None) in MOVES


def _read_by(node: fx.Node) -> set[fx.Node]:
    """What reads ``node`` and makes something of it, as assertions do not."""
    return {user for user in node.users if user.users or user.op == "output"}


def _place(node: fx.Node, cone: set[fx.Node]) -> str | None:
    """What ``node`` is to the layers that read it, "" for a table that was interpolated; ``None`` for anything else."""
    places = {_argument(node, reader) for reader in node.users}
    if len(places) == 1 and (place := places.pop()) is not None:
        return place
    resized = any(str(getattr(n.target, "overloadpacket", "")).startswith(f"aten.{w}") for n in cone for w in RESIZING)
    once = len(node.users) == 1 and not all(i in cone for i in next(iter(node.users)).all_input_nodes)
    return "" if resized and once else None


def _argument(node: fx.Node, reader: fx.Node) -> str | None:
    for place, name in ((1, "weight"), (2, "bias")):
        if getattr(reader.target, "overloadpacket", None) in WEIGHTED and reader.args[place : place + 1] == (node,):
            return name
    return None


def _value(node: fx.Node, graph: fx.Graph, cone: set[fx.Node], held: Mapping[fx.Node, Tensor]) -> Tensor:
    values: dict[fx.Node, Any] = {n: held[n] for n in cone if n in held}
    with torch.no_grad():
        for n in graph.nodes:
            if n in cone and n not in values:
                args, kwargs = map_arg((n.args, n.kwargs), lambda i: values[i])
                values[n] = n.target(*args, **kwargs)  # type: ignore[operator]
    return values[node].detach().clone()
