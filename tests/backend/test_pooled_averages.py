"""Averages whose last windows reach past the end of the image, in integers: each counts what lies within alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import format_of
from edgesdk.export.formats import save
from edgesdk.export.onnx import converted
from edgesdk.export.parity import parity
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions

POOLS = {
    "plain": nn.AvgPool2d(3, 2, ceil_mode=True),
    "a border that is counted": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "a border that is not": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "other strides than windows": nn.AvgPool2d((2, 3), (3, 2), ceil_mode=True),
    "nothing past the end": nn.AvgPool2d(2, 2, ceil_mode=True),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_an_integer_average_that_ends_in_a_part_of_a_window_is_the_simulated_one(
    pool: nn.AvgPool2d, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(8, 8, 1))
    x = torch.randn(2, 3, 12, 12)
    network = trace(model.eval(), x)
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    ready = integer(network, options)
    calibrate(ready, [x])
    whole = converted(ready, x)
    for runtime in ("onnxruntime", "openvino", "litert"):
        path = tmp_path / f"model{format_of(runtime).suffix}"
        save(whole, specification(ready), path, runtime)
        parity(ready, Artifact(path, ready.graph, options, runtime), [x])
