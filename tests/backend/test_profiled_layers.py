"""The names of a profile are those of layers also where a file numbers operators anew: after a branch was left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import models
import pytest
import torch
from torch import nn

from edgesdk.compress.apply import compressed
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.graph import ADD, WEIGHTED
from edgesdk.core.runtime import format_of
from edgesdk.devices.bench import Bench
from edgesdk.devices.local import LocalDevice
from edgesdk.devices.profiling import name_layers
from edgesdk.export.formats import export, grid_of
from edgesdk.export.simulation import list_called
from edgesdk.network.network import Network
from edgesdk.network.trace import trace

RUNTIMES = ("onnxruntime", "openvino", "litert")
PLANS = ("dense", "int8")


@pytest.fixture(scope="module")
def agent() -> Iterator[LocalDevice]:
    with LocalDevice() as device:
        yield device


def without_first(plan: str, runtime: str) -> tuple[Network, Network, torch.Tensor]:
    """The example, and the same without its first branch."""
    network, x = models.made("example")
    small, _ = compressed(
        network, models.plan(network, dropped=(network.graph.branches[0].name,)), x, models.scores(network)
    )  # fmt: skip
    ready = integer(small, {} if plan == "dense" else models.assigned(small, plan), grid_of(runtime))
    calibrate(ready, [x])
    return network, ready, x


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_kernels_are_of_the_layers_that_the_file_has(
    agent: LocalDevice, tmp_path: Path, runtime: str, plan: str
) -> None:
    network, ready, x = without_first(plan, runtime)
    artifact = Artifact(tmp_path / f"model{format_of(runtime).suffix}", ready.graph, {}, runtime)
    export(ready, x, artifact.path, runtime)
    made = list_called(ready, x)
    there = {layer.name: layer for layer in ready.graph.layers}
    layers = {layer.name: made.get(layer.name, ()) for layer in network.graph.layers}
    sums = [layer.name for layer in network.graph.layers if layer.kind == ADD]
    assert sums[0] not in there and made[sums[1]] and sums[1] in there
    profile = Bench(agent, runtime=runtime).profile(artifact, layers)
    of_weights: list[str] = []
    for kernel in profile.kernels:
        assert {*kernel.layers} <= {*there}
        weighted = [name for name in kernel.layers if there[name].kind in WEIGHTED]
        assert len(weighted) <= 1
        of_weights += weighted
        for name in kernel.layers:  # what is fused reads what the kernel's own layer makes
            if there[name].kind == ADD and weighted:
                assert weighted[0] in there[name].inputs
    assert sorted(of_weights) == sorted(name for name, layer in there.items() if layer.kind in WEIGHTED)
    named = [name for kernel in profile.kernels for name in kernel.layers if there[name].kind == ADD]
    assert "adaptive_avg_pool2d" in {name for kernel in profile.kernels for name in kernel.layers}
    left = sorted(name for name in sums if name in there)
    assert sorted(named) == left


def test_a_tensor_goes_before_a_name() -> None:
    layers = {"add": (), "add_1": ("relu_2", "add_7"), "fc": ("linear",)}
    assert name_layers(["relu_2"], layers) == ("add_1",) and name_layers(["fc.weight"], layers) == ("fc",)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("act", [nn.SiLU, nn.ReLU, nn.GELU])
def test_layers_of_tokens_are_with_the_kernels_that_multiply(
    agent: LocalDevice, tmp_path: Path, runtime: str, act: type[nn.Module]
) -> None:
    """ONNX Runtime calls such a kernel after a node and what it fused: ``node_MatMul_1/MatMulAddFusion``."""
    torch.manual_seed(0)
    x = torch.randn(4, 12, 32)
    model = nn.Sequential(nn.Linear(32, 64), act(), nn.RMSNorm(64), nn.Linear(64, 32), act(), nn.Linear(32, 8)).eval()
    ready = integer(trace(model, x), {}, grid_of(runtime))
    calibrate(ready, [x])
    artifact = Artifact(tmp_path / f"model{format_of(runtime).suffix}", ready.graph, {}, runtime)
    export(ready, x, artifact.path, runtime)
    made = list_called(ready, x)
    layers = {each.name: made.get(each.name, ()) for each in ready.graph.layers}
    profile = Bench(agent, runtime=runtime).profile(artifact, layers)
    weighted = [layer.name for layer in ready.graph.layers if layer.kind in WEIGHTED]
    named = {name: [kernel.operator for kernel in profile.kernels if name in kernel.layers] for name in weighted}
    assert len(weighted) == 3
    for operators in named.values():  # others may be of the activation behind it
        assert len([name for name in operators if name.lower().startswith(("gemm", "matmul", "fully"))]) == 1
