"""Tokens, windows and frames that a view lays on the batch's axis are counted, wherever the samples lie then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx import load_from_string, shape_inference
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgesdk.core.graph import ADD, MEAN, POOL, WEIGHTED, Graph
from edgesdk.core.plan import FP32, INT8, Option
from edgesdk.export.formats import export
from edgesdk.export.probes import probe
from edgesdk.network.onnx_graph import read
from edgesdk.network.trace import trace
from edgesdk.price.operators import of_network, operators, precisions
from edgesdk.price.planned import layer_parts


class Rows(nn.Module):
    """Tokens as the rows of one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.told = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.wide(x.view(-1, 16)).relu()
        return self.told(rows).view(x.shape[0], -1, 8).mean(1)


class Windows(nn.Module):
    """Windows of an image, each an image of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.then, self.told = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        x = x.view(count, channels, height // 8, 8, width // 8, 8).permute(0, 2, 4, 1, 3, 5)
        x = self.first(x.reshape(-1, channels, 8, 8)).relu()
        x = nn.functional.max_pool2d((x + self.then(x)).relu(), 2)
        return self.told(x.mean((2, 3))).view(count, -1, 4).mean(1)


class Frames(nn.Module):
    """A network of images on each frame, and one of sequences after it, whose steps come first."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.lines, self.kept = nn.Conv2d(3, 8, 3), nn.Conv1d(8, 8, 3), nn.GRU(8, 16)
        self.told = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        count, frames = x.shape[:2]
        x = self.seen(x.flatten(0, 1)).relu().mean(3)
        x = self.lines(x).mean(2).view(count, frames, 8)
        return self.told(self.kept(x.transpose(0, 1))[0][-1])


class Steps(nn.Module):
    """Layers on sequences whose steps are the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.wide = nn.MultiheadAttention(16, 2), nn.Linear(16, 24)
        self.told = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.told(self.wide(x).relu()).mean(0)


FACES = {
    "rows": (Rows, (10, 16)), "windows": (Windows, (3, 16, 24)), "frames": (Frames, (5, 3, 10, 10)),
    "steps": (Steps, (9, 16)),
}  # fmt: skip


@pytest.fixture(scope="module", params=FACES)
def face(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Graph]:
    make, shape = FACES[request.param]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(4, *shape)
    return model, x, trace(model, x).graph


def weighted(graph: Graph) -> list[tuple[object, ...]]:
    layers = [layer for layer in graph.layers if layer.kind in WEIGHTED]
    return [(layer.kind, layer.weight_shape, layer.elements, layer.macs, layer.images) for layer in layers]


def test_every_multiplication_is_counted(face) -> None:
    model, x, graph = face
    with FlopCounterMode(display=False) as counted, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(x[:1])
    steps = sum(layer.macs for layer in graph.layers if layer.operator == "gru")
    rest = sum(layer.macs for layer in graph.layers if layer.operator not in ("gru", "scaled_dot_product_attention"))
    seen = {str(op): flops // 2 for op, flops in counted.get_flop_counts()["Global"].items()}
    products = sum(flops for op, flops in seen.items() if "bmm" in op or "attention" in op)
    assert rest + steps == sum(seen.values()) - products
    for layer in graph.layers:
        if layer.kind in WEIGHTED:
            (priced,) = operators(layer, graph, Option(), None, None)
            (planned,) = layer_parts(layer, graph, Option(), None, None)
            assert (priced.macs, planned.elements) == (layer.macs, layer.elements)


def test_what_is_priced_of_a_network_is_all_of_it(face) -> None:
    """Each layer in integers where it may be, with the changes between them, as they are measured and are in a file."""
    *_, graph = face
    for precision in (FP32, INT8):
        chosen = {layer.name: Option(precision) for layer in graph.layers if precision in precisions(layer)}
        priced = of_network(graph, chosen)
        for name, op in priced:
            layer = graph.by_name.get(name)
            if layer is not None and op.kind in (ADD, POOL, MEAN, "quantize", "dequantize"):
                assert op.outputs * op.positions == layer.elements
                assert op.kind != MEAN or op.size == layer.input_shape[1:]
            if op.probed:
                shape_inference.infer_shapes(load_from_string(probe(op)), strict_mode=True)
        assert sum(op.macs for _, op in priced if op.kind in WEIGHTED) == sum(
            layer.macs for layer in graph.layers if layer.kind in WEIGHTED
        )


def test_a_file_has_the_layers_of_the_module(face, tmp_path: Path) -> None:
    model, x, graph = face
    export(trace(model, x), x, tmp_path / "model.onnx", "onnxruntime")
    file, _ = read(tmp_path / "model.onnx")
    assert weighted(file) == weighted(graph)
