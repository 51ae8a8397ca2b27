"""A product with a parameter is a layer, whatever it is called by: it has a price, an integer form and its channels."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.core.graph import CONV, LINEAR
from edgesdk.network.trace import trace

sys.path.append(str(Path(__file__).parents[1] / "cases"))
CASES = {case.name: case for case in importlib.import_module("cases_weights").CASES}
LAYERS = {
    "weights: spelled": ["weight", "w", "turned", "listed.0", "listed.1", "named.in_"],
    "weights: left": ["w", "stacked.0", "stacked.1", "head"],
    "weights: parts": ["qkv.0", "qkv.1", "qkv.2", "gate.0", "gate.1", "stacked.0", "stacked.1", "stacked.2", "head"],
    "weights: asked": ["attention.in_proj_weight.0", "attention.in_proj_weight.1", "attention.out_proj", "head"],
    "weights: adapted": ["first.inner", "first.weight", "second.inner", "second.weight", "down", "up", "head"],
    "weights: kernels": ["k.a", "k.b", "table", "table_call_2", "head"],  # a transposed kernel is none
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_with_parameters_are_layers(name: str) -> None:
    graph = trace(*CASES[name].made()).graph
    assert [layer.name for layer in graph.layers if layer.kind in (CONV, LINEAR)] == LAYERS[name]
    assert not [layer.name for layer in graph.layers if layer.operator in ("add",) and not layer.inputs]


def test_a_maximum_of_channels_is_one_of_those_that_stay() -> None:
    graph = trace(*CASES["weights: greatest"].made()).graph
    assert graph.group_by_name["first"].fixed is None


class Shared(nn.Module):
    """A weight that is read in ways that overlap: nothing of it is a layer's own."""

    def __init__(self, way: int) -> None:
        super().__init__()
        self.way, self.w = way, nn.Parameter(torch.randn(12, 12) / 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == 0:  # a tied autoencoder
            return F.linear(F.linear(x, self.w).relu(), self.w.t())
        if self.way == 1:  # rows that both layers have
            return F.linear(F.linear(x, self.w[:8]).relu(), self.w[4:, :8])
        return (x @ self.w).relu() * self.w.sum()


@pytest.mark.parametrize("way", [0, 1, 2])
def test_what_layers_share_stays_shared(way: int) -> None:
    network = trace(Shared(way).eval(), torch.randn(4, 12))
    assert sum(parameter.numel() for parameter in network.module.parameters()) == 144
    assert not [layer.name for layer in network.graph.layers if layer.kind == LINEAR]
