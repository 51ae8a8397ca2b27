"""What a file calls the tensors that layers make: the tensor of that name is what the layer makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

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
    "split": lambda x: torch.split(x, 4, 1)[1] * x.chunk(2, 1)[0],
}


class Making(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.make = nn.Conv2d(3, 8, 3), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.conv(x).relu())


@pytest.mark.parametrize("name", MAKING)
def test_a_tensor_of_a_layer_s_name_is_what_the_layer_makes(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    network = trace(Making(MAKING[name]).eval(), x)
    model, called = converted(network, x), list_called(network, x)
    there = {tensor for node in model.graph.node for tensor in node.output}
    layers = {layer: names[0] for layer, names in called.items() if names[0] in there}
    ends = {value.name for value in model.graph.output}
    assert len(layers) >= 2 and ends & {*layers.values()}
    assert layers["conv"] == ("output_0" if name == "twice" else "relu")
    for tensor in {*layers.values()} - ends:
        model.graph.output.add().name = tensor
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = list(dict.fromkeys(layers.values()))
    of_file = dict(zip(names, map(np.asarray, session.run(names, {network.input_names[0]: x.numpy()})), strict=True))
    values: dict[str, Tensor] = {}

    class Noting(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Tensor:
            values[n.name] = super().run_node(n)
            return values[n.name]

    ready = exportable(network)
    Noting(ready.module).run(x)
    for layer, tensor in layers.items():
        wanted = values[ready.node(layer).name].detach().numpy()
        assert of_file[tensor].size == wanted.size
        np.testing.assert_allclose(of_file[tensor].ravel(), wanted.ravel(), rtol=1e-4, atol=1e-5)
