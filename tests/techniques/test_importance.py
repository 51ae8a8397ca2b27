"""Laws of channel scores: what each says is what removing the channel does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques import importance
from edgesdk.techniques.importance import gamma, hessian, l1, l2, taylor, together


def test_norms_and_gamma_are_those_of_each_channels_own_weights() -> None:
    weight = torch.tensor([[[3.0, -4.0]], [[0.0, 0.0]], [[-1.0, 0.0]]])
    assert l1(weight).tolist() == [7.0, 0.0, 1.0]
    assert l2(weight).tolist() == [5.0, 0.0, 1.0]
    assert gamma(torch.tensor([0.5, -2.0, 0.0])).tolist() == [0.5, 2.0, 0.0]


@pytest.mark.parametrize("score", [l1, l2])
def test_scores_move_with_the_channels(score: Callable[[Tensor], Tensor]) -> None:
    layer, order = nn.Conv2d(4, 6, 3), torch.tensor([3, 0, 5, 1, 2, 4])
    torch.testing.assert_close(score(layer.weight[order]), score(layer.weight)[order])
    torch.testing.assert_close(score(layer.weight * -3), 3 * score(layer.weight))


@pytest.mark.parametrize(("shape", "axis"), [((5, 4, 3, 3), 1), ((5, 7, 4), -1), ((5, 4), 1)])
def test_taylor_is_the_squared_change_of_a_loss_that_is_linear_in_the_channels(shape, axis: int) -> None:
    activation, slope = torch.randn(shape).double(), torch.randn(shape).double()
    importance = taylor(activation * slope, axis)
    for channel in range(4):
        without = activation.index_fill(axis, torch.tensor([channel]), 0.0)
        change = ((activation - without) * slope).flatten(1).sum(1)
        assert float(importance[channel]) == pytest.approx(float(change.square().sum()))


@given(channels=st.integers(2, 5), entries=st.integers(1, 3), outputs=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_hessian_score_is_the_least_loss_that_any_weights_without_the_channel_have(
    channels: int, entries: int, outputs: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    k, damping = channels * entries, 0.05
    weight = torch.randn(outputs, k, generator=generator, dtype=torch.double)
    x = torch.randn(k, 40, generator=generator, dtype=torch.double)
    moment = x @ x.T
    scores = hessian(weight, moment, entries, damping)
    full = moment + damping * moment.diagonal().mean() * torch.eye(k)
    for channel in range(channels):
        stay = [c for c in range(k) if c // entries != channel]
        best = torch.zeros_like(weight)
        best[:, stay] = torch.linalg.solve(full[stay][:, stay], (weight @ full)[:, stay].T).T
        loss = ((weight - best) @ full * (weight - best)).sum()
        assert float(scores[channel]) == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize("entries", [1, 4])
def test_a_large_hessian_scores_in_single_precision_as_in_double(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(entries)
    x = torch.randn(1024, 200, generator=generator).abs() * torch.logspace(-1, 1, 1024)[:, None]  # fewer rows, uneven
    weight = torch.randn(8, 1024, generator=generator)
    single = hessian(weight, x @ x.T, entries)
    monkeypatch.setattr(importance, "LARGE", 2000)
    torch.testing.assert_close(single, hessian(weight, x @ x.T, entries), rtol=5e-3, atol=0)


def test_a_channel_that_is_always_zero_or_a_copy_of_another_costs_next_to_nothing() -> None:
    x = torch.randn(4, 200).double()
    x[1], x[3] = 0.0, x[2]
    scores = hessian(torch.ones(3, 4).double(), x @ x.T, damping=1e-6)
    assert float(scores[[1, 2, 3]].max()) < 1e-4 * float(scores[0])


def test_scores_of_several_criteria_weigh_alike_whatever_their_units() -> None:
    first, second = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([0.2, 0.0, 0.2])
    torch.testing.assert_close(together(first, second), torch.tensor([0.75, 0.75, 0.5]))
    torch.testing.assert_close(together(1000 * first, second), together(first, second))
    assert together(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


BAD = [
    (lambda: together(), "scores of shapes none"),
    (lambda: together(torch.ones(3), torch.ones(4)), r"\(3,\), \(4,\) are not of the same channels"),
    (lambda: l1(torch.zeros(3)), "has no channels"),
    (lambda: l2(torch.zeros(0, 3)), "has no channels"),
    (lambda: l2(torch.tensor([[1.0], [float("nan")]])), "not finite"),
    (lambda: gamma(torch.zeros(3, 2)), "2 axes instead of 1"),
    (lambda: taylor(torch.zeros(3)), "no channels on axis 1"),
    (lambda: taylor(torch.zeros(3, 4), 2), "no channels on axis 2"),
    (lambda: taylor(torch.zeros(3, 4), -2), "no channels on axis -2"),
    (lambda: taylor(torch.full((3, 4), float("inf"))), "not finite"),
    (lambda: hessian(torch.zeros(2, 4), torch.eye(3)), "do not fit a weight"),
    (lambda: hessian(torch.zeros(2, 4), torch.eye(4), entries=3), "4 columns are not a number of channels of 3"),
    (lambda: hessian(torch.zeros(2, 4), torch.eye(4), damping=0.0), "not above zero"),
    (lambda: hessian(torch.zeros(2, 4), torch.eye(4) * float("nan")), "not finite"),
]


@pytest.mark.parametrize(("call", "fact"), BAD)
def test_bad_input_is_refused_on_one_line(call: Callable[[], Tensor], fact: str) -> None:
    with pytest.raises(UsageError, match=fact) as raised:
        call()
    assert "\n" not in str(raised.value)
