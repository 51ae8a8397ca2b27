"""A broken sensor in one sample of a hundred, or spikes in many, do not ruin an integer model."""

from __future__ import annotations

import models
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.integers import ActivationQuantizer
from edgesdk.compress.quantize import calibrate, integer, observing
from edgesdk.core.plan import INT8, Option
from edgesdk.network.trace import trace

NETWORKS = ("residual", "depthwise", "transformer", "recurrent")
SAMPLES, BATCH = 100, 25


def error(name: str, x: Tensor, spoilt: Tensor, ranges: str) -> float:
    """By how much the integer network is off on the clean ``x``, of the outputs' spread, calibrated on ``spoilt``."""
    network, _ = models.made(name, SAMPLES)
    result = integer(network, models.assigned(network, "int8"))
    calibrate(result, list(spoilt.split(BATCH)), ranges)
    with torch.no_grad():
        (wanted,), (given,) = network.flat(x), result.flat(x)
    return float((given - wanted).square().mean().sqrt() / wanted.std())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("place", [0, 7, 99])
def test_a_broken_sensor_costs_next_to_nothing(name: str, place: int) -> None:
    _, x = models.made(name, SAMPLES)
    broken = x.clone()
    broken[place] *= 1e4
    clean, spoilt, ruined = (
        error(name, x, x, "chosen"),
        error(name, x, broken, "chosen"),
        error(name, x, broken, "min-max"),
    )
    assert spoilt < 4 * clean + 0.01
    assert spoilt < ruined / 5  # what it is without: the test can fail


@pytest.mark.parametrize("name", NETWORKS)
def test_clean_data_give_what_all_that_was_seen_gives(name: str) -> None:
    _, x = models.made(name, SAMPLES)
    assert error(name, x, x, "chosen") <= error(name, x, x, "min-max") * 1.001


@pytest.mark.parametrize("count", [1, 2, 7])
def test_of_few_samples_all_is_taken(count: int) -> None:
    _, x = models.made("residual", SAMPLES)
    few = x[:count].clone()
    few[0] *= 1e4
    assert error("residual", x, few, "chosen") == error("residual", x, few, "min-max")


def test_spikes_in_all_samples_are_clipped_where_that_helps() -> None:
    _, x = models.made("transformer", SAMPLES)
    spikes = x.flatten().clone()
    spikes[::997] *= 30
    spikes = spikes.reshape(x.shape)
    assert error("transformer", x, spikes, "chosen") < 0.8 * error("transformer", x, spikes, "min-max")


def test_a_range_that_was_narrowed_is_held_while_training_and_others_follow_slowly() -> None:
    network, x = models.made("residual", SAMPLES)
    broken = x.clone()
    broken[3] *= 1e4
    result = integer(network, models.assigned(network, "int8"))
    calibrate(result, [broken])
    parts = [part for part in result.module.modules() if isinstance(part, ActivationQuantizer)]
    before = [float(part.high) for part in parts]
    assert any(part.held for part in parts)
    calibrate(result, [x])
    assert not any(part.held for part in parts)
    with observing(result):
        result.flat(broken)
    after = [float(part.high) for part in parts]
    assert all(high < 100 for high in before)
    assert all(high < 100 for high in after)


class Shared(nn.Module):
    """What goes through a maximum stays on its grid: two tensors have one quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.largest = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (3, 8))
        return self.h(self.largest(self.b(self.largest(self.a(x).relu())).relu()).mean((2, 3)))


class Tokens(nn.Module):
    """Layers over tokens, with the samples in the axis that ``before`` leaves them in."""

    def __init__(self, before, after) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.after(self.b(self.a(self.before(x)).relu())).mean(1))


PLACES = {
    "shared": Shared,
    "tokens are the batch": lambda: Tokens(lambda x: x.flatten(0, 1), lambda x: x.unflatten(0, (-1, 24))),
    "time is first": lambda: Tokens(lambda x: x.transpose(0, 1), lambda x: x.transpose(0, 1)),
    "no more than one row": lambda: Tokens(lambda x: x.transpose(0, 1).flatten(1)[None].unflatten(2, (-1, 8)),
                                           lambda x: x[0].transpose(0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("batch", [40, 16])
def test_an_outlier_is_left_out_wherever_samples_lie(place: str, batch: int) -> None:
    torch.manual_seed(0)
    model, x = PLACES[place]().eval(), torch.randn(40, 24, 8)
    spoilt = x.clone()
    spoilt[3] *= 1e4
    network = trace(model, x[:2])
    kinds = ("conv", "linear", "pool", "add")
    options = {layer.name: Option(INT8, 8) for layer in network.graph.layers if layer.kind in kinds}
    off = {}
    for ranges in ("chosen", "min-max"):
        result = integer(network, options)
        calibrate(result, list(spoilt.split(batch)), ranges)
        with torch.no_grad():
            (wanted,), (given,) = network.flat(x), result.flat(x)
        off[ranges] = float((given - wanted).square().mean().sqrt() / wanted.std())
    assert off["chosen"] < 0.05
    assert off["chosen"] < off["min-max"] / 5
