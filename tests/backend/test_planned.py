"""The graph that is foretold of a plan, against the one that is traced from the network that the plan makes."""

from __future__ import annotations

import random
from math import prod

import models
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.apply import compressed
from edgesdk.core.graph import WEIGHTED, Graph
from edgesdk.core.plan import FP32, INT8, Form, Option, Plan
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.forms import fits, forms
from edgesdk.price.memory.onnxruntime.account import constants_of
from edgesdk.price.operators import channels, precisions, widths
from edgesdk.price.planned import planned


class Perceptron(nn.Module):
    """Three layers with activations that are layers of their own; vectors (N, 24)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 40), nn.SiLU(), nn.Linear(40, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def traced(name: str) -> tuple[Network, Tensor]:
    if name == "perceptron":
        x = torch.randn(4, 24)
        return trace(Perceptron().eval(), x), x
    return models.made(name, 4)


def random_plan(network: Network, seed: int) -> Plan:
    """Widths of the menu, branches, precisions and forms by chance."""
    chance = random.Random(seed)
    graph = network.graph
    kept = {g.name: chance.choice(widths(g.size, g.step)) for g in graph.groups if g.fixed is None}
    dropped = tuple(branch.name for branch in graph.branches if chance.random() < 0.3)
    options = {}
    for layer in graph.layers:
        sides = channels(layer, graph, kept.get(layer.reads or ""), kept.get(layer.writes or ""))
        able = [form for form in forms(layer, ("kernel", "relu", "identity")) if fits(form, *sides)]
        form: Form | None = chance.choice([None, *able]) if not layer.fixed else None
        precision = chance.choice(precisions(layer, form))
        options[layer.name] = Option(precision, 8 if precision == INT8 else 32, form)
    return models.plan(network, kept, options, dropped)


def shapes(graph: Graph, options: dict[str, Option]) -> list[tuple[object, ...]]:
    """What an account goes by, of each layer that has weights, and all elements in order of their number."""
    weighted = [(layer.weight_shape, options[layer.name].precision) for layer in graph.layers if layer.kind in WEIGHTED]
    return [*weighted, *sorted((prod(layer.shape),) for layer in graph.layers)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["residual", "depthwise", "transformer", "recurrent", "perceptron"])
def test_what_a_plan_makes_is_foretold(name: str, seed: int) -> None:
    network, x = traced(name)
    plan = random_plan(network, seed)
    small, options = compressed(network, plan, x, models.scores(network))
    graph, foretold = planned(network.graph, plan.options, plan.kept, plan.dropped)
    assert shapes(graph, foretold) == shapes(small.graph, options)
    peak_bytes = constants_of().peak_bytes
    assert peak_bytes(graph, foretold) == pytest.approx(peak_bytes(small.graph, options), rel=0.02)
    assert {FP32, INT8} >= {option.precision for option in foretold.values()}
