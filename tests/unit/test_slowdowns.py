"""Gates: wrong in at most 1 of 100, on machines whose speed moves as that of shared ones does; sure of 5 % in 95."""

from __future__ import annotations

from itertools import pairwise
from math import hypot
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
    Taken,
    decide,
    is_looked_at,
    slowdown,
    student,
)
from edgesdk.core.pairing import Ratio, paired
from edgesdk_targets.agent.undisturbed import Visit, beyond, estimate, undisturbed

ROUNDS, VISITS = 10, 6
BETWEEN = 0.008  # log: by which two processes with one file differ, as their memory lies
POOL, GATES = 1000, 2000


Run = tuple[Ratio, Taken]


def run(random: Random) -> Run:
    """One run of two artifacts that are equally fast, on a machine whose speed flips by 1.8 within seconds, and whose
    slow state does not slow all kernels down alike; and what the second of them took, in ms of which it is 1."""
    state, fast = random.random() < 0.5, 1.0
    rounds: list[list[dict[str, float]]] = [[], []]
    alike = [random.gauss(0, 0.1) for _ in range(2)]  # how the slow state slows each down beside the references
    process = [random.gauss(0, BETWEEN) for _ in range(2)]
    before = fast
    every: list[Visit] = []
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
            every += visits if which else ()
            quiet = estimate(visits, fast)
            rounds[which].append({"ms": quiet["ratio"], "error": quiet["error"]})
    known = undisturbed([level for visit in every for level in visit[1:]])
    base = estimate(every, known)
    return paired(rounds[0], rounds[1]), Taken(
        base["ratio"] * known, hypot(base["error"], beyond(base["level"], known))
    )


def gated(
    runs: list[Run], random: Random, ratio: float, limit: Limit, among: int = 1, moves: float = 0.0
) -> tuple[str, int]:
    """The verdict of one gate over runs drawn from ``runs``, the new one ``ratio`` times as slow; after how many.

    It may be that of a board ``among`` so many. What both take ``moves`` from run to run, as a logarithm.
    """
    drawn: list[Ratio] = []
    baselines: list[Taken] = []
    verdict = UNCLEAR
    while len(drawn) < MOST_RUNS and verdict == UNCLEAR:
        run, base = random.choice(runs)
        drawn.append(Ratio(run.median * ratio, run.low * ratio, run.high * ratio, run.rounds))
        baselines.append(Taken(base.ms * random.lognormvariate(0, moves) if moves else base.ms, base.error))
        if is_looked_at(len(drawn)):
            verdict = decide(slowdown(drawn, baselines, among), limit)
    return verdict, len(drawn)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
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
        (0.80, "0ms", PASSED, 0.99),
        (2.00, "0.9ms", FAILED, 0.95),
    ],
)
def test_a_verdict_is_right(runs: list[Run], ratio: float, limit: str, wanted: str, least: float) -> None:
    random = Random(1)
    verdicts = [gated(runs, random, ratio, Limit.parse(limit))[0] for _ in range(GATES)]
    wrong = {PASSED: FAILED, FAILED: PASSED}[wanted]
    assert verdicts.count(wanted) >= least * GATES
    assert verdicts.count(wrong) <= 0.01 * GATES


@pytest.mark.parametrize(
    ("ratio", "limit", "moves"),
    [
        (1.0, "0%", 0.0),
        (1.03, "3%", 0.0),
        (2.0, "1ms", 0.0),
        (1.03, "0.03ms", 0.05),
        (2.0, "1ms", 0.05),
    ],
)
def test_just_at_the_limit_it_is_seldom_called_slower(runs: list[Run], ratio: float, limit: str, moves: float) -> None:
    """The hardest case: the new one is as slow as it may be, and every look is a chance to be wrong. By ms the baseline
    is no more sure than what is compared with it."""
    random, most = Random(2), Limit.parse(limit)
    verdicts = [gated(runs, random, ratio, most, moves=moves)[0] for _ in range(GATES)]
    assert verdicts.count(FAILED) <= 0.01 * GATES
    assert verdicts.count(PASSED) <= 0.01 * GATES + 1


def test_a_baseline_that_was_disturbed_all_the_time_is_as_unsure_in_many_runs_as_in_one() -> None:
    ratios = [Ratio(median, 0.99 * median, 1.01 * median, ROUNDS) for median in (1.99, 2.0, 2.01, 2.0)] * 6
    sure, unsure = (slowdown(ratios, [Taken(1.0, error)] * len(ratios)) for error in (0.0, 0.1))
    assert decide(sure, Limit.parse("0.9ms")) == FAILED and decide(unsure, Limit.parse("0.9ms")) == UNCLEAR
    assert (sure.low, sure.high) == (unsure.low, unsure.high) and unsure.high_ms - unsure.low_ms > 0.4


def test_what_is_plain_is_decided_soon(runs: list[Run]) -> None:
    random = Random(3)
    assert all(gated(runs, random, ratio, Limit.parse("3%"))[1] == min(LOOKS) for ratio in (0.5, 2.0))


@given(
    st.lists(st.tuples(st.floats(0.2, 5), st.floats(0.01, 100)), min_size=2, max_size=MOST_RUNS),
    st.floats(0.001, 0.2),
)
def test_the_interval_holds_the_ratio_and_is_never_surer_than_its_runs(
    taken: list[tuple[float, float]], error: float
) -> None:
    medians, slower = [median for median, _ in taken], [ms * (median - 1) for median, ms in taken]
    ratios = [Ratio(m, m * (1 - error), m * (1 + error), ROUNDS) for m in medians]
    result = slowdown(ratios, [Taken(ms, 0.01) for _, ms in taken])
    assert result.low < result.ratio < result.high and result.runs == len(medians)
    assert min(medians) <= result.ratio * (1 + 1e-9) and result.ratio <= max(medians) * (1 + 1e-9)
    assert result.high / result.low >= 1 + error / len(medians)
    assert result.low_ms < result.slower_ms < result.high_ms
    assert min(slower) - 1e-9 <= result.slower_ms <= max(slower) + 1e-9
    assert result.high_ms - result.low_ms >= error / len(medians) * min(ms * median for median, ms in taken)


@given(st.floats(0.5, 2), st.floats(0.001, 0.1), st.floats(0, 0.5), st.booleans())
def test_a_verdict_is_of_one_side(median: float, error: float, most: float, by_share: bool) -> None:
    result = slowdown([Ratio(median, median * (1 - error), median * (1 + error), ROUNDS)] * 4, [Taken(1.0, 0.01)] * 4)
    verdict = decide(result, Limit(share=most) if by_share else Limit(ms=most))
    low, high = (result.low - 1, result.high - 1) if by_share else (result.low_ms, result.high_ms)
    assert (verdict == FAILED) == (low > most) and (verdict == PASSED) == (high <= most)


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
    runs: list[Run], boards: int
) -> None:
    random, most = Random(4), Limit.parse("3%")
    verdicts = [[gated(runs, random, 1.03, most, boards)[0] for _ in range(boards)] for _ in range(GATES // 4)]
    assert sum(FAILED in each for each in verdicts) <= 0.01 * len(verdicts) + 1
    assert sum(all(verdict == PASSED for verdict in each) for each in verdicts) <= 0.01 * len(verdicts) + 1


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("3%", Limit(share=0.03)),
        (" 0.2 ms", Limit(ms=0.2)),
        ("50us", Limit(ms=0.05)),
        ("50 \u03bcs", Limit(ms=0.05)),
        ("0%", Limit(0.0)),
    ],
)
def test_limits_are_read(text: str, limit: Limit) -> None:
    assert Limit.parse(text) == limit


@pytest.mark.parametrize("text", ["3", "-3%", "3 points", "", "1.2.3%", "nan%", "inf ms", "3%%"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-slower"):
        Limit.parse(text)
