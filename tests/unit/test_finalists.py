"""Successive halving: the best goes through, little effort is spent on the rest, noise drops nobody."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgesdk.solve.finalists import halving

SCORES = st.lists(st.floats(0, 100), min_size=2, max_size=9)


@given(SCORES, st.floats(0, 5))
def test_the_best_of_steady_scores_is_in_the_last_round(scores: list[float], near: float) -> None:
    rounds = halving(range(len(scores)), lambda candidate, _: scores[candidate], near)
    took_part, last = rounds[-1]
    assert max(last) == max(scores)
    assert last == [scores[candidate] for candidate in took_part]


@given(SCORES)
def test_efforts_double_up_to_all_of_it_and_half_goes_on(scores: list[float]) -> None:
    spent: list[tuple[int, float]] = []

    def score(candidate: int, share: float) -> float:
        spent.append((candidate, share))
        return scores[candidate]

    rounds = halving(range(len(scores)), score, 0.0)
    shares = [share for _, share in spent]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert set(shares) == {0.5**step for step in range(len(rounds))}
    for (before, reached), (after, _) in itertools.pairwise(rounds):
        last = sorted(reached, reverse=True)[(len(before) + 1) // 2 - 1]
        assert after == [c for c in before if scores[c] >= last]  # those that score like the last go on, too
        assert (len(before) + 1) // 2 <= len(after)


def test_who_is_near_the_last_that_goes_on_goes_on() -> None:
    scores = {"a": 90.0, "b": 88.0, "c": 87.8, "d": 80.0}
    rounds = halving(list(scores), lambda candidate, _: scores[candidate], 0.5)
    assert [took_part for took_part, _ in rounds] == [["a", "b", "c", "d"], ["a", "b", "c"]]
    assert [took_part for took_part, _ in halving(list(scores), lambda c, _: scores[c], 0.1)][1] == ["a", "b"]
