"""What is picked out of integers of several scales: OpenVINO crashed as it compiled such files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import INT8, Option
from edgesdk.export.formats import export, grid_of
from edgesdk.export.parity import parity
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions

COMPILE = "import sys, openvino; openvino.Core().compile_model(sys.argv[1], 'CPU')"


def write_rows(y: Tensor) -> Tensor:
    """Writes through views, as each leaves a concatenation behind it."""
    rows = y.clone().view(len(y), 4, 6, -1)
    rows[:, 1].mul_(3.0)
    rows.select(1, 2).sub_(0.5)
    return rows.flatten(1, 2)


def scale_some(y: Tensor) -> Tensor:
    return torch.cat([y[:, :8], 3 * y[:, 8:]], 1)


PICKED: dict[str, Callable[[Tensor], Tensor]] = {
    "channels that were written to": write_rows,
    "channels in another order": lambda y: scale_some(y)[:, list(range(23, -1, -1))],
    "one place of a signal": lambda y: scale_some(y)[:, :, 3:9] + scale_some(y).select(2, 2)[..., None],
}


class Picking(nn.Module):
    def __init__(self, pick: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.pick, self.last = nn.Conv1d(3, 24, 3), pick, nn.Conv1d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pick(self.first(x)))


@pytest.mark.parametrize("pick", PICKED.values(), ids=PICKED)
def test_what_is_picked_of_integers_of_several_scales_runs_as_simulated(
    pick: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 20)
    network = trace(Picking(pick).eval(), x)
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    ready = integer(network, options, grid_of("openvino"))
    calibrate(ready, [x])
    path = tmp_path / "model.xml"
    export(ready, x, path, "openvino")
    subprocess.run([sys.executable, "-c", COMPILE, str(path)], check=True, timeout=120)
    assert parity(ready, Artifact(path, ready.graph, options, "openvino"), [x]).error < 0.02
