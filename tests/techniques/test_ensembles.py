"""Laws of ensembles: what their answer is, how samples are drawn, and how boosting weighs mistakes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgesdk.core.errors import UsageError
from edgesdk.techniques.distillation import soft
from edgesdk.techniques.ensembles import Ensemble, bootstrap, samme


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_answer_of_classifiers_has_the_mean_of_their_probabilities() -> None:
    torch.manual_seed(0)
    members, x = [nn.Linear(4, 3), nn.Linear(4, 3)], torch.randn(6, 4)
    expected = 0.25 * members[0](x).softmax(-1) + 0.75 * members[1](x).softmax(-1)
    answer = Ensemble(members, [1, 3])(x)
    torch.testing.assert_close(answer.exp(), expected)
    torch.testing.assert_close(answer.softmax(-1), expected)  # logits, as a loss or a teacher takes them
    assert float(soft(answer, expected.log(), 4.0).detach()) == pytest.approx(0, abs=1e-6)


def test_the_answer_of_others_is_the_mean_and_of_twins_it_is_theirs() -> None:
    torch.manual_seed(0)
    left, right, x = nn.Linear(4, 2), nn.Linear(4, 2), torch.randn(6, 4)
    torch.testing.assert_close(Ensemble([left, right], classify=False)(x), (left(x) + right(x)) / 2)
    torch.testing.assert_close(Ensemble([left, left])(x), left(x).log_softmax(-1))


def test_a_certain_mistake_of_all_stays_finite() -> None:
    sure = nn.Linear(1, 2)
    with torch.no_grad():
        sure.weight.copy_(torch.tensor([[500.0], [-500.0]]))
    answer = Ensemble([sure, sure])(torch.ones(1, 1))
    assert bool(answer.isfinite().all())
    assert math.isfinite(float(nn.functional.cross_entropy(answer, torch.tensor([1])).detach()))


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_of_independent_members_the_squared_error_is_never_above_their_mean(seed: int, count: int) -> None:
    """Breiman 1996, section 4.1: the error of the mean is at most the mean of the errors."""
    torch.manual_seed(seed)
    members = [nn.Linear(3, 2) for _ in range(count)]
    x, y = torch.randn(9, 3), torch.randn(9, 2)
    with torch.no_grad():
        errors = [float((member(x) - y).square().mean()) for member in members]
        assert float((Ensemble(members, classify=False)(x) - y).square().mean()) <= sum(errors) / count + 1e-6


def test_a_bootstrap_sample_has_as_many_rows_and_leaves_out_a_good_third() -> None:
    rows = bootstrap(10_000, drawn(0))
    assert rows.shape == (10_000,) and int(rows.min()) >= 0 and int(rows.max()) < 10_000
    assert 1 - len(rows.unique()) / 10_000 == pytest.approx(1 / math.e, abs=0.015)
    assert torch.equal(rows, bootstrap(10_000, drawn(0))) and not torch.equal(rows, bootstrap(10_000, drawn(1)))


def test_a_weighted_sample_has_each_row_as_often_as_it_weighs() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0] * 2500)
    counts = torch.bincount(bootstrap(10_000, drawn(0), weights) % 4, minlength=4)
    assert counts[[0, 3]].tolist() == [0, 0]
    assert float(counts[2] / counts[1]) == pytest.approx(3, rel=0.1)


@given(st.integers(2, 20), st.integers(0, 10**6), st.floats(0.05, 0.45))
def test_after_a_round_a_member_is_wrong_on_a_share_of_chance(classes: int, seed: int, share: float) -> None:
    """The next member meets weights by which this one is no better than guessing: err = 1 - 1 / classes."""
    weights = torch.rand(200, generator=drawn(seed), dtype=torch.double) + 0.1
    wrong = torch.rand(200, generator=drawn(seed + 1)) < share
    wrong[0], wrong[1] = True, False
    alpha, after = samme(weights, wrong, classes)
    error = float(weights[wrong].sum() / weights.sum())
    assert alpha == pytest.approx(math.log((1 - error) / error) + math.log(classes - 1))
    assert float(after.sum()) == pytest.approx(1)
    if error < 1 - 1 / classes:
        assert alpha > 0
        assert float(after[wrong].sum()) == pytest.approx(1 - 1 / classes)
    else:
        assert alpha <= 1e-9


def test_members_that_are_never_right_or_never_wrong_leave_nothing_to_boost() -> None:
    even = torch.full((4,), 0.25)
    right, after = samme(even, torch.zeros(4, dtype=torch.bool), 3)
    assert math.isfinite(right) and right > samme(even, torch.tensor([True, False, False, False]), 3)[0]
    assert after.tolist() == even.tolist()
    chance, after = samme(even, torch.tensor([True, True, False, False]), 2)
    assert chance == pytest.approx(0) and after.tolist() == even.tolist()
    assert samme(even, torch.ones(4, dtype=torch.bool), 2)[0] == -math.inf


def test_boosting_stumps_learns_what_no_stump_can() -> None:
    """Three classes along a line by members that tell two apart at one place (Zhu et al. 2009, section 3)."""
    x = torch.linspace(-1, 1, 300)[:, None]
    y = (x[:, 0] > -1 / 3).long() + (x[:, 0] > 1 / 3).long()
    stumps, votes, likely = [], [], torch.full((300,), 1 / 300)
    for _ in range(12):
        best: tuple[float, int, int, float] = min(
            (float(likely[torch.where(x[:, 0] > at, high, low) != y].sum()), low, high, float(at))
            for at in torch.linspace(-0.95, 0.95, 39) for low in range(3) for high in range(3)
        )  # fmt: skip
        _, low, high, at = best
        vote, likely = samme(likely, torch.where(x[:, 0] > at, high, low) != y, 3)
        first, last = nn.Linear(1, 1), nn.Linear(1, 3)
        with torch.no_grad():
            first.weight.fill_(1e4)
            first.bias.fill_(-1e4 * at)
            last.weight.zero_()
            last.weight[high] += 9
            last.weight[low] -= 9
            last.bias.zero_()
        stumps.append(nn.Sequential(first, nn.Hardtanh(), last))
        votes.append(vote)
    right = [float((stump(x).argmax(-1) == y).float().mean()) for stump in stumps]
    assert max(right) < 0.7
    assert float((Ensemble(stumps, votes)(x).argmax(-1) == y).float().mean()) > 0.9


BAD = [
    (lambda: Ensemble([nn.Linear(2, 2)]), r"an ensemble of 1 member"),
    (lambda: Ensemble([]), r"an ensemble of 0 members"),
    (lambda: Ensemble([nn.Linear(2, 2)] * 2, [1.0]), "weights 1 of 2 members"),
    (lambda: Ensemble([nn.Linear(2, 2)] * 2, [1.0, 0.0]), "weights 1, 0 of 2 members"),
    (lambda: Ensemble([nn.Linear(2, 2)] * 2, [1.0, math.nan]), "weights 1, nan of 2 members"),
    (lambda: bootstrap(0, drawn(0)), "a sample of nothing"),
    (lambda: bootstrap(3, drawn(0), torch.ones(2)), r"weights of shape \(2,\) of 3 rows"),
    (lambda: bootstrap(2, drawn(0), torch.tensor([1.0, -1.0])), "none below zero"),
    (lambda: bootstrap(2, drawn(0), torch.zeros(2)), "not all zero"),
    (lambda: samme(torch.ones(2), torch.zeros(2, dtype=torch.bool), 1), r"boosting over 1 class\(es\)"),
    (lambda: samme(torch.ones(2), torch.zeros(3, dtype=torch.bool), 2), r"mistakes of shape \(3,\)"),
]


@pytest.mark.parametrize(("bad", "says"), BAD)
def test_what_does_not_fit_is_said_on_one_line(bad, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        bad()
    assert "\n" not in str(caught.value)
