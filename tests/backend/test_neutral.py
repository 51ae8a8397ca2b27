"""Operators that return what they are given are no operators: no file has them, and none has ranges of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.quantize import ActivationQuantizer, calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import INT8, Option
from edgesdk.export.formats import export, grid_of
from edgesdk.export.parity import compared_by_output
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions

X = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """Branches put together by ``join``, as RepVGG and multi-branch blocks do; images (N, 3, 12, 12)."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.join = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 1), join
        self.last, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.join(self.a(x), self.b(x)).relu()
        return self.head(self.last(x).relu().mean((2, 3)))


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "no identity": lambda a, b: a + b + 0,
    "sum": lambda a, b: sum([a, b]),  # type: ignore[return-value]
    "times one": lambda a, b: 1.0 * (a + b) / 1 - 0.0,
    "a zero that is held": lambda a, b: a + b + torch.zeros(1),
    "a one that is held": lambda a, b: (a + b) * torch.ones(1, 1, 1, 1),
    "ones that are held": lambda a, b: (a + b) * torch.ones(16, 1, 1),
    "power of one": lambda a, b: (a + b) ** 1,
    "as it is": lambda a, b: a + b,
}


@pytest.mark.parametrize("name", JOINS)
def test_what_changes_nothing_is_no_layer(name: str, tmp_path: Path) -> None:
    """ONNX Runtime makes one of two roundings in a row, which differ once ranges were learnt: it was 0.06 off."""
    torch.manual_seed(0)
    network = trace(Branches(JOINS[name]).eval(), X)
    assert [layer.kind for layer in network.graph.layers].count("add") == 1
    assert "elementwise" not in {layer.kind for layer in network.graph.layers}
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    ready = integer(network, options, grid_of("onnxruntime"))
    calibrate(ready, [X])
    for number, part in enumerate(p for p in ready.module.modules() if isinstance(p, ActivationQuantizer)):
        part.high *= 1 + 0.07 * (number % 3)  # as learning leaves them
        part.fit()
    path = tmp_path / "model.onnx"
    export(ready, X, path, "onnxruntime")
    assert max(compared_by_output(ready.flat, Artifact(path, runtime="onnxruntime"), [X])) < 1e-3


@pytest.mark.parametrize(
    "changed", [lambda x: x + 1, lambda x: x * 0, lambda x: x.round().long() + 0.0], ids=("more", "nothing", "whole")
)
def test_what_changes_something_stays(changed: Callable[[Tensor], Tensor]) -> None:
    model = Branches(lambda a, b: changed(a + b)).eval()
    torch.testing.assert_close(trace(model, X)(X), model(X), rtol=1e-4, atol=1e-5)
