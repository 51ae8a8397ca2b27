"""Laws of sparsity training: what each term is, where its gradient leads, and which channels count as gone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques.regularization import folded, group_lasso, lasso, near_zero, scales, sizes


def test_the_terms_are_those_of_their_definitions() -> None:
    vector, other = torch.tensor([3.0, -4.0]), torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    assert float(lasso([vector, other])) == 12.0
    assert float(group_lasso([other, vector[:, None]])) == pytest.approx(3 + 0 + 3 + 4)
    assert sizes(vector).tolist() == [3.0, 4.0]
    assert sizes(other.reshape(2, 3, 1, 1)).tolist() == [3.0, 0.0]


@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_a_group_of_one_is_the_lasso_and_both_grow_with_what_they_are_of(seed: int, scale: float) -> None:
    value = torch.randn(7, generator=torch.Generator().manual_seed(seed)).double()
    assert float(group_lasso([value[:, None]])) == pytest.approx(float(lasso([value])))
    assert float(group_lasso([scale * value])) == pytest.approx(scale * float(lasso([value])))
    groups = value[:6].reshape(2, 3)
    each, together = float(lasso([groups])), float(group_lasso([groups]))
    assert each / math.sqrt(3) - 1e-12 <= together <= each + 1e-12


@pytest.mark.parametrize("term", [lasso, group_lasso])
def test_the_gradient_is_of_one_length_for_each_channel_and_zero_where_there_is_none(term) -> None:
    value = torch.tensor([[0.3, 0.4], [-30.0, 40.0], [0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(term([value]), value)
    length = 1.0 if term is group_lasso else math.sqrt(2)
    assert gradient.norm(dim=1).tolist() == pytest.approx([length, length, 0.0])
    assert bool((gradient * value >= 0).all())  # it leads towards zero


def test_under_the_group_lasso_whole_channels_go_and_the_one_that_is_needed_stays() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4, bias=False), torch.randn(256, 6)
    with torch.no_grad():
        layer.weight[1:] *= 0.3
    wanted = x @ torch.tensor([1.0, -1.0, 0.5, 0, 0, 0])
    optimizer = torch.optim.SGD(layer.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        ((layer(x)[:, 0] - wanted).square().mean() + 0.05 * group_lasso([layer.weight])).backward()
        optimizer.step()
    left = sizes(layer.weight.detach())
    assert float(left[0]) > 1 and float(left[1:].max()) < 0.01


def test_a_folded_weight_is_that_of_convolution_and_batch_norm_together() -> None:
    torch.manual_seed(0)
    conv, norm, x = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5).eval(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.running_var.uniform_(0.1, 3)  # type: ignore[union-attr]
    expected = norm(conv(x)) - norm(torch.zeros(2, 5, 4, 4))
    torch.testing.assert_close(nn.functional.conv2d(x, folded(conv.weight, norm)), expected)
    assert folded(conv.weight, None) is conv.weight
    (gradient,) = torch.autograd.grad(group_lasso([folded(conv.weight, norm)]), norm.weight)
    assert bool((gradient * norm.weight > 0).all())  # so that gamma shrinks, not the weight that it undoes


def test_scales_are_those_of_batch_norms_alone() -> None:
    body = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(3, affine=False)))
    result = scales(body)
    assert list(result) == ["1"] and result["1"] is body[1].weight
    assert scales(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))) == {}


def test_near_zero_is_beside_what_a_channel_was_on_average_in_its_layer() -> None:
    before = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([10.0, 10.0, 10.0, 10.0])}
    after = {"a": torch.tensor([-0.1, 0.3]), "b": torch.tensor([0.5, 1.5, 0.0, 10.0])}
    assert near_zero(after, before) == {"a": 0.5, "b": 0.5}
    assert near_zero(after, before, 0.2) == {"a": 1.0, "b": 0.75}
    assert near_zero(before, before) == {"a": 0.0, "b": 0.0}


BAD = [
    (lambda: lasso([]), "nothing to make small"),
    (lambda: group_lasso([]), "nothing to make small"),
    (lambda: group_lasso([torch.tensor(1.0)]), "no channels"),
    (lambda: near_zero({"a": torch.ones(2)}, {"a": torch.ones(3)}), "not of the same channels"),
    (lambda: near_zero({"a": torch.ones(2)}, {"b": torch.ones(2)}), "not of the same channels"),
    (lambda: near_zero({}, {}, 1.0), "near zero as a share of 1"),
]


@pytest.mark.parametrize(("bad", "says"), BAD)
def test_what_does_not_fit_is_said_on_one_line(bad, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        bad()
    assert "\n" not in str(caught.value)
