"""Laws of early exits: what is sure, who leaves, what may be lost, and that nothing cheaper keeps to it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques.exits import NEVER, doubt, expected, head, leaves, reached, thresholds


def samples(exits: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Doubts, (exits, N), a few of them equal, and answers, (exits + 1, N), that are right the more often the later."""
    generator = torch.Generator().manual_seed(seed)
    doubts = (torch.rand(exits, count, generator=generator, dtype=torch.double) * 10).round() / 10
    sure = torch.linspace(0.5, 0.9, exits + 1)[:, None]
    return doubts, torch.rand(exits + 1, count, generator=generator) < sure


def score(doubts: Tensor, right: Tensor, costs: list[float], limits: tuple[float, ...]) -> tuple[float, float]:
    """The share that is answered rightly with these thresholds, and what a sample costs."""
    last = leaves(doubts, limits)
    answered = float(right[last, torch.arange(len(last))].double().mean())
    return answered, expected(reached(last, len(costs)), costs)


def test_doubt_is_nothing_where_certain_and_most_where_even() -> None:
    certain, even = torch.tensor([[200.0, 0.0, 0.0]]), torch.zeros(1, 3)
    for measure, most in (("entropy", math.log(3)), ("maximum", 2 / 3)):
        assert float(doubt(certain, measure)) == pytest.approx(0, abs=1e-12)
        assert float(doubt(even, measure)) == pytest.approx(most)


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(0, 99))
def test_doubt_is_of_the_probabilities_alone(classes: int, seed: int) -> None:
    logits = torch.randn(7, classes, generator=torch.Generator().manual_seed(seed))
    for measure in ("entropy", "maximum"):
        doubts = doubt(logits, measure)
        torch.testing.assert_close(doubt(logits.flip(1) + 5, measure), doubts, rtol=1e-4, atol=1e-6)
        assert bool((doubt(2 * logits, measure) <= doubts + 1e-9).all())  # sharper is surer
    p = logits.double().softmax(1)
    torch.testing.assert_close(doubt(logits), -(p * p.log()).sum(1))


def test_a_sample_leaves_at_the_first_exit_that_is_sure() -> None:
    doubts = torch.tensor([[0.1, 0.5, 0.5, 0.3], [0.0, 0.2, 0.9, 0.3]])
    assert leaves(doubts, (0.3, 0.2)).tolist() == [0, 1, 2, 0]
    assert leaves(doubts, (NEVER, NEVER)).tolist() == [2, 2, 2, 2]
    assert reached(leaves(doubts, (0.3, 0.2)), 3) == [1.0, 0.5, 0.25]
    assert expected([1.0, 0.5, 0.25], [2.0, 4.0, 8.0]) == 6.0


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 30), st.floats(0, 0.3), st.integers(0, 999))
def test_thresholds_lose_no_more_than_may_be_lost_and_cost_no_more_than_without(
    exits: int, count: int, drop: float, seed: int
) -> None:
    doubts, right = samples(exits, count, seed)
    costs = [1.0, 0.5, 2.0, 1.5][: exits + 1]
    least = float(right[-1].double().mean()) - drop
    answered, cost = score(doubts, right, costs, thresholds(doubts, right, costs, least))
    assert answered >= least - 1e-9
    assert cost <= sum(costs) + 1e-9
    looser = thresholds(doubts, right, costs, least - 0.1)
    assert score(doubts, right, costs, looser)[1] <= cost + 1e-9


@settings(max_examples=30)
@given(st.integers(1, 25), st.floats(0, 0.3), st.integers(0, 999))
def test_no_other_threshold_of_a_single_exit_is_cheaper(count: int, drop: float, seed: int) -> None:
    doubts, right = samples(1, count, seed)
    costs, least = [1.0, 3.0], float(right[-1].double().mean()) - drop
    _, cost = score(doubts, right, costs, thresholds(doubts, right, costs, least))
    every = [score(doubts, right, costs, (limit,)) for limit in (NEVER, *doubts[0].tolist())]
    assert cost == pytest.approx(min(c for answered, c in every if answered >= least - 1e-9))


def test_of_two_exits_the_grid_is_near_the_best() -> None:
    doubts, right = samples(2, 60, 3)
    costs, least = [1.0, 1.0, 1.0], float(right[-1].double().mean()) - 0.1
    _, cost = score(doubts, right, costs, thresholds(doubts, right, costs, least))
    tried = [NEVER, *doubts.unique().tolist()]
    every = [score(doubts, right, costs, (a, b)) for a in tried for b in tried]
    assert cost == pytest.approx(min(c for answered, c in every if answered >= least - 1e-9))


def test_a_head_is_the_best_linear_answer_whatever_the_units_of_its_features() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator)
    y = (x @ torch.tensor([[2.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])).argmax(1)
    fitted, scaled = head(x, y), head(1000 * x + 7, y)
    assert float((fitted(x).argmax(1) == y).double().mean()) > 0.98
    torch.testing.assert_close(scaled(1000 * x + 7).softmax(1), fitted(x).softmax(1), atol=2e-2, rtol=0)
    least = float(nn.functional.cross_entropy(fitted(x), y) + 1e-4 * fitted.weight.square().sum())
    for part in (fitted.weight, fitted.bias):  # a minimum: a small step to either side is worse
        for step in (0.3, -0.3):
            with torch.no_grad():
                part.flatten()[0] += step
            worse = float(nn.functional.cross_entropy(fitted(x), y) + 1e-4 * fitted.weight.square().sum())
            assert worse > least
            with torch.no_grad():
                part.flatten()[0] -= step


def test_a_head_imitates_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    x, teacher = torch.randn(500, 4, generator=generator), nn.Linear(4, 3)
    target = teacher(x).softmax(1).detach()
    torch.testing.assert_close(head(x, target)(x).softmax(1), target, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: doubt(torch.zeros(2, 3), "margin"), "no confidence 'margin'"),
        (lambda: doubt(torch.zeros(2, 1)), "tell no classes apart"),
        (lambda: leaves(torch.zeros(2, 5), (0.1,)), "1 thresholds for 2 exits"),
        (lambda: thresholds(torch.zeros(1, 5), torch.ones(1, 5), [1, 1], 0.5), "do not fit together"),
        (lambda: thresholds(torch.zeros(1, 0), torch.ones(2, 0), [1, 1], 0.5), "do not fit together"),
        (lambda: thresholds(torch.zeros(1, 4), torch.zeros(2, 4), [1, 1], 0.5), "answers fewer rightly"),
        (lambda: head(torch.zeros(3, 2), torch.zeros(4)), "do not fit targets"),
        (lambda: head(torch.full((3, 2), math.nan), torch.zeros(3).long()), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(call, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call()
