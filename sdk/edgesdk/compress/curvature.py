"""What an error inside a network does to its outputs, told without running the rest of the network.

Near the dense network a loss of fidelity is a quadratic form of the error in a tensor that all of what comes later is
computed from. Its matrix, Gauss-Newton's ``J^T H J``, is never made: ``v^T J^T H J v`` is the mean of ``(g v)^2`` over
random ``g = J^T h`` with ``E[h h^T] = H``, and each backward pass gives such a ``g`` at every tensor at once (Martens
2020, "New insights and perspectives on the natural gradient method", section 9).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgesdk.compress.effort import work
from edgesdk.compress.segments import MOST_BYTES, Segmented, count_bytes
from edgesdk.data.task import Task
from edgesdk.network.network import Network, figures

PROJECTIONS = 64  # of all samples' outputs, at random: the mean over them is off by a sixth
LEAST_DRAWS = 2  # for each sample


@dataclass(frozen=True)
class Curvature:
    """At some nodes of a module what it computes there, (samples, figures), and gradients of random projections of its
    outputs, (samples, projections, figures)."""

    values: Mapping[fx.Node, Tensor]
    gradients: Mapping[fx.Node, Tensor]

    @classmethod
    def of(cls, network: Network, values: Segmented, horizon: float, task: Task) -> Curvature:
        """At bottlenecks that are at least the work ``horizon`` apart, and as few as keep to half of ``MOST_BYTES``."""
        generator = torch.Generator().manual_seed(0)
        draws = max(LEAST_DRAWS, PROJECTIONS // len(values.outputs[0]))
        stops = find_stops(network, values.like, horizon)
        while len(stops) > 1 and (1 + draws) * sum(count_bytes(n, values.like[n]) for n in stops) > MOST_BYTES / 2:
            horizon *= 2
            stops = find_stops(network, values.like, horizon)
        if not stops:
            return cls({}, {})

        def project(outputs: list[Tensor]) -> Iterator[Tensor]:
            return (task.projection(outputs, generator) for _ in range(draws))

        at, gradients = dict[fx.Node, Tensor](), dict[fx.Node, Tensor]()
        for node, value, drawn in values.gradients(stops, project):
            at[node], gradients[node] = _flat(value), torch.stack([*map(_flat, drawn)], 1)
        return cls(at, gradients)

    def loss(self, node: fx.Node, value: Tensor) -> float:
        """About what is lost where ``node`` gives ``value`` instead."""
        error = _flat(value) - self.values[node]
        gradients = self.gradients[node]
        return float((gradients @ error[..., None]).square().sum()) / gradients.shape[1] / 2


def _flat(value: Tensor) -> Tensor:
    """The figures of each sample in a row, images with channels last, as they lie in memory."""
    return figures(value.movedim(1, -1) if value.dim() == 4 else value)


def find_bottlenecks(
    module: fx.GraphModule, values: Mapping[fx.Node, Any], settled: Collection[fx.Node] = ()
) -> list[fx.Node]:
    """The nodes, in order, each of which is all that what comes behind it is computed from, constants left out, and
    what is ``settled`` whatever becomes of the layers."""
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    made = [node for node in order if node.op.startswith("call") and isinstance(values.get(node), Tensor)]
    made = [node for node in made if node not in settled]
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
    """Bottlenecks that are at least so much work apart, each the smallest of those within as much again.

    Gradients there are held, and read whenever a price is told by them.
    """
    costs, bottlenecks = work_of(network), set(find_bottlenecks(network.module, values))
    stops, since, smallest, there = list[fx.Node](), 0.0, None, 0.0
    for node in network.module.graph.nodes:
        since += costs.get(node, 0.0)
        if node in bottlenecks and since >= every:
            if smallest is None or values[node].numel() < values[smallest].numel():
                smallest, there = node, since
        if smallest is not None and since >= 2 * every:
            stops.append(smallest)
            since, smallest = since - there, None
    return stops if smallest is None else [*stops, smallest]
