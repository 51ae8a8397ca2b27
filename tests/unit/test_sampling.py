"""Drops of a score: an interval that is beyond the truth in at most 1 of 100, and narrower where samples are paired."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.sampling import Decisions, paired_drop, unpaired_drop

GATES = 1000
LABELS = "0"


def draw(random: Random, samples: int, score: float, lost: float, gained: float) -> tuple[Decisions, Decisions]:
    """A baseline that is right in a share ``score`` of the samples, and a new one that loses and gains some."""
    old = [random.random() < score for _ in range(samples)]
    new = [random.random() >= lost / score if each else random.random() < gained / (1 - score) for each in old]
    return Decisions.of(new, LABELS), Decisions.of(old, LABELS)


@pytest.mark.parametrize(
    ("samples", "score", "lost", "gained"),
    [(500, 0.9, 0.02, 0.02), (500, 0.6, 0.05, 0.05), (200, 0.95, 0.01, 0.01), (500, 0.9, 0.03, 0.02)],
)
def test_the_true_drop_is_seldom_beyond_the_interval(samples: int, score: float, lost: float, gained: float) -> None:
    random, truth = Random(0), 100 * (lost - gained)
    drops = [paired_drop(*draw(random, samples, score, lost, gained)) for _ in range(GATES)]
    room = 3 * (0.01 * 0.99 / GATES) ** 0.5  # of the simulation itself: three standard deviations of its count
    assert sum(drop.low > truth for drop in drops) <= (0.01 + room) * GATES
    assert sum(drop.high < truth for drop in drops) <= (0.01 + room) * GATES


def test_what_is_alike_is_told_from_what_is_worse() -> None:
    """Of 4,000 samples, 2 to 4 % answered otherwise: half a point is allowed, and two points are found."""
    random = Random(1)
    alike = [paired_drop(*draw(random, 4000, 0.9, 0.01, 0.01)) for _ in range(200)]
    worse = [paired_drop(*draw(random, 4000, 0.9, 0.03, 0.01)) for _ in range(200)]
    assert sum(drop.low > 0.5 for drop in alike) <= 2 and sum(drop.high <= 0.5 for drop in worse) <= 2
    assert sum(drop.low > 0.5 for drop in worse) >= 190


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_pairs_say_what_their_scores_do(pairs: list[tuple[bool, bool]]) -> None:
    new, old = ([pair[side] for pair in pairs] for side in (0, 1))
    drop = paired_drop(Decisions.of(new, LABELS), Decisions.of(old, LABELS))
    assert drop.points == pytest.approx(100 * (sum(old) - sum(new)) / len(pairs))
    assert drop.low <= drop.points <= drop.high and drop.samples == len(pairs)
    assert drop.low < drop.high


@given(st.integers(10, 10_000), st.floats(0, 100), st.floats(0, 100))
def test_unpaired_is_never_surer_than_paired_of_what_agrees(samples: int, new: float, old: float) -> None:
    drop = unpaired_drop(new, old, samples)
    assert drop.low <= drop.points <= drop.high
    right = [number < samples * old / 100 for number in range(samples)]
    same = Decisions.of(right, LABELS)
    mine, theirs = paired_drop(same, same), unpaired_drop(old, old, samples)
    assert mine.points == theirs.points == 0
    if 5 <= old <= 95 and samples >= 100:
        assert mine.high - mine.low < theirs.high - theirs.low
