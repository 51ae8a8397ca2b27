"""Accuracy prices: nothing for what the rest makes up for, and the order of what refitted networks really lose."""

from __future__ import annotations

import models
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.apply import channels_to_keep, compressed
from edgesdk.compress.criteria import ranked
from edgesdk.compress.refit import refit_weights
from edgesdk.compress.sensitivity import kept_channels, measure_sensitivity
from edgesdk.core.plan import INT8, Form, Option, Plan
from edgesdk.data.task import Task
from edgesdk.example.data import example_data, example_model
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.price.menu import Losses, options

TASK = Task("top-1")
WIDTHS = (
    ("conv", 4), ("block1.conv1", 4), ("block2.conv1", 12), ("block2.conv2", 12), ("block3.conv1", 8),
    ("block3.conv1", 40), ("block3.conv2", 24), ("block3.conv2", 40),
)  # fmt: skip


class Twins(nn.Module):
    """A convolution whose second half of channels repeats its first, and a branch that is a tenth of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 1, 1)
        self.second = nn.Conv2d(16, 16, 3, 1, 1)
        self.branch = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, models.CLASSES)
        with torch.no_grad():
            self.first.weight[8:] = 2 * self.first.weight[:8]
            self.first.bias[8:] = 2 * self.first.bias[:8]  # type: ignore[index]
            self.branch.weight.copy_(0.1 * torch.eye(16)[:, :, None, None])
            self.branch.bias.zero_()  # type: ignore[union-attr]
            self.fc.weight.mul_(30)  # decided answers, so that a loss is one

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.fc((x + self.branch(x)).mean((2, 3)))


def sensitivity(network: Network, x: Tensor, scores: dict[str, Tensor], extra: dict[str, tuple[Option, ...]]) -> Losses:
    space = {layer.name: (*options(layer), *extra.get(layer.name, ())) for layer in network.graph.layers}
    return measure_sensitivity(network, space, x, scores, TASK)


def test_what_others_make_up_for_costs_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3, 12, 12)
    network = trace(Twins().eval(), x)
    scores = {g.name: torch.arange(g.size, 0, -1.0) for g in network.graph.groups if g.fixed is None}
    rank = {"second": (Option(form=Form("tucker", (16, 16))), Option(form=Form("spatial", (48,))))}
    losses = sensitivity(network, x, scores, rank)
    assert losses.widths["first"][8] < 1e-5  # the other half repeats these
    assert losses.widths["first"][4] > 1e-3
    assert list(losses.branches.values()) == [pytest.approx(0.0, abs=1e-5)]  # it only scales what is kept
    assert losses.options["second"][rank["second"][0]] < 1e-6  # full rank
    assert losses.options["second"][rank["second"][1]] < 1e-6
    assert losses.options["second"][Option()] == 0.0


def test_fewer_channels_never_cost_less_and_integers_cost_a_little() -> None:
    network, x = models.made("residual", 96)
    losses = sensitivity(network, x, dict(models.scores(network)), {})
    for widths in losses.widths.values():
        prices = [widths[kept] for kept in sorted(widths, reverse=True)]
        assert prices == sorted(prices) and prices[0] == 0.0
    assert 0 < losses.options["inner.0"][Option(INT8, 8)] < 0.1


@torch.no_grad()
def test_prices_are_in_the_order_of_what_a_refitted_network_loses() -> None:
    """On the built-in example: each width alone, applied, fitted and judged on samples that neither saw."""
    data = example_data(0)
    network = trace(example_model(), data.example)
    calibration = [x for x, _ in data.calibration][:4]
    scores = ranked(network, data.calibration[:4], TASK)
    losses = sensitivity(network, torch.cat(calibration)[:128], scores, {})
    held = torch.cat([x for x, _ in data.test])[:500]
    dense = network.flat(held)
    pairs = []
    for group, kept in WIDTHS:
        full = {g.name: g.size for g in network.graph.groups if g.fixed is None}
        plan: Plan = models.plan(network, {**full, group: kept})
        small, _ = compressed(network, plan, data.example, scores)
        small, _ = refit_weights(small, network, channels_to_keep(network.graph, plan, scores), calibration)
        pairs.append((losses.widths[group][kept], TASK.fidelity_loss(small.flat(held), dense)))
    prices, real = (torch.tensor(side).argsort().argsort().double() for side in zip(*pairs, strict=True))
    assert float(torch.corrcoef(torch.stack([prices, real]))[0, 1]) > 0.8  # Spearman's rank correlation


def test_the_channels_that_stay_are_the_best_in_order() -> None:
    assert kept_channels(torch.tensor([0.1, 3.0, 2.0, 3.0]), 2) == [1, 3]
