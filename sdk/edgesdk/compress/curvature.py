"""What an error inside a network does to its outputs, told without running the rest of the network.

Near the dense network a loss of fidelity is a quadratic form of the error in a tensor that all of what comes later is
computed from. Its matrix, Gauss-Newton's ``J^T H J``, is never made: ``v^T J^T H J v`` is the mean of ``(g v)^2`` over
random ``g = J^T h`` with ``E[h h^T] = H``, and each backward pass gives such a ``g`` at every tensor at once (Martens
2020, "New insights and perspectives on the natural gradient method", section 9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgesdk.compress.effort import work
from edgesdk.data.task import Task
from edgesdk.network.network import Network, figures

DRAWS = 8  # random projections of the outputs: the mean over them and over samples is off by a tenth


@dataclass(frozen=True)
class Curvature:
    """At some nodes of a module what it computes there, and gradients of random projections of its outputs."""

    values: Mapping[fx.Node, Tensor]
    gradients: Mapping[fx.Node, Sequence[Tensor]]

    @classmethod
    def of(cls, module: fx.GraphModule, x: Sequence[Tensor], nodes: Sequence[fx.Node], task: Task) -> Curvature:
        """At ``nodes``, each of which must be all that what comes behind it is computed from."""
        interpreter = fx.Interpreter(module, garbage_collect_values=False)
        generator = torch.Generator().manual_seed(0)
        with torch.enable_grad():
            outputs = list(interpreter.run(*(t.detach().requires_grad_(t.is_floating_point()) for t in x)))
            values: dict[fx.Node, Tensor] = {node: interpreter.env[node] for node in nodes}
            draws = [
                torch.autograd.grad(
                    task.projection(outputs, generator), [*values.values()], retain_graph=True, materialize_grads=True
                )
                for _ in range(DRAWS)
            ]
        return cls(
            {node: value.detach() for node, value in values.items()},
            dict(zip(nodes, zip(*draws, strict=True), strict=True)),
        )

    def loss(self, node: fx.Node, value: Tensor) -> float:
        """About what is lost where ``node`` gives ``value`` instead."""
        error = figures(value - self.values[node])
        squares = [(figures(gradient) * error).sum(1).square().sum() for gradient in self.gradients[node]]
        return float(torch.stack(squares).mean()) / 2


def find_bottlenecks(module: fx.GraphModule, values: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """The nodes, in order, each of which is all that what comes behind it is computed from, constants left out."""
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    made = [node for node in order if node.op.startswith("call") and isinstance(values.get(node), Tensor)]
    found, reach = [], 0
    for node in made:
        if reach <= order[node] and values[node].is_floating_point():
            found.append(node)
        reach = max([reach, *(order[user] for user in node.users)])
    return found


def work_of(network: Network) -> dict[fx.Node, float]:
    """What each layer takes for one sample, by the node that makes its output."""
    nodes = {node.name: node for node in network.module.graph.nodes}
    return {nodes[network.sites[layer.name].output]: work(layer) for layer in network.graph.layers}


def find_stops(network: Network, values: Mapping[fx.Node, Any], every: float) -> list[fx.Node]:
    """Bottlenecks that are at least so much work apart."""
    costs, stops, since = work_of(network), [], 0.0
    bottlenecks = set(find_bottlenecks(network.module, values))
    for node in network.module.graph.nodes:
        since += costs.get(node, 0.0)
        if node in bottlenecks and since >= every:
            stops.append(node)
            since = 0.0
    return stops
