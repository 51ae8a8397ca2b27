"""Recurrent cells called step by step (nn.GRUCell, LSTMCell, RNNCell) are linear layers: priced, cut, made integer."""

from __future__ import annotations

from pathlib import Path

import models
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from edgesdk.compress.apply import compressed
from edgesdk.compress.quantize import calibrate, integer
from edgesdk.core.artifact import Artifact
from edgesdk.core.graph import WEIGHTED
from edgesdk.export.formats import export, grid_of
from edgesdk.export.parity import compared
from edgesdk.network.exported_program import read
from edgesdk.network.trace import trace

READ, WIDTH, STEPS, CLASSES = 12, 32, 3, 4
CELLS = {
    "gru": (lambda: nn.GRUCell(READ, WIDTH), 3),
    "lstm": (lambda: nn.LSTMCell(READ, WIDTH), 4),
    "rnn": (lambda: nn.RNNCell(READ, WIDTH), 1),
    "relu": (lambda: nn.RNNCell(READ, WIDTH, bias=False, nonlinearity="relu"), 1),
}


class Loop(nn.Module):
    """A cell over the steps of (N, steps, numbers), whose states begin with zeros: the cell's own, or forward()'s."""

    def __init__(self, kind: str, own: bool) -> None:
        super().__init__()
        self.cell, self.head, self.own = CELLS[kind][0](), nn.Linear(WIDTH, CLASSES), own

    def forward(self, x: Tensor) -> Tensor:
        h = None if self.own else x.new_zeros(len(x), WIDTH)
        if isinstance(self.cell, nn.LSTMCell) and h is not None:
            h = h, torch.zeros_like(h)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.head(h[0] if isinstance(h, tuple) else h)


def made(kind: str, own: bool = True) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Loop(kind, own).eval(), torch.randn(32, STEPS, READ)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_its_work_is_counted_and_its_width_cut(kind: str, own: bool) -> None:
    model, x = made(kind, own)
    network = trace(model, x)
    weighted = [layer for layer in network.graph.layers if layer.kind in WEIGHTED]
    gates = CELLS[kind][1]
    assert sum(layer.macs for layer in weighted) == STEPS * gates * WIDTH * (READ + WIDTH) + WIDTH * CLASSES
    assert all(layer.fixed is None for layer in weighted)
    (group,) = (group for group in network.graph.groups if group.fixed is None)
    assert group.size == WIDTH
    small, _ = compressed(network, models.plan(network, {group.name: 8}), x, models.scores(network))
    shapes = [tuple(value.shape) for value in small.module.parameters()]
    assert (8 * gates, 8) in shapes and (8 * gates, READ) in shapes


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert", "ncnn"])
@pytest.mark.parametrize(("kind", "own"), [("gru", False), ("lstm", True), ("relu", False)])
def test_files_in_integers_are_it(kind: str, own: bool, runtime: str, tmp_path: Path) -> None:
    """ncnn folds what reads zeros alone, which is no layer that integers are worth having in."""
    model, x = made(kind, own)
    network = trace(model, x)
    given = models.assigned(network, "int8")
    assert len(given) >= 2 * STEPS - 1
    ready = integer(network, given, grid_of(runtime))
    calibrate(ready, [x])
    export(ready, x, tmp_path / "model.file", runtime)
    file = Artifact(tmp_path / "model.file", network.graph, runtime=runtime)
    assert compared(ready.flat, file, [x[:8]], 0.01).error <= 0.01
    assert compared(lambda batch: [model(batch)], file, [x[:8]], 0.1).error <= 0.1


def test_an_exported_program_holds_it_alike(tmp_path: Path) -> None:
    model, x = made("gru")
    program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "model.pt2")
    network = trace(read(tmp_path / "model.pt2"), x)
    assert network.graph.digest == trace(model, x).graph.digest


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_bilinear_layer_is_counted_and_made_integer_too(bias: bool, shape: tuple[int, ...], tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.head = nn.Bilinear(6, 5, 8, bias), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head(self.both(x, y).relu())

    torch.manual_seed(0)
    model, x = Both().eval(), (torch.randn(16, *shape, 6), torch.randn(16, *shape, 5))
    network = trace(model, x)
    rows = shape[0] if shape else 1
    assert sum(layer.macs for layer in network.graph.layers) == rows * (6 * 5 * 8 + 8 * CLASSES)
    given = models.assigned(network, "int8")
    assert sum(network.graph.by_name[name].kind in WEIGHTED for name in given) == 2
    for made in (integer(network, {}), integer(network, given)):
        calibrate(made, [x])
        export(made, x, tmp_path / "model.onnx", "onnxruntime")
        file = Artifact(tmp_path / "model.onnx", network.graph, runtime="onnxruntime")
        assert compared(lambda batch: [model(*batch)], file, [x], 0.1).error <= 0.1
