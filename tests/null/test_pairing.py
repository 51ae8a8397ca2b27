"""Ratios of two artefacts, round by round: what moves the device between rounds leaves them alone."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.pairing import paired

ROUNDS = st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.3, 3)), min_size=1, max_size=40)


@given(ROUNDS)
def test_the_speed_of_the_device_in_a_round_leaves_the_ratio(rounds: list[tuple[float, float, float]]) -> None:
    still = paired([a for a, _, _ in rounds], [b for _, b, _ in rounds])
    moved = paired([a * speed for a, _, speed in rounds], [b * speed for _, b, speed in rounds])
    for name in ("median", "low", "high"):
        assert getattr(moved, name) == pytest.approx(getattr(still, name), rel=1e-9)
    assert moved.rounds == len(rounds) and moved.low <= moved.median <= moved.high


@given(ROUNDS)
def test_the_other_way_round_is_the_inverse(rounds: list[tuple[float, float, float]]) -> None:
    odd = rounds[: len(rounds) - 1 + len(rounds) % 2]  # the median of an even number lies between two
    there = paired([a for a, _, _ in odd], [b for _, b, _ in odd])
    back = paired([b for _, b, _ in odd], [a for a, _, _ in odd])
    assert (back.median, back.low, back.high) == pytest.approx((1 / there.median, 1 / there.high, 1 / there.low))


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    random, hits = Random(0), 0
    for _ in range(500):
        own = [0.5 * random.lognormvariate(0, 0.1) for _ in range(12)]
        found = paired(own, [random.lognormvariate(0, 0.1) for _ in range(12)])
        hits += found.low <= 0.5 <= found.high
    assert hits >= 0.93 * 500


def test_rounds_that_one_lacks_are_left_out() -> None:
    assert paired([1.0, 2.0, 3.0], [2.0, 4.0]).rounds == 2
    few = paired([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert (few.low, few.median, few.high) == (0.5, 1.0, 1.5)
