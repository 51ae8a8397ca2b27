"""Integer sums that are far finer than their parts, which OpenVINO's kernel of a convolution and a sum rounds, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import INT8, Option
from edgesdk.export.formats import export, grid_of
from edgesdk.export.parity import runner
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions

CHANNELS = 16


class Sum(nn.Module):
    """A sum of two convolutions that nearly cancel each other, the first of them with a larger window."""

    def __init__(self, stride: int, groups: int, rectified: bool) -> None:
        super().__init__()
        self.stem, self.rectified = nn.Conv2d(3, CHANNELS, 3, padding=1), rectified
        self.a = nn.Conv2d(CHANNELS, CHANNELS, 3, stride, 1, groups=groups)
        self.b = nn.Conv2d(CHANNELS, CHANNELS, 1, stride, groups=groups)
        with torch.no_grad():
            self.a.weight *= 0.02
            self.a.weight[:, :, 1, 1] -= self.b.weight[:, :, 0, 0]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.a(x) + self.b(x)
        return y.relu() if self.rectified else y


@pytest.mark.parametrize(
    ("stride", "groups", "rectified"), [(1, 1, False), (1, 1, True), (2, 1, True), (1, CHANNELS, True)]
)
def test_a_sum_is_the_simulated_one_within_a_step(stride: int, groups: int, rectified: bool, tmp_path: Path) -> None:
    """OpenVINO's kernel does not round the part that it makes: sums were 6 steps off."""
    torch.manual_seed(0)
    model, x = Sum(stride, groups, rectified).eval(), torch.randn(4, 3, 12, 12)
    network = trace(model, x)
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    ready = integer(network, options, grid_of("openvino"))
    calibrate(ready, [x])
    path = tmp_path / "model.xml"
    export(ready, x, path, "openvino")
    (step,) = list(specification(ready).values())[-1].scale
    with torch.no_grad():
        off = (runner(Artifact(path, ready.graph, options, "openvino"), ready.structure)(x) - ready.flat(x)[0]).abs()
    assert float(off.max()) <= 1.01 * step
