"""Measuring accuracy prices keeps within bounds: fewer samples, then a horizon, behind which curvature tells."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Any

import models
import pytest
import torch
from torch import Tensor, fx, nn

from edgesdk.compress import curvature, effort
from edgesdk.compress.criteria import ranked
from edgesdk.compress.curvature import Curvature, find_bottlenecks, find_stops
from edgesdk.compress.effort import LEAST_SAMPLES, MOST_SAMPLES, Effort, work
from edgesdk.compress.segments import Segmented
from edgesdk.compress.sensitivity import measure_stepwise
from edgesdk.data.task import Task
from edgesdk.example.data import example_data, example_model
from edgesdk.network.fuse import run
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.menu import Losses, options

TASK = Task("top-1")


class Chain(nn.Module):
    """So many residual blocks of two convolutions."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
            for _ in range(blocks)
        )
        self.fc = nn.Linear(8, models.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.fc(x.mean((2, 3)))


def chain(blocks: int) -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 8, 8)
    return trace(Chain(blocks).eval(), x), x


def measured(network: Network, x: Tensor, horizon: float, task: Task = TASK) -> Losses:
    space = {layer.name: options(layer) for layer in network.graph.layers}
    scores = {g.name: torch.arange(g.size, 0, -1.0) for g in network.graph.groups if g.fixed is None}
    *_, last = measure_stepwise(network, space, x, scores, task, horizon=horizon)
    return last.losses


def flattened(losses: Losses) -> Tensor:
    prices = [*losses.widths.values(), *losses.options.values(), losses.branches]
    return torch.tensor([price for table in prices for price in table.values()])


def test_small_networks_are_measured_whole_and_large_ones_as_much_as_work_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = chain(4)[0].graph
    small = Effort.of(graph)
    assert (small.samples, small.horizon) == (MOST_SAMPLES, inf) and small.ranking > 10_000
    whole = effort.WORK
    found = []
    for halved in range(24):
        monkeypatch.setattr(effort, "WORK", whole / 2**halved)
        found.append(Effort.of(graph))
    assert all(a.samples >= b.samples and a.horizon >= b.horizon for a, b in pairwise(found))
    assert any(LEAST_SAMPLES < e.samples < MOST_SAMPLES for e in found)
    assert all(e.samples == LEAST_SAMPLES for e in found if e.horizon < inf)  # fewer samples first
    assert found[-1].horizon < inf


@pytest.mark.parametrize(("horizon", "least", "most"), [(5.0, 1.5, 2.5), (inf, 3.0, 4.5)])
def test_behind_a_horizon_work_grows_as_layers_do(
    horizon: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes that are run for all steps, where a network is twice as deep; without a horizon four times as many."""
    run_node, ran = fx.Interpreter.run_node, [0]

    def counted(self: fx.Interpreter, n: fx.Node) -> Any:
        ran[-1] += 1
        return run_node(self, n)

    monkeypatch.setattr(fx.Interpreter, "run_node", counted)
    for network, x in [chain(6), chain(12)]:
        ran.append(0)
        measured(network, x, horizon * work(network.graph.layers[-3]))
    assert least < ran[-1] / ran[-2] < most


class Forked(nn.Module):
    """A tensor that is read again much later, as in a U-Net: between the two nothing is a bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, 1, 1) for _ in range(3))
        self.fc = nn.Linear(6, models.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.third(torch.relu(self.second(x)))
        return self.fc(torch.cat([x, y], 1).mean((2, 3)))


def test_a_bottleneck_is_all_that_what_comes_later_is_computed_from() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    network = trace(Forked().eval(), x)
    values = run(network.module, x)
    nodes = {node: values[node.name] for node in network.module.graph.nodes if node.name in values}
    found = find_bottlenecks(network.module, nodes)
    assert [n.name.partition(".")[0] for n in found] == ["conv2d", "cat", "mean", "linear"]


class Inverted(nn.Module):
    """Wide and narrow in turns."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        sides = [(narrow, wide), (wide, narrow)] * 4
        self.parts = nn.Sequential(nn.Conv2d(3, narrow, 1), *(nn.Conv2d(i, o, 1) for i, o in sides))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x).mean((2, 3))


@pytest.mark.parametrize(("wide", "narrow"), [(24, 4), (12, 6)])
def test_gradients_are_held_where_there_are_fewest(wide: int, narrow: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    network = trace(Inverted(wide, narrow).eval(), x)
    nodes = {node.name: node for node in network.module.graph.nodes}
    values = {nodes[name]: value for name, value in run(network.module, x).items()}
    stops = find_stops(network, values, work(network.graph.layers[1]))
    assert len(stops) > 2 and all(values[node].shape[1] == narrow for node in stops)
    places = [list(nodes.values()).index(node) for node in stops]
    assert all(b - a >= 2 for a, b in pairwise(places))  # so much work apart


def test_of_a_network_of_much_work_a_few_samples_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain(4)[0].graph
    monkeypatch.setattr(effort, "WORK", 0.0)
    monkeypatch.setattr(effort, "RANKING_WORK", 0.0)
    found = []
    for halved in range(40):
        monkeypatch.setattr(effort, "PASSES_WORK", 4e11 / 2**halved)
        found.append(Effort.of(graph))
    assert (found[0].samples, found[-1].samples) == (LEAST_SAMPLES, effort.FEWEST_SAMPLES)
    assert all(e.ranking == e.samples for e in found)
    assert any(effort.FEWEST_SAMPLES < e.samples < LEAST_SAMPLES for e in found)


@pytest.mark.parametrize("shape", ["residual", "chain"])
def test_what_curvature_tells_of_small_errors_is_what_running_on_tells(shape: str) -> None:
    """Integer layers are such: their prices behind no more than a layer, and those of a whole run."""
    network, x = models.made("residual", 64) if shape == "residual" else chain(6)
    whole, near = (measured(network, x, horizon) for horizon in (inf, 1.0))
    pairs = [
        (price, near.options[name][option])
        for name, prices in whole.options.items()
        for option, price in prices.items()
        if price > 1e-7 and option.form is None
    ]
    ratios = torch.tensor([b / a for a, b in pairs])
    assert len(ratios) > 3 and 0.5 < float(ratios.median()) < 2


def test_the_order_of_prices_is_that_of_whole_runs() -> None:
    """On the built-in example, a tenth of whose work is behind the horizon of each step."""
    data = example_data(0)
    network = trace(example_model(), data.example)
    x = data.calibration[0][0][:32]
    total = sum(map(work, network.graph.layers))
    whole, near = (flattened(measured(network, x, horizon)) for horizon in (inf, total / 10))
    ranks = [prices[whole > 0].argsort().argsort().double() for prices in (whole, near)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.93  # Spearman's rank correlation


@pytest.mark.parametrize(
    ("task", "shapes"),
    [
        (Task("top-1"), [(6, 5)]),
        (Task("top-1"), [(4, 3, 2, 2)]),
        (Task("mse"), [(6, 5)]),
        (Task("top-1"), [(6, 5), (6, 3)]),
        (Task("mse", output=1), [(6, 5), (6, 3)]),
    ],
)
def test_projections_have_the_loss_of_fidelity_as_their_second_moment(
    task: Task, shapes: list[tuple[int, ...]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(shape, generator=generator) for shape in shapes]
    changes = [0.03 * torch.randn(shape, generator=generator) for shape in shapes]
    changed = [o + c for o, c in zip(outputs, changes, strict=True)]
    leaves = [o.clone().requires_grad_() for o in outputs]
    squares = []
    for _ in range(3000):
        gradients = torch.autograd.grad(task.projection(leaves, generator), leaves)
        squares.append(float(sum((g * c).sum() for g, c in zip(gradients, changes, strict=True))) ** 2)
    assert sum(squares) / len(squares) / 2 == pytest.approx(task.fidelity_loss(changed, outputs), rel=0.1)


@pytest.mark.parametrize("targets", ["classes", "none"])
def test_of_a_large_network_channels_are_ranked_on_the_first_samples(
    targets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x = models.made("residual", 96)
    y = torch.arange(96) % models.CLASSES
    labelled = targets == "classes"
    batches = [(x[i : i + 16], y[i : i + 16] if labelled else None) for i in range(0, 96, 16)]
    task = Task("top-1", labelled)
    every = ranked(network, batches, task)
    monkeypatch.setattr(effort, "RANKING_WORK", 0.0)
    few = ranked(network, batches, task)
    first = ranked(network, batches[: LEAST_SAMPLES // 16], task)
    assert all(torch.allclose(few[name], first[name]) for name in few)
    assert any(not torch.allclose(few[name], every[name]) for name in few)


@pytest.mark.parametrize("shape", ["residual", "chain"])
def test_gradients_that_are_held_keep_to_half_of_the_memory(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = models.made("residual", 8) if shape == "residual" else chain(8)
    values = Segmented(network.module, [x])
    counts = []
    for most in (2**31, 2 * 30_000, 0):
        monkeypatch.setattr(curvature, "MOST_BYTES", most)
        found = Curvature.of(network, values, 1.0, TASK)
        held = [*found.values.values(), *found.gradients.values()]
        assert len(found.values) == 1 or sum(t.numel() * t.element_size() for t in held) <= most / 2
        counts.append(len(found.values))
    assert counts[0] > counts[1] >= counts[2] == 1
