"""Integer layers of what no input changes: a file may hold what they make instead of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import format_of
from edgesdk.export.formats import export, grid_of
from edgesdk.export.parity import parity
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions


class State(nn.Module):
    """A recurrent cell whose state begins with zeros: at first its two layers make of it what their biases are."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.keeps, self.gates, self.ends = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x)
        for _ in range(2):
            state = torch.tanh(self.reads(x) + self.gates(self.keeps(state).relu()))
        return self.ends(state)


class Once(nn.Module):
    """The same with layers that are read once alone."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.keeps, self.gates, self.ends = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        state = self.gates(self.keeps(torch.zeros_like(x)).relu())
        return self.ends(torch.tanh(self.reads(x) + state))


class Image(nn.Module):
    """A convolution of ones, which knows how far a border is, and another of what that makes."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.ends = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.place, self.mix = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.ends((self.reads(x) + self.mix(self.place(torch.ones_like(x)).relu())).relu())


class Table(nn.Module):
    """Learnt queries, which a layer makes of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 6, 8))
        self.first, self.second, self.reads = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.reads(x) + self.second(self.first(self.table).relu())


MODELS = {
    "a state": (State(), (8,)),
    "a state, once": (Once(), (8,)),
    "an image": (Image(), (3, 8, 8)),
    "a table": (Table(), (6, 8)),
}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
@pytest.mark.parametrize(("model", "shape"), MODELS.values(), ids=MODELS)
def test_what_is_computed_beforehand_is_the_simulated(
    model: nn.Module, shape: tuple[int, ...], runtime: str, tmp_path: Path
) -> None:
    """LiteRT's file was refused: it has no tensor of some grids, being computed where the file is made."""
    torch.manual_seed(0)
    x = torch.randn(4, *shape)
    network = trace(model.eval(), x)
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    ready = integer(network, options, grid_of(runtime))
    calibrate(ready, [x])
    path = tmp_path / f"model{format_of(runtime).suffix}"
    export(ready, x, path, runtime)
    assert parity(ready, Artifact(path, ready.graph, options, runtime), [x]).error < 0.02
