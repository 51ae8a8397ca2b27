"""Convolutions whose window is as large as the image: every runtime computes the simulated sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import INT8, Option
from edgesdk.core.runtime import format_of
from edgesdk.export import openvino_kernels
from edgesdk.export.formats import export, grid_of
from edgesdk.export.openvino import import_openvino
from edgesdk.export.parity import parity
from edgesdk.network.trace import trace
from edgesdk.price.operators import precisions

# The kernel, its strides, the channels and the image. Of the first three OpenVINO's kernel was 200 steps off.
WINDOWS = {
    "as patches are": ((8, 8), (8, 8), 32, (8, 8)),
    "smaller": ((4, 4), (4, 4), 32, (4, 4)),
    "of six": ((6, 6), (6, 6), 32, (6, 6)),
    "not square": ((4, 6), (4, 6), 32, (4, 6)),
    "whole on one axis": ((8, 2), (8, 2), 16, (8, 6)),
    "with a rest": ((4, 4), (4, 4), 32, (5, 5)),
    "of a signal": ((8,), (8,), 32, (8,)),
}


@pytest.mark.parametrize(("kernel", "strides", "channels", "image"), WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("grouped", [False, True], ids=["", "depthwise"])
def test_what_a_window_over_the_whole_image_makes_is_the_simulated_sum(
    kernel: tuple[int, ...], strides: tuple[int, ...], channels: int, image: tuple[int, ...], grouped: bool,
    tmp_path: Path,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    conv = nn.Conv1d if len(kernel) == 1 else nn.Conv2d
    groups = channels if grouped else 1
    whole = conv(channels, channels, kernel, strides, groups=groups)  # type: ignore[arg-type]
    model = nn.Sequential(conv(3, channels, 3, padding=1), whole, conv(channels, 4, 1)).eval()
    x = torch.randn(4, 3, *image)
    network = trace(model, x)
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if INT8 in precisions(layer)}
    for runtime in ("onnxruntime", "openvino", "litert"):
        ready = integer(network, options, grid_of(runtime))
        calibrate(ready, [x])
        path = tmp_path / f"model{format_of(runtime).suffix}"
        export(ready, x, path, runtime)
        assert parity(ready, Artifact(path, ready.graph, options, runtime), [x]).error < 0.02


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "factors": lambda x, c: x * c,
    "divisors": lambda x, c: x / c,
    "and a number": lambda x, c: (x * c) * 0.5,
    "and one for each channel": lambda x, c: (x * c) * torch.arange(1.0, 5.0).reshape(4, *[1] * (x.dim() - 2)),
    "of the other sign": lambda x, c: -(x * c),
    "of those beside a border": lambda x, c: nn.functional.pad(x * c, [1, 1] * (x.dim() - 2)),
}


class Weighed(nn.Module):
    """A convolution of an image whose places each have a factor of their own."""

    def __init__(self, conv: nn.Module, factors: Tensor, way: str) -> None:
        super().__init__()
        self.conv, self.factors, self.way = conv, nn.Buffer(factors), way

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(WAYS[self.way](x, self.factors))


WEIGHED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "image": (lambda: nn.Conv2d(4, 4, 7, padding=3), (7, 7)),
    "rows": (lambda: nn.Conv2d(4, 4, 7, padding=3, bias=False), (1, 1, 7, 1)),
    "groups": (lambda: nn.Conv2d(4, 4, 7, padding=3, groups=2), (1, 1, 7, 7)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 7, padding=3, groups=4), (1, 1, 1, 7)),
    "signal": (lambda: nn.Conv1d(4, 4, 7, padding=3), (1, 1, 7)),
    "volume": (lambda: nn.Conv3d(4, 4, 3, padding=1), (1, 1, 3, 3, 3)),
}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("make", "shape"), WEIGHED.values(), ids=WEIGHED)
def test_a_factor_for_each_place_is_none_of_the_window(
    make: Callable[[], nn.Module], shape: tuple[int, ...], way: str, runtime: str, tmp_path: Path
) -> None:
    """OpenVINO took it into the weights where the window has as many places as the image: half of it was off."""
    conv = make()
    model = Weighed(conv, torch.rand(shape) + 0.5, way).eval()
    size: Any = conv.kernel_size
    x = torch.randn(4, 4, *size)
    network = trace(model, x)
    path = tmp_path / f"model{format_of(runtime).suffix}"
    export(integer(network, {}), x, path, runtime)
    assert parity(network, Artifact(path, network.graph, {}, runtime), [x]).error < 1e-4


def test_a_border_between_the_factors_and_the_window_is_seen_through() -> None:
    """As a file may have it that is read as it is: the exporter makes borders the convolution's own."""
    from openvino import opset13

    openvino: Any = import_openvino()
    draw = np.random.default_rng(0)
    x, factors, weight = (draw.random(shape, np.float32) + 0.5 for shape in ((1, 4, 7, 7), (1, 1, 7, 7), (4, 4, 7, 7)))
    given = opset13.parameter([1, 4, 7, 7], np.float32)
    wide = opset13.pad(given * opset13.constant(factors), [0, 0, 3, 3], [0, 0, 3, 3], "constant", 0.0)
    made = opset13.convolution(wide, opset13.constant(weight), [1, 1], [0, 0], [0, 0], [1, 1])
    model = openvino.Model([made], [given])
    openvino_kernels.avoid(model, integers=False)
    answer = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({0: x})[0]
    wanted = nn.functional.conv2d(torch.from_numpy(x * factors), torch.from_numpy(weight), padding=3)
    torch.testing.assert_close(torch.from_numpy(answer), wanted, rtol=1e-4, atol=1e-4)
