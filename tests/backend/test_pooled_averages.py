"""Averages in integers whose windows reach past the image: what a border counts for, and what lies beyond the end."""

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


class Joined(nn.Module):
    """Two convolutions, one beside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x), torch.tanh(self.right(x))], 1)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_an_integer_average_that_ends_in_a_part_of_a_window_is_the_simulated_one(
    pool: nn.AvgPool2d, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(8, 8, 1))
    check_files(model, torch.randn(2, 3, 12, 12), tmp_path)


SIGNED = {
    "of the input": (nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.Conv2d(3, 8, 3)), (3, 12, 12)),
    "of a layer": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, 2, 1), nn.Conv2d(8, 8, 1)), (3, 12, 12)),
    "at the end": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, 1, 1)), (3, 12, 12)),
    "after another": (nn.Sequential(nn.AvgPool2d((3, 5), (2, 1), (1, 2)), nn.AvgPool2d(3, 2, 1)), (3, 12, 14)),
    "not counted": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, 2, 1, count_include_pad=False)), (3, 12, 12)),
    "of a signal": (nn.Sequential(nn.Conv1d(3, 8, 3), nn.AvgPool1d(3, 2, 1), nn.Conv1d(8, 8, 1)), (3, 20)),
    "of several parts": (nn.Sequential(Joined(), nn.AvgPool2d(3, 2, 1), nn.Conv2d(16, 8, 1)), (3, 12, 12)),
}


@pytest.mark.parametrize(("model", "shape"), SIGNED.values(), ids=SIGNED)
def test_a_border_counts_as_zero_where_zero_is_another_integer(
    model: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """OpenVINO took its zeros for integers: averages at the border were 70 steps off."""
    torch.manual_seed(0)
    check_files(model, torch.randn(2, *shape) + 0.5, tmp_path)


def check_files(model: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    """Every runtime computes what the simulation does, all layers being integer."""
    network = trace(model.eval(), x)
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    ready = integer(network, options)
    calibrate(ready, [x])
    whole = converted(ready, x)
    for runtime in ("onnxruntime", "openvino", "litert"):
        path = tmp_path / f"model{format_of(runtime).suffix}"
        save(whole, specification(ready), path, runtime)
        parity(ready, Artifact(path, ready.graph, options, runtime), [x])
