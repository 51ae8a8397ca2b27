"""Weights that ``forward()`` computes of parameters alone, each time anew: which they are, and their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

aten: Any = torch.ops.aten
WEIGHTED = {
    aten.conv1d, aten.conv2d, aten.conv3d, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d,
    aten.linear,
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
    standardized weights are, and tables that are interpolated, where nothing else reads what they are computed of.
    """
    cones: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        if node in held:
            cones[node] = {node}
        elif node.op == "call_function" and node.all_input_nodes and all(n in cones for n in node.all_input_nodes):
            if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
                cones[node] = {node}.union(*(cones[n] for n in node.all_input_nodes))
    folded: dict[fx.Node, Held] = {}
    before: set[fx.Node] = set()
    for node, cone in cones.items():
        name = _place(node, cone)
        if node in held or name is None or not all(_read_by(n) <= cone for n in cone - {node}):
            continue
        parts = [held[n] for n in cone if n in held]
        largest = max(parts, key=lambda part: part.value.numel())
        owner, _, leaf = largest.path.rpartition(".")
        value = _value(node, graph, cone, held)
        path = ".".join(filter(None, (owner, name or leaf)))
        others = {part.path for n, part in held.items() if n not in cone} | {part.path for part in folded.values()}
        folded[node] = Held(largest.path if path in others else path, value, any(part.trainable for part in parts))
        before |= (cone - {node}).union(*(n.users for n in cone - {node})) - {node}
    return folded, before


def _read_by(node: fx.Node) -> set[fx.Node]:
    """What reads ``node`` and makes something of it, as assertions do not."""
    return {user for user in node.users if user.users or user.op == "output"}


def _place(node: fx.Node, cone: set[fx.Node]) -> str | None:
    """What ``node`` is to the layer that reads it, "" for a table that was interpolated; ``None`` for anything else."""
    if len(node.users) != 1:
        return None
    (reader,) = node.users
    packet = getattr(reader.target, "overloadpacket", None)
    for place, name in ((1, "weight"), (2, "bias")):
        if packet in WEIGHTED and len(reader.args) > place and reader.args[place] is node:
            return name
    resized = any(str(getattr(n.target, "overloadpacket", "")).startswith(f"aten.{w}") for n in cone for w in RESIZING)
    return "" if resized and not all(i in cone or i is node for i in reader.all_input_nodes) else None


def _value(node: fx.Node, graph: fx.Graph, cone: set[fx.Node], held: Mapping[fx.Node, Held]) -> Tensor:
    values: dict[fx.Node, Any] = {n: held[n].value for n in cone if n in held}
    with torch.no_grad():
        for n in graph.nodes:
            if n in cone and n not in values:
                args, kwargs = map_arg((n.args, n.kwargs), lambda i: values[i])
                values[n] = n.target(*args, **kwargs)  # type: ignore[operator]
    return values[node].detach().clone()
