"""Weights set in closed form: a compressed network's layers, and what comes out of it, come nearer the dense one's."""

from __future__ import annotations

from functools import cache

import models
import pytest
import torch
from torch import Tensor, nn

from edgesdk.compress.apply import channels_to_keep, compressed
from edgesdk.compress.refit import JUDGE, Fit, irreplaceable, refit_weights
from edgesdk.core.plan import Form, Option, Plan
from edgesdk.example.data import example_data, example_model
from edgesdk.network.network import Network
from edgesdk.network.trace import trace


@cache
def made(name: str) -> tuple[Network, Tensor]:
    """A network with 192 inputs, of which tests fit the first 128."""
    return models.made(name, 192)


def off(network: Network, dense: Network, x: Tensor) -> float:
    """The squared error of the outputs over their variance."""
    with torch.no_grad():
        output, wanted = network.flat(x)[0], dense.flat(x)[0]
    return float((output - wanted).square().mean() / wanted.var())


def applied(network: Network, plan: Plan, x: Tensor) -> tuple[Network, Network, dict[str, Fit]]:
    """The plan plainly, and refitted on ``x``."""
    scores = models.scores(network)
    small, _ = compressed(network, plan, x, scores)
    new, fits = refit_weights(small, network, channels_to_keep(network.graph, plan, scores), list(x.split(32)))
    return small, new, {fit.layer: fit for fit in fits}


def cut(network: Network, share: float, **rest) -> Plan:
    kept = {g.name: max(1, round(share * g.size)) for g in network.graph.groups if g.fixed is None}
    return models.plan(network, kept, **rest)


@pytest.mark.parametrize("name", ["residual", "depthwise", "transformer", "recurrent"])
def test_layers_and_outputs_come_nearer_on_samples_that_no_fit_saw(name: str) -> None:
    network, x = made(name)
    small, new, fits = applied(network, cut(network, 0.5), x[:128])
    assert all(fit.after < fit.before and fit.damping for fit in fits.values() if fit.before > 1e-6)
    assert any(fit.before > 0.1 for fit in fits.values())
    assert off(new, network, x[128:]) < 0.8 * off(small, network, x[128:])


class Steps(nn.Module):
    """Layers whose steps come before the samples, as those of an attention; (N, 3, 12), or with more steps than 3."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 24), nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x.transpose(0, 1)).relu()).relu()
        return self.head(y.mean(0))


@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize("batches", [1, 4])
def test_a_layer_is_judged_by_samples_where_steps_come_first(steps: int, batches: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(192, steps, 12)
    network = trace(Steps().eval(), x[:8])
    scores = models.scores(network)
    plan = cut(network, 0.5)
    small, _ = compressed(network, plan, x[:128], scores)
    kept = channels_to_keep(network.graph, plan, scores)
    new, fits = refit_weights(small, network, kept, list(x[:128].chunk(batches)))
    assert {fit.layer for fit in fits if fit.damping} >= {"second", "head"}
    assert off(new, network, x[128:]) < 0.8 * off(small, network, x[128:])


class Columns(nn.Module):
    """A linear layer along the width of an image, whose channels are but rows to it; images (N, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.along = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(8, 8)
        self.last, self.fc = nn.Conv2d(16, 16, 3, 1, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.fc(torch.relu(self.last(x + self.along(torch.relu(x)))).mean((2, 3)))


@pytest.mark.parametrize("name", ["mixer", "columns"])
def test_a_layer_whose_rows_were_cut_is_fitted_to_those_that_are_left(name: str) -> None:
    if name == "mixer":
        network, x = made(name)
        rows = ["tokens.0", "tokens.2"]
    else:
        torch.manual_seed(0)
        x, rows = torch.randn(192, 3, 16, 16), ["along"]
        network = trace(Columns().eval(), x)
    small, new, fits = applied(network, cut(network, 0.5), x[:128])
    assert all(fits[row].after <= fits[row].before for row in rows)
    assert off(new, network, x[128:]) < off(small, network, x[128:])


def test_what_stays_is_what_the_cut_left() -> None:
    network, x = made("residual")
    plan, scores = cut(network, 0.5), models.scores(network)
    small, _ = compressed(network, plan, x, scores)
    kept = channels_to_keep(network.graph, plan, scores)
    for name in ("stem.0", "inner.0", "down.0"):
        group = network.graph.by_name[name].writes
        assert group is not None
        left, whole = models.norm_of(small, name).weight, models.norm_of(network, name).weight
        assert torch.equal(left, whole[kept[group]])
    assert channels_to_keep(network.graph, models.plan(network), scores) == {}


def test_a_network_that_nothing_was_cut_from_stays_as_it_is() -> None:
    network, x = made("residual")
    _, new, fits = applied(network, models.plan(network), x[:128])
    assert all(fit.damping is None for fit in fits.values()) and fits
    for name, value in network.module.state_dict().items():
        assert torch.equal(new.module.state_dict()[name], value)


def channels_of_inner(model: models.Residual) -> list[Tensor]:
    """All that makes the channels of the inner block's first layer what they are."""
    return [*map(model.get_parameter, ("inner.0.weight", "inner.1.weight", "inner.1.bias")),
            model.get_buffer("inner.1.running_mean")]  # fmt: skip


def test_channels_that_are_copies_of_others_go_at_no_cost() -> None:
    torch.manual_seed(1)
    model = models.Residual().eval()
    with torch.no_grad():
        for part in channels_of_inner(model):
            part[8:] = part[:8]
    x = torch.randn(192, 3, 16, 16)
    network = trace(model, x)
    plan = models.plan(network, {"inner.0": 8})
    scores = models.scores(network) | {"inner.0": torch.arange(16, 0, -1).float()}
    small, _ = compressed(network, plan, x, scores)
    new, _ = refit_weights(small, network, channels_to_keep(network.graph, plan, scores), [x[:128]])
    assert off(small, network, x[128:]) > 1e-4
    assert off(new, network, x[128:]) < 1e-4 * off(small, network, x[128:])


def test_channels_that_are_copies_of_others_or_never_read_are_the_first_to_go() -> None:
    torch.manual_seed(1)
    model = models.Residual().eval()
    with torch.no_grad():
        for part in channels_of_inner(model):
            part[15] = part[0]
        model.get_parameter("inner.3.weight")[:, 7] = 0.0
    x = torch.randn(64, 3, 16, 16)
    scores = irreplaceable(trace(model, x), [x])["inner.0"]
    assert set(scores.argsort()[:3].tolist()) == {0, 7, 15}
    assert float(scores[[0, 7, 15]].max()) < 0.1 * float(scores.median())


@pytest.mark.parametrize("name", ["residual", "depthwise", "transformer", "recurrent"])
def test_every_group_that_can_be_cut_has_a_score_for_each_channel(name: str) -> None:
    network, x = made(name)
    scores = irreplaceable(network, [x[:64]])
    assert {n: len(s) for n, s in scores.items()} == {g.name: g.size for g in network.graph.groups if g.fixed is None}
    assert all(bool((s >= 0).all()) and float(s.std()) > 0 for s in scores.values())


def test_a_fit_that_does_worse_on_what_it_did_not_see_is_left_out() -> None:
    network = trace(nn.Sequential(nn.Linear(2, 3, bias=False)), torch.zeros(2, 2))
    small = network.copy()
    with torch.no_grad():
        models.weight_of(small, "0").add_(1.0)
    # The fit sees the first input alone and sets its weight right; the judge has both, whose errors cancelled.
    x = torch.tensor([[1.0, 0.0]] * (JUDGE - 1) + [[1.0, -0.9]]).repeat(4, 1)
    new, (fit,) = refit_weights(small, network, {}, [x])
    assert fit.damping is None and fit.after == fit.before > 0
    assert torch.equal(models.weight_of(new, "0"), models.weight_of(small, "0"))
    better, (fit,) = refit_weights(small, network, {}, [x[:4].repeat(5, 1)])
    assert fit.damping is not None and fit.after < 1e-3 * fit.before
    left = models.weight_of(better, "0") - models.weight_of(network, "0")
    assert float(left[:, 0].detach().abs().max()) < 1e-3


def test_too_few_samples_leave_the_network() -> None:
    network, x = made("residual")
    small, new, fits = applied(network, cut(network, 0.5), x[: JUDGE - 1])
    assert not fits and off(new, small, x) == 0


def test_a_refitted_batchnorm_has_the_statistics_of_what_it_now_sees() -> None:
    network, x = made("residual")
    x = x[:128]
    _, new, fits = applied(network, cut(network, 0.5), x)
    layers = ("stem.0", "inner.0", "inner.3", "down.0", "down.3")
    paths = {str(new.sites[name].module): name for name in layers}
    outputs = models.layer_outputs(new.module, paths, lambda: new.flat(x))
    seen = {paths[path]: y for path, y in outputs.items()}
    for name, y in seen.items():
        if fits[name].damping is not None:
            norm = models.norm_of(new, name)
            torch.testing.assert_close(norm.running_mean, y.mean((0, 2, 3)), rtol=0.05, atol=0.05 * float(y.std()))
            torch.testing.assert_close(norm.running_var, y.var((0, 2, 3)), rtol=0.1, atol=0.0)
    assert sum(fits[name].damping is not None for name in seen) == 4  # all but the stem, whose input is the dense one's


def test_weights_keep_their_norm_before_a_batchnorm() -> None:
    network, x = made("residual")
    small, new, _ = applied(network, cut(network, 0.5), x[:128])
    actual, expected = models.weight_of(small, "inner.3"), models.weight_of(new, "inner.3")
    assert not torch.allclose(actual, expected)
    torch.testing.assert_close(actual.flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1))


def test_what_a_left_out_branch_added_is_made_up_for() -> None:
    network, x = made("residual")
    branch = next(b for b in network.graph.branches if "inner.0" in b.layers)
    small, new, fits = applied(network, models.plan(network, dropped=(branch.name,)), x[:128])
    assert "inner.0" not in fits and fits["down.0"].after < fits["down.0"].before
    assert off(new, network, x[128:]) < 0.8 * off(small, network, x[128:])


class Scaled(nn.Module):
    """A convolution beside a scaled shortcut, which has no weights that a fit could set."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.conv = nn.Parameter(torch.tensor(2.0)), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + self.scale * x)


def test_a_layer_before_an_addition_makes_up_for_the_other_side() -> None:
    x = torch.randn(64, 4, 6, 6)
    network = trace(Scaled(), x)
    small = network.copy()
    with torch.no_grad():
        small.module.get_parameter("scale").sub_(1.0)
    new, _ = refit_weights(small, network, {}, [x[:40]])
    assert off(small, network, x[40:]) > 0.1
    assert off(new, network, x[40:]) < 1e-6


def test_of_a_factorized_layer_the_last_part_is_fitted() -> None:
    network, x = made("residual")
    plan = models.plan(network, options={"inner.3": Option(form=Form("tucker", (6, 6)))})
    small, new, fits = applied(network, plan, x[:128])
    assert "inner.3.2" in fits and not {"inner.3.0", "inner.3.1"} & set(fits)
    assert torch.equal(models.weight_of(small, "inner.3.1"), models.weight_of(new, "inner.3.1"))
    assert fits["inner.3.2"].after < fits["inner.3.2"].before
    assert off(new, network, x[128:]) < off(small, network, x[128:])


def test_a_network_of_weights_without_norm_or_bias_trains_on() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False), nn.ReLU(),
                          nn.Flatten(), nn.Linear(6 * 144, 4, bias=False))  # fmt: skip
    x = torch.randn(96, 3, 16, 16)
    network = trace(model, x)
    small, new, _ = applied(network, cut(network, 0.5), x[:64])
    assert off(new, network, x[64:]) < off(small, network, x[64:])
    new.flat(x)[0].square().mean().backward()
    assert all(p.grad is not None for p in new.module.parameters())
    assert set(new.module.state_dict()) == set(small.module.state_dict())


def test_the_built_in_example_cut_at_random_answers_again() -> None:
    data = example_data()
    x = torch.cat([x for x, _ in data.calibration])
    network = trace(example_model(), x)
    small, new, fits = applied(network, cut(network, 0.5), x)
    held, y = (torch.cat(parts)[:400] for parts in zip(*data.test, strict=True))

    def accuracy(of: Network) -> float:
        with torch.no_grad():
            return float((of.flat(held)[0].argmax(1) == y).float().mean())

    assert all(fit.after <= fit.before for fit in fits.values())
    assert off(new, network, held) < 0.5 * off(small, network, held)
    assert accuracy(new) > accuracy(small) + 0.3


def test_fitting_that_was_interrupted_goes_on_and_comes_to_the_same() -> None:
    network, x = made("residual")
    plan, scores = cut(network, 0.5), models.scores(network)
    small, _ = compressed(network, plan, x, scores)
    given = network, channels_to_keep(network.graph, plan, scores), list(x[:128].split(32))
    whole, every = refit_weights(small, *given)
    names = [fit.layer for fit in every]
    states: list[tuple[Network, list[str]]] = []
    refit_weights(small, *given, after=lambda so_far, done: states.append((so_far.copy(), list(done))))
    assert [done for _, done in states] == [names[: count + 1] for count in range(len(names))]
    so_far, done = states[len(names) // 2]
    again, rest = refit_weights(so_far, *given, done=done)
    assert [fit.layer for fit in rest] == names[len(done) :] != []
    assert all(torch.equal(a, b) for a, b in zip(whole.module.parameters(), again.module.parameters(), strict=True))
