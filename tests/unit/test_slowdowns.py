"""Gates: wrong in at most 1 of 100, on machines whose speed moves as that of shared ones does; sure of 5 % in 95."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesdk.core.errors import UsageError
from edgesdk.core.gating import (
    FAILED,
    LEVELS,
    LOOKS,
    MOST_RUNS,
    PASSED,
    UNCLEAR,
    Limit,
    decide,
    is_looked_at,
    slowdown,
    student,
)
from edgesdk.core.pairing import Ratio, paired
from edgesdk_targets.agent.undisturbed import Visit, estimate

ROUNDS, VISITS = 10, 6
BETWEEN = 0.008  # log: by which two processes with one file differ, as their memory lies
POOL, GATES = 1000, 2000


def run(random: Random) -> Ratio:
    """One run of two artifacts that are equally fast, on a machine whose speed flips by 1.8 within seconds, and whose
    slow state does not slow all kernels down alike."""
    state, fast = random.random() < 0.5, 1.0
    rounds: list[list[dict[str, float]]] = [[], []]
    alike = [random.gauss(0, 0.1) for _ in range(2)]  # how the slow state slows each down beside the references
    process = [random.gauss(0, BETWEEN) for _ in range(2)]
    before = fast
    for number in range(ROUNDS):
        for which in (0, 1) if number % 2 else (1, 0):
            visits = []
            for _ in range(VISITS):
                state = state != (random.random() < 0.05)
                slow = 1.8 if state else 1.0
                own = slow * random.lognormvariate(process[which] + (alike[which] if state else 0.0), 0.02)
                after = slow * fast * random.lognormvariate(0, 0.01)
                visits.append(Visit(own, before, after))
                before = after
            quiet = estimate(visits, fast)
            rounds[which].append({"ms": quiet["ratio"], "error": quiet["error"]})
    return paired(rounds[0], rounds[1])


def gated(runs: list[Ratio], random: Random, ratio: float, limit: Limit, among: int = 1) -> tuple[str, int]:
    """The verdict of one gate over runs drawn from ``runs``, the new one ``ratio`` times as slow; after how many.

    It may be that of a board ``among`` so many.
    """
    drawn: list[Ratio] = []
    verdict = UNCLEAR
    while len(drawn) < MOST_RUNS and verdict == UNCLEAR:
        run = random.choice(runs)
        drawn.append(Ratio(run.median * ratio, run.low * ratio, run.high * ratio, run.rounds))
        if is_looked_at(len(drawn)):
            verdict = decide(slowdown(drawn, 1.0, among), limit)
    return verdict, len(drawn)


@pytest.fixture(scope="module")
def runs() -> list[Ratio]:
    random = Random(0)
    return [run(random) for _ in range(POOL)]


@pytest.mark.parametrize(
    ("ratio", "limit", "wanted", "least"),
    [
        (1.00, "3%", PASSED, 0.95),
        (1.05, "3%", FAILED, 0.95),
        (1.10, "3%", FAILED, 0.99),
        (0.80, "3%", PASSED, 0.99),
        (1.00, "0.03ms", PASSED, 0.95),
        (1.05, "0.03ms", FAILED, 0.95),
    ],
)
def test_a_verdict_is_right(runs: list[Ratio], ratio: float, limit: str, wanted: str, least: float) -> None:
    random = Random(1)
    verdicts = [gated(runs, random, ratio, Limit.parse(limit))[0] for _ in range(GATES)]
    wrong = {PASSED: FAILED, FAILED: PASSED}[wanted]
    assert verdicts.count(wanted) >= least * GATES
    assert verdicts.count(wrong) <= 0.01 * GATES


@pytest.mark.parametrize("limit", ["0%", "3%"])
def test_just_at_the_limit_it_is_seldom_called_slower(runs: list[Ratio], limit: str) -> None:
    """The hardest case: the new one is as slow as it may be, and every look is a chance to be wrong."""
    random, most = Random(2), Limit.parse(limit)
    verdicts = [gated(runs, random, most.ratio(1.0), most)[0] for _ in range(GATES)]
    assert verdicts.count(FAILED) <= 0.01 * GATES and verdicts.count(PASSED) <= 0.01 * GATES + 1


def test_what_is_plain_is_decided_soon(runs: list[Ratio]) -> None:
    random = Random(3)
    assert all(gated(runs, random, ratio, Limit.parse("3%"))[1] == min(LOOKS) for ratio in (0.5, 2.0))


@given(st.lists(st.floats(0.2, 5), min_size=2, max_size=MOST_RUNS), st.floats(0.001, 0.2), st.floats(0.01, 100))
def test_the_interval_holds_the_ratio_and_is_never_surer_than_its_runs(
    medians: list[float], error: float, ms: float
) -> None:
    result = slowdown([Ratio(m, m * (1 - error), m * (1 + error), ROUNDS) for m in medians], ms)
    assert result.low < result.ratio < result.high and result.runs == len(medians)
    assert min(medians) <= result.ratio * (1 + 1e-9) and result.ratio <= max(medians) * (1 + 1e-9)
    assert result.high / result.low >= 1 + error / len(medians)
    assert result.slower_ms == pytest.approx((result.ratio - 1) * ms)


@given(st.floats(0.5, 2), st.floats(0.001, 0.1), st.floats(0, 0.5))
def test_a_verdict_is_of_one_side(median: float, error: float, share: float) -> None:
    result = slowdown([Ratio(median, median * (1 - error), median * (1 + error), ROUNDS)] * 4, 1.0)
    verdict = decide(result, Limit(share=share))
    assert (verdict == FAILED) == (result.low > 1 + share) and (verdict == PASSED) == (result.high <= 1 + share)


@pytest.mark.parametrize("among", [1, 2, 5, 64])
def test_the_quantiles_are_those_of_student(among: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    quantiles = [student(LEVELS[runs] / among, runs - 1) for runs in LOOKS]
    for runs, quantile in zip(LOOKS, quantiles, strict=True):
        wanted = float(stats.t.isf(0.01 * runs / sum(LOOKS) / among, runs - 1))
        assert quantile == pytest.approx(wanted, rel=1e-6)
    assert all(a > b for a, b in pairwise(quantiles))


@pytest.mark.parametrize("boards", [2, 4])
def test_of_several_boards_that_are_gated_together_none_fails_more_often_than_one_alone(
    runs: list[Ratio], boards: int
) -> None:
    random, most = Random(4), Limit.parse("3%")
    verdicts = [
        [gated(runs, random, most.ratio(1.0), most, boards)[0] for _ in range(boards)] for _ in range(GATES // 4)
    ]
    assert sum(FAILED in each for each in verdicts) <= 0.01 * len(verdicts) + 1
    assert sum(all(verdict == PASSED for verdict in each) for each in verdicts) <= 0.01 * len(verdicts) + 1


@pytest.mark.parametrize(
    ("text", "limit"),
    [("3%", Limit(share=0.03)), (" 0.2 ms", Limit(ms=0.2)), ("50us", Limit(ms=0.05)), ("0%", Limit(0.0))],
)
def test_limits_are_read(text: str, limit: Limit) -> None:
    assert Limit.parse(text) == limit


@pytest.mark.parametrize("text", ["3", "-3%", "3 points", "", "1.2.3%", "nan%", "inf ms", "3%%"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-slower"):
        Limit.parse(text)
