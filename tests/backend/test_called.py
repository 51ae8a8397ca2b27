"""What a file calls the tensors that layers make: the tensor of that name is what the layer makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgesdk.devices.profiling import read_kernels
from edgesdk.export.onnx import converted, exportable
from edgesdk.export.simulation import list_called
from edgesdk.network.trace import trace

MAKING: dict[str, Callable[[Tensor], Any]] = {  # what the exporter makes of several operators, then one of these
    "pool": lambda x: F.adaptive_avg_pool2d(x, 1) * 2,
    "softshrink": lambda x: F.softshrink(x) * 2,
    "rms_norm": lambda x: F.rms_norm(x, x.shape[1:]) * 2,
    "shuffle": lambda x: F.relu(F.channel_shuffle(x, 2) + 1),
    "lrn": lambda x: F.local_response_norm(x, 3) * x,
    "cosine": lambda x: F.cosine_similarity(x, x.flip(2), dim=1) * 3,
    "normalize": lambda x: F.normalize(x, dim=1).flatten(1) / 3,
    "equal": lambda x: torch.cdist(x.flatten(2), x.flatten(2)) * 2,
    "twice": lambda x: (x, x.flatten(1), x * 2, x),
    "elu": lambda x: F.conv2d(F.elu(x), x.new_ones(4, 8, 1, 1)) + F.elu(x, 0.5).mean(),
    "chunks": lambda x: torch.cat([each * scale for scale, each in enumerate(x.chunk(3, 1), 2)], 1),
    "normed": lambda x: F.layer_norm(F.rms_norm(x, x.shape[1:]), x.shape[1:]),
    "same": lambda x: (x.clone() + 1).contiguous() * 1.0,
    "split": lambda x: torch.split(x, 4, 1)[1] * x.chunk(2, 1)[0],
}

WHOLE = {"elu": {"elu", "elu_1"}, "chunks": {"getitem", "getitem_1", "getitem_2"}, "normed": {"rms_norm"}}
"""Layers whose names were those of steps that do nothing, which are taken away."""


class Making(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.make = nn.Conv2d(3, 8, 3), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.conv(x).relu())


def judge(model: nn.Module, x: Tensor) -> dict[str, str]:
    """The tensors of layers in the file, each of which is what the layer makes; no two have one."""
    network = trace(model.eval(), x)
    file, called = converted(network, x), list_called(network, x)
    there = {tensor for node in file.graph.node for tensor in node.output}
    layers = {layer: names[0] for layer, names in called.items() if names[0] in there}
    ends = [value.name for value in file.graph.output]
    assert len({*layers.values()}) == len(layers)
    assert ends == list(network.structure.output_names)
    for tensor in {*layers.values()} - {*ends}:
        file.graph.output.add().name = tensor
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    names = list(dict.fromkeys((*ends, *layers.values())))
    of_file = dict(zip(names, map(np.asarray, session.run(names, {network.input_names[0]: x.numpy()})), strict=True))
    values: dict[str, Tensor] = {}

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Tensor:
            values[n.name] = super().run_node(n)
            return values[n.name]

    ready = exportable(network)
    with torch.no_grad():
        Noting(ready.module).run(x)
        returned = pytree.tree_leaves(model(x))
    pairs = [(tensor, values[ready.node(layer).name]) for layer, tensor in layers.items()]
    for tensor, wanted in (*pairs, *zip(ends, returned, strict=True)):
        assert of_file[tensor].size == wanted.numel()
        np.testing.assert_allclose(of_file[tensor].ravel(), wanted.numpy().ravel(), rtol=1e-4, atol=1e-5)
    return layers


@pytest.mark.parametrize("name", MAKING)
def test_a_tensor_of_a_layer_s_name_is_what_the_layer_makes(name: str) -> None:
    torch.manual_seed(0)
    layers = judge(Making(MAKING[name]), torch.randn(1, 3, 8, 8))
    assert layers["conv"] == ("output_0" if name == "twice" else "relu") and len(layers) >= 2
    assert any(tensor.startswith("output") for tensor in layers.values())
    assert {layer for layer in layers if layers[layer] == layer} >= WHOLE.get(name, set())


class Product(nn.Module):
    """A layer that is called as an operator that another layer is."""

    def __init__(self) -> None:
        super().__init__()
        self.matmul, self.conv2d = nn.Linear(8, 6), nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2d(x).flatten(2).mT
        return (self.matmul(x) @ self.matmul(x).mT.softmax(2)) * 2


def test_a_kernel_is_of_the_layers_that_make_its_tensors_whatever_others_are_called(tmp_path: Path) -> None:
    x, path = torch.randn(1, 3, 4, 4), tmp_path / "model.onnx"
    network = trace(Product().eval(), x)
    called = list_called(network, x)
    model = converted(network, x)
    path.write_bytes(model.SerializeToString())
    told = [
        {"name": n.name, "operator": n.op_type, "provider": "", "precision": None, "layers": [n.name], "share": None}
        for n in model.graph.node
    ]
    for node, kernel in zip(model.graph.node, read_kernels(told, called, path), strict=True):
        makers = tuple(layer for layer, tensors in called.items() if {*tensors} & {*node.output})
        assert kernel.layers == makers


class Named(nn.Module):
    """A parameter, a buffer and a layer that are called as what operators make, and outputs that are, too."""

    def __init__(self, *returned: str) -> None:
        super().__init__()
        self.conv, self.mul = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.relu, self.keys = nn.Parameter(torch.randn(4, 1, 1)), returned
        self.made_hann_window: Tensor
        self.register_buffer("made_hann_window", torch.randn(6))

    def forward(self, x: Tensor) -> Any:
        first = torch.relu(self.mul(torch.relu(self.conv(x))) * self.relu) + self.made_hann_window
        last = torch.relu(first * torch.hann_window(6))
        return dict(zip(self.keys, (first, last, first), strict=False)) if self.keys else last


class Given(Named):
    def forward(self, output: Tensor) -> Any:
        return super().forward(output)


class Second(Named):
    def forward(self, output_1: Tensor) -> Any:
        first = super().forward(output_1)
        return first, first * 2


@pytest.mark.parametrize(
    ("model", "kept"), [(Named(), 7), (Named("relu", "mul_1", "again"), 7), (Given(), 7), (Second(), 8)]
)  # fmt: skip
def test_no_tensor_has_the_name_of_an_input_an_output_or_of_what_is_held(model: nn.Module, kept: int) -> None:
    torch.manual_seed(0)
    assert len(judge(model, torch.randn(1, 3, 8, 8))) == kept
