"""Linear layers in a row, of a single row, which OpenVINO runs as one kernel: it computes the simulated sums."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import INT8, Option
from edgesdk.export.formats import export, grid_of
from edgesdk.export.parity import parity
from edgesdk.network.trace import trace

FIRST, SECOND, THIRD = "1", "3", "5"  # where the layers are

# Widths, what is between, the layers without a bias, and those that stay float.
# All but the last three were off by several times the outputs' spread, and more.
CHAINS = {
    "no bias": ((32, 128, 10), nn.ReLU, (FIRST, SECOND), ()),
    "with GELU": ((8, 8, 8), nn.GELU, (FIRST, SECOND), ()),
    "none in the first": ((33, 65, 10), nn.GELU, (FIRST,), ()),
    "none in the second": ((32, 128, 10), nn.Identity, (SECOND,), ()),
    "after a float one": ((32, 128, 10), nn.GELU, (SECOND,), (FIRST,)),
    "before a float one": ((32, 128, 10), nn.GELU, (FIRST,), (SECOND,)),
    "three": ((32, 64, 48, 8), nn.ReLU, (FIRST, SECOND, THIRD), ()),
    "biases": ((32, 128, 10), nn.ReLU, (), ()),
    "a single output": ((32, 16, 1), nn.ReLU, (SECOND,), ()),
    "a kernel each": ((32, 128, 10), nn.SiLU, (FIRST, SECOND), ()),
}


@pytest.mark.parametrize(("widths", "between", "unbiased", "float_"), CHAINS.values(), ids=CHAINS)
def test_linear_layers_in_a_row_compute_the_simulated_sums(
    widths: tuple[int, ...], between: type[nn.Module], unbiased: Collection[str], float_: Collection[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [between() if parts else nn.Tanh(), nn.Linear(inputs, outputs)]
    x = torch.randn(8, widths[0])
    network = trace(nn.Sequential(*parts).eval(), x)
    options = {
        layer.name: Option(INT8, 8)
        for layer in network.graph.layers
        if layer.kind == "linear" and layer.name not in float_
    }
    ready = integer(network, options, grid_of("openvino"))
    calibrate(ready, [x])
    for name in unbiased:  # which calibration might have given one
        layer: Any = ready.submodule(name)
        nn.init.zeros_(getattr(layer, "inner", layer).bias)
    path = tmp_path / "model.xml"
    export(ready, x, path, "openvino")
    assert parity(ready, Artifact(path, ready.graph, options, "openvino"), [x]).error < 0.02
