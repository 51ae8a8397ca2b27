"""What a report says of each layer beside the plan: what it is in the graph, and what was chosen costs in accuracy."""

from __future__ import annotations

from dataclasses import replace

from edgesdk.bundle.documents import LayerFacts
from edgesdk.core.graph import WEIGHTED, Graph, Layer
from edgesdk.core.plan import Plan
from edgesdk.price.account import Account
from edgesdk.price.menu import Losses
from edgesdk.price.work import list_work


def list_layers(graph: Graph, plan: Plan, losses: Losses, account: Account) -> tuple[LayerFacts, ...]:
    """The layers of ``graph``, in its order, as ``plan`` makes them."""
    dense, own = list_work(graph, account), list_work(graph, account, plan.options, plan.kept, plan.dropped)
    return tuple(
        replace(_describe(layer, graph, plan, losses), dense_work=dense.get(layer.name), work=own.get(layer.name))
        for layer in graph.layers
    )


def _describe(layer: Layer, graph: Graph, plan: Plan, losses: Losses) -> LayerFacts:
    group = graph.group_by_name.get(layer.writes or "")
    channels = group.size if group is not None else layer.outputs if layer.kind in WEIGHTED else None
    kept = channels if group is None else plan.kept.get(group.name, channels)
    return LayerFacts(
        name=layer.name,
        operator=layer.operator,
        macs=layer.macs,
        parameters=layer.parameters,
        channels=channels,
        kept=kept,
        loss=losses.options.get(layer.name, {}).get(plan.options[layer.name]),
        width_loss=None if group is None or kept is None else losses.widths.get(group.name, {}).get(kept),
    )
