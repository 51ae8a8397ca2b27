"""Files for ncnn: each operator computes what PyTorch does, integers are passed on, and what it lacks is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgesdk.compress.integers import NARROW
from edgesdk.compress.quantize import calibrate, integer, specification
from edgesdk.core.artifact import Artifact
from edgesdk.core.errors import DeviceError, ModelError
from edgesdk.core.runtime import find_runtime
from edgesdk.export import onnx as onnx_file
from edgesdk.export.formats import save
from edgesdk.export.ncnn.check import check
from edgesdk.export.parity import compared, runner
from edgesdk.network.network import Network
from edgesdk.network.trace import trace

IMAGE, VECTOR, SIGNAL, TOKENS = (2, 4, 12, 10), (2, 20), (2, 6, 16), (2, 5, 16)
Case = tuple[tuple[int, ...], Callable[..., object], Callable[[], list[nn.Module]]]


class Made(nn.Module):
    def __init__(self, function: Callable[..., object], parts: list[nn.Module]) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> object:
        return self.function(x, *self.parts)


def joined(*parts: Tensor) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


CASES: dict[str, Case] = {
    "activations": (
        IMAGE,
        lambda x, c: joined(
            F.leaky_relu(c(x), 0.1), F.hardswish(c(x)), F.hardsigmoid(x), F.gelu(x), F.gelu(x, approximate="tanh"),
            F.elu(x), F.selu(x), F.silu(x), F.mish(x), F.relu6(c(x)), torch.tanh(x), torch.sigmoid(c(x)), x.exp(),
            x.abs(), -x, x**2, (x.abs() + 1).sqrt(), torch.erf(x), x.clamp(-0.5, 0.7), x.floor(), x.reciprocal(),
        ),
        lambda: [nn.Conv2d(4, 4, 3, padding=1)],
    ),
    "slopes": (IMAGE, lambda x, a, b: a(x) + b(x), lambda: [nn.PReLU(4), nn.PReLU()]),
    "convolutions": (
        IMAGE,
        lambda x, a, b, c, d: F.relu6(d(F.relu(c(b(a(x)))))),
        lambda: [
            nn.Conv2d(4, 8, (3, 1), padding=(1, 0)), nn.Conv2d(8, 8, 3, (1, 2), padding=(1, 2), dilation=(1, 2)),
            nn.Conv2d(8, 16, 3, padding="same", groups=8), nn.Conv2d(16, 16, 1, groups=4),
        ],
    ),
    "signals": (
        SIGNAL,
        lambda x, a, b, c: c(F.relu(b(F.relu(a(x))))).mean(2),
        lambda: [nn.Conv1d(6, 8, 5, 2, 2), nn.Conv1d(8, 8, 3, padding=2, dilation=2, groups=8), nn.Conv1d(8, 12, 1)],
    ),
    "transposed": (
        IMAGE,
        lambda x, a, b, c, d: joined(b(a(x)), c(x), d(x)),
        lambda: [
            nn.ConvTranspose2d(4, 6, 2, 2), nn.ConvTranspose2d(6, 2, 3, 2, 1, 1),
            nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4),
            nn.ConvTranspose2d(4, 4, 3, (1, 2), groups=2, output_padding=(0, 1)),
        ],
    ),
    "transposed signals": (SIGNAL, lambda x, a: a(x), lambda: [nn.ConvTranspose1d(6, 4, 4, 2, 1)]),
    "sizes": (
        IMAGE,
        lambda x: joined(
            F.interpolate(x, scale_factor=2), F.interpolate(x, scale_factor=2, mode="bilinear"),
            F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
            F.interpolate(x, size=(7, 6), mode="bicubic"), F.interpolate(x, size=(7, 6)), F.pixel_shuffle(x, 2),
            F.interpolate(x, scale_factor=1.7, mode="bilinear"), F.interpolate(x, scale_factor=1.7),
            F.interpolate(x, size=(5, 7), mode="bilinear", antialias=True),
        ),
        list,
    ),
    "spectra": (
        IMAGE,
        lambda x: joined(
            torch.fft.rfft2(x).abs(), torch.fft.irfft(torch.fft.rfft(x) * 1j, n=6),
            torch.stft(x[:, 0].flatten(1), 8, 4, window=torch.hann_window(8), return_complex=True).abs(),
        ),
        list,
    ),
    "pools": (
        IMAGE,
        lambda x: joined(
            F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            F.max_pool2d(x, 3, 2, ceil_mode=True), F.max_pool2d(F.pad(x, (1, 0, 0, 1), value=-float("inf")), 2, 1),
            F.adaptive_avg_pool2d(x, (3, 5)), F.avg_pool2d(x, 2, 3),
        ),
        list,
    ),
    "pools of signals": (SIGNAL, lambda x: F.max_pool1d(F.avg_pool1d(x, 3, 2, 1), 2), list),
    "reductions": (
        IMAGE,
        lambda x: joined(
            x.mean((2, 3)), x.amax((2, 3)), x.sum(3), x.mean(1), x.norm(dim=1), x.amin(2),
            x.mean((1, 2, 3), keepdim=True), x.sum(2, keepdim=True),
        ),
        list,
    ),
    "squeeze and excite": (
        IMAGE,
        lambda x, a, b: x * torch.sigmoid(b(F.relu(a(x.mean((2, 3), keepdim=True))))),
        lambda: [nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)],
    ),
    "shapes that broadcast": (
        IMAGE,
        lambda x: joined(
            x + x.mean(1, keepdim=True), x * x.mean((2, 3), keepdim=True), x - x.mean(3, keepdim=True),
            x.mean(2, keepdim=True) * x.mean(3, keepdim=True), x / torch.arange(1.0, 11.0), 2 - x, 1 / (x.abs() + 1),
            x + torch.arange(4.0).view(4, 1, 1), torch.maximum(x, x.mean(1, keepdim=True)),
        ),
        list,
    ),
    "vectors": (
        VECTOR,
        lambda x, a, b: b(F.relu(a(x))) * 2 + torch.arange(5.0) + b(a(x)).mean(1, keepdim=True),
        lambda: [nn.Linear(20, 16), nn.Linear(16, 5)],
    ),
    "norms": (
        IMAGE,
        lambda x, a, b, c, d: d(c(b(a(x)))).permute(0, 3, 1, 2),
        lambda: [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.BatchNorm2d(4), nn.LayerNorm([12, 10])],
    ),
    "attention": (
        TOKENS,
        lambda x, a: a(x, x, x, need_weights=False)[0],
        lambda: [nn.MultiheadAttention(16, 4, batch_first=True)],
    ),
    "tokens": (
        TOKENS,
        lambda x, n, r, linear: F.softmax(linear(r(n(x))), 1).transpose(1, 2) @ x,
        lambda: [nn.LayerNorm(16), nn.RMSNorm(16), nn.Linear(16, 8)],
    ),
    "moves": (
        IMAGE,
        lambda x: joined(
            x.permute(0, 2, 3, 1), x.reshape(-1, 2, 2, 12, 10).transpose(1, 2), x[:, 1:3, 2:-1], x.chunk(2, 1)[1],
            F.pad(x, (1, 2, 0, 1)), F.pad(x, (1, 2, 0, 1), mode="reflect"), F.pad(x, (1, 2, 2, 1), mode="replicate"),
            F.pad(x, (0, 0, 0, 0, 1, 1), value=3.0), x[:, 0], x.mean((2, 3), keepdim=True).expand(-1, 4, 3, 2),
        ),
        list,
    ),
    "recurrences": (
        TOKENS,
        lambda x, a, b, c: joined(a(x)[0], b(x)[0], c(x)[0][:, -1]),
        lambda: [
            nn.GRU(16, 8, 2, batch_first=True, bidirectional=True),
            nn.LSTM(16, 8, batch_first=True, bidirectional=True), nn.LSTM(16, 8, batch_first=True),
        ],
    ),
    "several outputs": (IMAGE, lambda x, c: (c(x).relu(), c(x), x), lambda: [nn.Conv2d(4, 4, 1)]),
}  # fmt: skip
LACKING: dict[str, tuple[tuple[int, ...], Callable[..., object], str]] = {
    "a selection": (IMAGE, lambda x: torch.where(x > 0, x, x * 2), "ncnn has no Greater"),
    "whole numbers": (IMAGE, lambda x: x.argmax(1), "ncnn has no ArgMax"),
    "every second": (VECTOR, lambda x: x[:, ::2], "it takes every so many"),
    "a cube": (IMAGE, lambda x: x**3, "it has that of no negative number"),
    "sums that go on": (VECTOR, lambda x: x.cumsum(1), "ncnn has no CumSum"),
}


def written(network: Network, x: Tensor, path: Path) -> Artifact:
    save(onnx_file.converted(network, x), specification(network), path, "ncnn")
    return Artifact(path, network.graph, runtime="ncnn")


def traced(case: Case) -> tuple[Network, Tensor]:
    shape, function, parts = case
    torch.manual_seed(0)
    x = torch.randn(shape)
    return integer(trace(Made(function, parts()).eval(), x), {}), x


def whole(name: str) -> tuple[Network, Tensor]:
    """A network with all layers integer that ncnn has integer kernels for."""
    network, x = models.made(name)
    options = models.assigned(network, "int8")
    own = {n: o for n, o in options.items() if find_runtime("ncnn").is_integer(network.graph.by_name[n], network.graph)}
    result = integer(network, own, NARROW)
    calibrate(result, [x])
    return result, x


@pytest.mark.parametrize("name", CASES)
def test_each_operator_is_what_it_is_in_pytorch(name: str, tmp_path: Path) -> None:
    network, x = traced(CASES[name])
    result = compared(network.flat, written(network, x, tmp_path / "model.ncnn.param"), [x], 1e-5)
    assert result.error <= 1e-5


@pytest.mark.parametrize("name", LACKING)
def test_what_ncnn_lacks_is_named_with_the_formats_that_have_it(name: str, tmp_path: Path) -> None:
    shape, function, said = LACKING[name]
    network, x = traced((shape, function, list))
    with pytest.raises(ModelError, match=said) as caught:
        written(network, x, tmp_path / "model.ncnn.param")
    assert "export to onnx or openvino" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "passed_on"), [("residual", 2), ("depthwise", 4)])
def test_integers_stay_integers_between_convolutions(name: str, passed_on: int, tmp_path: Path) -> None:
    network, x = whole(name)
    artifact = written(network, x, tmp_path / "model.ncnn.param")
    assert compared(network.flat, artifact, [x], 1e-2).error <= 1e-2
    text = artifact.path.read_text()
    assert len(re.findall(r" 8=101\b", text)) == passed_on
    assert len(re.findall(r" 8=1(01)?\b", text)) == sum(n.endswith(".weight") for n in specification(network))


def test_one_integer_layer_makes_the_integers_of_the_simulation(tmp_path: Path) -> None:
    """Sums of integers are exact in either: what differs is the last bit of a product, and ties."""
    torch.manual_seed(1)
    x = torch.randn(8, 4, 9, 9)
    network = trace(Made(lambda x, c: c(x), [nn.Conv2d(4, 12, 3)]).eval(), x)
    options = models.assigned(network, "int8")
    small = integer(network, options, NARROW)
    calibrate(small, [x])
    run = runner(written(small, x, tmp_path / "model.ncnn.param"), small.structure)
    with torch.no_grad():
        wanted = small(x)
    scale = torch.tensor(specification(small)["parts.0.weight"].scale).reshape(-1, 1, 1)
    (step,) = next(spec.scale for spec in specification(small).values() if spec.axis is None)
    off = ((run(x) - wanted) / (scale * step)).abs()  # in units of what one product of integers stands for
    assert float((off > 0.5).double().mean()) < 1e-3  # a value at a tie is rounded the other way


def test_numbers_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    network, x = traced(CASES["vectors"])
    artifact = written(network, x, tmp_path / "model.ncnn.param")
    numbers = tmp_path / "model.ncnn.bin"
    numbers.write_bytes(numbers.read_bytes()[:-8])
    with pytest.raises(DeviceError, match=r"ncnn refuses model\.ncnn\.param"):
        runner(artifact, network.structure)
    with pytest.raises(ValueError):
        check(artifact.path, {})


def test_one_over_a_step_is_what_is_stored(tmp_path: Path) -> None:
    network, x = whole("depthwise")
    artifact = written(network, x, tmp_path / "model.ncnn.param")
    specs = specification(network)
    check(artifact.path, specs)
    assert all(np.isfinite(spec.scale).all() for spec in specs.values())
