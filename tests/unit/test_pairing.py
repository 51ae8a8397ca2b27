"""Ratios of two artifacts, round by round: what moves the device between rounds leaves them alone."""

from __future__ import annotations

from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.pairing import Alone, Ratio, paired
from edgesdk_targets.agent.undisturbed import Visit, estimate

TIME, ERROR = st.floats(0.01, 100), st.floats(0.005, 0.3)
ROUNDS = st.lists(st.tuples(TIME, TIME, ERROR, st.floats(0.3, 3)), min_size=1, max_size=30)


def rounds(times: list[float], errors: list[float]) -> list[dict[str, float]]:
    return [{"ms": time, "error": error} for time, error in zip(times, errors, strict=True)]


@given(ROUNDS)
def test_the_speed_of_the_device_in_a_round_leaves_the_ratio(visits: list[tuple[float, ...]]) -> None:
    own, other, errors, speeds = (list(column) for column in zip(*visits, strict=True))
    still = paired(rounds(own, errors), rounds(other, errors))
    moved = paired(
        rounds([t * s for t, s in zip(own, speeds, strict=True)], errors),
        rounds([t * s for t, s in zip(other, speeds, strict=True)], errors),
    )
    for name in ("median", "low", "high"):
        assert getattr(moved, name) == pytest.approx(getattr(still, name), rel=1e-6)
    assert moved.rounds == len(visits) and moved.low <= moved.median <= moved.high


@given(ROUNDS)
def test_the_other_way_round_is_the_inverse(visits: list[tuple[float, ...]]) -> None:
    own, other, errors, _ = (list(column) for column in zip(*visits, strict=True))
    there = paired(rounds(own, errors), rounds(other, errors))
    back = paired(rounds(other, errors), rounds(own, errors))
    assert (back.median, back.low, back.high) == pytest.approx((1 / there.median, 1 / there.high, 1 / there.low))


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    random, hits = Random(0), 0
    for _ in range(400):
        errors = [random.choice((0.02, 0.1, 0.3)) for _ in range(12)]
        own = rounds([0.5 * random.lognormvariate(0, error) for error in errors], errors)
        ratio = paired(own, rounds([random.lognormvariate(0, error) for error in errors], errors))
        hits += ratio.low <= 0.5 <= ratio.high
    assert hits >= 0.9 * 400


def test_rounds_that_are_sure_count_and_those_that_one_lacks_do_not() -> None:
    visits = rounds([1.0] * 9, [0.01] * 2 + [0.3] * 7)
    other = rounds([2.0, 2.0] + [1.0] * 7, [0.01] * 2 + [0.3] * 7)
    assert paired(visits, other).median == pytest.approx(0.5)
    assert paired(visits[:3], other[:2]).rounds == 2
    assert median(a["ms"] / b["ms"] for a, b in zip(visits, other, strict=True)) == 1.0  # what a plain median would say


@pytest.mark.parametrize("flips", [True, False])
def test_figures_of_a_device_that_flips_unseen_say_why_they_do_not_agree(flips: bool) -> None:
    """The references see nothing of a slowdown that lasts whole rounds: one file has more of its visits in it."""
    random, slow = Random(5), 1.8
    own, other = list[list[Visit]](), list[list[Visit]]()
    for number in range(9):
        speed = slow if flips and number < 4 else 1.0
        for visits, ms, count in ((own, 1.0, 20), (other, 3.0, 40 if speed > 1 else 10)):
            visits.append([Visit(ms * speed * random.uniform(0.99, 1.01), 1.0, 1.0) for _ in range(count)])
    told = [[estimate(visits, 1.0) for visits in each] for each in (own, other)]
    by_round = [[{"ms": each["ratio"], "error": each["error"]} for each in blocks] for blocks in told]
    whole = [estimate([visit for block in visits for visit in block], 1.0)["ratio"] for visits in (own, other)]
    ratio = paired(by_round[0], by_round[1])
    assert ratio.median == pytest.approx(1 / 3, rel=0.02)
    said = ratio.explain(Alone("new", whole[0], 0.0), Alone("old", whole[1], 0.25))
    assert (said is not None) == flips
    if said is not None:
        assert f"{ratio.median:.3g} is the median of 9 rounds" in said and "would make 0.1" in said
        assert "(25 % of old's slowed down)" in said


@pytest.mark.parametrize(("ms", "disturbed", "said"), [
    (0.5, None, None), (0.52, 0.5, None), (0.48, 0.5, None),
    (0.9, None, "the median of all its runs"), (0.124, 0.5, "(50 % of new's and 50 % of old's slowed down)"),
    (0.6, 0.0, "(none slowed down)"), (0.0, 0.5, None),
])  # fmt: skip
def test_a_ratio_that_is_that_of_the_latencies_needs_no_word(
    ms: float, disturbed: float | None, said: str | None
) -> None:
    told = Ratio(0.5, 0.45, 0.55, 8).explain(Alone("new", ms, disturbed), Alone("old", 1.0, disturbed))
    assert (told is None) if said is None else said in (told or "")
    assert Ratio(0.5, 0.5, 0.5, 0).explain(Alone("new", ms, None), Alone("old", 1.0, None)) is None, "predicted"
