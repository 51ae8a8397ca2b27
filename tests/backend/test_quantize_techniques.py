"""Choices of quantization: ranges, what has one step, learned steps, equalized channels, adaptive rounding."""

from __future__ import annotations

from itertools import pairwise

import models
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.integers import SYMMETRIC, UNSIGNED, ActivationQuantizer, Grid, IntegerLayer
from edgesdk.compress.quantize import RANGES, calibrate, fold, frozen, integer, learning, observing, specification
from edgesdk.core.errors import UsageError
from edgesdk.core.plan import INT8, Option
from edgesdk.export.onnx import converted
from edgesdk.network.network import Network
from edgesdk.network.trace import trace
from edgesdk.techniques.equalization import input_ranges, output_ranges

NETWORKS = ("residual", "depthwise", "transformer", "recurrent")


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[Network, Tensor]]:
    return {name: models.made(name, 16) for name in NETWORKS}


def quantized(network: Network, x: Tensor, scheme: str = "int8", grid: Grid = UNSIGNED, **choices: str) -> Network:
    result = integer(network, models.assigned(network, scheme), grid)
    calibrate(result, [x], **choices)
    return result


def parts(network: Network, kind: type) -> dict[str, nn.Module]:
    return {name: part for name, part in network.module.named_modules() if isinstance(part, kind)}


def off(small: Network, network: Network, x: Tensor) -> float:
    """The mean squared error of the outputs, relative to their power."""
    with torch.no_grad():
        exact = torch.cat([out.flatten() for out in network.flat(x)])
        return float((torch.cat([out.flatten() for out in small.flat(x)]) - exact).square().mean() / exact.var())


@pytest.mark.parametrize("grid", [UNSIGNED, SYMMETRIC])
@pytest.mark.parametrize("ranges", RANGES)
def test_a_range_lies_within_what_was_seen(networks, ranges: str, grid: Grid) -> None:
    network, x = networks["residual"]
    result, plain = quantized(network, x, grid=grid, ranges=ranges), quantized(network, x, grid=grid, ranges="min-max")
    widest = ranges in ("min-max", "chosen")  # these data have no outliers
    assert (specification(result) == specification(plain)) == widest
    narrower = 0
    for name, part in parts(result, ActivationQuantizer).items():
        low, high = (float(plain.module.get_submodule(name).get_buffer(end)) for end in ("low", "high"))
        assert low <= float(part.get_buffer("low")) <= 0 <= float(part.get_buffer("high")) <= high
        narrower += float(part.get_buffer("high")) < high
    assert bool(narrower) != widest
    if grid is SYMMETRIC:
        assert {spec.zero_point for spec in specification(result).values() if spec.axis is None} == {(0,)}


def test_a_chosen_range_is_held_until_it_is_chosen_anew(networks) -> None:
    network, x = networks["residual"]
    held, following = quantized(network, x, ranges="mse"), quantized(network, x)
    before = [specification(each) for each in (held, following)]
    for each in (held, following):
        with observing(each), torch.no_grad():
            each.flat(3 * x)
    assert specification(held) == before[0]
    assert specification(following) != before[1]
    calibrate(held, [x])
    names = [name for name, spec in before[1].items() if spec.axis is None]
    assert specification(held)[names[0]] == before[1][names[0]]  # of the input, which biases do not move


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_shares_a_step_has_the_largest(networks, name: str, scheme: str) -> None:
    network, x = networks[name]
    options, made = models.assigned(network, scheme), {}
    for step in ("channel", "layer", "network"):
        made[step] = integer(network, options, step=step)
        calibrate(made[step], [x])
    scales = {
        step: {name: spec.scale for name, spec in specification(result).items() if spec.axis is not None}
        for step, result in made.items()
    }
    assert scales["channel"]
    for layer, each in scales["channel"].items():
        assert len(each) == len(scales["layer"][layer]) == len(scales["network"][layer])
        assert set(scales["layer"][layer]) == {max(each)}
        assert set(scales["network"][layer]) == {max(max(scale) for scale in scales["channel"].values())}


def test_shared_steps_are_those_of_a_copy_in_a_copy(networks) -> None:
    network, x = networks["residual"]
    result = integer(network, models.assigned(network, "int8"), step="network")
    calibrate(result, [x])
    copy = result.copy()
    with torch.no_grad():
        next(iter(parts(copy, IntegerLayer).values())).get_parameter("inner.weight").mul_(100)
    before, after = specification(result), specification(copy)
    weights = [name for name in before if name.endswith(".weight")]
    assert all(after[name].scale > before[name].scale for name in weights)


def trained(student: Network, x: Tensor, wanted: Tensor, steps: int, only: str = "", rate: float = 1e-3) -> list[float]:
    """Losses of training the parameters of ``student`` whose names end with ``only``, towards ``wanted``."""
    parameters = [value for name, value in student.module.named_parameters() if name.endswith(only)]
    optimizer, losses = torch.optim.AdamW(parameters, rate, weight_decay=0.0), []
    for _ in range(steps):
        loss = (student(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("step", ["channel", "layer", "network"])
def test_steps_are_learned_and_stay(networks, step: str) -> None:
    network, x = networks["residual"]
    result = integer(network, models.assigned(network, "int8"), step=step)
    calibrate(result, [x])
    for part in parts(result, ActivationQuantizer).values():
        part.get_buffer("scale").mul_(16)  # far too coarse: what is to be learned
    plain = sum(1 for _ in result.module.parameters())
    before = specification(result)
    with torch.no_grad():
        wanted = network(x)
        values = result(x)
    layers, quantizers = len(parts(result, IntegerLayer)), len(parts(result, ActivationQuantizer))
    with learning(result):
        assert specification(result) == before
        torch.testing.assert_close(result(x).detach(), values, rtol=1e-5, atol=1e-5)
        steps = sum(1 for _ in result.module.parameters()) - plain
        assert steps == quantizers + (1 if step == "network" else layers)
        losses = trained(result, x, wanted, 120, "growth", 1e-2)
        inside = specification(result)
    assert min(losses[-20:]) < 0.5 * losses[0]
    assert sum(1 for _ in result.module.parameters()) == plain
    after = specification(result)
    assert after == inside
    moved = [name for name in before if after[name].scale != before[name].scale]
    assert len(moved) == len(before)
    for name, spec in after.items():
        assert spec.zero_point == before[name].zero_point
        assert len(set(spec.scale)) == (1 if step != "channel" or spec.axis is None else len(spec.scale))
    if step == "network":
        assert len({spec.scale[0] for spec in after.values() if spec.axis is not None}) == 1
    with observing(result), torch.no_grad():
        result.flat(5 * x)
    assert specification(result) == after


def test_learned_steps_reach_a_lower_loss_than_steps_that_follow_the_weights(networks) -> None:
    network, x = networks["residual"]
    with torch.no_grad():
        wanted = network(x)
    losses = {}
    for learned in (False, True):
        result = quantized(network, x, "int4")
        with learning(result) if learned else observing(result):
            losses[learned] = trained(result, x, wanted, 60)[-5:]
    assert sum(losses[True]) < sum(losses[False])


class Plain(nn.Module):
    """What can be equalized: a convolution before a depthwise one, pooling, flattening; images (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*models.conv_bn(3, 12, 3), nn.ReLU())
        self.second = nn.Sequential(*models.conv_bn(12, 12, 3, groups=12), nn.ReLU(), nn.MaxPool2d(2))
        self.third = nn.Sequential(nn.Conv2d(12, 8, 3, 4, 1), nn.ReLU())
        self.fc = nn.Sequential(nn.Linear(32, 20), nn.ReLU(), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.third(self.second(self.first(x))).flatten(1))


def uneven() -> tuple[Network, Tensor]:
    """``Plain`` with channels whose ranges differ by orders of magnitude."""
    torch.manual_seed(3)
    model, x = Plain().eval(), torch.randn(16, 3, 16, 16)
    with torch.no_grad():
        for name in ("first.1.weight", "second.1.weight"):
            model.get_parameter(name).copy_(torch.exp(1.5 * torch.randn(12)))
    return trace(model, x), x


def test_equalizing_leaves_the_function_and_makes_ranges_equal() -> None:
    network, x = uneven()
    result = integer(network, {}, equalized=True)
    with torch.no_grad():
        exact = network(x)
        torch.testing.assert_close(result(x), exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))
    names = ["first.0", "second.0", "third.0", "fc.0", "fc.2"]
    for left, right in pairwise(names):
        first, second = result.submodule(left), result.submodule(right)
        ranges, plain = output_ranges(first), output_ranges(fold(network).submodule(left))
        torch.testing.assert_close(ranges, input_ranges(second, len(ranges)), rtol=5e-3, atol=0)
        assert not torch.allclose(ranges, plain, rtol=0.05)


@pytest.mark.parametrize("name", NETWORKS)
def test_equalizing_leaves_every_networks_function(networks, name: str) -> None:
    """ReLU6, attention, recurrence and channels with two readers are in the way in some, and must not be passed."""
    network, x = networks[name]
    result, plain = integer(network, {}, equalized=True), fold(network)
    with torch.no_grad():
        exact = network(x)
        torch.testing.assert_close(result(x), exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))
    weights = [(result.submodule(n).weight, plain.submodule(n).weight) for n in network.graph.by_name
               if network.sites[n].module]  # fmt: skip
    moved = sum(not torch.allclose(first, second, rtol=1e-3) for first, second in weights)  # type: ignore[arg-type]
    assert moved == {"residual": 4, "depthwise": 2, "transformer": 0, "recurrent": 2}[name]


def test_equalized_channels_need_no_step_of_their_own() -> None:
    network, x = uneven()
    options, errors = models.assigned(network, "int8"), {}
    for equalized in (False, True):
        result = integer(network, options, step="layer", equalized=equalized)
        calibrate(result, [x])
        errors[equalized] = off(result, network, x)
    assert errors[True] < 0.5 * errors[False]


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_adaptive_rounding_errs_less_than_nearest(networks, name: str) -> None:
    network, x = networks[name]
    made = {rounding: quantized(network, x, "int4", rounding=rounding) for rounding in ("nearest", "adaptive")}
    result, plain = parts(made["adaptive"], IntegerLayer), parts(made["nearest"], IntegerLayer)
    assert off(made["adaptive"], network, x) < off(made["nearest"], network, x)
    for layer, part in result.items():
        assert isinstance(part, IntegerLayer)
        weight, other = part.inner.get_parameter("weight"), plain[layer]
        assert isinstance(other, IntegerLayer)
        scale = part.scales()[0].reshape(-1, *[1] * (weight.dim() - 1))
        assert torch.equal(part.scales()[0], other.scales()[0])
        integers = (weight / scale).round()
        assert torch.equal(integers * scale, weight)
        assert float(integers.detach().abs().max()) <= part.limit
    with torch.no_grad():
        torch.testing.assert_close(frozen(made["adaptive"])(x), made["adaptive"](x), rtol=1e-4, atol=1e-4)


def test_adaptive_rounding_holds_on_other_data() -> None:
    network, x = models.made("example", 192)
    made = {}
    for rounding in ("nearest", "adaptive"):
        made[rounding] = integer(network, models.assigned(network, "int4"))
        calibrate(made[rounding], [x[:64], x[64:128]], rounding=rounding)
    assert off(made["adaptive"], network, x[128:]) < 0.7 * off(made["nearest"], network, x[128:])


@pytest.mark.parametrize("grid", [UNSIGNED, SYMMETRIC])
def test_a_file_of_each_choice_is_as_specified_and_agrees(networks, grid: Grid) -> None:
    """All choices at once: one step for all layers, equalized, ranges by error, rounded adaptively, steps learned."""
    network, x = networks["residual"]
    result = integer(network, models.assigned(network, "mixed"), grid, step="network", equalized=True)
    calibrate(result, [x], ranges="mse", rounding="adaptive")
    with torch.no_grad():
        wanted = network(x)
    with learning(result):
        trained(result, x, wanted, 2)
    model = converted(result, x)  # checks the specification
    with torch.no_grad():
        expected = result(x).numpy()
    assert np.sqrt(np.mean((models.file_outputs(model, x) - expected) ** 2)) <= 0.05 * expected.std()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda network, x: calibrate(network, [x], ranges="median"), "'median' is not one of chosen, min-max"),
        (lambda network, x: calibrate(network, [x], rounding="up"), "'up' is not one of nearest, adaptive"),
        (lambda network, x: integer(network, {"fc": Option(INT8, 8)}, step="tensor"), "no step per 'tensor'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(networks, call, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        call(*networks["residual"])
    assert "\n" not in str(raised.value)
