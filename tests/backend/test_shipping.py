"""Networks that reach another process: node for node, weight for weight, and with the same answers."""

from __future__ import annotations

import pickle
import warnings

import models
import pytest
import torch

from edgesdk.compress.apply import compressed
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.compress.stored import stored
from edgesdk.core.plan import Form, Option
from edgesdk.network.network import Network


def check_same(network: Network, x: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's of its own classes
        other = pickle.loads(pickle.dumps(network))
    nodes, others = (list(each.module.graph.nodes) for each in (network, other))
    assert [(n.name, n.target, n.meta) for n in nodes] == [(n.name, n.target, n.meta) for n in others]
    states = network.module.state_dict(), other.module.state_dict()
    assert list(states[0]) == list(states[1]) and all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert (network.graph, network.sites, network.module.meta) == (other.graph, other.sites, other.module.meta)
    assert all(map(torch.equal, network.flat(x), other.flat(x)))
    assert network.module.training == other.module.training


@pytest.mark.parametrize("name", models.SHAPES)
def test_a_network_arrives_as_it_was_sent(name: str) -> None:
    network, x = models.made(name, 8)
    check_same(network, x)
    kept = {group.name: group.size // 2 for group in network.graph.groups if group.fixed is None}
    small, _ = compressed(network, models.plan(network, kept), x, models.scores(network))
    ready = integer(small, models.assigned(small, "int8"))
    calibrate(ready, [x])
    check_same(ready, x)


def test_weights_that_are_stored_in_another_form_arrive_in_it() -> None:
    network, x = models.made("residual", 8)
    layer = next(layer.name for layer in network.graph.layers if layer.kind == "linear")
    half = stored(network, {layer: Option(form=Form("fp16"))})
    assert half.stored
    check_same(half, x)
