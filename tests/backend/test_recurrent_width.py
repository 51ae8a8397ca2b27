"""The hidden width of recurrent layers is cut as channels are, in all layers and directions, and priced as cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.apply import compressed
from edgesdk.core.artifact import Artifact
from edgesdk.core.plan import FP32
from edgesdk.core.runtime import format_of
from edgesdk.export.formats import probe_file, save
from edgesdk.export.onnx import converted
from edgesdk.export.parity import compared
from edgesdk.network.trace import trace
from edgesdk.price.kinds import RECURRENT, kind_of
from edgesdk.price.operator import Operator
from edgesdk.price.operators import baseline, of_network
from edgesdk.price.planned import planned
from edgesdk.price.recurrent import recurrence
from edgesdk.price.table import CALL, Table
from edgesdk_targets.agent import runners

CLASSES = 4
KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "gru": (nn.GRU, {"batch_first": True}),
    "gru, steps first, both ways": (nn.GRU, {"bidirectional": True}),
    "lstm, two layers, both ways": (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "lstm without bias": (nn.LSTM, {"bias": False, "batch_first": True}),
    "rnn, three layers": (nn.RNN, {"num_layers": 3, "batch_first": True}),
    "rnn of relu": (nn.RNN, {"nonlinearity": "relu"}),
}


class Signal(nn.Module):
    """A recurrent layer between linear ones, read at its ``last`` step, in the ``mean`` or by its last ``state``;
    signals (N, 9, 6)."""

    def __init__(self, kind: str, read: str) -> None:
        super().__init__()
        make, options = KINDS[kind]
        self.first, self.inner = nn.Linear(6, 12), make(12, 16, **options)
        ways = 1 + self.inner.bidirectional
        self.head, self.read, self.ways = nn.Linear(16 * ways, CLASSES), read, ways

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        steps = 1 if self.inner.batch_first else 0
        made, state = self.inner(x if steps else x.transpose(0, 1))
        if self.read == "state":
            state = state[0] if isinstance(state, tuple) else state
            return self.head(torch.cat(list(state[-self.ways :]), 1))
        return self.head(made.mean(steps) if self.read == "mean" else made.select(steps, -1))


def signal(kind: str, read: str = "mean") -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Signal(kind, read).eval(), torch.randn(8, 9, 6)


@pytest.mark.parametrize("read", ["last", "mean", "state"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_go_together_in_all_that_reads_and_makes_them(kind: str, read: str, tmp_path: Path) -> None:
    model, x = signal(kind, read)
    network = trace(model, x)
    (layer,) = (layer for layer in network.graph.layers if kind_of(layer.operator) == RECURRENT)
    group = network.graph.group_by_name[str(layer.writes)]
    assert (group.size, group.fixed, layer.reads) == (16, None, "first")
    kept = {"first": 8, group.name: 12}
    small, _ = compressed(network, models.plan(network, kept), x, models.scores(network))
    inner: Any = small.module.get_submodule("inner")
    assert {tuple(p.shape) for name, p in inner.named_parameters() if "weight_hh" in name} == {
        (p.shape[0] * 12 // 16, 12) for name, p in model.named_parameters() if "weight_hh" in name
    }
    save(converted(small, x), {}, tmp_path / "model.onnx", "onnxruntime")
    assert compared(small.flat, Artifact(tmp_path / "model.onnx", small.graph), [x], 1e-4).error <= 1e-4
    # what was priced is what was built
    made, _ = planned(network.graph, {}, kept, ())
    assert [op for _, op in of_network(made, {})] == [op for _, op in of_network(small.graph, {})]
    (priced,) = (each for each in made.layers if each.name == layer.name)
    assert (priced.parameters, priced.macs) == next(
        (each.parameters, each.macs) for each in small.graph.layers if each.name == layer.name
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_recurrent_layer_is_is_read_off_its_figures(kind: str) -> None:
    model, x = signal(kind)
    (layer,) = (each for each in trace(model, x).graph.layers if kind_of(each.operator) == RECURRENT)
    inner: Any = model.get_submodule("inner")
    found = recurrence(layer)
    assert (found.inputs, found.states, found.layers) == (12, 16, inner.num_layers)
    assert (found.directions, found.biased) == (1 + inner.bidirectional, inner.bias)


class Given(nn.Module):
    """Recurrent layers that begin with what is learnt, with what was computed, and with what another began with."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.one, self.two = nn.GRU(6, 16, batch_first=True), nn.GRU(6, 16, batch_first=True)
        self.first, self.start = nn.Linear(6, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.head, self.way = nn.Linear(32, CLASSES), way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "learnt":
            start = self.start.expand(1, x.shape[0], 16).contiguous()
        elif self.way == "computed":
            start = torch.tanh(self.first(x[:, 0]))[None]
        else:
            start = torch.zeros(1, x.shape[0], 16)
        made = [inner(x, start)[0][:, -1] for inner in (self.one, self.two)]
        return self.head(torch.cat(made, 1))


@pytest.mark.parametrize("way", ["learnt", "computed", "shared"])
def test_states_that_begin_with_what_is_not_their_own_stay(way: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 9, 6)
    graph = trace(Given(way).eval(), x).graph
    assert all(layer.writes is None for layer in graph.layers if kind_of(layer.operator) == RECURRENT)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "ncnn"])
@pytest.mark.parametrize("gates", [3, 4])
def test_a_recurrent_layer_has_a_probe_where_a_format_has_it_whole(gates: int, runtime: str) -> None:
    cell = Operator(RECURRENT, FP32, 36, 1, work=1, recurrence=(gates, 3, 6, 8, 2, 2))
    assert cell.probed and baseline(cell).key != cell.key
    for probe in (cell, baseline(cell)):
        session = runners.runner(runtime).load(probe_file(probe, runtime), 1)
        made = session.run_once({item["name"]: np.ones(item["shape"], np.float32) for item in session.inputs})
        assert {value.size for value in made.values()} == {16 if probe is cell else 6}
    assert format_of(runtime).unrolls is False


def test_what_a_format_has_step_by_step_is_left_to_whole_networks(tmp_path: Path) -> None:
    cell = Operator(RECURRENT, FP32, 36, 1, work=1, recurrence=(3, 3, 6, 8, 2, 2))
    whole, unrolled = (Table({}, tmp_path / "table.json", 4, unrolls=unrolls) for unrolls in (False, True))
    assert cell in whole.wanted([cell]) and not whole.has_price(cell)
    assert unrolled.wanted([cell]) == [CALL] and unrolled.has_price(cell)
    assert unrolled.latency_ms(cell) == 0 and not unrolled.is_timed(cell)
